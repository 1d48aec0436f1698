"""Preference training: make the chosen responses likelier than the rejected ones, measured from a reference."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from mini_dpo.data import Batches, EncodedPair, PairBatch, collate_pairs
from mini_dpo.logprobs import response_logps
from mini_dpo.losses import Loss, PairLogps
from mini_dpo.metrics import preference_metrics
from mini_dpo.model import GPT
from mini_dpo.training import Objective, Outcome, autocast


def freeze(model: GPT) -> GPT:
    """A copy that never changes: the reference. Its own weights, no gradients, dropout off."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def preference_objective(loss: Loss, hyperparameters: dict[str, float], reference: GPT | None) -> Objective:
    """The objective of a preference loss. `reference` may be None if every batch brings the reference's log-probs."""

    def objective(policy: GPT, batch: PairBatch) -> Outcome:
        policy.eval()  # dropout off: its noise would stand in the log-ratios, which are zero at the reference
        logps = pair_logps(policy, reference, batch)
        losses = loss(logps, **hyperparameters)  # (B,)
        return Outcome(losses.sum(), len(losses), preference_metrics(logps, hyperparameters.get("beta", 1.0)))

    return objective


def pair_logps(policy: GPT, reference: GPT | None, batch: PairBatch) -> PairLogps:
    """Score a batch of pairs under both models; no gradient reaches the reference."""
    sequences = batch.sequences
    policy_logps = response_logps(policy, sequences.ids, sequences.index)  # (2B,)
    ref_logps = batch.ref_logps if batch.ref_logps is not None else score_reference(reference, batch)  # (2B,)
    policy_chosen, policy_rejected = policy_logps.chunk(2)  # (B,) each
    ref_chosen, ref_rejected = ref_logps.chunk(2)
    chosen_lengths, rejected_lengths = sequences.lengths.chunk(2)
    return PairLogps(policy_chosen, policy_rejected, ref_chosen, ref_rejected, chosen_lengths, rejected_lengths)


@torch.no_grad()
def score_reference(reference: GPT | None, batch: PairBatch) -> Tensor:
    """The reference's log-probs of a batch's sequences: (2B,)."""
    if reference is None:
        raise ValueError("without a reference model, every pair must bring its reference log-probs")
    return response_logps(reference, batch.sequences.ids, batch.sequences.index)


def precompute_reference(reference: GPT, pairs: Sequence[EncodedPair], batch_size: int, dtype: str) -> list[EncodedPair]:
    """The same pairs with the reference's log-probs, scored once: a step then costs no pass through the reference."""
    device = reference.wte.weight.device
    known = []
    for batch in Batches(pairs, collate_pairs, batch_size, seed=0).once():
        with autocast(device, dtype):
            known += score_reference(reference, batch.to(device)).view(2, -1).T.tolist()  # (B, 2)
    return [pair._replace(ref_logps=(chosen, rejected)) for pair, (chosen, rejected) in zip(pairs, known)]
