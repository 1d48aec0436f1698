"""Exercises of chapter 5, The trick. Then: python -m tutorials.exercises 5"""

from __future__ import annotations

from torch import Tensor


def preferred(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    """5.1  All comparisons that a policy implies: (K,), (K,) -> (K, K). The entry in row a and column b is
    the probability that a is preferred to b, if the policy is the best one for people's reward.
    """
    raise NotImplementedError


def dpo_loss(policy_w: Tensor, policy_l: Tensor, ref_w: Tensor, ref_l: Tensor, beta: float) -> Tensor:
    """5.2  The DPO loss of B pairs, one value a pair: (B,) each -> (B,). policy_w: log-probs of the winners
    under the policy; the others likewise. Margins of 1000 and -1000 are allowed; torch has a function for the
    delicate part.
    """
    raise NotImplementedError


def dpo_slopes(
    policy_w: Tensor, policy_l: Tensor, ref_w: Tensor, ref_l: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """5.3  The derivatives of each pair's loss by policy_w and by policy_l: (B,), (B,). By hand: no
    autograd.
    """
    raise NotImplementedError
