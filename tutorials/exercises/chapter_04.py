"""Exercises of chapter 4, Reward with a leash. Then: python -m tutorials.exercises 4"""

from __future__ import annotations

from torch import Tensor


def optimum(ref_logps: Tensor, reward: Tensor, beta: float) -> Tensor:
    """4.1  log pi*, the log-probs of the best policy: (K,), (K,) -> (K,). Right for rewards of 1000 as
    well.
    """
    raise NotImplementedError


def gain(ref_logps: Tensor, reward: Tensor, beta: float) -> float:
    """4.2  By how much J of the best policy exceeds J of the reference itself, without computing the best
    policy: the chapter has a formula for the best J there is. Rewards of 1000 are allowed.
    """
    raise NotImplementedError


def beta_for(ref_logps: Tensor, reward: Tensor, nats: float) -> float:
    """4.3  The price at which the best policy is `nats` away from the reference: KL(pi* || ref) = nats, to
    six digits.

    The price is between 0.001 and 1000. You may use `optimum`. KL falls as beta rises, so you can
    find the price by halving an interval.
    """
    raise NotImplementedError
