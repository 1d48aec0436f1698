"""Exercises of chapter 3, Learning to talk. Then: python -m tutorials.exercises 3"""

from __future__ import annotations


def perplexity(logps: list[float], lengths: list[int]) -> float:
    """3.1  The perplexity of several responses: response i has log-prob logps[i], summed over its lengths[i]
    tokens.
    """
    raise NotImplementedError


def draw(probabilities: list[float], u: float) -> int:
    """3.2  Draw a token: `u` is a random number, evenly spread over [0, 1). Token i must come out for a share
    probabilities[i] of all u, token 0 for the smallest ones, then token 1, and so on. Where
    rounding leaves the sum below u, the last token with a positive probability comes out.
    """
    raise NotImplementedError


def keep_likeliest(probabilities: list[float], top_p: float) -> list[float]:
    """3.3  Keep only the likeliest tokens: as few as have probabilities that sum to at least top_p (0 < top_p
    <= 1). Give the others 0, and make the whole sum to one again. Tokens stay in their places. No two
    probabilities are equal here.
    """
    raise NotImplementedError
