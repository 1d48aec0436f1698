"""Exercises of chapter 17, Ask again. Then: python -m tutorials.exercises 17"""

from __future__ import annotations

from torch import Tensor


def unseen(ref_logps: Tensor, change: Tensor, compared: Tensor) -> float:
    """17.1  The probability of all responses together that are in no pair, after training has changed the
    logits of the compared ones. ref_logps, change: (K,). compared: (K,), true or false. What `change` says of
    a response that is in no pair does not count.
    """
    raise NotImplementedError


def will_be_asked(p: float, n: int) -> float:
    """17.2  The probability that a response which the policy says with probability p is in at least one of n
    pairs, if both responses of a pair are drawn independently. To six digits for p = 1e-20 as well.
    """
    raise NotImplementedError


def information(weights: Tensor, reward: Tensor) -> Tensor:
    """17.3  The information of one comparison about the rewards, (K, K): both responses are drawn
    independently with the probabilities `weights`, (K,), and people follow Bradley-Terry with `reward`, (K,).
    """
    raise NotImplementedError
