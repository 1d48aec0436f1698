"""Exercises of chapter 7, Choosing beta, and stopping. Then: python -m tutorials.exercises 7"""

from __future__ import annotations

from torch import Tensor


def kl_estimate(policy_logps: Tensor, ref_logps: Tensor) -> float:
    """7.1  KL(policy || reference), estimated by k3 from N responses that the policy wrote: (N,), (N,), the
    log-prob of each under the two models.
    """
    raise NotImplementedError


def best_of_n(probabilities: list[float], n: int) -> list[float]:
    """7.2  The distribution of the best of n independent draws. probabilities[i] is that of response i; they
    are listed from the worst to the best.
    """
    raise NotImplementedError


def choose(betas: list[float], win_rates: list[float], n: int) -> float:
    """7.3  Which beta to take: the largest one whose win rate is at least the best win rate w minus its
    standard error, sqrt(w (1 - w) / n). Each win rate was measured on n prompts. The lists are in no
    particular order.
    """
    raise NotImplementedError
