"""The only training loop. SFT and DPO are an objective each (objectives.py): DPO *is* supervised learning.

An objective takes a model and a batch and returns a sum, what to divide it by, and values to log. The loop does the
rest: optimizer, schedule, clipping, accumulation, logging, checkpoints, going on after a stop.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mini_dpo.batches import AnyBatch, Batches, look
from mini_dpo.checkpoint import MetricsLog, load_own, load_weights, save_checkpoint
from mini_dpo.devices import any_process, autocast, processes, rank, sum_gradients
from mini_dpo.errors import TrainingFailed, UserError, expecting
from mini_dpo.model import GPT
from mini_dpo.objectives import Objective, Outcome
from mini_dpo.optimizers import LoopConfig, Muon, learning_rate, make_optimizer

LOOK_EVERY = 10  # steps after which the numbers of the last ones are fetched at the latest: a GPU is not stopped for each


@dataclass(frozen=True)
class StageFiles:
    """Where a stage's checkpoint and metrics go, the tokenizer's name, which a checkpoint carries, when this process began
    with the stage, and the run's id, which a checkpoint carries too."""

    stage: str
    folder: Path
    tokenizer: str
    started: float = field(default_factory=time.perf_counter)
    run: str = ""

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
) -> float:
    """Train `policy` in place for `config.steps` steps; with `files`, log, save, and go on where a checkpoint left off.
    Returns the seconds that the stage has taken, before and after all stops.

    batches[k] is batch number k since the start. valid: batches to score now and then. name: stands before each line
    of progress where there are no files.

    One seed gives the same weights to the bit on the same CPU, however often the run was stopped and resumed: batch
    and dropout depend on the seed and the step alone. Raises TrainingFailed if loss, gradient or a weight is not finite
    (the last checkpoint stays good), KeyboardInterrupt after Ctrl-C or SIGTERM (once a checkpoint is written). A look at
    the validation data is stopped at once; the checkpoint then says what is `owed`, a step's record without it.
    """
    name, started = (files.stage, files.started) if files else (name, time.perf_counter())
    saved = load_own(files.checkpoint, files.run) if files and files.checkpoint.exists() else None
    if saved:
        load_weights(files.checkpoint, policy, saved["model"])
        if saved["finished"]:
            return saved.get("seconds", 0.0)
        if not 0 < saved["step"] <= config.steps:
            raise UserError(f"{files.checkpoint}: at step {saved['step']} of {config.steps}; it is not this run's")
    optimizer = make_optimizer(policy, config)
    first, log = resume(optimizer, files, saved) if files else (0, None)
    progress = Progress(name, saved["step"] if saved else 0, config.steps)
    records: list[dict[str, Tensor]] = []  # of the last steps, still on the device
    spent, owed = (saved.get("seconds", 0.0), saved.get("owed")) if saved else (0.0, None)
    seconds = lambda: spent + time.perf_counter() - started  # noqa: E731
    with ask_before_stopping() as stop_asked:
        for step in range(first, config.steps):
            if not owed:
                micro_batches = [batches[step * config.accumulate + i] for i in range(config.accumulate)]
                records.append(train_step(policy, optimizer, objective, micro_batches, config, step))
                progress.tokens += sum(batch.n_tokens for batch in micro_batches)
            done = step + 1
            last, stop = done == config.steps, any_process(bool(stop_asked))
            evaluate_now = valid is not None and (last or done % config.eval_every == 0)
            save_now = files is not None and (last or stop or done % config.save_every == 0)
            if not (evaluate_now or save_now or progress.due(done) or len(records) == LOOK_EVERY):
                continue
            settled = [owed] if owed else settle(records, name, done)
            first_settled, owed = done - len(settled) + 1, None
            records.clear()
            if evaluate_now:
                try:
                    with progress.paused():
                        scores = score(policy, objective, valid, config.dtype, name, stop_asked)
                    settled[-1] |= {f"eval_{metric}": value for metric, value in scores.items()}
                except KeyboardInterrupt:
                    stop, save_now, owed = True, files is not None, settled.pop()
            if log:
                for number, record in enumerate(settled, first_settled):
                    log.write({"stage": files.stage, "step": number, **record, "learning_rate": learning_rate(number - 1, config)})
            if save_now or last:
                check_finite(policy, name, done)
            if save_now:
                # a finished stage needs its weights only; resuming one needs the optimizer's moments as well
                finished = last and not owed
                rest = {} if finished else {"optimizer": optimizer.state_dict(), "owed": owed}
                if log:
                    save_checkpoint(files.checkpoint, policy, files.tokenizer, step=done, finished=finished, run=files.run, seconds=seconds(), **log.state(), **rest)
            if not owed and (evaluate_now or progress.due(done)):
                progress.report(done, settled[-1])
            if stop:
                raise KeyboardInterrupt
    return seconds()


def resume(optimizer: torch.optim.Optimizer, files: StageFiles, saved: dict | None) -> tuple[int, MetricsLog | None]:
    """Where to begin: (the first step to take, or the one whose record is owed, the log cut back to what the stage's
    checkpoint, if there is one, has seen). Only the first process has a log, and writes checkpoints."""
    if saved:
        go_on(optimizer, files.checkpoint, saved.get("optimizer"))
    first = saved["step"] - bool(saved.get("owed")) if saved else 0
    if rank() > 0:
        return first, None
    before = files.folder / "sft.pt"  # there only if a stage came before this one
    known = saved or (load_own(before, files.run) if before.exists() else {})
    return first, MetricsLog(files.folder / "metrics.jsonl", known)


def go_on(optimizer: torch.optim.Optimizer, checkpoint: Path, saved: object) -> None:
    """Give an optimizer its moments back, and no more: the settings are the run's. Raises UserError where they are not
    those of these parameters."""
    with expecting(checkpoint, "the state of an optimizer for this model"):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["state"]})
        for number, group in enumerate(optimizer.param_groups):
            names = ["step", "exp_avg"] if number == 0 and isinstance(optimizer, Muon) else ["step", "exp_avg", "exp_avg_sq"]
            for parameter in group["params"]:
                moments = [optimizer.state[parameter][name] for name in names]
                # a kernel takes their shape and layout on trust, and would read and write elsewhere in memory
                if [m.shape for m in moments] != [(), *[parameter.shape] * len(names[1:])] or not all(m.dtype in (torch.float32, parameter.dtype) and m.is_contiguous() for m in moments):
                    raise ValueError("other shapes or types")


def train_step(policy: GPT, optimizer: torch.optim.Optimizer, objective: Objective, micro_batches: list[AnyBatch], config: LoopConfig, step: int) -> dict[str, Tensor]:  # fmt: skip
    """One optimizer step over all micro-batches; returns what to log, and whether the step was "taken" (not if loss or
    gradient is no finite number), () each, where it lies: nobody waits for a device.

    The sums of the micro-batches are added up first and divided once, by the count of them all: the gradient is that
    of one large batch, whichever way it was cut, and whichever process had which part of it.
    """
    device = policy.wte.weight.device
    torch.manual_seed((config.seed * 1_000_003 + step) * processes() + rank())  # dropout depends on the seed and the step alone
    policy.train()
    optimizer.zero_grad()
    outcomes = []
    for batch in micro_batches:
        with autocast(device, config.dtype):
            outcome = objective(policy, batch.to(device))
        if not outcome.loss.requires_grad:
            raise TrainingFailed(f"step {step + 1}: the loss has no gradient with respect to the model: nothing can be learned from it")
        outcome.loss.backward()
        outcomes.append(outcome._replace(loss=outcome.loss.detach()))
    count = sum(outcome.count for outcome in outcomes)
    parameters = [p for p in policy.parameters() if p.grad is not None]
    sum_gradients(parameters)
    grad_norm = torch.nn.utils.get_total_norm([p.grad for p in parameters]) / count
    scale = (config.grad_clip / (grad_norm + 1e-6)).clamp(max=1) / count  # the mean's gradient, clipped
    for parameter in parameters:
        parameter.grad.mul_(scale)
    record = {**means(outcomes), "grad_norm": grad_norm}
    record["taken"] = record["loss"].isfinite() & grad_norm.isfinite()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    optimizer.found_inf = 1 - record["taken"].float()  # if 1, fused AdamW stays where it is
    optimizer.step()
    return record


def settle(records: list[dict[str, Tensor]], name: str, done: int) -> list[dict[str, float]]:
    """The records of the last steps as numbers, fetched from the device together; `done`: the last one's step. Raises
    TrainingFailed where a step was not taken. A metric without a value is left out."""
    numbers = iter(torch.stack([value.detach() for record in records for value in record.values()]).tolist())
    settled = [{metric: next(numbers) for metric in record} for record in records]
    for step, record in enumerate(settled, done - len(records) + 1):
        if not record.pop("taken"):
            advice = "start again with a lower learning rate" if step > 1 else "no step was taken before it, so not the learning rate is to blame but what the loss was given: its own flags, or the model it began from"
            what = f"the loss is {record['loss']} and the norm of its gradient {record['grad_norm']}"
            raise TrainingFailed(f"{name}, step {step}: {what}; the step was not taken; {advice}")
    return [{metric: value for metric, value in record.items() if not math.isnan(value)} for record in settled]


def check_finite(policy: GPT, name: str, done: int) -> None:
    """Raise TrainingFailed if a weight is not a finite number."""
    if not all(bool(p.isfinite().all()) for p in policy.parameters()):
        raise TrainingFailed(f"{name}, step {done}: a weight is no longer a finite number; start again with a lower learning rate")


@torch.no_grad()
def score(policy: GPT, objective: Objective, batches: Batches, dtype: str, name: str = "train", stop_asked: Sequence[int] = ()) -> dict[str, float]:
    """The objective and its metrics over every example once, dropout off. Raises KeyboardInterrupt where a stop is asked
    for: at once, but several processes, which wait for each other, together and between two batches."""
    device, outcomes = policy.wte.weight.device, []
    policy.eval()
    with on_signals(interrupt) if processes() == 1 else nullcontext(), autocast(device, dtype):
        for batch in look(batches, f"{name}  held-out loss"):
            if any_process(bool(stop_asked)):
                raise KeyboardInterrupt
            outcomes.append(objective(policy, batch.to(device)))
        scores = means(outcomes)
    return {name: float(value) for name, value in scores.items() if not value.isnan()}


def means(outcomes: list[Outcome]) -> dict[str, Tensor]:
    """The mean loss and the mean of each metric over several batches, each example (or token) weighing the same. A value
    that is nan does not count (the reward of liked responses, where one was not liked)."""
    loss = sum(outcome.loss for outcome in outcomes) / sum(outcome.count for outcome in outcomes)
    metrics = {name: torch.cat([outcome.metrics[name] for outcome in outcomes]) for name in outcomes[0].metrics}
    return {"loss": loss, **{name: values.nanmean() for name, values in metrics.items()}}


@contextmanager
def on_signals(handler: Callable) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM call `handler`."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt(signum: int, frame: object) -> None:
    """A handler that stops at once."""
    raise KeyboardInterrupt


@contextmanager
def ask_before_stopping() -> Iterator[list[int]]:
    """Inside, Ctrl-C and SIGTERM put themselves on a list that the loop looks at between two steps. A second one
    interrupts at once."""
    asked: list[int] = []

    def ask(signum: int, frame: object) -> None:
        if asked and processes() == 1:  # torchrun passes on what the terminal has sent to all already
            raise KeyboardInterrupt
        if asked:
            return
        asked.append(signum)
        print("\nstopping after this step (again to stop at once)", flush=True)

    with on_signals(ask):
        yield asked


class Progress:
    """A line on the screen about ten times a stage: step, loss, what is watched, speed, time left."""

    def __init__(self, stage: str, first: int, steps: int) -> None:
        self.stage, self.steps = stage, steps
        self.every = max(1, steps // 10)
        self.start, self.first = time.perf_counter(), first
        self.tokens = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that counts for neither speed nor time left."""
        begun = time.perf_counter()
        yield
        self.start += time.perf_counter() - begun

    def due(self, step: int) -> bool:
        return step % self.every == 0 or step == self.steps

    def report(self, step: int, record: dict[str, float]) -> None:
        seconds = max(time.perf_counter() - self.start, 1e-9)  # a clock may stand still
        watched = [("loss", "loss"), ("eval_loss", "held-out loss"), ("rewards/margins", "margin"), ("rewards/accuracies", "accuracy")]
        values = "  ".join(f"{label} {record[name]:.3f}" for name, label in watched if name in record)
        taken = step - self.first  # none where only a look was owed
        speed = f"  {self.tokens / seconds:,.0f} tokens/s  {clock(seconds / taken * (self.steps - step))} left" if taken else ""
        print(f"{self.stage}  step {step:>{len(str(self.steps))}}/{self.steps}  {values}{speed}", flush=True)


def clock(seconds: float) -> str:
    """A duration as people read it: 75 -> "1:15"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
