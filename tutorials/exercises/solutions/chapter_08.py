"""Solutions of chapter 8."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def ipo_loss(h: Tensor, beta: float) -> Tensor:
    return (h - 1 / (2 * beta)) ** 2


def unflip(loss: Callable[[Tensor], Tensor], margin: Tensor, epsilon: float) -> Tensor:
    return ((1 - epsilon) * loss(margin) - epsilon * loss(-margin)) / (1 - 2 * epsilon)


def log_odds(average: Tensor) -> Tensor:
    return average - torch.log(-torch.expm1(average))  # 1 - P is -expm1(log P)
