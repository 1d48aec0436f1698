"""The reference: the model that training starts from, frozen and asked for its log-probs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from mini_dpo.batches import Batch, Batches, EncodedPair, collate_pairs
from mini_dpo.devices import autocast
from mini_dpo.feedback import EncodedFeedback, collate_feedback
from mini_dpo.logprobs import score_reference
from mini_dpo.model import GPT
from mini_dpo.progress import look

Scored = TypeVar("Scored", EncodedPair, EncodedFeedback)


def freeze(model: GPT) -> GPT:
    """A copy that never changes: the reference. Its own weights, no gradients, dropout off."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def precompute_reference(
    reference: GPT, examples: Sequence[Scored], dtype: str, batch_size: int | None, tokens: int | None = None
) -> list[Scored]:
    """The same examples with the reference's log-probs, so that no step has to ask the reference."""
    return know_reference(examples, reference_logps(reference, examples, dtype, batch_size, tokens))


def reference_logps(
    reference: GPT, examples: Sequence[Scored], dtype: str, batch_size: int | None, tokens: int | None = None
) -> Tensor:
    """The reference's log-probs of all examples: (n, 2) for pairs, the chosen response first, else (n,)."""
    paired = are_pairs(examples)
    collate: Any = collate_pairs if paired else collate_feedback
    batches = Batches(examples, collate, batch_size, seed=0, tokens=tokens)
    logps = score_batches(reference, batches, dtype, "scoring the reference")  # (2n,) or (n,)
    return logps.view(-1, 2) if paired else logps


def are_pairs(examples: Sequence[Any]) -> bool:
    """Whether the examples, all of one kind, are pairs."""
    return bool(examples) and isinstance(examples[0], EncodedPair)


def score_batches(model: GPT, batches: Batches, dtype: str, what: str) -> Tensor:
    """A model's log-probs of all responses, in order: (S,), on the CPU. what: for lines of progress."""
    device, scored = model.wte.weight.device, []
    for batch in look(batches, what):
        sequences = batch if isinstance(batch, Batch) else batch.sequences
        with autocast(device, dtype):
            scored.append(score_reference(model, sequences.to(device)))
    return torch.cat(scored).cpu() if scored else torch.zeros(0)


def know_reference(examples: Sequence[Scored], logps: Tensor) -> list[Scored]:
    """The same examples with these reference log-probs, (n, 2) or (n,)."""
    known: list[Scored] = []
    for example, values in zip(examples, logps.tolist(), strict=True):
        if isinstance(example, EncodedPair):
            known.append(example._replace(ref_logps=tuple(values)))
        else:
            known.append(example._replace(ref_logp=values))
    return known
