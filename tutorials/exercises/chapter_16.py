"""Exercises of chapter 16, Telling two models apart. Then: python -m tutorials.exercises 16"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def paired_error(ours: list[float], theirs: list[float]) -> float:
    """16.1  The standard error of the mean difference between two models' scores of the same N prompts: the
    deviation (with N - 1) of what is averaged, over the root of N.
    """
    raise NotImplementedError


def both_orders(judge: Callable, ours: Sequence, theirs: Sequence) -> float:
    """16.2  How often a judge prefers ours, the mean over all prompts, if each pair of answers is shown in
    both orders. judge(first, second) is the probability that the one shown first is preferred.
    """
    raise NotImplementedError


def strict_level(k: int, alpha: float) -> float:
    """16.3  The error probability that each of k independent comparisons may have, so that the probability of
    at least one error among them is alpha. To six digits for alpha = 1e-18 as well.
    """
    raise NotImplementedError
