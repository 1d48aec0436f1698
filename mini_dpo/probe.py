"""Asking a loss about pairs: any pair at all, or pairs along the margin. For checking losses and for drawing them.

Losses of single responses can be asked too: the value of a pair is then the liked response's plus the disliked one's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mini_dpo.registry import Loss, PairLogps, Responses, UnpairedLogps

START, TOKENS = -60.0, 20  # where both responses begin on the path along the margin: log-prob in nats, and length


def along_margin(h: Tensor) -> PairLogps:
    """Pairs of equal length whose chosen response has gained h/2 nats since the reference, while the rejected one has
    lost as many: (N,)."""
    start = torch.full_like(h, START)
    lengths = torch.full_like(h, TOKENS)
    return PairLogps(Responses(start + h / 2, lengths, start), Responses(start - h / 2, lengths, start))


def value(loss: Loss, logps: PairLogps, hyper: dict) -> Tensor:
    """The loss of each pair, (B,), whether it compares pairs or looks at single responses."""
    if not loss.reference:
        logps = without_reference(logps)
    if loss.paired:
        return loss(logps, **hyper)
    w, l = logps.chosen, logps.rejected
    both = Responses(torch.cat([w.policy, l.policy]), torch.cat([w.lengths, l.lengths]), None if w.ref is None else torch.cat([w.ref, l.ref]))
    liked = torch.arange(len(both)) < len(w)
    return loss(UnpairedLogps(both, liked, torch.zeros_like(both.policy)), **hyper).view(2, -1).sum(0)


def without_reference(logps: PairLogps) -> PairLogps:
    return PairLogps(*(Responses(y.policy, y.lengths) for y in (logps.chosen, logps.rejected)))


def one_by_one(loss: Loss, logps: PairLogps, hyper: dict) -> Tensor:
    """The loss of each pair in a batch of its own: (B,)."""
    return torch.cat([value(loss, pick(logps, [i]), hyper) for i in range(len(logps))])


def pick(logps: PairLogps, which: list[int]) -> PairLogps:
    index = torch.tensor(which)
    return PairLogps(logps.chosen[index], logps.rejected[index])


def margin(loss: Loss, logps: PairLogps, hyper: dict) -> Tensor:
    """m: the reward that the policy implies for the chosen response, less the rejected one's, (B,)."""
    if not loss.reference:
        logps = without_reference(logps)
    return loss.rewards(logps.chosen, **hyper) - loss.rewards(logps.rejected, **hyper)
