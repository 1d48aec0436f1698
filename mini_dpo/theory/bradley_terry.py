"""The closed forms behind DPO, on response spaces small enough to write down.

A space of K responses to one prompt is a last dimension of size K; prompts, if there are several, come before
it. Policies are given by their log-probabilities. All results are in nats, or in units of reward.

    P(a over b) = sigmoid(r(a) - r(b))                     Bradley & Terry 1952, Biometrika 39
    J(pi)       = E_pi[r] - beta KL(pi || ref)             the objective; arXiv:2305.18290, eq. 3
    pi*(y)      = ref(y) exp(r(y) / beta) / Z              its maximiser, eq. 4
    r(y)        = beta log(pi*(y) / ref(y)) + beta log Z   the same, turned inside out, eq. 5
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mini_dpo.losses import PairLogps


def preference_probability(reward_a: Tensor, reward_b: Tensor) -> Tensor:
    """P(a preferred to b) under Bradley-Terry: sigmoid of the difference of rewards, elementwise."""
    return torch.sigmoid(reward_a - reward_b)


def log_partition(ref_logps: Tensor, reward: Tensor, beta: float) -> Tensor:
    """log Z = log sum_y ref(y) exp(r(y) / beta): (..., K), (..., K) -> (...). The number nobody can compute
    for text.
    """
    return torch.logsumexp(ref_logps + reward / beta, dim=-1)


def optimal_policy(ref_logps: Tensor, reward: Tensor, beta: float) -> Tensor:
    """log pi*, the policy of the greatest J: (..., K), (..., K) -> (..., K)."""
    return ref_logps + reward / beta - log_partition(ref_logps, reward, beta)[..., None]


def implicit_reward(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    """The reward, up to one constant a prompt, whose optimum is this policy: beta log(pi / ref), (..., K)."""
    return beta * (policy_logps - ref_logps)


def expected_reward(policy_logps: Tensor, reward: Tensor) -> Tensor:
    """E_pi[r]: (..., K), (..., K) -> (...)."""
    return (policy_logps.exp() * reward).sum(-1)


def kl(p_logps: Tensor, q_logps: Tensor) -> Tensor:
    """KL(p || q) = E_p[log p - log q]: (..., K), (..., K) -> (...), in nats. What p never says counts 0, as 0
    log 0 does; what p says and q never does makes it infinite.
    """
    gap = (p_logps - q_logps).masked_fill(p_logps.isneginf(), 0)
    # a p that is too small for its type is still not 0
    p = p_logps.exp().clamp(min=torch.finfo(p_logps.dtype).tiny)
    return (p * gap).sum(-1)


def objective(policy_logps: Tensor, ref_logps: Tensor, reward: Tensor, beta: float) -> Tensor:
    """J(pi) = E_pi[r] - beta KL(pi || ref): (...). For every pi it equals beta log Z - beta KL(pi || pi*)."""
    return expected_reward(policy_logps, reward) - beta * kl(policy_logps, ref_logps)


def dpo_gradient(logps: PairLogps, beta: float) -> tuple[Tensor, Tensor]:
    """The derivatives of each pair's DPO loss by the policy's chosen and rejected log-probability: (B,),
    (B,).

    -beta sigmoid(r_l - r_w) and its opposite, with r = beta log(pi / ref): the more wrongly the pair is
    ranked, the larger (arXiv:2305.18290, the gradient in section 4).
    """
    r_w = implicit_reward(logps.chosen.policy, logps.chosen.s_ref, beta)
    r_l = implicit_reward(logps.rejected.policy, logps.rejected.s_ref, beta)
    weight = beta * preference_probability(r_l, r_w)  # (B,)
    return -weight, weight


def wins(ours: Any, theirs: Any) -> Tensor:
    """1 where ours is the larger, 0 where theirs is; ties count half: elementwise, in float32.
    ours, theirs: tensors, or one of them a number.
    """
    return (ours > theirs) + 0.5 * (ours == theirs)
