"""From checked examples to token ids to batches: one packed row of tokens for each.

Nothing is cut to fit: what is longer than the context is left out and counted (corpus).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from mini_dpo.data import Prompt
from mini_dpo.devices import send
from mini_dpo.packing import Layout, lay_out
from mini_dpo.processes import processes, rank
from mini_dpo.tokenizer import Tokenizer

# --- examples to tokens


class Encoded(NamedTuple):
    """The token ids of a prompt and of a response. The response's are trained on, the prompt's are not.
    trained: which of the response's are, None for all of them.
    """

    prompt: list[int]
    response: list[int]
    trained: list[bool] | None = None

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.response

    @property
    def n_tokens(self) -> int:
        """The tokens that it takes up in a batch's row."""
        return len(self.prompt) + len(self.response)

    @property
    def n_targets(self) -> int:
        """The tokens that are trained on."""
        return len(self.response) if self.trained is None else sum(self.trained)


def encode(tokenizer: Tokenizer, prompt: Prompt, response: str) -> Encoded:
    """Encode the two texts apart, so that no token straddles the boundary. The response ends in one
    end-of-text token, which is trained on: a model that is never taught to stop does not stop.
    """
    return Encoded(tokenizer.encode_prompt(prompt), tokenizer.encode_response(response))


class EncodedPair(NamedTuple):
    """Two responses to a prompt; where they are known, the reference's log-probs, and another prompt."""

    chosen: Encoded
    rejected: Encoded
    ref_logps: tuple[float, float] | None = None
    other: list[int] | None = None

    @property
    def n_tokens(self) -> int:
        return self.chosen.n_tokens + len(self.rejected.response)  # the prompt once


# --- tokens to rows


class ResponseIndex(NamedTuple):
    """Where the R response tokens of a batch are. Three (R,) tensors of whole numbers.

    rows: the place in the row of tokens that predicts the token. targets: which token it is.
    owners: the number of the response in the batch that it belongs to.
    """

    rows: Tensor
    targets: Tensor
    owners: Tensor


class Batch(NamedTuple):
    """S responses to their prompts, as one row of T tokens. ids: (T,). layout: who stands where. index: where
    the R response tokens are. lengths: (S,), tokens of each response. n_tokens: T. n_targets: R.

    Where processes share a batch, ids, layout and index are of this process's share only.
    """

    ids: Tensor
    layout: Layout
    index: ResponseIndex  # type: ignore[assignment]  # (a tuple has a method of this name)
    lengths: Tensor
    n_tokens: int
    n_targets: int

    def to(self, device: str | torch.device) -> Batch:
        ids, lengths = send(self.ids, device), send(self.lengths, device)
        index = ResponseIndex(*(send(tensor, device) for tensor in self.index))
        return self._replace(ids=ids, layout=self.layout.to(device), index=index, lengths=lengths)


def index_responses(ids: Tensor, layout: Layout) -> ResponseIndex:
    """Index the response tokens among ids (T,). Responses are counted in the order of the row.

    Raises ValueError where a text begins with a response token: nothing before it could predict it.
    """
    places = (layout.branches > 0).nonzero().flatten()  # (R,)
    rows = layout.parents[places]  # (R,), the shift: a token is predicted at the one before it in its text
    if (rows < 0).any():
        raise ValueError("a response token at position 0 has no position before it that could predict it")
    before = torch.tensor([0, *(len(size) - 1 for size in layout.sizes)]).cumsum(0)  # responses, per tree
    owners = before[layout.trees[places]] + layout.branches[places] - 1  # (R,)
    return ResponseIndex(rows, ids[places], owners)


@dataclass(frozen=True)
class PairBatch:
    """B pairs as one batch of 2B responses: of each pair the chosen one, then the rejected one.
    ref_logps (2B,): the reference's log-probs in that order, None where they are not known ahead.
    """

    sequences: Batch
    ref_logps: Tensor | None

    @property
    def n_tokens(self) -> int:
        return self.sequences.n_tokens

    def to(self, device: str | torch.device) -> PairBatch:
        ref_logps = None if self.ref_logps is None else send(self.ref_logps, device)
        return PairBatch(self.sequences.to(device), ref_logps)


def pack(trees: Sequence[Sequence[Encoded]]) -> Batch:
    """Lay trees in one row, each a prompt and its responses: sequences that begin with the same prompt.

    With several processes the row holds this process's share of the trees, and responses keep their number in
    the whole batch. A process that is left without a tree lays one and scores nothing of it. Raises
    ValueError if prompts differ.
    """
    if any(sequence.prompt != tree[0].prompt for tree in trees for sequence in tree):
        raise ValueError("responses can only share a prompt that is the same for all of them")
    sizes = [(len(tree[0].prompt), *(len(sequence.response) for sequence in tree)) for tree in trees]
    lengths = torch.tensor([sequence.n_targets for tree in trees for sequence in tree])  # (S,)
    numbers = torch.arange(len(lengths)).split([len(tree) for tree in trees])  # of each tree's responses
    mine = range(rank(), len(trees), processes())
    share = mine or [0]
    texts = (ids for i in share for ids in (trees[i][0].prompt, *(s.response for s in trees[i])))
    ids = torch.tensor(list(chain.from_iterable(texts)))  # (T,)
    layout = lay_out([sizes[i] for i in share])
    index = index_responses(ids, layout)
    trained = torch.tensor(
        [yes for i in share for s in trees[i] for yes in s.trained or [True] * len(s.response)]
    )
    index = ResponseIndex(*(tensor[trained] for tensor in index))
    index = index._replace(owners=torch.cat([numbers[i] for i in share])[index.owners])
    if not mine:
        index = ResponseIndex(*(tensor[:0] for tensor in index))
    return Batch(ids, layout, index, lengths, n_tokens=sum(map(sum, sizes)), n_targets=int(lengths.sum()))


def collate(sequences: Sequence[Encoded]) -> Batch:
    """Lay sequences in one row, each with a prompt of its own."""
    return pack([[sequence] for sequence in sequences])


def collate_pairs(pairs: Sequence[EncodedPair]) -> PairBatch:
    """Lay pairs in one row, each prompt once."""
    sequences = pack([[pair.chosen, pair.rejected] for pair in pairs])
    known = [pair.ref_logps for pair in pairs if pair.ref_logps is not None]
    return PairBatch(sequences, torch.tensor(known).flatten() if len(known) == len(pairs) else None)  # (2B,)


# --- rows without end


class AnyExample(Protocol):
    """What the loop needs to know of an example: how many tokens it takes up in a row."""

    @property
    def n_tokens(self) -> int: ...


class AnyBatch(Protocol):
    """What the loop needs to know of a batch: how many tokens it has, and how it goes to a device."""

    @property
    def n_tokens(self) -> int: ...

    def to(self: B, device: str | torch.device) -> B: ...


E = TypeVar("E", bound=AnyExample)
B = TypeVar("B", bound=AnyBatch)


class Batches(Generic[E, B]):
    """Batches without end: every example once an epoch, in an order that the seed and the epoch alone decide.

    A batch has `batch_size` examples, or as many as fit into a row of `tokens` tokens. Batch number k is the
    same whether or not the batches before it were made, so a resumed run sees what the unbroken one would
    have seen. The last batch of an epoch may be smaller.
    """

    def __init__(
        self,
        examples: Sequence[E],
        collate: Callable[[Sequence[E]], B],
        batch_size: int | None,
        seed: int,
        tokens: int | None = None,
    ) -> None:
        self.examples, self.collate, self.seed = examples, collate, seed
        self.batch_size, self.tokens = batch_size, tokens
        self.starts = [0]  # the number of each epoch's first batch, as far as it is known
        self.plan = lru_cache(maxsize=2)(self.plan_epoch)

    def __getitem__(self, k: int) -> B:
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
        if not self.tokens:  # every epoch has as many batches
            return max(1, whole * len(self.plan(0)) + part)
        return max(1, sum(len(self.plan(epoch)) for epoch in range(whole)) + part)

    def once(self) -> Iterator[B]:
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
                room = self.tokens or self.batch_size or 0
            batches[-1].append(j)
            room -= size
        return batches
