"""Solutions of chapter 20."""

from __future__ import annotations


def loo_advantages(returns: list[float], k: int) -> list[float]:
    advantages = []
    for first in range(0, len(returns), k):
        group = returns[first : first + k]
        advantages += [own - (sum(group) - own) / (k - 1) for own in group]
    return advantages


def gae(rewards: list[float], values: list[float], lam: float) -> list[float]:
    advantages, later, following = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        later = reward + following - value + lam * later
        advantages.append(later)
        following = value
    return advantages[::-1]


def clipped_gain(ratio: float, advantage: float, clip: float) -> float:
    cut = min(max(ratio, 1 - clip), 1 + clip)
    return min(ratio * advantage, cut * advantage)
