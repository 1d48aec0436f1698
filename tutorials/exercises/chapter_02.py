"""Exercises of chapter 2, A language model as a probability. Then: python -m tutorials.exercises 2"""

from __future__ import annotations

from torch import Tensor


def log_probability(logits: list[float], token: int) -> float:
    """2.1  The logarithm of the softmax at `token`, in plain Python, right for logits of 1000 and -1000 as
    well.

    Hint: adding one number to all logits changes no probability. Which number makes every exponent harmless?
    """
    raise NotImplementedError


def lay_out(prompt: list[int], response: list[int], end: int) -> tuple[list[int], list[bool]]:
    """2.2  One training example: (ids, mask). The ids are the prompt, the response and the end-of-text token
    `end`; the mask says of each id whether it is scored.
    """
    raise NotImplementedError


def response_logp(logits: Tensor, ids: list[int], mask: list[bool]) -> float:
    """2.3  log P(response | prompt), the sum over the ids under the mask. logits (T, V): row t was computed
    from ids[0] to ids[t]. Write it as a loop, and think about which row is about which id.
    """
    raise NotImplementedError
