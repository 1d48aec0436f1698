"""From a line of JSONL to a batch of token ids: checked examples, ids and response masks born together, batches.

    preferences   {"prompt": "...", "chosen": "...", "rejected": "..."}     one object a line
    feedback      {"prompt": "...", "completion": "...", "label": true}     liked or not, for losses of single responses
    SFT           {"prompt": "...", "response": "..."}

Nothing is cut to fit. What cannot be used is left out and counted aloud; what looks like a mistake stops the program
with the file, the line and the remedy. Other keys are named and not read, or refused where they change what an answer
means.
"""

from __future__ import annotations

import hashlib
import json
import re
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
from mini_dpo.files import read_bytes
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


Say = Callable[[str], None]


def load_preferences(path: str | Path, say: Say = print, skip_bad: bool = False) -> list[Preference]:
    """Read a preference file. Pairs of two identical responses teach nothing: they are left out, and `say` hears it.
    skip_bad: leave out, aloud, what else cannot be used.

    Raises UserError, with file and line, for anything that is not what the module's first lines describe.
    """
    pairs = [Preference(**row, line=line) for line, row in read_rows(path, ("prompt", "chosen", "rejected"), say, skip_bad)]
    kept = [pair for pair in pairs if pair.chosen != pair.rejected]
    if len(kept) < len(pairs):
        first = next(pair.line for pair in pairs if pair.chosen == pair.rejected)
        say(f"{path}: left out {len(pairs) - len(kept)} of {len(pairs)} pairs: chosen and rejected are the same (first: line {first})")
    if not kept:
        raise UserError(f"{path}: no pair is left to train on; chosen and rejected must differ")
    return kept


def load_feedback(path: str | Path, say: Say = print, skip_bad: bool = False) -> list[Feedback]:
    """Read a file of single responses. Raises UserError, with file and line, for anything that is not as above."""
    return [Feedback(**row, line=line) for line, row in read_rows(path, ("prompt", "completion", "label"), say, skip_bad)]


def load_demonstrations(path: str | Path, say: Say = print, skip_bad: bool = False) -> list[Demonstration]:
    """Read an SFT file. Raises UserError, with file and line, for anything that is not what is described above."""
    return [Demonstration(**row, line=line) for line, row in read_rows(path, ("prompt", "response"), say, skip_bad)]


def holds_pairs(path: str | Path) -> bool:
    """Whether the first object of a JSONL file looks like a preference pair."""
    for line in read_content(path).split(b"\n"):
        try:
            return bool({"chosen", "rejected"} & parse_line(line).keys())
        except UserError:
            continue
    return True


def read_content(path: str | Path) -> bytes:
    """A file's bytes, without those that some editors put first. Raises UserError where it cannot be read."""
    return read_bytes(path).removeprefix(b"\xef\xbb\xbf")


def read_rows(path: str | Path, keys: Sequence[str], say: Say, skip_bad: bool) -> list[tuple[int, dict]]:
    """The line numbers and the named values of a JSONL file's objects; blank lines are skipped. Raises UserError for a
    file that is none, for columns that change the meaning, and for faulty lines; with skip_bad, `say` hears of these."""
    content = read_content(path)
    if form := form_of(content):
        raise UserError(f"{path}: {form}; it needs one JSON object a line, like {example_of(keys)}")
    rows: dict[int, dict] = {}
    faults: dict[int, str] = {}  # by line, as `rows`
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                rows[number] = parse_line(line)
            except UserError as fault:
                faults[number] = str(fault)
    check_columns(path, rows, keys, say)
    for number in list(rows):
        try:
            check_row(rows[number], keys)
        except UserError as fault:
            faults[number] = str(fault)
            del rows[number]
    if faults:
        report_faults(path, dict(sorted(faults.items())), len(rows), keys, skip_bad, say)
    if not rows:
        raise UserError(f"{path}: {'no line can be used' if faults else 'the file is empty'}; it needs one JSON object a line, with {', '.join(keys)}")
    return [(number, {key: row[key] for key in keys}) for number, row in rows.items()]


# How files begin that are not text of one JSON object a line.
FIRST_BYTES = {
    b"\x1f\x8b": "compressed with gzip; unpack it first (gunzip)",
    b"BZh": "compressed with bzip2; unpack it first (bunzip2)",
    b"\xfd7zXZ": "compressed with xz; unpack it first (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard; unpack it first (unzstd)",
    b"PK\x03\x04": "a zip archive, or a table of Excel's; unpack it, or export its rows",
    b"PAR1": "a Parquet file; with pandas, read_parquet(OLD).to_json(NEW, orient='records', lines=True)",
    b"ARROW1": "an Arrow file; with pandas, read_feather(OLD).to_json(NEW, orient='records', lines=True)",
    b"version https://git-lfs": "a Git LFS pointer, which stands for the file; fetch the file itself (git lfs pull)",
    b"\xff\xfe": "UTF-16 text; convert it (iconv -f UTF-16 -t UTF-8 OLD > NEW)",
    b"\xfe\xff": "UTF-16 text; convert it (iconv -f UTF-16 -t UTF-8 OLD > NEW)",
    b"{\0": "UTF-16 text; convert it (iconv -f UTF-16LE -t UTF-8 OLD > NEW)",
    b"\0{": "UTF-16 text; convert it (iconv -f UTF-16BE -t UTF-8 OLD > NEW)",
    b"<": "a web page (HTML) or XML; download the file itself",
}
TABLE_HEADER = re.compile(rb"""(['"]?)[A-Za-z_][\w .-]*\1([,;\t](['"]?)[A-Za-z_][\w .-]*\3)+\s*""")
TO_LINES = "python -c 'import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]' < OLD > NEW"


def form_of(content: bytes) -> str | None:
    """What a file is if it is not one JSON object a line, and how to make it that; None where its beginning looks right."""
    for first, form in FIRST_BYTES.items():
        if content.startswith(first):
            return form
    line = content.lstrip().split(b"\n", 1)[0].strip()
    if line.startswith(b"["):
        return f"a JSON array, which is one value and not one a line; write its rows as lines ({TO_LINES})"
    if line == b"{":
        return "JSON laid out over several lines; write each object on a line of its own (jq -c . OLD > NEW)"
    if TABLE_HEADER.fullmatch(line):
        return "a table (CSV or TSV), by its first line; with pandas, read_csv(OLD).to_json(NEW, orient='records', lines=True)"
    return None


# Columns that an answer depends on: left aside, they would change what is learned without a word.
MEANING = set("system system_prompt history input context instruction messages conversation conversations tools functions image images audio video documents".split())  # fmt: skip


def check_columns(path: str | Path, rows: dict[int, dict], keys: Sequence[str], say: Say) -> None:
    """Name, once for the file, the columns that nothing reads. Raises UserError where one of them changes the meaning:
    where it is one of MEANING and says something."""
    unread = {name: number for number in reversed(rows) for name in rows[number] if name not in keys}  # where it stands first
    says = {number: [name for name, value in rows[number].items() if name not in keys and name.lower() in MEANING and value not in (None, "", [], {})] for number in rows}  # fmt: skip
    lines = [number for number in rows if says[number]]
    if lines:
        names = dict.fromkeys(name for number in lines for name in says[number])
        raise UserError(
            f"{path}: {', '.join(map(repr, names))} (on {len(lines)} of {len(rows)} lines, first: line {lines[0]}) would change what an answer means, and only "
            f"{', '.join(keys)} are read; put that text into the prompt, or take the column out of the file if no answer depends on it"
        )
    if unread:
        names = sorted(unread, key=unread.get)
        say(f"{path}: not read: {', '.join(name[:60] for name in names[:12])}{f' and {len(names) - 12} more' if len(names) > 12 else ''}")


def report_faults(path: str | Path, faults: dict[int, str], good: int, keys: Sequence[str], skip_bad: bool, say: Say) -> None:
    """Say what is wrong with which lines: all are counted, the first five shown. Raises UserError unless skip_bad."""
    shown = list(faults.items())[:5]
    form = f"must be like {example_of(keys)}"
    if not skip_bad and len(faults) == 1:
        ((number, fault),) = shown
        raise UserError(f"{path}, line {number}: {fault}; each line {form}; --skip-bad leaves it out")
    lines = {fault: [number for number, same in shown if same == fault] for _, fault in shown}
    listed = [f"  line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}: {fault}" for fault, numbers in lines.items()]
    if len(faults) > len(shown):
        listed.append(f"  ... and {len(faults) - len(shown)} more, the last on line {max(faults)}")
    counted = f"{len(faults)} of {len(faults) + good} lines"
    if not skip_bad:
        raise UserError("\n".join([f"{path}: {counted} cannot be used; each {form}; --skip-bad leaves them out", *listed]))
    say("\n".join([f"{path}: --skip-bad left out {counted}", *listed]))


def example_of(keys: Sequence[str]) -> str:
    """A line as it should be."""
    line = "{" + ", ".join(f'"{key}": ' + ("true" if key == "label" else '"..."') for key in keys) + "}"
    return f"{line}, or, for a pair, {example_of(('prompt', 'chosen', 'rejected'))}" if "label" in keys else line


def parse_line(line: bytes) -> dict:
    """One line to its object, or the UserError that says what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON that ends on this line ({getattr(error, 'msg', type(error).__name__)})") from error
    if not isinstance(row, dict):
        raise UserError(f"{json_kind(row)}, not an object")
    return row


def check_row(row: dict, keys: Sequence[str]) -> None:
    """Raise UserError unless the row has all keys, and texts, or a label, at them."""
    for key in keys:
        if key not in row:
            found = ", ".join(repr(name) for name in list(row)[:6]) or "none"
            single = "; single responses are for the losses kto and apo_zero_unpaired" if key == "chosen" and "label" in row else ""
            raise UserError(f"no {key!r} (keys found: {found}){single}")
        if key != "label":
            check_text(repr(key), row[key], may_be_empty=key == "prompt")
        elif not isinstance(row[key], bool):
            raise UserError(f"'label' must be true or false, not {json.dumps(row[key])[:40]}")


LONGEST_TEXT = 1_000_000  # characters: at least 10,000 tokens of any kind, and more than a model here reads


def check_text(place: str, text: object, may_be_empty: bool) -> None:
    """Raise UserError unless `text` is a string that can be encoded and, for a response, says something."""
    if not isinstance(text, str):
        whole = "; a conversation must be written out as one text" if isinstance(text, list) else ""
        raise UserError(f"{place} must be a string, not {json_kind(text)}{whole}")
    if not may_be_empty and not text.strip():
        raise UserError(f"{place} is empty; a response needs at least one visible character")
    if len(text) > LONGEST_TEXT:
        raise UserError(f"{place} has {len(text):,} characters; more than {LONGEST_TEXT:,} fit no context here")
    if re.search("[\ud800-\udfff]", text):
        raise UserError(f"{place} holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; remove it")


def json_kind(value: object) -> str:
    """What JSON calls a value."""
    kinds = {type(None): "null", bool: "true or false", str: "a string", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


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


def encode_example(tokenizer: Tokenizer, example: Preference | Feedback | Demonstration) -> EncodedPair | EncodedFeedback | Encoded:
    """The tokens of an example, of whichever kind."""
    if isinstance(example, Preference):
        return EncodedPair(encode(tokenizer, example.prompt, example.chosen), encode(tokenizer, example.prompt, example.rejected))
    if isinstance(example, Feedback):
        return EncodedFeedback(encode(tokenizer, example.prompt, example.completion), example.label)
    return encode(tokenizer, example.prompt, example.response)


def encode_fitting(examples: Sequence[T], tokenizer: Tokenizer, context: int, source: str, say: Say = print) -> list[Encoded] | list[EncodedPair] | list[EncodedFeedback]:  # fmt: skip
    """The tokens of those examples that fit the context."""
    encoded = [encode_example(tokenizer, example) for example in examples]
    return [encoded[i] for i in fitting(encoded, examples, context, source, say)]


E = TypeVar("E", Encoded, EncodedPair, EncodedFeedback)


def fitting(encoded: Sequence[E], examples: Sequence[T], context: int, source: str, say: Say = print, n_train: int | None = None, longest: int = 0) -> list[int]:  # fmt: skip
    """The numbers of those of at most `context` tokens: what is longer is left out, never cut (a pair is as long as its
    longer half); `say` hears how many, and what would keep all, these and others of `longest` tokens. UserError if none
    of the first `n_train`, which are to be trained on, is kept."""
    kept = [i for i, e in enumerate(encoded) if e.length <= context]
    if len(kept) < len(encoded):
        too_long = sorted(example.line for e, example in zip(encoded, examples) if e.length > context)
        longest = max(longest, *(e.length for e in encoded))
        report = f"longer than the context of {context} tokens (first: line {too_long[0]}); --context {longest} would keep all"
        if not any(i < (n_train or len(encoded)) for i in kept):
            raise UserError(f"{source}: every example to train on is {report}")
        say(f"{source}: left out {len(too_long)} of {len(encoded)} examples: {report}")
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
