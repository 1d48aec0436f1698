"""Exercises of chapter 9, How it fails. Then: python -m tutorials.exercises 9"""

from __future__ import annotations

from torch import Tensor


def will_rise(features: Tensor, probabilities: Tensor, chosen: int, rejected: int) -> bool:
    """9.1  Will one small step of DPO on this pair raise the log-prob of the chosen response? The policy is
    that of the chapter's first section. features (K, D): one vector per response; probabilities (K,): the
    policy's.
    """
    raise NotImplementedError


def is_determined(n: int, pairs: list[tuple[int, int]]) -> bool:
    """9.2  Do these comparisons determine the policy over n responses (if each is made often enough)?
    Response numbers are 0 to n - 1; the order within a pair does not matter.
    """
    raise NotImplementedError


def length_corrected(margin: float, chosen_length: int, rejected_length: int, alpha: float) -> float:
    """9.3  R-DPO's margin: comparisons reward alpha per token, and the policy must not learn this."""
    raise NotImplementedError
