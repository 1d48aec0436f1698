"""Asking a loss about pairs: any pair at all, or pairs along the margin. For checking losses and for drawing
them.

Losses of single responses can be asked too: the value of a pair is then the liked response's plus the
disliked one's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mini_dpo.errors import UserError
from mini_dpo.losses import ContrastLogps, Loss, PairLogps, Responses, UnpairedLogps
from mini_dpo.losses.finding import set_apart

# where both responses begin on the path along the margin: log-prob in nats, and length
START, TOKENS = -60.0, 20
FAR = -1060.0  # where they begin so that |h| can be 1,000


def along_margin(h: Tensor, start: float = START) -> PairLogps:
    """Pairs of equal length whose chosen response has gained h/2 nats since the reference, while the rejected
    one has lost as many: (N,).
    """
    ref, lengths = torch.full_like(h, start), torch.full_like(h, TOKENS)
    return PairLogps(Responses(ref + h / 2, lengths, ref), Responses(ref - h / 2, lengths, ref))


def value(loss: Loss, logps: PairLogps, hyper: dict) -> Tensor:
    """The loss of each pair, (B,), whether it compares pairs or looks at single responses."""
    if not loss.reference:
        logps = without_reference(logps)
    if loss.paired:
        return loss(elsewhere(logps) if loss.mismatched else logps, **hyper)
    w, l = logps.chosen, logps.rejected
    both = Responses(
        torch.cat([w.policy, l.policy]),
        torch.cat([w.lengths, l.lengths]),
        None if w.ref is None or l.ref is None else torch.cat([w.ref, l.ref]),
    )
    liked = torch.arange(len(both)) < len(w)
    return loss(UnpairedLogps(both, liked, torch.zeros_like(both.policy)), **hyper).view(2, -1).sum(0)


def elsewhere(logps: PairLogps) -> ContrastLogps:
    """The same pairs; to another prompt, the policy gives the chosen responses the reference's log-probs."""
    if isinstance(logps, ContrastLogps):
        return logps
    w = logps.chosen
    there = w.policy.detach() if w.ref is None else w.ref
    return ContrastLogps(w, logps.rejected, Responses(there, w.lengths, w.ref))


def without_reference(logps: PairLogps) -> PairLogps:
    return PairLogps(*(Responses(y.policy, y.lengths) for y in (logps.chosen, logps.rejected)))


def one_by_one(loss: Loss, logps: PairLogps, hyper: dict) -> Tensor:
    """The loss of each pair in a batch of its own: (B,)."""
    alone = (PairLogps(logps.chosen[i : i + 1], logps.rejected[i : i + 1]) for i in range(len(logps)))
    return torch.cat([value(loss, pair, hyper) for pair in alone])


def each_alone(loss: Loss, logps: PairLogps, hyper: dict) -> Tensor:
    """The same, in one call where the loss says that a batch makes no difference."""
    # `value` has no mismatched log-ratio but 0
    together = loss.fact("decomposes", **hyper) or loss.mismatched
    return (value if together else one_by_one)(loss, logps, hyper)


def pick(logps: PairLogps | UnpairedLogps, which: list[int]) -> PairLogps | UnpairedLogps:
    """Some examples of a batch in this order, and their mismatched log-ratios if each has one."""
    index = torch.tensor(which)
    if isinstance(logps, PairLogps):
        return type(logps)(*(responses[index] for responses in vars(logps).values()))
    mismatched = logps.mismatched
    if mismatched is not None and len(mismatched) == len(logps):
        mismatched = mismatched[index]
    return UnpairedLogps(logps.responses[index], logps.desirable[index], mismatched)


def margin(loss: Loss, logps: PairLogps, hyper: dict) -> Tensor:
    """m: the reward that the policy implies for the chosen response, less the rejected one's, (B,)."""
    if not loss.reference:
        logps = without_reference(logps)
    return loss.rewards(logps.chosen, **hyper) - loss.rewards(logps.rejected, **hyper)


def at_the_reference(loss: Loss, logps: Tensor) -> PairLogps | UnpairedLogps:
    """What a loss takes, where the policy is the reference: responses of 1, 2, ... tokens with these
    log-probs, (B,), each of them both chosen and rejected, or the first one liked.
    """
    lengths = torch.arange(1, len(logps) + 1)
    responses = Responses(logps, lengths, logps if loss.reference else None)
    if not loss.paired:
        return UnpairedLogps(responses, lengths == 1, torch.zeros_like(logps))
    pairs = PairLogps(responses, responses)
    return elsewhere(pairs) if loss.mismatched else pairs


def try_loss(loss: Loss, hyper: dict) -> str:
    """Call a loss on a batch of two, as training will: "" if it can be called, else what is wrong and
    where.
    """
    try:
        with set_apart(loss.function.__code__.co_filename):
            try:
                if not loss(
                    at_the_reference(loss, torch.tensor([-1.0, -2.0], requires_grad=True)), **hyper
                ).requires_grad:
                    return f"{loss.name}: its values have no gradient: nothing can be learned from them"
            except ValueError as error:  # it refuses its hyperparameters, or what it returns is refused
                return f"{loss.name}: {str(error).removeprefix(loss.name + ' ')}"
    except UserError as error:
        return f"{loss.name} fails on a batch of two, {error}"
    return ""
