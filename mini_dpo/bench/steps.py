"""Slow steps, as a naive program has them: padded rows, logits everywhere, an optimizer that is a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mini_dpo.batches import Encoded, EncodedPair, PairBatch, collate
from mini_dpo.bench.workload import BETA
from mini_dpo.losses import LOSSES, PairLogps, Responses
from mini_dpo.model import GPT
from mini_dpo.objectives import Objective, Outcome


def pad(sequences: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Sequences as rows, filled up with zeros: ids (B, T), response mask (B, T)."""
    shape = len(sequences), max(s.n_tokens for s in sequences)
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    for row, s in enumerate(sequences):
        ids[row, : s.n_tokens] = torch.tensor(s.ids)
        mask[row, len(s.prompt) : s.n_tokens] = True
    return ids, mask


def logps_of_everything(model: GPT, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits at every position, then a mask, as in most tutorials: (B,)."""
    logits = model(ids)[:, :-1]  # (B, T - 1, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logps = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)  # (B, T - 1)
    return (logps * mask[:, 1:]).sum(1)


def logps_at_responses(model: GPT, ids: Tensor, mask: Tensor) -> Tensor:
    """The same rows, with the output matrix only where a response token is predicted: (B,)."""
    owners, positions = mask.nonzero(as_tuple=True)  # (R,), (R,)
    logits = model.logits(model.hidden(ids)[owners, positions - 1])  # (R, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logps = -F.cross_entropy(logits, ids[owners, positions], reduction="none")  # (R,)
    return logps.new_zeros(len(ids)).index_add(0, owners, logps)


def padded_objective(reference: GPT, score: Callable[[GPT, Tensor, Tensor], Tensor]) -> Objective:
    """DPO on padded rows (all chosen, then all rejected). score: one of the two functions above."""

    def objective(policy: GPT, batch: MovedPair) -> Outcome:
        logps = score(policy, batch.ids, batch.mask)  # (2B,)
        with torch.no_grad():
            ref = score(reference, batch.ids, batch.mask)
        chosen, rejected = (
            Responses(p, p.new_ones(len(p)), r) for p, r in zip(logps.chunk(2), ref.chunk(2), strict=True)
        )
        losses = LOSSES["dpo"](PairLogps(chosen, rejected), beta=BETA)
        return Outcome(losses.sum(), len(losses), {})

    return objective


@dataclass(frozen=True)
class MovedPair:
    """Padded pairs, in the form that the training loop asks of a batch."""

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> MovedPair:
        return MovedPair(self.ids.to(device), self.mask.to(device))


class LoopAdamW(torch.optim.AdamW):
    """AdamW as a loop over the parameters, torch's default. It cannot skip a step, as the fused
    kernel can.
    """

    def step(self) -> None:  # type: ignore[override]
        del self.found_inf  # type: ignore[attr-defined]
        super().step()


def collate_padded(pairs: list[EncodedPair]) -> MovedPair:
    """Pairs as padded rows, all chosen responses first."""
    return MovedPair(*pad([p.chosen for p in pairs] + [p.rejected for p in pairs]))


def collate_apart(pairs: list[EncodedPair]) -> PairBatch:
    """One packed row in which each response has a prompt of its own."""
    return PairBatch(collate([s for p in pairs for s in (p.chosen, p.rejected)]), None)
