"""Solutions of chapter 16."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev


def paired_error(ours: list[float], theirs: list[float]) -> float:
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    return stdev(gaps) / math.sqrt(len(gaps))


def both_orders(judge: Callable, ours: Sequence, theirs: Sequence) -> float:
    return fmean((judge(a, b) + 1 - judge(b, a)) / 2 for a, b in zip(ours, theirs, strict=True))


def strict_level(k: int, alpha: float) -> float:
    return -math.expm1(math.log1p(-alpha) / k)  # 1 - (1 - alpha)^(1/k)
