"""Exercises of chapter 15, The tree. Then: python -m tutorials.exercises 15"""

from __future__ import annotations

from torch import Tensor


def soft_value(ref_logps: Tensor, q: Tensor, beta: float) -> float:
    """15.1  V* of a beginning: from the reference's log-probs of the next words and their values Q*, (A,) and
    (A,). Right for values of 1000 as well.
    """
    raise NotImplementedError


def value_of(
    beginning: list[int], responses: list[list[int]], ref_logps: Tensor, reward: Tensor, beta: float
) -> float:
    """15.2  V* of a beginning, from a list of all K responses, the reference's log-probs of them and their
    rewards: (K,) and (K,). The probabilities of the responses sum to one; those below the beginning do not.
    """
    raise NotImplementedError


def shaped(rewards: list[float], potentials: list[float]) -> list[float]:
    """15.3  What the words of a response earn after shaping. rewards[t] is what word t earned before, and
    potentials[t] is the potential before word t. After the last word the potential is 0.
    """
    raise NotImplementedError
