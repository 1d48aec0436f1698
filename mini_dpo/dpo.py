"""Preference training: make what people chose likelier than what they rejected, measured from a reference."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from mini_dpo.data import Batches, EncodedFeedback, EncodedPair, FeedbackBatch, PairBatch, collate_feedback, collate_pairs
from mini_dpo.logprobs import Batch, response_logps
from mini_dpo.metrics import preference_metrics
from mini_dpo.model import GPT
from mini_dpo.registry import Loss, PairLogps, Responses, UnpairedLogps
from mini_dpo.training import Objective, Outcome, autocast, look


def freeze(model: GPT) -> GPT:
    """A copy that never changes: the reference. Its own weights, no gradients, dropout off."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def preference_objective(loss: Loss, hyperparameters: dict, reference: GPT | None, sft_weight: float = 0.0) -> Objective:
    """The objective of a preference loss. reference: None if the loss has none, or every batch brings its log-probs.

    sft_weight: what the negative log-likelihood of the chosen (or liked) response, in nats a token, counts beside the
    loss (arXiv:2404.19733, with weight 1).
    """

    def objective(policy: GPT, batch: PairBatch | FeedbackBatch) -> Outcome:
        policy.eval()  # dropout off: its noise would stand in the log-ratios, which are zero at the reference
        logps = pair_logps(policy, reference, batch) if isinstance(batch, PairBatch) else unpaired_logps(policy, reference, batch)
        losses = loss(logps, **hyperparameters)  # (B,)
        if sft_weight:
            losses = losses + sft_weight * sft_term(logps)
        return Outcome(losses.sum(), len(losses), preference_metrics(loss, logps, hyperparameters))

    return objective


def sft_term(logps: PairLogps | UnpairedLogps) -> Tensor:
    """-s(y) / |y| of the chosen responses; of single ones where they are liked, else 0: (B,)."""
    if isinstance(logps, PairLogps):
        return -logps.chosen.average
    return -logps.responses.average * logps.desirable


def pair_logps(policy: GPT, reference: GPT | None, batch: PairBatch) -> PairLogps:
    """Score a batch of pairs under both models; no gradient reaches the reference."""
    both = score_responses(policy, reference, batch.sequences, batch.ref_logps)  # 2B responses
    return PairLogps(chosen=both[0::2], rejected=both[1::2])


def unpaired_logps(policy: GPT, reference: GPT | None, batch: FeedbackBatch) -> UnpairedLogps:
    """Score a batch of single responses under both models, and the mismatched ones, if any, without gradient."""
    responses = score_responses(policy, reference, batch.sequences, batch.ref_logps)
    mismatched = None
    if batch.mismatched is not None:
        with torch.no_grad():
            mismatched = score_responses(policy, reference, batch.mismatched, None).logratio  # (M,)
    return UnpairedLogps(responses, batch.desirable, mismatched)


def score_responses(policy: GPT, reference: GPT | None, sequences: Batch, ref_logps: Tensor | None) -> Responses:
    """The log-probs of a batch's responses under the policy, and under the reference if there is one."""
    policy_logps = response_logps(policy, sequences)  # (B,)
    if ref_logps is None and reference is not None:
        ref_logps = score_reference(reference, sequences)
    return Responses(policy_logps, sequences.lengths, ref_logps)


@torch.no_grad()
def score_reference(reference: GPT, sequences: Batch) -> Tensor:
    """The reference's log-probs of a batch's responses: (B,)."""
    return response_logps(reference, sequences)


def precompute_reference(reference: GPT, examples: Sequence[EncodedPair] | Sequence[EncodedFeedback], dtype: str, batch_size: int | None, tokens: int | None = None) -> list:  # fmt: skip
    """The same examples with the reference's log-probs, scored once: a step then costs no pass through the reference."""
    return know_reference(examples, reference_logps(reference, examples, dtype, batch_size, tokens))


def reference_logps(reference: GPT, examples: Sequence[EncodedPair] | Sequence[EncodedFeedback], dtype: str, batch_size: int | None, tokens: int | None = None) -> Tensor:  # fmt: skip
    """The reference's log-probs of all examples: (n, 2) for pairs, the chosen response first, else (n,)."""
    paired = bool(examples) and isinstance(examples[0], EncodedPair)
    batches = Batches(examples, collate_pairs if paired else collate_feedback, batch_size, seed=0, tokens=tokens)
    logps = score_batches(reference, batches, dtype, "scoring the reference")  # (2n,) or (n,)
    return logps.view(-1, 2) if paired else logps


def score_batches(model: GPT, batches: Batches, dtype: str, what: str) -> Tensor:
    """A model's log-probs of the responses of all batches, in their order: (S,), on the CPU. what: stands before a line
    of progress."""
    device, scored = model.wte.weight.device, []
    for batch in look(batches, what):
        sequences = batch if isinstance(batch, Batch) else batch.sequences
        with autocast(device, dtype):
            scored.append(score_reference(model, sequences.to(device)))
    return torch.cat(scored).cpu() if scored else torch.zeros(0)


def know_reference(examples: Sequence[EncodedPair] | Sequence[EncodedFeedback], logps: Tensor) -> list:
    """The same examples with these reference log-probs."""
    if logps.dim() == 2:
        return [pair._replace(ref_logps=tuple(values)) for pair, values in zip(examples, logps.tolist())]
    return [example._replace(ref_logp=value) for example, value in zip(examples, logps.tolist())]
