"""Policies as tables: K responses to one prompt and a number for each. A laboratory in which everything can
be summed.

A policy is its log-probabilities (K,); whatever is trained (a table of logits, a few weights) is any tensor
from which log-probabilities can be computed. No network stands between a loss and what it wants, so what is
seen here is the loss's own doing. The chapters look at losses in it, and `python -m mini_dpo.check` finds
their minimisers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mini_dpo.losses import PairLogps, Responses
from mini_dpo.theory.bradley_terry import preference_probability


def draw_comparisons(logps: Tensor, reward: Tensor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n comparisons as people make them: two responses drawn from a policy, the winner from Bradley-Terry.

    logps, reward: (K,). Returns which responses won and which lost, (n,) and (n,) of whole numbers. The two
    are drawn independently, so that a response may meet itself; such a comparison teaches nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    # (n,) each
    a, b = torch.multinomial(logps.exp(), 2 * n, replacement=True, generator=generator).view(2, n)
    # (n,)
    a_wins = torch.rand(n, generator=generator, dtype=reward.dtype) < preference_probability(
        reward[a], reward[b]
    )
    return torch.where(a_wins, a, b), torch.where(a_wins, b, a)


def pairs_of(
    policy_logps: Tensor, ref_logps: Tensor, winners: Tensor, losers: Tensor, lengths: Tensor | None = None
) -> PairLogps:
    """What a loss is given for comparisons in a table: (K,), (K,), (n,), (n,) -> n pairs. lengths: (K,),
    tokens in each response; one each if not given.
    """
    lengths = torch.ones_like(ref_logps) if lengths is None else lengths
    chosen, rejected = (
        Responses(policy_logps[side], lengths[side], ref_logps[side]) for side in (winners, losers)
    )
    return PairLogps(chosen, rejected)


def expected_loss(loss: Callable[[PairLogps], Tensor], logps: PairLogps, p: float | Tensor) -> Tensor:
    """The loss of each pair, averaged over people: a share p of them, (n,) or one number, choose as it says:
    (n,).
    """
    return p * loss(logps) + (1 - p) * loss(logps.swapped)


def minimise(risk: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where L-BFGS stops that begins at `start`: the minimum of a smooth convex risk, to about seven digits.
    risk: one tensor like `start` to a scalar. Where there is no finite minimum, it stops somewhere far
    out.
    """
    x = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        now = risk(x)
        now.backward()
        return now

    optimizer.step(closure)
    return x.detach()


def descend(risk: Callable[[Tensor], Tensor], start: Tensor, steps: int, lr: float) -> Tensor:
    """The way that plain gradient descent takes: (steps + 1, *start.shape), `start` first."""
    x = start.clone().requires_grad_()
    way = [start]
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(risk(x), x)
        x = (x.detach() - lr * gradient).requires_grad_()
        way.append(x.detach())
    return torch.stack(way)
