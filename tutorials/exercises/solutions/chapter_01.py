"""Solutions of chapter 1."""

from __future__ import annotations

import math


def preference_probability(score_a: float, score_b: float) -> float:
    difference = score_a - score_b
    if difference >= 0:
        return 1 / (1 + math.exp(-difference))
    # the same, with an exponent that is negative here
    return math.exp(difference) / (1 + math.exp(difference))


def missing_wins(scores: list[float], winners: list[int], losers: list[int]) -> list[float]:
    missing = [0.0] * len(scores)
    for w, l in zip(winners, losers, strict=True):
        surprise = preference_probability(scores[l], scores[w])  # the winner was expected to win 1 - this
        missing[w] -= surprise
        missing[l] += surprise
    return missing


def has_finite_fit(wins: list[list[int]]) -> bool:
    def reached(beats) -> set[int]:
        """Everyone who is reached from drink 0 by going from a to b where beats(a, b)."""
        seen, todo = {0}, [0]
        while todo:
            a = todo.pop()
            new = {b for b in range(len(wins)) if beats(a, b)} - seen
            seen |= new
            todo += new
        return seen

    everybody = set(range(len(wins)))
    return reached(lambda a, b: wins[a][b] > 0) == everybody == reached(lambda a, b: wins[b][a] > 0)
