"""From a line of JSONL to a batch of token ids: checked examples, ids and response masks born together, batches.

    preferences   {"prompt": "...", "chosen": "...", "rejected": "..."}     one object a line, other keys are ignored
    feedback      {"prompt": "...", "completion": "...", "label": true}     liked or not, for losses of single responses
    SFT           {"prompt": "...", "response": "..."}

Nothing is cut to fit. What cannot be used is left out and counted aloud; what looks like a mistake stops the program
with the file, the line and the remedy.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from mini_dpo.errors import UserError
from mini_dpo.logprobs import Batch, index_responses
from mini_dpo.packing import lay_out, send
from mini_dpo.parallel import processes, rank
from mini_dpo.tokenizer import Tokenizer

# ------------------------------------------------------------------------------------------- examples from files


@dataclass(frozen=True)
class Preference:
    """Two responses to a prompt and which of them people chose. `line` is where in its file it stood."""

    prompt: str
    chosen: str
    rejected: str
    line: int = 0


@dataclass(frozen=True)
class Feedback:
    """One response to a prompt and whether people liked it. `line` is where in its file it stood."""

    prompt: str
    completion: str
    label: bool
    line: int = 0


@dataclass(frozen=True)
class Demonstration:
    """A prompt and a response to imitate. `line` is where in its file it stood."""

    prompt: str
    response: str
    line: int = 0


def load_preferences(path: str | Path, say: Callable[[str], None] = print) -> list[Preference]:
    """Read a preference file. Pairs of two identical responses teach nothing: they are left out, and `say` hears it.

    Raises UserError, with file and line, for anything that is not what the module's first lines describe.
    """
    pairs = [Preference(**row, line=line) for line, row in read_rows(path, ("prompt", "chosen", "rejected"))]
    kept = [pair for pair in pairs if pair.chosen != pair.rejected]
    if len(kept) < len(pairs):
        first = next(pair.line for pair in pairs if pair.chosen == pair.rejected)
        say(f"{path}: left out {len(pairs) - len(kept)} of {len(pairs)} pairs: chosen and rejected are the same (first: line {first})")
    if not kept:
        raise UserError(f"{path}: no pair is left to train on; chosen and rejected must differ")
    return kept


def load_feedback(path: str | Path) -> list[Feedback]:
    """Read a file of single responses. Raises UserError, with file and line, for anything that is not as above."""
    return [Feedback(**row, line=line) for line, row in read_rows(path, ("prompt", "completion", "label"))]


def holds_pairs(path: str | Path) -> bool:
    """Whether the first object of a JSONL file looks like a preference pair (and not like feedback)."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = json.loads(next((line for line in file if line.strip()), "{}"))
    except (OSError, ValueError, RecursionError):
        return True  # reading it in earnest will say what is wrong with it
    return not isinstance(first, dict) or "chosen" in first or "label" not in first


def load_demonstrations(path: str | Path) -> list[Demonstration]:
    """Read an SFT file. Raises UserError, with file and line, for anything that is not what is described above."""
    return [Demonstration(**row, line=line) for line, row in read_rows(path, ("prompt", "response"))]


def read_rows(path: str | Path, keys: Sequence[str]) -> list[tuple[int, dict]]:
    """The line numbers and the named values of a JSONL file's objects; blank lines are skipped."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")  # the bytes that some editors put first
    rows = [(i, read_row(f"{path}, line {i}", line, keys)) for i, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise UserError(f"{path}: the file is empty; it needs one JSON object a line, with {', '.join(keys)}")
    return rows


def read_row(place: str, line: bytes, keys: Sequence[str]) -> dict:
    """One line to its values, or the UserError that says what is wrong with it at `place`."""
    example = "{" + ", ".join(f'"{key}": ' + ("true" if key == "label" else '"..."') for key in keys) + "}"
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", type(error).__name__)
        raise UserError(f"{place}: not JSON that ends on this line ({reason}); each line must be one object: {example}") from error
    if not isinstance(row, dict):
        raise UserError(f"{place}: a JSON {type(row).__name__}, not an object; each line must be like {example}")
    for key in keys:
        if key not in row:
            found = ", ".join(repr(name) for name in list(row)[:6]) or "none"
            single = "; single responses are for the losses kto and apo_zero_unpaired" if key == "chosen" and "label" in row else ""
            raise UserError(f"{place}: no {key!r} (keys found: {found}); each line must be like {example}{single}")
        if key != "label":
            check_text(f"{place}: {key!r}", row[key], may_be_empty=key == "prompt")
        elif not isinstance(row[key], bool):
            raise UserError(f"{place}: 'label' must be true or false, not {json.dumps(row[key])}")
    return {key: row[key] for key in keys}


def check_text(place: str, text: object, may_be_empty: bool) -> None:
    """Raise UserError unless `text` is a string that can be encoded and, for a response, says something."""
    if not isinstance(text, str):
        raise UserError(f"{place} must be a string, not {type(text).__name__}")
    if not may_be_empty and not text.strip():
        raise UserError(f"{place} is empty; a response needs at least one visible character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{place} holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; remove it")


T = TypeVar("T", Preference, Feedback, Demonstration)


def split_by_prompt(*files: list[T], share: float = 0.1) -> list[tuple[list[T], list[T]]]:
    """Split the examples of each file into (train, held out) so that no prompt is in both, of whichever file: `share` of
    each file's distinct prompts, by their hash, so that it depends on nothing else. A file with a single prompt holds
    nothing out of its own. Prompts that differ in their form only are the same."""
    held_out: set[str] = set()
    for examples in files:
        prompts = sorted({same_prompt(e.prompt) for e in examples}, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
        held_out |= set(prompts[: min(len(prompts) - 1, max(1, round(share * len(prompts))))]) if prompts else set()
    return [([e for e in examples if same_prompt(e.prompt) not in held_out], [e for e in examples if same_prompt(e.prompt) in held_out]) for examples in files]  # fmt: skip


def same_prompt(prompt: str) -> str:
    """What two prompts have in common that differ by white space, letter case or Unicode form (NFKC) only."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


# -------------------------------------------------------------------------------------------- examples to tokens


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


def encode_demonstrations(examples: Sequence[Demonstration], tokenizer: Tokenizer, context: int, source: str, say=print) -> list[Encoded]:
    """Encode SFT examples. What is longer than the context is left out, never cut."""
    encoded = [encode(tokenizer, e.prompt, e.response) for e in examples]
    return fitting(encoded, examples, context, source, say)


def encode_preferences(examples: Sequence[Preference], tokenizer: Tokenizer, context: int, source: str, say=print) -> list[EncodedPair]:
    """Encode pairs. A pair with a sequence longer than the context is left out, never cut."""
    pairs = [EncodedPair(encode(tokenizer, e.prompt, e.chosen), encode(tokenizer, e.prompt, e.rejected)) for e in examples]
    return fitting(pairs, examples, context, source, say)


def encode_feedback(examples: Sequence[Feedback], tokenizer: Tokenizer, context: int, source: str, say=print) -> list[EncodedFeedback]:
    """Encode single responses. What is longer than the context is left out, never cut."""
    encoded = [EncodedFeedback(encode(tokenizer, e.prompt, e.completion), e.label) for e in examples]
    return fitting(encoded, examples, context, source, say)


E = TypeVar("E", Encoded, EncodedPair, EncodedFeedback)


def fitting(encoded: list[E], examples: Sequence, context: int, source: str, say) -> list[E]:
    """Those of at most `context` tokens; says how many are left out and what would keep them. UserError if all are."""
    kept = [e for e in encoded if e.length <= context]
    if len(kept) < len(encoded):
        line = next(example.line for e, example in zip(encoded, examples) if e.length > context)
        longest = max(e.length for e in encoded)
        report = f"longer than the context of {context} tokens (first: line {line}); --context {longest} would keep all"
        if not kept:
            raise UserError(f"{source}: every example is {report}")
        say(f"{source}: left out {len(encoded) - len(kept)} of {len(encoded)} examples: {report}")
    return kept


# --------------------------------------------------------------------------------------------- tokens to batches


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
        return max(1, sum(len(self.plan(epoch)) for epoch in range(whole)) + part)

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
