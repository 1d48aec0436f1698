"""Exercises of chapter 21, What is true of it. Then: python -m tutorials.exercises 21"""

from __future__ import annotations


def interval(numbers: list[float], t: float) -> tuple[float, float]:
    """21.1  The interval of the mean, (its lower end, its upper end), from one number per seed. t is the
    quantile for as many numbers less one.
    """
    raise NotImplementedError


def verdict(numbers: list[float], least: float, exact: bool, t: float) -> str:
    """21.2  "holds", "false", "holds here" or "not here", for a claim that the number is above `least`. Your
    interval may be used; t is for it, and an exact claim has no use for it.
    """
    raise NotImplementedError


def reward_at(far: float, points: list[tuple[float, float]]) -> float:
    """21.3  The most true reward of a method within `far` nats. points: (KL divergence, true reward) of each
    of its policies, in any order. The SFT model, (0, its reward), is one of them. Mixtures of two policies
    are allowed: of two neighbours in KL divergence, they have what is on the straight line between them.
    """
    raise NotImplementedError
