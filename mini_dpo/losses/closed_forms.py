"""What formulas and facts share: the minimisers of Bradley-Terry losses, and exponents that are cut."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def logit(p: float) -> float:
    """log(p / (1 - p)), the margin at which the Bradley-Terry probability is p. Infinite at 0 and 1."""
    return math.log(p) - math.log1p(-p) if 0 < p < 1 else majority(p)


def flipped(p: float, label_smoothing: float) -> float:
    """P(the label says so), if labels are flipped with probability epsilon."""
    return (1 - label_smoothing) * p + label_smoothing * (1 - p)


def majority(p: float) -> float:
    """The minimiser of a loss that only asks which side has more votes."""
    return math.copysign(math.inf, p - 0.5)


def offset_logit(p: float, gamma: float) -> float:
    """The m that minimises -p log sigma(m - gamma) - (1 - p) log sigma(-m - gamma). It solves a quadratic
    equation in e^m.
    """
    odds, g = p / (1 - p), math.exp(-gamma)
    return math.log(((odds - 1) + math.sqrt((odds - 1) ** 2 + 4 * odds * g * g)) / (2 * g))


def bounded(x: Tensor) -> Tensor:
    """An exponent, cut at four fifths of the largest that the type can hold: 70 in float32. (TRL has 80.)"""
    return x.clamp(max=0.8 * math.log(torch.finfo(x.dtype).max))


def bounded_exp(x: Tensor) -> Tensor:
    """exp(x), with x cut as in `bounded`."""
    return bounded(x).exp()
