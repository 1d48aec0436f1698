"""Solutions of chapter 15."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_value(ref_logps: Tensor, q: Tensor, beta: float) -> float:
    return float(beta * torch.logsumexp(ref_logps + q / beta, dim=-1))


def value_of(
    beginning: list[int], responses: list[list[int]], ref_logps: Tensor, reward: Tensor, beta: float
) -> float:
    below = torch.tensor([response[: len(beginning)] == beginning for response in responses])
    ref, r = ref_logps[below], reward[below]
    return float(beta * ((ref + r / beta).logsumexp(-1) - ref.logsumexp(-1)))  # of ref(y | beginning)


def shaped(rewards: list[float], potentials: list[float]) -> list[float]:
    after = [*potentials[1:], 0.0]
    return [r + new - old for r, new, old in zip(rewards, after, potentials, strict=True)]
