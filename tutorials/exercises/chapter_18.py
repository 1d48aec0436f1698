"""Exercises of chapter 18, How many answers. Then: python -m tutorials.exercises 18"""

from __future__ import annotations

from torch import Tensor


def entropy(logps: Tensor) -> float:
    """18.1  The entropy of a policy in nats, from the log-probs of all its responses, (K,). What is never
    said, with a log-prob of minus infinity, counts 0.
    """
    raise NotImplementedError


def expected_distinct(logps: Tensor, n: int) -> float:
    """18.2  How many different responses n draws are expected to contain: (K,) log-probs. To six digits for
    responses of probability 1e-20 as well.
    """
    raise NotImplementedError


def entropy_slope(ref_logps: Tensor, reward: Tensor, beta: float) -> float:
    """18.3  The derivative of the optimum's entropy with respect to 1/beta: (K,), (K,)."""
    raise NotImplementedError
