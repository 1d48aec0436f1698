"""A run's way from its SFT model to its last one, and what each pair did on it to log pi(y) of one answer y.

A run keeps the two ends only. Between them the way is taken to be straight, and looked at in a few places.
Which pairs a step saw, and at which rate, is the run's own: its seed and its log say so. AdamW's matrix P
is not kept when a stage ends; at each place it is estimated anew, from the gradients of some batches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import NamedTuple

import torch
from torch import Tensor

from mini_dpo.batches import Batch, Batches, Encoded, EncodedPair, PairBatch, collate, collate_pairs
from mini_dpo.logprobs import response_logps
from mini_dpo.losses import Loss, PairLogps, Responses
from mini_dpo.model import GPT
from mini_dpo.objectives import Objective, preference_objective, sft_term
from mini_dpo.optimizers import LoopConfig
from mini_dpo.progress import look
from mini_dpo.reference import freeze
from mini_dpo.trace.influence import adam_scale, contributions, doses, gradient, products, step_for
from mini_dpo.training import train

MEMORY = 20  # batches whose gradients AdamW's average of squares is about


@dataclass(frozen=True)
class Way:
    """Preference training as it went. start, end: the models. batches: of the pairs, as the run made them;
    the pairs carry their reference log-probs if the loss has a reference.
    rates: the learning rate of each step. accumulate: batches a step. adam: the steps were AdamW's, else
    plain gradient descent's.
    """

    start: GPT
    end: GPT
    variant: Loss
    options: dict
    batches: Batches[EncodedPair, PairBatch]
    rates: list[float]
    accumulate: int = 1
    sft_weight: float = 0.0
    adam: bool = True

    @property
    def pairs(self) -> Sequence[EncodedPair]:
        return self.batches.examples

    @property
    def objective(self) -> Objective:
        return preference_objective(self.variant, self.options, None, self.sft_weight)

    @property
    def order(self) -> list[list[list[int]]]:
        """For each step its batches, each the numbers of its pairs."""
        every = chain.from_iterable(map(self.batches.plan, count()))
        return [list(islice(every, self.accumulate)) for _ in self.rates]

    def losses(self, logps: PairLogps) -> Tensor:
        """What each pair adds to the objective: (N,)."""
        own = self.variant(logps, **self.options)
        return own + self.sft_weight * sft_term(logps) if self.sft_weight else own


class Traced(NamedTuple):
    """parts: what each pair did to log pi(y), in nats (N,). doubt: sigmoid(-m) at the end, the share of
    people who would not choose as the label says (N,). change: what log pi(y) did, in nats.
    """

    parts: Tensor
    doubt: Tensor
    change: float


def trace(way: Way, answer: Encoded, points: int = 3, layers: str = "all") -> Traced:
    """What each pair did to the answer. points: how many models on the way. layers: as `gradient` says."""
    dealt = doses(way.order, way.rates, len(way.pairs), points)  # (points, N)
    parts, logps = torch.zeros(len(way.pairs), dtype=torch.float64), None
    for k, dose in enumerate(dealt):
        model = between(way.start, way.end, k / (points - 1)).requires_grad_(True)
        what = f"model {k + 1} of {points} on the way"
        similarity, logps = similarities(way, model, collate([answer]), layers, what)
        parts += dose * contributions(way.losses, logps, similarity).double()
    assert logps
    chosen, rejected = (way.variant.rewards(side, **way.options) for side in (logps.chosen, logps.rejected))
    return Traced(parts, torch.sigmoid(rejected - chosen), change(way.start, way.end, answer))


def similarities(way: Way, model: GPT, answer: Batch, layers: str, what: str) -> tuple[Tensor, PairLogps]:
    """K(y, chosen) and K(y, rejected) of each pair (N, 2), and the log-probs of all pairs."""
    g = gradient(model, response_logps(model, answer).sum(), layers)
    direction = g
    if way.adam:
        some = [way.batches[k] for k in range(min(MEMORY, way.batches.count(1)))]
        scale = adam_scale(model, way.objective, some)
        direction = {name: scale[name] * slope for name, slope in g.items()}
    sequences = (batch.sequences for batch in look(way.batches, what))
    logps, similarity = products(model, direction, step_for(direction, g), sequences)  # (2N,), (2N,)
    lengths = torch.tensor([[pair.chosen.n_targets, pair.rejected.n_targets] for pair in way.pairs])  # (N, 2)
    refs = torch.tensor([pair.ref_logps for pair in way.pairs]).to(logps) if way.variant.reference else None
    chosen, rejected = (
        Responses(logps[side::2], lengths[:, side], None if refs is None else refs[:, side])
        for side in (0, 1)
    )
    return similarity.view(-1, 2), PairLogps(chosen, rejected)


def between(start: GPT, end: GPT, share: float) -> GPT:
    """A model on the straight line between two."""
    model, ends = freeze(start), dict(end.named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.lerp_(ends[name], share)
    return model


@torch.no_grad()
def change(start: GPT, end: GPT, answer: Encoded) -> float:
    """log pi(y) under the one model minus that under the other."""
    batch = collate([answer])
    return float((response_logps(end, batch) - response_logps(start, batch)).sum())


# --- held to retraining


def retrained(way: Way, config: LoopConfig, answer: Encoded, times: int) -> Iterator[tuple[list[int], float]]:
    """Preference training again, each time without another random half of the pairs and otherwise in the same
    order: (the pairs that were there, the change of log pi(y)).

    A batch's mean is over the pairs that are left of it. So each counts about twice as much as it did, which
    AdamW does not notice.
    """
    order = list(chain.from_iterable(way.order))
    for seed in range(times):
        left = without(order, len(way.pairs), random.Random(seed))
        batches = {k: collate_pairs([way.pairs[i] for i in b if i not in left]) for k, b in enumerate(order)}
        policy = freeze(way.start).requires_grad_(True)
        train(policy, way.objective, batches, config, name=f"without a half, {seed + 1} of {times}")
        yield [i for i in range(len(way.pairs)) if i not in left], change(way.start, policy, answer)


def without(order: Sequence[Sequence[int]], n: int, rng: random.Random) -> set[int]:
    """A random half of the pairs to leave out, but for one of a batch that would have none."""
    left = set(rng.sample(range(n), n // 2))
    for batch in order:
        if left.issuperset(batch):
            left.remove(batch[0])
    return left
