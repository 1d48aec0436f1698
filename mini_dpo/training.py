"""The only training loop. SFT and DPO are an objective each (sft.py, dpo.py): DPO *is* supervised learning.

An objective takes a model and a batch and returns a sum, what to divide it by, and values to log. The loop does the
rest: optimizer, schedule, clipping, accumulation, logging, checkpoints, going on after a stop.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mini_dpo.checkpoint import MetricsLog, load_checkpoint, save_checkpoint
from mini_dpo.data import Batch, Batches, FeedbackBatch, PairBatch
from mini_dpo.errors import TrainingFailed
from mini_dpo.model import GPT


class Outcome(NamedTuple):
    """What an objective makes of one batch.

    loss: (), the sum of the losses over the batch. count: how many were summed (response tokens for SFT, pairs for
    DPO). metrics: name -> (n,) values without gradient, whose mean is logged.
    """

    loss: Tensor
    count: int
    metrics: dict[str, Tensor]


AnyBatch = Batch | PairBatch | FeedbackBatch
Objective = Callable[[GPT, AnyBatch], Outcome]


@dataclass(frozen=True)
class LoopConfig:
    """How to train. steps: optimizer steps. lr: the peak learning rate. warmup: steps of linear rise to it, before the
    cosine's fall to zero. accumulate: batches a step. weight_decay: on matrices only. grad_clip: largest gradient norm.
    dtype: "float32", or "bfloat16" for autocast with float32 weights. *_every: steps between two of their kind."""

    steps: int
    lr: float
    warmup: int = 0
    accumulate: int = 1
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    dtype: str = "float32"
    seed: int = 0
    eval_every: int = 100
    save_every: int = 100


@dataclass(frozen=True)
class StageFiles:
    """Where a stage's checkpoint and metrics go, and the tokenizer's name, which a checkpoint carries."""

    stage: str
    folder: Path
    tokenizer: str

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.stage}.pt"


def train(
    policy: GPT,
    objective: Objective,
    batches: Batches | Mapping[int, AnyBatch],
    config: LoopConfig,
    files: StageFiles | None = None,
    valid: Batches | None = None,
    name: str = "train",
) -> None:
    """Train `policy` in place for `config.steps` steps; with `files`, log, save, and go on where a checkpoint left off.

    batches[k] is batch number k since the start. valid: batches to score now and then. name: stands before each line
    of progress where there are no files.

    One seed gives the same weights to the bit on the same CPU, however often the run was stopped and resumed: batch
    and dropout depend on the seed and the step alone. Raises TrainingFailed if loss, gradient or a weight is not finite
    (the last checkpoint stays good), KeyboardInterrupt after Ctrl-C or SIGTERM (once a checkpoint is written).
    """
    name = files.stage if files else name
    saved = load_checkpoint(files.checkpoint) if files and files.checkpoint.exists() else None
    if saved:
        policy.load_state_dict(saved["model"])
        if saved["finished"]:
            return
    optimizer = make_optimizer(policy, config)
    first, log = resume(optimizer, files, saved) if files else (0, None)
    progress = Progress(name, first, config.steps)
    with ask_before_stopping() as stop_asked:
        for step in range(first, config.steps):
            micro_batches = [batches[step * config.accumulate + i] for i in range(config.accumulate)]
            try:
                record = train_step(policy, optimizer, objective, micro_batches, config, step)
            except TrainingFailed as error:
                raise TrainingFailed(f"{name}, step {step + 1}: {error}") from error
            last = step + 1 == config.steps
            if valid is not None and (last or (step + 1) % config.eval_every == 0):
                scores = score(policy, objective, valid, config.dtype)
                record |= {f"eval_{metric}": value for metric, value in scores.items()}
            if files and log:
                log.write({"stage": files.stage, "step": step + 1, **record})
                if last or stop_asked or (step + 1) % config.save_every == 0:
                    # a finished stage needs its weights only; resuming one needs the optimizer's moments as well
                    moments = {} if last else {"optimizer": optimizer.state_dict()}
                    save_checkpoint(files.checkpoint, policy, files.tokenizer, step=step + 1, finished=last, log_length=log.length(), **moments)
            progress.report(step + 1, record, sum(batch.n_tokens for batch in micro_batches))
            if stop_asked:
                raise KeyboardInterrupt


def make_optimizer(policy: GPT, config: LoopConfig) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) in its fused form; weight decay on matrices, not on biases and LayerNorms."""
    matrices = [p for p in policy.parameters() if p.dim() >= 2]
    vectors = [p for p in policy.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)


def resume(optimizer: torch.optim.Optimizer, files: StageFiles, saved: dict | None) -> tuple[int, MetricsLog]:
    """Where to begin: (the first step to take, the log cut back to what the stage's checkpoint, if there is one, has seen)."""
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
        return saved["step"], MetricsLog(files.folder / "metrics.jsonl", saved["log_length"])
    before = files.folder / "sft.pt"  # there only if a stage came before this one
    length = load_checkpoint(before)["log_length"] if before.exists() else 0
    return 0, MetricsLog(files.folder / "metrics.jsonl", length)


def train_step(policy: GPT, optimizer: torch.optim.Optimizer, objective: Objective, micro_batches: list[AnyBatch], config: LoopConfig, step: int) -> dict[str, float]:  # fmt: skip
    """One optimizer step over all micro-batches; returns what to log.

    The sums of the micro-batches are added up first and divided once, by the count of them all: the gradient is that
    of one large batch, whichever way it was cut.
    """
    device = policy.wte.weight.device
    torch.manual_seed(config.seed * 1_000_003 + step)  # dropout depends on the seed and the step alone
    policy.train()
    optimizer.zero_grad()
    outcomes = []
    for batch in micro_batches:
        with autocast(device, config.dtype):
            outcome = objective(policy, batch.to(device))
        outcome.loss.backward()
        outcomes.append(outcome._replace(loss=outcome.loss.detach()))
    count = sum(outcome.count for outcome in outcomes)
    parameters = [p for p in policy.parameters() if p.grad is not None]
    for parameter in parameters:
        parameter.grad.div_(count)
    grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip))
    lr = learning_rate(step, config)
    record = {**means(outcomes), "grad_norm": grad_norm, "learning_rate": lr}
    if not (math.isfinite(record["loss"]) and math.isfinite(grad_norm)):
        what = f"the loss is {record['loss']} and the norm of its gradient {grad_norm}"
        raise TrainingFailed(f"{what}; nothing of this step was kept; start again with a lower learning rate")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    if not all(bool(p.isfinite().all()) for p in policy.parameters()):
        raise TrainingFailed("a weight is no longer a finite number; start again with a lower learning rate")
    return record


def learning_rate(step: int, config: LoopConfig) -> float:
    """Linear rise over `warmup` steps, then half a cosine down to zero."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / (config.steps - config.warmup)))


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """Matrix products in bfloat16 where `dtype` says so; weights, sums and log-probs stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


@torch.no_grad()
def score(policy: GPT, objective: Objective, batches: Batches, dtype: str) -> dict[str, float]:
    """The objective and its metrics over every example once, dropout off."""
    device = policy.wte.weight.device
    policy.eval()
    with autocast(device, dtype):
        return means([objective(policy, batch.to(device)) for batch in batches.once()])


def means(outcomes: list[Outcome]) -> dict[str, float]:
    """The mean loss and the mean of each metric over several batches, each example (or token) weighing the same. A metric
    without a single value (the reward of liked responses where none was liked) is left out."""
    loss = sum(float(outcome.loss) for outcome in outcomes) / sum(outcome.count for outcome in outcomes)
    metrics = {name: torch.cat([outcome.metrics[name] for outcome in outcomes]) for name in outcomes[0].metrics}
    return {"loss": loss, **{name: float(values.mean()) for name, values in metrics.items() if len(values)}}


@contextmanager
def ask_before_stopping() -> Iterator[list[int]]:
    """Inside, Ctrl-C and SIGTERM put themselves on a list that the loop looks at between two steps. A second one
    interrupts at once."""
    asked: list[int] = []

    def ask(signum: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)
        print("\nstopping after this step (again to stop at once)", flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """A line on the screen about ten times a stage: step, loss, what is watched, speed, time left."""

    def __init__(self, stage: str, first: int, steps: int) -> None:
        self.stage, self.steps = stage, steps
        self.every = max(1, steps // 10)
        self.start, self.first = time.perf_counter(), first
        self.tokens = 0

    def report(self, step: int, record: dict[str, float], n_tokens: int) -> None:
        self.tokens += n_tokens
        if step % self.every and step != self.steps and "eval_loss" not in record:
            return
        seconds = time.perf_counter() - self.start
        left = seconds / (step - self.first) * (self.steps - step)
        watched = [("loss", "loss"), ("eval_loss", "held-out loss"), ("rewards/margins", "margin"), ("rewards/accuracies", "accuracy")]
        values = "  ".join(f"{label} {record[name]:.3f}" for name, label in watched if name in record)
        speed = f"{self.tokens / seconds:,.0f} tokens/s"
        print(f"{self.stage}  step {step:>{len(str(self.steps))}}/{self.steps}  {values}  {speed}  {clock(left)} left", flush=True)


def clock(seconds: float) -> str:
    """A duration as people read it: 75 -> "1:15"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
