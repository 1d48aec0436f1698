"""Solutions of chapter 7."""

from __future__ import annotations

import math

from torch import Tensor


def kl_estimate(policy_logps: Tensor, ref_logps: Tensor) -> float:
    x = policy_logps - ref_logps  # (N,)
    return float((x - 1 + (-x).exp()).mean())


def best_of_n(probabilities: list[float], n: int) -> list[float]:
    result, below = [], 0.0
    for p in probabilities:
        result.append((below + p) ** n - below**n)  # all n at most this good, less all n worse
        below += p
    return result


def choose(betas: list[float], win_rates: list[float], n: int) -> float:
    best = max(win_rates)
    enough = best - math.sqrt(best * (1 - best) / n)
    return max(beta for beta, rate in zip(betas, win_rates, strict=True) if rate >= enough)
