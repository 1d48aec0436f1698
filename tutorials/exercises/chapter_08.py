"""Exercises of chapter 8, Other shapes of the same idea. Then: python -m tutorials.exercises 8"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def ipo_loss(h: Tensor, beta: float) -> Tensor:
    """8.1  The IPO loss: h (B,) -> (B,). Note where its minimum is, in nats."""
    raise NotImplementedError


def unflip(loss: Callable[[Tensor], Tensor], margin: Tensor, epsilon: float) -> Tensor:
    """8.2  A loss whose mean over labels, each flipped with probability epsilon, is the given `loss` on the
    true labels.

    loss takes margins (B,) and returns values (B,); a flipped label turns a margin into its negative. Returns
    (B,).
    """
    raise NotImplementedError


def log_odds(average: Tensor) -> Tensor:
    """8.3  log(P / (1 - P)) from average = log P, elementwise, in the type of `average`. Right, with its
    gradient, for float32 averages from -100 to -1e-9. Hint: torch.expm1(x) is exp(x) - 1 without loss of
    digits.
    """
    raise NotImplementedError
