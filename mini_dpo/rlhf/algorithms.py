"""How a policy learns from scored responses: REINFORCE, RLOO, GRPO, PPO.

All maximise J = E[score] - beta KL(policy || reference). The KL divergence is part of the *reward*: a token
costs beta (log pi - log ref), the estimator k1, without a gradient of its own. (As a term of the loss, k1 has
no gradient in expectation, and k3 has a wrong one: arXiv:2510.01555, 2512.21852.)

    REINFORCE   -A log pi(y)              A = return - the mean of the other responses in the batch
    RLOO        the ratio pi / pi_old      A = return - the mean of the k - 1 others to the same prompt
                clipped, of the sequence                                            (arXiv:2402.14740)
    GRPO        the ratio clipped, of      A = (return - mean) / deviation, of the prompt's k
                each token                                                          (arXiv:2402.03300)
    PPO         the ratio clipped, of      A from a value network, by generalised advantage estimation
                each token                                             (arXiv:1707.06347, 1506.02438)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from mini_dpo.rlhf.reward import ScalarModel, per_response
from mini_dpo.rlhf.rollout import Rollout

CLIP = 0.2  # how far a ratio may leave 1 and still be pushed (arXiv:1707.06347, and for RLOO TRL's default)
LAMBDA = 0.95  # of generalised advantage estimation; gamma is 1: only the end is rewarded (N+)
VALUE_WEIGHT = 0.1  # of the value network's loss (N+)


# --- returns and advantages, none of which has a gradient


def token_rewards(rollout: Rollout, beta: float) -> Tensor:
    """-beta log(policy / reference) of each token, and at a response's last token its score too: (R,), units
    of reward.
    """
    last = rollout.batch.lengths.cumsum(0) - 1  # (S,), the number of each response's last token
    return (-beta * rollout.k1).index_add(0, last, rollout.scores.to(rollout.k1.dtype))


def returns_of(rollout: Rollout, beta: float) -> Tensor:
    """score - beta log(policy / reference) of each response, the sum of its tokens' rewards: (S,)."""
    return per_response(rollout.batch, token_rewards(rollout, beta))


def leave_one_out(returns: Tensor, k: int) -> Tensor:
    """Each return less the mean of the k - 1 others of its group: (S,) -> (S,). The baseline does not contain
    the response itself, so that it does not bend the gradient.
    """
    groups = returns.view(-1, k)  # (S / k, k)
    others = (groups.sum(1, keepdim=True) - groups) / (k - 1)
    return (groups - others).flatten()


def standardised(returns: Tensor, k: int) -> Tensor:
    """Each return less its group's mean, in its group's standard deviations: (S,) -> (S,)."""
    groups = returns.view(-1, k)
    return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()


def generalised_advantages(rewards: Tensor, values: Tensor, lengths: Tensor, lam: float = LAMBDA) -> Tensor:
    """Generalised advantage estimation with gamma 1: (R,), (R,), (S,) -> (R,).

    A_t = delta_t + lam A_{t+1}, with delta_t = reward_t + value_{t+1} - value_t. The value after the last
    token is 0. With lam = 1 it is the sum of the rewards still to come, less the value.
    """
    advantages: list[float] = []
    for r, v in zip(rewards.split(lengths.tolist()), values.split(lengths.tolist()), strict=True):
        deltas = r + torch.cat([v[1:], v.new_zeros(1)]) - v
        backwards = accumulate(reversed(deltas.tolist()), lambda following, delta: delta + lam * following)
        advantages += reversed(list(backwards))
    return rewards.new_tensor(advantages)


@torch.no_grad()
def with_values(value: ScalarModel, rollout: Rollout, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(advantages, what the value network should say, what it says now) of each token: (R,) each. Advantages
    are whitened over the batch, and rewards are not (N+; arXiv:2404.10719 finds it among what PPO needs).
    """
    batch = rollout.batch
    values = value.values(batch, batch.index.rows)  # (R,), before each token
    advantages = generalised_advantages(token_rewards(rollout, beta), values, batch.lengths)
    whitened = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    return whitened, advantages + values, values


# --- losses, whose gradient is the policy's


def clipped(log_ratio: Tensor, advantages: Tensor) -> Tensor:
    """-min(r A, clip(r) A) with r = pi / pi_old: PPO's loss, elementwise. Beyond 1 +- CLIP nothing is
    gained.
    """
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)


def reinforce_loss(rollout: Rollout, advantages: Tensor, logps: Tensor) -> Tensor:
    """-A log pi(y), the mean over responses. advantages: (S,). logps: (R,), with gradient."""
    return -(advantages * per_response(rollout.batch, logps)).mean()


def rloo_loss(rollout: Rollout, advantages: Tensor, logps: Tensor) -> Tensor:
    """PPO's loss of whole responses. At the first pass its gradient is REINFORCE's. advantages: (S,)."""
    return clipped(per_response(rollout.batch, logps - rollout.logps), advantages).mean()


def grpo_loss(rollout: Rollout, advantages: Tensor, logps: Tensor) -> Tensor:
    """PPO's loss of tokens, the mean over each response's tokens, then over responses. advantages: (S,)."""
    per_token = clipped(logps - rollout.logps, advantages[rollout.batch.index.owners])  # (R,)
    return (per_response(rollout.batch, per_token) / rollout.batch.lengths).mean()


def ppo_loss(rollout: Rollout, advantages: Tensor, logps: Tensor) -> Tensor:
    """PPO's loss of tokens, the mean over all of them. advantages: (R,)."""
    return clipped(logps - rollout.logps, advantages).mean()


def value_loss(values: Tensor, before: Tensor, targets: Tensor) -> Tensor:
    """Half the squared error of the value network, the larger of two: as it is, and with the change since the
    rollout clipped (N+). All (R,) -> ().
    """
    near = before + (values - before).clamp(-CLIP, CLIP)
    return 0.5 * torch.maximum((values - targets) ** 2, (near - targets) ** 2).mean()


@dataclass(frozen=True)
class Algorithm:
    """k: responses to a prompt. passes: over the responses of a step. loss: of a rollout, advantages and the
    log-probs now. advantages: of the returns (S,) and k; None where a value network gives them.
    """

    k: int
    passes: int
    loss: Callable[[Rollout, Tensor, Tensor], Tensor]
    advantages: Callable[[Tensor, int], Tensor] | None


ALGORITHMS = {
    "rloo": Algorithm(4, 1, rloo_loss, leave_one_out),
    "ppo": Algorithm(1, 4, ppo_loss, None),
    "grpo": Algorithm(4, 1, grpo_loss, standardised),
    "reinforce": Algorithm(1, 1, reinforce_loss, lambda returns, k: leave_one_out(returns, len(returns))),
}
