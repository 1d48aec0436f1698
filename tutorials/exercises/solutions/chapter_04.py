"""Solutions of chapter 4."""

from __future__ import annotations

import torch
from torch import Tensor


def optimum(ref_logps: Tensor, reward: Tensor, beta: float) -> Tensor:
    return (ref_logps + reward / beta).log_softmax(-1)  # a softmax divides by the sum, which is Z


def gain(ref_logps: Tensor, reward: Tensor, beta: float) -> float:
    best = beta * torch.logsumexp(ref_logps + reward / beta, dim=-1)  # beta log Z
    return float(best - (ref_logps.exp() * reward).sum())  # J(ref) is the mean reward: its KL is 0


def beta_for(ref_logps: Tensor, reward: Tensor, nats: float) -> float:
    low, high = 1e-3, 1e3
    for _ in range(100):
        middle = (low * high) ** 0.5
        policy = optimum(ref_logps, reward, middle)
        if (policy.exp() * (policy - ref_logps)).sum() > nats:
            low = middle  # too cheap
        else:
            high = middle
    return middle
