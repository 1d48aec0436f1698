"""Solutions of chapter 21."""

from __future__ import annotations

import itertools
from statistics import fmean, stdev


def interval(numbers: list[float], t: float) -> tuple[float, float]:
    half = t * stdev(numbers) / len(numbers) ** 0.5
    return fmean(numbers) - half, fmean(numbers) + half


def verdict(numbers: list[float], least: float, exact: bool, t: float) -> str:
    if exact:
        return "holds" if min(numbers) > least else "false"
    low, _ = interval(numbers, t)
    return "holds here" if low > least else "not here"


def reward_at(far: float, points: list[tuple[float, float]]) -> float:
    points = sorted(points)
    found = [reward for kl, reward in points if kl <= far]
    for (near, low), (beyond, high) in itertools.pairwise(points):
        if near <= far < beyond:
            found.append(low + (high - low) * (far - near) / (beyond - near))
    return max(found)
