"""The log of a run, read again: a metric over the steps of a stage, for pictures."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mini_dpo.errors import UserError
from mini_dpo.files import LARGEST_LOG, read_bytes, read_json, read_unchanged
from mini_dpo.saving.checkpoint import load_checkpoint

# What is drawn of a run, a panel each: the stage, the metrics, what the axis says.
PANELS: list[tuple[str, list[str], str]] = [
    ("sft", ["loss"], "SFT loss, nats per token"),
    ("dpo", ["loss"], "preference loss"),
    ("dpo", ["rewards/margins"], "reward margin"),
    ("dpo", ["rewards/accuracies"], "accuracy, share of examples"),
    ("dpo", ["logps/chosen", "logps/rejected"], "log-prob, nats per response"),
    ("dpo", ["drift"], "log(reference / policy) of pairs, nats"),
    ("dpo", ["kl"], "KL estimate of the loss, nats per response"),
]


class Series(NamedTuple):
    """A metric over a stage: steps (N,) and values (N,), float64, for those steps that have the metric."""

    steps: Tensor
    values: Tensor

    @property
    def smooth(self) -> Tensor:
        """The running mean over a fifteenth of the stage: (N,)."""
        return running_mean(self.values, max(1, len(self.values) // 30))


def running_mean(values: Tensor, radius: int) -> Tensor:
    """The mean of each value and its neighbours up to `radius` away, fewer at the two ends: (N,) -> (N,)."""
    if not len(values):
        return values
    window = 2 * radius + 1
    return F.avg_pool1d(values[None], window, stride=1, padding=radius, count_include_pad=False)[0]


def read_metrics(run: Path) -> list[dict]:
    """The rows of the metrics.jsonl of a run. Raises UserError if there are none, if the file has changed
    since the run wrote it, or for a line that is not the metrics of a step.
    """
    path = run / "metrics.jsonl"
    if not run.is_dir():
        raise UserError(f"{run}: there is no such folder; name a run's, like runs/1")
    if not path.exists():
        raise UserError(
            f"{path}: cannot be read (no such file); name the folder of a run that has begun to train"
        )
    summary = read_json(run / "summary.json") if (run / "summary.json").exists() else {}
    text = read_unchanged(path, summary) if "sha256" in summary else read_growing(path)
    lines = text.splitlines()
    if not lines:
        raise UserError(
            f"{path}: no step in it yet; wait for the run, or go on with it: python -m "
            f"mini_dpo.train --resume {run}"
        )
    return [read_metrics_row(line, f"{path}, line {i}") for i, line in enumerate(lines, 1)]


def read_growing(path: Path) -> str:
    """The text of the log of a run that has no summary yet. Raises UserError unless the log begins with what
    the last checkpoint of the run remembers.
    """
    checkpoints = [path.with_name(name) for name in ("dpo.pt", "sft.pt") if path.with_name(name).exists()]
    saved = load_checkpoint(checkpoints[0]) if checkpoints else {}  # before the log, which may still grow
    content, length = read_bytes(path, LARGEST_LOG), saved.get("log_length", 0)
    if "log_sha256" in saved and hashlib.sha256(content[:length]).hexdigest() != saved["log_sha256"]:
        raise UserError(f"{path}: not what {checkpoints[0].name} remembers; it was changed or damaged")
    return content.decode(errors="replace")


def read_metrics_row(line: str, where: str) -> dict:
    """A line of the log as a dict: stage, step, and metrics. Raises UserError, with `where`, if it
    is none.
    """
    try:
        row = json.loads(line)
        stage = row.pop("stage")
        # None: it was infinite
        row = {name: math.nan if value is None else float(value) for name, value in row.items()}
        if stage in ("sft", "dpo") and math.isfinite(row["step"]) and "loss" in row:
            return {"stage": stage, **row, "step": int(row["step"])}
        raise ValueError
    except (ValueError, OverflowError, RecursionError, AttributeError, KeyError, TypeError):
        what = 'not the metrics of a step, {"stage": "sft" or "dpo", "step": ..., "loss": ...}'
        raise UserError(
            f"{where}: {what}; if the run was stopped while it wrote, --resume it; else take the line out"
        ) from None


def series(rows: Sequence[dict], stage: str, name: str) -> Series:
    """A metric over a stage ("sft" or "dpo"), for example "loss", or "eval_loss" on held-out examples. Empty
    if no step has it.

    Losses of single responses log no margins. For them the margin is the mean reward of liked responses minus
    that of disliked responses.
    """
    chosen, rejected = (name.replace("margins", side) for side in ("chosen", "rejected"))
    found = []
    for row in rows:
        if row["stage"] == stage and name in row:
            found.append((row["step"], row[name]))
        elif row["stage"] == stage and name.endswith("rewards/margins") and {chosen, rejected} <= row.keys():
            found.append((row["step"], row[chosen] - row[rejected]))
    steps, values = torch.tensor(found, dtype=torch.float64).view(-1, 2).unbind(1)
    return Series(steps, values)


def change_since_start(metric: Series) -> Tensor:
    """The smoothed metric minus its first value: (N,)."""
    return metric.smooth - metric.smooth[:1]
