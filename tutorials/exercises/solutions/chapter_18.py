"""Solutions of chapter 18."""

from __future__ import annotations

import torch
from torch import Tensor


def entropy(logps: Tensor) -> float:
    said = ~logps.isneginf()
    return float(-(logps[said].exp() * logps[said]).sum())


def expected_distinct(logps: Tensor, n: int) -> float:
    missed = n * torch.log1p(-logps.exp())  # (K,), log of (1 - p)^n
    return float(-torch.expm1(missed).sum())


def entropy_slope(ref_logps: Tensor, reward: Tensor, beta: float) -> float:
    policy = (ref_logps + reward / beta).softmax(-1)
    apart = reward - (policy * reward).sum()
    return float(-(policy * apart * (reward / beta + ref_logps)).sum())  # -lambda Var - Cov
