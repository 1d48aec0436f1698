"""The only training loop. SFT and DPO are an objective each (objectives.py): DPO *is* supervised learning.

An objective takes a model and a batch and returns a sum, what to divide it by, and values to log. The loop
does the rest: steps, clipping, accumulation, logging, checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from mini_dpo.batches import B, Batches, E
from mini_dpo.devices import autocast
from mini_dpo.errors import TrainingFailed
from mini_dpo.model import GPT
from mini_dpo.objectives import Objective, Outcome
from mini_dpo.optimizers import LoopConfig, learning_rate, make_optimizer, step_where
from mini_dpo.processes import any_process, processes, rank, sum_gradients
from mini_dpo.progress import Progress, ask_before_stopping, interrupt, look, on_signals
from mini_dpo.saving.stages import Stage, StageFiles

FETCH_EVERY = 10  # steps after which their numbers are fetched at the latest: a GPU is not stopped for each


def train(
    policy: GPT,
    objective: Objective[B],
    batches: Batches[E, B] | Mapping[int, B],
    config: LoopConfig,
    files: StageFiles | None = None,
    valid: Batches[E, B] | None = None,
    name: str = "train",
) -> float:
    """Train `policy` in place for `config.steps` steps; with `files`, log, save, and go on where a checkpoint
    left off. Returns the seconds that the stage has taken, before and after all stops.

    batches[k] is batch number k since the start. valid: batches to score now and then. name: is printed
    before each line of progress where there are no files.

    One seed gives the same weights to the bit on the same CPU, however often the run was stopped and resumed:
    batch and dropout depend on the seed and the step alone. Raises TrainingFailed if loss, gradient or a
    weight is not finite (the last checkpoint stays good), KeyboardInterrupt after Ctrl-C or SIGTERM (once a
    checkpoint is written; a look at the validation data is stopped at once, and is `owed`).
    """
    optimizer = make_optimizer(policy, config)
    stage = Stage(files, name, policy, optimizer, config.steps)
    if stage.finished:
        return stage.seconds()
    progress = Progress(stage.name, stage.step, config.steps)
    records: list[dict[str, Tensor]] = []  # of the last steps, still on the device
    with ask_before_stopping() as stop_asked:
        for step in range(stage.step - bool(stage.owed), config.steps):
            if not stage.owed:
                micro_batches = [batches[step * config.accumulate + i] for i in range(config.accumulate)]
                records.append(train_step(policy, optimizer, objective, micro_batches, config, step))
                progress.tokens += sum(batch.n_tokens for batch in micro_batches)

            done = step + 1
            last, stop = done == config.steps, any_process(bool(stop_asked))
            save_due = last or stop or done % config.save_every == 0
            look_due = valid is not None and (last or done % config.eval_every == 0)
            if not (look_due or save_due or progress.due(done) or len(records) == FETCH_EVERY):
                continue

            numbers = [stage.owed] if stage.owed else fetch(records, stage.name, done)
            first, records, stage.owed = done - len(numbers) + 1, [], None
            if valid is not None and look_due:
                try:
                    with progress.paused():
                        scores = score(policy, objective, valid, config.dtype, stage.name, stop_asked)
                    numbers[-1] |= {f"eval_{metric}": value for metric, value in scores.items()}
                except KeyboardInterrupt:
                    stop = save_due = True
                    stage.owed = numbers.pop()
            stage.write(numbers, first, [learning_rate(first + i - 1, config) for i in range(len(numbers))])
            if save_due:
                check_finite(policy, stage.name, done)
                stage.save(policy, optimizer, done, finished=last and not stage.owed)
            if not stage.owed and (look_due or progress.due(done)):
                progress.report(done, numbers[-1])
            if stop:
                raise KeyboardInterrupt
    return stage.seconds()


def train_step(
    policy: GPT,
    optimizer: torch.optim.Optimizer,
    objective: Objective[B],
    micro_batches: Sequence[B],
    config: LoopConfig,
    step: int,
) -> dict[str, Tensor]:
    """One optimizer step over all micro-batches; returns what to log, and whether the step was "taken" (not
    if loss or gradient is no finite number), () each, on the policy's device.

    The sums of the micro-batches are added up first and divided once, by the count of them all: the gradient
    is that of one large batch, whichever way it was cut, and whichever process had which part of it.
    """
    device = policy.wte.weight.device
    # dropout depends on the seed and the step alone
    torch.manual_seed((config.seed * 1_000_003 + step) * processes() + rank())
    policy.train()
    optimizer.zero_grad()
    outcomes = []
    for batch in micro_batches:
        with autocast(device, config.dtype):
            outcome = objective(policy, batch.to(device))
        if not outcome.loss.requires_grad:
            raise TrainingFailed(
                f"step {step + 1}: the loss has no gradient with respect to the model: "
                "nothing can be learned from it"
            )
        outcome.loss.backward()
        outcomes.append(outcome._replace(loss=outcome.loss.detach()))
    count = sum(outcome.count for outcome in outcomes)
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    sum_gradients(gradients)
    grad_norm = torch.nn.utils.get_total_norm(gradients) / count  # ()
    scale = (config.grad_clip / (grad_norm + 1e-6)).clamp(max=1) / count  # the mean's gradient, clipped
    for gradient in gradients:
        gradient.mul_(scale)
    record = {**means(outcomes), "grad_norm": grad_norm}
    record["taken"] = record["loss"].isfinite() & grad_norm.isfinite()
    step_where(record["taken"], optimizer, learning_rate(step, config))
    return record


def fetch(records: list[dict[str, Tensor]], name: str, done: int) -> list[dict[str, float]]:
    """The records of the last steps as numbers, fetched from the device together; `done`: the last one's
    step. Raises TrainingFailed where a step was not taken. A metric without a value is left out.
    """
    values = iter(torch.stack([value.detach() for record in records for value in record.values()]).tolist())
    fetched = [{metric: next(values) for metric in record} for record in records]
    for step, record in enumerate(fetched, done - len(records) + 1):
        if not record.pop("taken"):
            advice = (
                "start again with a lower learning rate"
                if step > 1
                else "no step was taken before it, so not the learning rate is to blame but "
                "what the loss was given: its own flags, or the model it began from"
            )
            what = f"the loss is {record['loss']} and the norm of its gradient {record['grad_norm']}"
            raise TrainingFailed(f"{name}, step {step}: {what}; the step was not taken; {advice}")
    return [{metric: value for metric, value in r.items() if not math.isnan(value)} for r in fetched]


def check_finite(policy: GPT, name: str, done: int) -> None:
    """Raise TrainingFailed if a weight is not a finite number."""
    if not all(bool(p.isfinite().all()) for p in policy.parameters()):
        raise TrainingFailed(
            f"{name}, step {done}: a weight is no longer a finite number; start again with a "
            "lower learning rate"
        )


@torch.no_grad()
def score(
    policy: GPT,
    objective: Objective[B],
    batches: Batches[E, B],
    dtype: str,
    name: str = "train",
    stop_asked: Sequence[int] = (),
) -> dict[str, float]:
    """The objective and its metrics over every example once, dropout off. Raises KeyboardInterrupt if a stop
    is asked for: a single process at once, several processes together and between two batches.
    """
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
    """The mean loss and the mean of each metric over several batches, each example (or token) weighing the
    same. A value that is nan does not count (the reward of liked responses, where one was not liked).
    """
    total = sum((outcome.loss for outcome in outcomes), start=outcomes[0].loss.new_zeros(()))  # ()
    loss = total / sum(outcome.count for outcome in outcomes)
    metrics = {
        name: torch.cat([outcome.metrics[name] for outcome in outcomes]) for name in outcomes[0].metrics
    }
    return {"loss": loss, **{name: values.nanmean() for name, values in metrics.items()}}
