"""Solutions of chapter 2."""

from __future__ import annotations

import math

from torch import Tensor


def log_probability(logits: list[float], token: int) -> float:
    largest = max(logits)  # with it taken off, every exponent is at most 0, and one of them is 0
    return logits[token] - largest - math.log(sum(math.exp(z - largest) for z in logits))


def lay_out(prompt: list[int], response: list[int], end: int) -> tuple[list[int], list[bool]]:
    scored = [*response, end]
    return [*prompt, *scored], [False] * len(prompt) + [True] * len(scored)


def response_logp(logits: Tensor, ids: list[int], mask: list[bool]) -> float:
    total = 0.0
    for t, (token, scored) in enumerate(zip(ids, mask, strict=True)):
        if scored:
            total += log_probability(logits[t - 1].tolist(), token)  # the row before it speaks of it
    return total
