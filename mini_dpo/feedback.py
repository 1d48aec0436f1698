"""What `batches` does for pairs, for two other kinds of batches: single responses, each liked or not, for KTO
and its kin; and pairs whose chosen response is set against another prompt too, for mDPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from mini_dpo.batches import AnyBatch, Batch, Batches, Encoded, EncodedPair, PairBatch, collate, collate_pairs
from mini_dpo.devices import send
from mini_dpo.errors import UserError
from mini_dpo.logprobs import score_responses
from mini_dpo.losses import ContrastLogps, Loss, UnpairedLogps
from mini_dpo.model import GPT
from mini_dpo.theory.bradley_terry import wins


class EncodedFeedback(NamedTuple):
    """A response to a prompt, whether it is liked, and its reference log-prob where that is known."""

    sequence: Encoded
    desirable: bool
    ref_logp: float | None = None

    @property
    def n_tokens(self) -> int:
        return self.sequence.n_tokens


def split_pairs(pairs: Sequence[EncodedPair]) -> list[EncodedFeedback]:
    """Each pair as two single responses: the chosen one liked, the rejected one not."""
    return [
        EncodedFeedback(sequence, liked)
        for p in pairs
        for sequence, liked in ((p.chosen, True), (p.rejected, False))
    ]


@dataclass(frozen=True)
class FeedbackBatch:
    """B single responses. desirable: (B,) of bool. mismatched: M <= B of their prompts with another prompt's
    response each, for KTO; None where the loss does not read them. ref_logps: (B,), None where they are not
    known ahead.
    """

    sequences: Batch
    desirable: Tensor
    mismatched: Batch | None
    ref_logps: Tensor | None

    @property
    def n_tokens(self) -> int:
        return self.sequences.n_tokens

    def to(self, device: str | torch.device) -> FeedbackBatch:
        mismatched = None if self.mismatched is None else self.mismatched.to(device)
        ref_logps = None if self.ref_logps is None else send(self.ref_logps, device)
        return FeedbackBatch(self.sequences.to(device), send(self.desirable, device), mismatched, ref_logps)


def collate_feedback(examples: Sequence[EncodedFeedback], context: int | None = None) -> FeedbackBatch:
    """Lay single responses in one row; with `context`, each prompt with another response in a second."""
    mismatched = None if context is None else collate(mismatch([e.sequence for e in examples], context))
    known = [e.ref_logp for e in examples if e.ref_logp is not None]
    ref_logps = torch.tensor(known) if len(known) == len(examples) else None
    desirable = torch.tensor([e.desirable for e in examples])
    return FeedbackBatch(collate([e.sequence for e in examples]), desirable, mismatched, ref_logps)


@dataclass(frozen=True)
class ContrastBatch(PairBatch):
    """B pairs, and the chosen response of each once more, to another prompt."""

    mismatched: Batch

    def to(self, device: str | torch.device) -> ContrastBatch:
        pairs = super().to(device)
        return ContrastBatch(pairs.sequences, pairs.ref_logps, self.mismatched.to(device))


def collate_contrasts(pairs: Sequence[EncodedPair], context: int) -> ContrastBatch:
    """Lay pairs in one row; and in a second the chosen responses, each after the other prompt that its pair
    names, or else after that of the nearest pair after it. Raises UserError where no prompt fits.
    """
    others = []
    for i, pair in enumerate(pairs):
        following = [p.chosen.prompt for p in (*pairs[i + 1 :], *pairs[:i])]
        named = [pair.other] if pair.other is not None else following
        prompts = (prompt for prompt in named if prompt != pair.chosen.prompt)
        response = pair.chosen.response
        fits = next((prompt for prompt in prompts if len(prompt) + len(response) <= context), None)
        if fits is None:
            raise UserError(
                "mDPO sets each chosen response of a batch against another prompt too, and for one of them "
                f"no other prompt is there that fits the context of {context} tokens with it; use a larger "
                "--batch-size or --context"
            )
        others.append(Encoded(fits, response))
    batch = collate_pairs(pairs)
    return ContrastBatch(batch.sequences, batch.ref_logps, collate(others))


def mismatch(sequences: Sequence[Encoded], context: int) -> list[Encoded]:
    """Each prompt with the response of the nearest sequence after it, the first ones following the last, that
    answers another prompt and fits the context with this one. A prompt without such is left out. Raises
    UserError if all are.
    """
    found = []
    for i, sequence in enumerate(sequences):
        prompt = sequence.prompt
        following = [*sequences[i + 1 :], *sequences[:i]]
        others = (other.response for other in following if other.prompt != prompt)
        fits = next((response for response in others if len(prompt) + len(response) <= context), None)
        if fits is not None:
            found.append(Encoded(prompt, fits))
    if not found:
        what = "KTO sets each prompt of a batch against another prompt's response, and"
        if all(sequence.prompt == sequences[0].prompt for sequence in sequences):
            raise UserError(f"{what} this batch has one prompt only; use a larger --batch-size")
        raise UserError(
            f"{what} no prompt of this batch fits into the context of {context} tokens with "
            "one; use a larger --batch-size or --context"
        )
    return found


def collate_for(loss: Loss, context: int) -> Any:
    """What makes the batches that a loss takes: of pairs, or of single responses."""
    if loss.mismatched:
        return partial(collate_contrasts if loss.paired else collate_feedback, context=context)
    return collate_pairs if loss.paired else collate_feedback


Mixed = TypeVar("Mixed", EncodedFeedback, EncodedPair)
MixedBatch = TypeVar("MixedBatch", bound=AnyBatch)


class MixedBatches(Batches[Mixed, MixedBatch]):
    """Batches that hold two prompts at least, where the examples allow it: KTO sets each prompt of a batch
    against another prompt's response, and mDPO each chosen response against another prompt.
    """

    def cut(self, order: Sequence[int]) -> list[list[int]]:
        """An order cut into batches, and these mixed."""
        return self.mix(super().cut(order))

    def mix(self, batches: list[list[int]]) -> list[list[int]]:
        """See to it that each batch holds two prompts, where the examples allow it: one that has a single
        prompt gets an example from the nearest batch that can spare one. No batch grows beyond its tokens;
        beyond its number of examples only the epoch's last, by one that would be alone.
        """
        alone = batches.pop() if self.batch_size and len(batches) > 1 and len(batches[-1]) == 1 else []
        for i in range(len(batches)):
            if not self.is_mixed(batches[i]):
                for k in sorted(set(range(len(batches))) - {i}, key=lambda k: abs(k - i)):
                    if traded := self.trade(batches[i], batches[k]):
                        batches[i], batches[k] = traded
                        break
        return [*batches[:-1], batches[-1] + alone]

    def trade(self, batch: list[int], donor: list[int]) -> tuple[list[int], list[int]] | None:
        """Both batches after one example has gone from `donor` to `batch`, for nothing or for one in
        exchange, so that both are mixed and within their size; None if no example does that.
        """
        taken: int
        back: list[int]
        for taken in donor:
            if self.prompt(taken) != self.prompt(batch[0]):
                for back in ([], batch[:1]):
                    both = [*batch[len(back) :], taken], [*(j for j in donor if j != taken), *back]
                    if all(self.is_mixed(changed) and self.fits(changed) for changed in both):
                        return both
        return None

    def can_be_mixed(self) -> bool:
        """Whether there are prompts enough for two in each batch (of a pass in file order)."""
        return bool(self.examples) and all(map(self.is_mixed, self.cut(range(len(self.examples)))))

    def is_mixed(self, batch: list[int]) -> bool:
        return any(self.prompt(j) != self.prompt(batch[0]) for j in batch)

    def prompt(self, j: int) -> list[int]:
        return self.examples[j][0].prompt  # of the only response, or of the chosen one

    def fits(self, batch: list[int]) -> bool:
        if self.tokens:
            return sum(self.examples[j].n_tokens for j in batch) <= self.tokens
        return len(batch) <= (self.batch_size or 0)


# --- their objective's parts


def unpaired_logps(policy: GPT, reference: GPT | None, batch: FeedbackBatch) -> UnpairedLogps:
    """Score a batch of single responses under both models, and the mismatched ones, if any, without
    gradient.
    """
    responses = score_responses(policy, reference, batch.sequences, batch.ref_logps)
    mismatched = None
    if batch.mismatched is not None:
        with torch.no_grad():
            mismatched = score_responses(policy, reference, batch.mismatched, None).logratio  # (M,)
    return UnpairedLogps(responses, batch.desirable, mismatched)


def contrast_logps(policy: GPT, reference: GPT | None, batch: ContrastBatch) -> ContrastLogps:
    """Score a batch of pairs under both models, and their chosen responses to the other prompts."""
    both = score_responses(policy, reference, batch.sequences, batch.ref_logps)  # 2B responses
    other = score_responses(policy, reference, batch.mismatched, None)  # B
    return ContrastLogps(both[0::2], both[1::2], other)


def unpaired_metrics(logps: UnpairedLogps, rewards: Tensor) -> dict[str, Tensor]:
    """What to watch, under the names that pairs have: each (B,), or nan where a response has no such value
    (to pick the others out would make a GPU wait for the count of them). "chosen" are the liked responses.
    An accuracy is 1 where the reward is above 0 and the response is liked, or below and it is not; 0.5 at 0.
    """
    liked, s = logps.desirable, logps.responses.policy.detach()
    metrics = {
        "rewards/chosen": torch.where(liked, rewards, torch.nan),
        "rewards/rejected": torch.where(liked, torch.nan, rewards),
        "rewards/accuracies": torch.where(liked, wins(rewards, 0), wins(0, rewards)),
    }
    if logps.mismatched is not None:
        metrics["kl"] = logps.mismatched.mean().clamp(min=0)[None]
    return metrics | {
        "logps/chosen": torch.where(liked, s, torch.nan),
        "logps/rejected": torch.where(liked, torch.nan, s),
    }
