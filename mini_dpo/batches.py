"""From checked examples to token ids to batches: one packed row of tokens for each.

Nothing is cut to fit: what is longer than the context is left out, and counted aloud.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from mini_dpo.devices import processes, rank, send
from mini_dpo.errors import UserError
from mini_dpo.packing import Layout, lay_out
from mini_dpo.tokenizer import Tokenizer


# ------------------------------------------------------------------------------------------------- examples to tokens


class Encoded(NamedTuple):
    """Token ids of a prompt and a response, and for each whether it belongs to the response (and is trained on)."""

    ids: list[int]
    response_mask: list[bool]

    @property
    def length(self) -> int:
        """Tokens of the longest text in it; `n_tokens`: of the row that it takes up in a batch."""
        return len(self.ids)

    @property
    def n_tokens(self) -> int:
        return len(self.ids)

    def split(self) -> tuple[list[int], list[int]]:
        """(the prompt's ids, the response's ids)."""
        start = self.response_mask.index(True)
        return self.ids[:start], self.ids[start:]


def encode(tokenizer: Tokenizer, prompt: str, response: str) -> Encoded:
    """Encode the two texts apart, so that no token straddles the boundary. The response ends in one end-of-text token,
    which is under the mask: a model that is never taught to stop does not."""
    return join(tokenizer.encode_prompt(prompt), tokenizer.encode_response(response))


def join(before: list[int], after: list[int]) -> Encoded:
    """The ids of a prompt and of a response as one sequence, with the mask of the response."""
    return Encoded(before + after, [False] * len(before) + [True] * len(after))


class EncodedPair(NamedTuple):
    """The chosen and the rejected sequence of a preference, and their reference log-probs where they are known."""

    chosen: Encoded
    rejected: Encoded
    ref_logps: tuple[float, float] | None = None

    @property
    def length(self) -> int:
        return max(self.chosen.length, self.rejected.length)

    @property
    def n_tokens(self) -> int:
        return self.chosen.n_tokens + len(self.rejected.split()[1])  # the prompt once


class EncodedFeedback(NamedTuple):
    """A sequence, whether it is liked, and its reference log-prob where that is known."""

    sequence: Encoded
    desirable: bool
    ref_logp: float | None = None

    @property
    def length(self) -> int:
        return self.sequence.length

    @property
    def n_tokens(self) -> int:
        return self.sequence.n_tokens


def split_pairs(pairs: Sequence[EncodedPair]) -> list[EncodedFeedback]:
    """Each pair as two single responses: the chosen one liked, the rejected one not."""
    return [EncodedFeedback(sequence, liked) for p in pairs for sequence, liked in ((p.chosen, True), (p.rejected, False))]


# ----------------------------------------------------------------------------------------------------- tokens to rows


class ResponseIndex(NamedTuple):
    """Where the R response tokens of a batch are. Three (R,) tensors of whole numbers.

    rows: the place in the row of tokens that predicts the token. targets: which token it is.
    owners: the number of the response in the batch that it belongs to.
    """

    rows: Tensor
    targets: Tensor
    owners: Tensor


class Batch(NamedTuple):
    """S responses to their prompts, as one row of T tokens. ids: (T,). layout: who stands where. index: where the R
    response tokens are. lengths: (S,), tokens of each response. n_tokens, n_targets: T and R as plain numbers.

    Where processes share a batch, ids, layout and index are of this one's share, the others of the whole batch.
    """

    ids: Tensor
    layout: Layout
    index: ResponseIndex
    lengths: Tensor
    n_tokens: int
    n_targets: int

    def to(self, device: str | torch.device) -> Batch:
        index = ResponseIndex(*(send(tensor, device) for tensor in self.index))
        return self._replace(ids=send(self.ids, device), layout=self.layout.to(device), index=index, lengths=send(self.lengths, device))


def index_responses(ids: Tensor, response_mask: Tensor, layout: Layout) -> ResponseIndex:
    """Index the tokens under the mask: ids (T,), response_mask (T,) of bool -> three (R,) tensors. Responses are
    counted in the order of the row.

    Raises ValueError where a text begins with a response token: nothing stands before it to predict it.
    """
    places = response_mask.nonzero().flatten()  # (R,)
    rows = layout.parents[places]  # (R,), the shift: a token is predicted at the token before it in its own text
    if (rows < 0).any():
        raise ValueError("a response token at position 0 has no position before it that could predict it")
    before = torch.tensor([0] + [len(responses) for _, *responses in layout.sizes]).cumsum(0)  # in the trees before each
    owners = before[layout.trees[places]] + layout.branches[places] - 1  # (R,)
    return ResponseIndex(rows, ids[places], owners)


@dataclass(frozen=True)
class PairBatch:
    """B pairs as one batch of 2B responses: of each pair the chosen one, then the rejected one.
    ref_logps (2B,): the reference's log-probs in that order, None where they are not known ahead."""

    sequences: Batch
    ref_logps: Tensor | None

    @property
    def n_tokens(self) -> int:
        return self.sequences.n_tokens

    def to(self, device: str | torch.device) -> PairBatch:
        return PairBatch(self.sequences.to(device), None if self.ref_logps is None else send(self.ref_logps, device))


@dataclass(frozen=True)
class FeedbackBatch:
    """B single responses. desirable: (B,) of bool. mismatched: M <= B of their prompts with another prompt's response
    each, for KTO; None where nobody asks for them. ref_logps: (B,), None where they are not known ahead."""

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


def pack(trees: Sequence[Sequence[Encoded]]) -> Batch:
    """Lay trees in one row, each a prompt and its responses: sequences that begin with the same prompt.

    With several processes the row holds this one's share of the trees, and responses keep their number in the whole
    batch. A process that is left without any lays one and scores nothing of it. Raises ValueError if prompts differ.
    """
    parts = [[sequence.split() for sequence in tree] for tree in trees]
    if any(prompt != tree[0][0] for tree in parts for prompt, _ in tree):
        raise ValueError("responses can only share a prompt that is the same for all of them")
    sizes = [(len(tree[0][0]), *(len(response) for _, response in tree)) for tree in parts]
    lengths = torch.tensor([response for _, *responses in sizes for response in responses])  # (S,)
    numbers = torch.arange(len(lengths)).split([len(tree) for tree in trees])  # of each tree's responses
    mine = range(rank(), len(trees), processes())
    share = mine or [0]
    texts = (tokens for i in share for tokens in (parts[i][0][0], *(response for _, response in parts[i])))
    ids = torch.tensor(list(chain.from_iterable(texts)))  # (T,)
    layout = lay_out([sizes[i] for i in share])
    index = index_responses(ids, (layout.branches > 0) & bool(mine), layout)
    index = index._replace(owners=torch.cat([numbers[i] for i in share])[index.owners])
    return Batch(ids, layout, index, lengths, n_tokens=sum(map(sum, sizes)), n_targets=int(lengths.sum()))


def collate(sequences: Sequence[Encoded]) -> Batch:
    """Lay sequences in one row, each with a prompt of its own."""
    return pack([[sequence] for sequence in sequences])


def collate_pairs(pairs: Sequence[EncodedPair]) -> PairBatch:
    """Lay pairs in one row, each prompt once."""
    sequences = pack([[p.chosen, p.rejected] for p in pairs])
    if any(p.ref_logps is None for p in pairs):
        return PairBatch(sequences, None)
    return PairBatch(sequences, torch.tensor([p.ref_logps for p in pairs]).flatten())  # (B, 2) -> (2B,)


def collate_feedback(examples: Sequence[EncodedFeedback], context: int | None = None) -> FeedbackBatch:
    """Lay single responses in one row; with `context`, their prompts with one another's responses in another."""
    mismatched = None if context is None else collate(mismatch([e.sequence for e in examples], context))
    ref_logps = None if any(e.ref_logp is None for e in examples) else torch.tensor([e.ref_logp for e in examples])
    return FeedbackBatch(collate([e.sequence for e in examples]), torch.tensor([e.desirable for e in examples]), mismatched, ref_logps)


def mismatch(sequences: Sequence[Encoded], context: int) -> list[Encoded]:
    """Each prompt with the response of the nearest sequence after it, the first ones following the last, that answers
    another prompt and fits the context with this one. A prompt without such is left out. Raises UserError if all are."""
    parts = [sequence.split() for sequence in sequences]
    found = []
    for i, (prompt, _) in enumerate(parts):
        others = (response for other, response in parts[i + 1 :] + parts[:i] if other != prompt)
        fits = next((response for response in others if len(prompt) + len(response) <= context), None)
        if fits is not None:
            found.append(join(prompt, fits))
    if not found:
        what = "KTO sets each prompt of a batch against another prompt's response, and"
        if all(prompt == parts[0][0] for prompt, _ in parts):
            raise UserError(f"{what} this batch has one prompt only; use a larger --batch-size")
        raise UserError(f"{what} no prompt of this batch fits into the context of {context} tokens with one; use a larger --batch-size or --context")
    return found


AnyBatch = Batch | PairBatch | FeedbackBatch


E = TypeVar("E", Encoded, EncodedPair, EncodedFeedback)


class Batches(Generic[E]):
    """Batches without end: every example once an epoch, in an order that the seed and the epoch alone decide.

    A batch has `batch_size` examples, or as many as fit into a row of `tokens` tokens. Batch number k is the same
    whether or not the batches before it were made, so a resumed run sees what the unbroken one would have seen. The
    last batch of an epoch may be smaller. mixed: single responses whose batches hold two prompts at least, for KTO.
    """

    def __init__(self, examples: Sequence[E], collate: Callable, batch_size: int | None, seed: int, tokens: int | None = None, mixed: bool = False) -> None:
        self.examples, self.collate, self.batch_size, self.seed, self.tokens = examples, collate, batch_size, seed, tokens
        self.prompts = [e.sequence.split()[0] for e in examples] if mixed else None
        self.starts = [0]  # the number of each epoch's first batch, as far as it is known
        self.plan = lru_cache(maxsize=2)(self.plan_epoch)

    def __getitem__(self, k: int) -> Batch | PairBatch | FeedbackBatch:
        while self.starts[-1] <= k:
            self.starts.append(self.starts[-1] + len(self.plan(len(self.starts) - 1)))
        epoch = bisect_right(self.starts, k) - 1
        return self.collate([self.examples[j] for j in self.plan(epoch)[k - self.starts[epoch]]])

    def plan_epoch(self, epoch: int) -> list[list[int]]:
        """Shuffle, and cut into batches."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return self.cut(torch.randperm(len(self.examples), generator=generator).tolist())

    def count(self, epochs: float) -> int:
        """How many batches `epochs` passes over the examples are, at least one."""
        whole = int(epochs)
        part = round((epochs - whole) * len(self.plan(whole))) if epochs > whole else 0
        in_whole = sum(len(self.plan(epoch)) for epoch in range(whole)) if self.tokens else whole * len(self.plan(0))
        return max(1, in_whole + part)

    def once(self) -> Iterator[Batch | PairBatch | FeedbackBatch]:
        """Every example once, in file order: for evaluation."""
        for batch in self.cut(range(len(self.examples))):
            yield self.collate([self.examples[j] for j in batch])

    def cut(self, order: Sequence[int]) -> list[list[int]]:
        """An order cut into batches."""
        batches: list[list[int]] = []
        room = 0  # left in the last batch: of examples, or of tokens
        for j in order:
            size = self.examples[j].n_tokens if self.tokens else 1
            if room < size:
                batches.append([])
                room = self.tokens or self.batch_size
            batches[-1].append(j)
            room -= size
        return batches if self.prompts is None else self.mix(batches)

    def mix(self, batches: list[list[int]]) -> list[list[int]]:
        """See to it that each batch holds two prompts, where the examples allow it: one that has a single prompt gets an
        example from the nearest batch that can spare one. No batch grows beyond its tokens; beyond its number of
        examples only the epoch's last, by one that would be alone."""
        alone = batches.pop() if self.batch_size and len(batches) > 1 and len(batches[-1]) == 1 else []
        for i in range(len(batches)):
            if not self.is_mixed(batches[i]):
                for k in sorted(set(range(len(batches))) - {i}, key=lambda k: abs(k - i)):
                    if traded := self.trade(batches[i], batches[k]):
                        batches[i], batches[k] = traded
                        break
        return [*batches[:-1], batches[-1] + alone]

    def trade(self, batch: list[int], donor: list[int]) -> tuple[list[int], list[int]] | None:
        """Both batches after one example has gone from `donor` to `batch`, for nothing or for one in exchange, so that
        both are mixed and within their size; None if no example does that."""
        for taken in donor:
            if self.prompts[taken] != self.prompts[batch[0]]:
                for back in ([], batch[:1]):
                    both = batch[len(back) :] + [taken], [j for j in donor if j != taken] + back
                    if all(self.is_mixed(changed) and self.fits(changed) for changed in both):
                        return both
        return None

    def can_be_mixed(self) -> bool:
        """Whether there are prompts enough for two in each batch (of a pass in file order)."""
        return bool(self.examples) and all(self.is_mixed(batch) for batch in self.cut(range(len(self.examples))))

    def is_mixed(self, batch: list[int]) -> bool:
        return any(self.prompts[j] != self.prompts[batch[0]] for j in batch)

    def fits(self, batch: list[int]) -> bool:
        return sum(self.examples[j].n_tokens for j in batch) <= self.tokens if self.tokens else len(batch) <= self.batch_size


SILENCE = 10  # seconds, after which work that goes on says how far it is
Item = TypeVar("Item")


def watched(items: Iterable[Item], n: int, what: str) -> Iterator[Item]:
    """The `n` items, with a line on the screen every ten seconds or so."""
    said = time.perf_counter()
    for i, item in enumerate(items):
        if time.perf_counter() - said > SILENCE:
            print(f"{what}: {i} of {n} batches", flush=True)
            said = time.perf_counter()
        yield item


def look(batches: Batches, what: str) -> Iterator[AnyBatch]:
    """Every example once, watched."""
    return watched(batches.once(), len(batches.cut(range(len(batches.examples)))), what)
