"""Solutions of chapter 5."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def preferred(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    reward = beta * (policy_logps - ref_logps)  # (K,), up to a constant that cancels
    return torch.sigmoid(reward[:, None] - reward[None, :])  # (K, K)


def dpo_loss(policy_w: Tensor, policy_l: Tensor, ref_w: Tensor, ref_l: Tensor, beta: float) -> Tensor:
    h = (policy_w - ref_w) - (policy_l - ref_l)  # (B,)
    return -logsigmoid(beta * h)


def dpo_slopes(
    policy_w: Tensor, policy_l: Tensor, ref_w: Tensor, ref_l: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    h = (policy_w - ref_w) - (policy_l - ref_l)  # (B,)
    weight = beta * torch.sigmoid(-beta * h)
    return -weight, weight
