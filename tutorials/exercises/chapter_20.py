"""Exercises of chapter 20, The opponent. Then: python -m tutorials.exercises 20"""

from __future__ import annotations


def loo_advantages(returns: list[float], k: int) -> list[float]:
    """20.1  The leave-one-out advantages of responses in groups of k to the same prompt: the first k returns
    are the first group's, and so on.
    """
    raise NotImplementedError


def gae(rewards: list[float], values: list[float], lam: float) -> list[float]:
    """20.2  The advantage of each token of a response. rewards[t] is the reward of token t, and values[t] the
    guess, before token t, of the return from t on. After the last token there is nothing more to come.
    """
    raise NotImplementedError


def clipped_gain(ratio: float, advantage: float, clip: float) -> float:
    """20.3  What PPO maximises for one response (or token): the gain of the ratio, or of the ratio cut to
    [1 - clip, 1 + clip], whichever is less.
    """
    raise NotImplementedError
