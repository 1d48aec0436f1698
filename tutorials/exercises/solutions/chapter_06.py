"""Solutions of chapter 6."""

from __future__ import annotations

import math

from torch import Tensor


def mean_loss(sums: list[float], counts: list[int]) -> float:
    return sum(sums) / sum(counts)


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    return peak * (1 + math.cos(math.pi * done)) / 2


def mean_change(ref_logps: Tensor, policy_logps: Tensor) -> float:
    there = ref_logps.isfinite()
    return float((ref_logps[there].exp() * (policy_logps - ref_logps)[there]).sum())
