"""Solutions of chapter 3."""

from __future__ import annotations

import math


def perplexity(logps: list[float], lengths: list[int]) -> float:
    return math.exp(-sum(logps) / sum(lengths))


def draw(probabilities: list[float], u: float) -> int:
    for token, p in enumerate(probabilities):
        if u < p:
            return token
        u -= p
    return max(i for i, p in enumerate(probabilities) if p > 0)  # rounding: the sum fell short of u


def keep_likeliest(probabilities: list[float], top_p: float) -> list[float]:
    kept, total = set(), 0.0
    for token in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        if total < top_p:
            kept.add(token)
            total += probabilities[token]
    return [p / total if i in kept else 0.0 for i, p in enumerate(probabilities)]
