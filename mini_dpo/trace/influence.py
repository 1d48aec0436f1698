"""What each training pair did to log pi(y) of one answer y, to first order in the learning rate.

A step of gradient descent on the losses L_i of some pairs changes the parameters by -rate sum_i grad L_i, and
log pi(y) by the product of that with g = grad log pi(y) (TracIn, arXiv:2002.08484). A loss sees the model
only through log-probs, so the part of pair i is, by the chain rule,

    c_i = -dL_i/ds(y_w) K(y, y_w) - dL_i/ds(y_l) K(y, y_l),    K(y, y') = g . P grad log pi(y')

For DPO this is beta sigmoid(-m_i) [K(y, y_w) - K(y, y_l)]. P is 1 for gradient descent: then rate sum_i c_i
is the change of log pi(y), and the error is of second order in the rate. AdamW divides each weight's step by
the root mean square of its last gradients; P is this diagonal matrix. With that P the sum is still no
identity: AdamW's averages of gradients lag behind, clipping is not in it, and P changes with every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor

from mini_dpo.batches import Batch, PairBatch
from mini_dpo.logprobs import response_logps
from mini_dpo.losses import PairLogps, Responses
from mini_dpo.model import GPT
from mini_dpo.objectives import Objective

Direction = dict[str, Tensor]  # parameter by name -> a tensor of its shape


def gradient(model: GPT, score: Tensor, layers: str = "all") -> Direction:
    """The gradient of a number, (), with respect to a model's parameters. layers: "all", or "last": only the
    last block and the last LayerNorm, with zeros elsewhere.
    """
    last = ("ln_f", f"h.{len(model.h) - 1}.")
    weights = {n: p for n, p in model.named_parameters() if layers == "all" or n.startswith(last)}
    slopes = torch.autograd.grad(score, list(weights.values()), allow_unused=True)
    found = dict(zip(weights, slopes, strict=True))
    return {n: torch.zeros_like(p) if found.get(n) is None else found[n] for n, p in model.named_parameters()}


def adam_scale(model: GPT, objective: Objective[PairBatch], batches: Iterable[PairBatch]) -> Direction:
    """AdamW's P: one over the root mean square, over these batches, of each weight's gradient of the mean
    loss; 0 where that is 0. AdamW's own average is over about its last twenty batches.
    """
    squares, n = {name: torch.zeros_like(p) for name, p in model.named_parameters()}, 0
    for batch in batches:
        outcome = objective(model, batch)
        n += 1
        for name, slope in gradient(model, outcome.loss / outcome.count).items():
            squares[name] += slope**2
    return {name: (n / total).sqrt().where(total > 0, torch.zeros(())) for name, total in squares.items()}


@torch.no_grad()
def products(
    model: GPT, direction: Direction, step: float, batches: Iterable[Batch]
) -> tuple[Tensor, Tensor]:
    """For every response y' of the batches (log pi(y'), its derivative along the direction): (S,), (S,).

    Along P g the derivative is K(y, y'). It is the central difference (log pi at theta + step v - log pi at
    theta - step v) / (2 step), so that all responses cost two forward passes and none a backward pass. The
    model ends with the weights that it began with.
    """
    weights = dict(model.named_parameters())
    before = {name: weight.clone() for name, weight in weights.items()}
    ahead: list[Tensor] = []
    back: list[Tensor] = []
    for batch in batches:
        for side, sign in ((ahead, step), (back, -step)):
            for name, weight in weights.items():
                weight.copy_(before[name] + sign * direction[name])
            side.append(response_logps(model, batch))
    for name, weight in weights.items():
        weight.copy_(before[name])
    plus, minus = torch.cat(ahead), torch.cat(back)  # (S,)
    return (plus + minus) / 2, (plus - minus) / (2 * step)


def step_for(direction: Direction, g: Direction) -> float:
    """The step of the central difference: log pi(y) itself changes by eps^(1/4), which is 0.02 in float32.
    Then rounding and curvature each cost about a thousandth.
    """
    change = sum(float((direction[name] * slope).sum()) for name, slope in g.items())  # K(y, y)
    return torch.finfo(next(iter(g.values())).dtype).eps ** 0.25 / change if change else 1.0


def contributions(losses: Callable[[PairLogps], Tensor], logps: PairLogps, similarity: Tensor) -> Tensor:
    """c_i of each pair, in nats of log pi(y) at a learning rate of 1: (N,).

    losses: the loss of each pair, (N,), where no pair's depends on another's.
    similarity: K(y, chosen) and K(y, rejected) of each pair: (N, 2).
    """
    sides = [
        Responses(side.policy.detach().requires_grad_(), side.lengths, side.ref)
        for side in (logps.chosen, logps.rejected)
    ]
    total = losses(PairLogps(*sides)).sum()
    slopes = torch.autograd.grad(total, [side.policy for side in sides])  # (N,), (N,)
    return -(torch.stack(slopes, 1) * similarity).sum(1)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of two series, along the first dimension: (N, ...), (N, ...) -> (...)."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))


def found_by(scores: Tensor, marked: Tensor) -> float:
    """AUC: how often a marked example has the higher score of a marked and an unmarked one; ties count half.
    scores: (N,). marked: (N,) of bool.
    """
    yes, no = scores[marked][:, None], scores[~marked]
    return float(((yes > no).double() + 0.5 * (yes == no)).mean())


def doses(order: Sequence[Sequence[Sequence[int]]], rates: Sequence[float], n: int, points: int) -> Tensor:
    """How much learning rate reached each pair, by the part of the way on which it did: (points, n).

    order: for each step its batches, each the numbers of its pairs. rates: the learning rate of each step.
    points: places on the way, evenly spread from its start to its end, 2 or more. A share s of the way is
    gone when a share s of all learning rates is. A step's rate, divided by the number of its pairs, is dealt
    to the two places around it: what is known at the places is taken to change linearly between them.
    """
    rate, places = torch.tensor(rates, dtype=torch.float64), torch.linspace(0, 1, points).double()
    gone = (rate.cumsum(0) - rate) / rate.sum()  # (steps,), as each step begins
    near = (1 - (gone[:, None] - places).abs() * (points - 1)).clamp(min=0)  # (steps, points)
    dealt = torch.zeros(points, n, dtype=torch.float64)
    for batches, share in zip(order, near * rate[:, None], strict=True):
        pairs = torch.tensor(list(chain.from_iterable(batches)))
        dealt.index_add_(1, pairs, (share[:, None] / len(pairs)).expand(points, len(pairs)))
    return dealt
