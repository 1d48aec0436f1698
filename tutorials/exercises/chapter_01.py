"""Exercises of chapter 1, Preferences. Replace each `raise NotImplementedError`, then: python -m
tutorials.exercises 1
"""

from __future__ import annotations


def preference_probability(score_a: float, score_b: float) -> float:
    """1.1  P(a preferred to b) under Bradley-Terry, for any two scores, even 1000 and 0 or 0 and 1000.

    `math.exp` overflows beyond 709 and is 0 below -745. Python's floats can do all of this without a special
    case for large scores, if you choose between two ways to write the same formula.
    """
    raise NotImplementedError


def missing_wins(scores: list[float], winners: list[int], losers: list[int]) -> list[float]:
    """1.2  The gradient of the loss: for each drink, the wins that the scores expect minus the wins that
    there were.

    scores[a] is the score of drink a; comparison i was won by drink winners[i] against drink losers[i]. You
    may use `preference_probability`. Returns one number per drink: positive where there were too few wins.
    """
    raise NotImplementedError


def has_finite_fit(wins: list[list[int]]) -> bool:
    """1.3  Is there one best fit with finite scores? wins[a][b] says how often drink a beat drink b.

    The chapter has Ford's condition in terms of all splits into two groups. With 20 drinks there are half a
    million splits. Find a way that is quick for 20: start at one drink, and see whom you reach and who
    reaches you.
    """
    raise NotImplementedError
