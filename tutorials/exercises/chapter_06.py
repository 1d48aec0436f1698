"""Exercises of chapter 6, The loop. Then: python -m tutorials.exercises 6"""

from __future__ import annotations

from torch import Tensor


def mean_loss(sums: list[float], counts: list[int]) -> float:
    """6.1  The mean loss per pair over accumulated batches. Batch i has counts[i] pairs, and sums[i] is the
    sum of their losses. A batch may be empty.
    """
    raise NotImplementedError


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """6.2  The learning rate of a step, counted from 0: during `warmup` steps it rises in a line, so that
    step warmup - 1 is the first at `peak`; from step `warmup` on it falls along half a cosine from `peak`,
    and would reach 0 at step `steps`. warmup may be 0, and is less than steps.
    """
    raise NotImplementedError


def mean_change(ref_logps: Tensor, policy_logps: Tensor) -> float:
    """6.3  The mean change of log-prob, log pi - log ref, over responses drawn from the reference, exactly:
    (K,), (K,). A response that the reference never gives has a log-prob of minus infinity there, and does not
    count.
    """
    raise NotImplementedError
