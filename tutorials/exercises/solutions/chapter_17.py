"""Solutions of chapter 17."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def unseen(ref_logps: Tensor, change: Tensor, compared: Tensor) -> float:
    policy = (ref_logps + torch.where(compared, change, 0.0)).log_softmax(-1)
    return float(policy.exp()[~compared].sum())


def will_be_asked(p: float, n: int) -> float:
    return -math.expm1(2 * n * math.log1p(-p))  # 1 - (1 - p)^(2n)


def information(weights: Tensor, reward: Tensor) -> Tensor:
    p = torch.sigmoid(reward[:, None] - reward)
    each = 2 * weights[:, None] * weights * p * (1 - p)  # of a pair in either order
    return each.sum(1).diag() - each
