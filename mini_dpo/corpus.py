"""Which examples a run trains on, watches, and keeps for the end: the toy shop's files, or the user's own."""

from __future__ import annotations

import hashlib
import math
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mini_dpo.batches import E, Encoded, EncodedFeedback, EncodedPair, encode, split_pairs
from mini_dpo.data import T, Demonstration, Feedback, Preference, Say, holds_pairs, load_demonstrations, load_feedback, load_preferences
from mini_dpo.errors import UserError
from mini_dpo.files import read_bytes
from mini_dpo.tokenizer import DATA, Tokenizer
from mini_dpo.worlds.shop import Judge, judge

TOY_SFT = {split: DATA / f"sft.{split}.jsonl" for split in ("train", "valid", "test")}
TOY_PREFERENCES = {split: DATA / f"preferences.{split}.jsonl" for split in ("train", "valid", "test")}


@dataclass(frozen=True)
class HeldOut:
    """What no stage is trained on: prompts to answer, responses to imitate, preferences (their texts and their tokens,
    none for SFT alone), and a judge if there is one who knows the true reward."""

    prompts: list[str]
    responses: list[Encoded]
    preferences: list[Preference]
    pairs: list[EncodedPair]
    judge: Judge | None


@dataclass(frozen=True)
class Corpus:
    """What to train on, what to watch while training (`valid_*`), and what to keep for the end. preferences: pairs, or
    single responses if the loss wants those."""

    responses: list[Encoded]
    valid_responses: list[Encoded]
    preferences: list[EncodedPair] | list[EncodedFeedback]
    valid_preferences: list[EncodedPair] | list[EncodedFeedback]
    held_out: HeldOut


def files_of(data: str | None, sft_data: str | None, held_out: str | None = None) -> list[Path]:
    """The files a run reads: the user's, or the toy shop's."""
    own = [Path(path) for path in (data, sft_data, held_out) if path]
    return own or [*TOY_SFT.values(), *TOY_PREFERENCES.values()]


def fingerprints(paths: Sequence[Path]) -> dict[str, str]:
    """The SHA-256 of each file's bytes. Raises UserError where one cannot be read."""
    return {str(path): hashlib.sha256(read_bytes(path)).hexdigest() for path in paths}


def toy_corpus(tokenizer: Tokenizer, context: int, held_out: str = "test") -> Corpus:
    """The shop's six files: train, validation and test share no prompt. held_out: which of them is kept for the end."""
    sft = {s: encode_fitting(load_demonstrations(path), tokenizer, context, path.name) for s, path in TOY_SFT.items()}
    preferences = {split: load_preferences(path) for split, path in TOY_PREFERENCES.items()}
    pairs = {s: encode_fitting(examples, tokenizer, context, TOY_PREFERENCES[s].name) for s, examples in preferences.items()}
    kept = HeldOut([p.prompt for p in preferences[held_out]], sft[held_out], preferences[held_out], pairs[held_out], judge)
    return Corpus(sft["train"], sft["valid"], pairs["train"], pairs["valid"], kept)


def in_single_responses(corpus: Corpus, source: str) -> Corpus:
    """The same corpus for a loss of single responses: pairs are split in two."""
    if not corpus.preferences or isinstance(corpus.preferences[0], EncodedFeedback):
        return corpus
    print(f"{source}: the loss wants single responses, so each of {len(corpus.preferences)} pairs is split into a liked and a disliked one")
    return replace(corpus, preferences=split_pairs(corpus.preferences), valid_preferences=split_pairs(corpus.valid_preferences))


def at_most(corpus: Corpus, n: int) -> Corpus:
    """The same corpus with at most n held-out examples of each kind, evenly spread over those that there are."""
    kept, there = corpus.held_out, [corpus.valid_responses, corpus.valid_preferences]
    there += [list(dict.fromkeys(kept.prompts)), kept.responses, kept.preferences, kept.pairs]
    if (most := max(map(len, there))) > n:
        print(f"of {most} held-out examples, {n} are looked at each time; --eval-examples changes that")
    responses, preferences, *held_out = ([them[i * len(them) // n] for i in range(n)] if len(them) > n else them for them in there)
    return replace(corpus, valid_responses=responses, valid_preferences=preferences, held_out=HeldOut(*held_out, judge=kept.judge))


@dataclass(frozen=True)
class OwnFile:
    """A file's examples, the `n_train` to train on before those that are held out, and their tokens."""

    source: str
    examples: list
    encoded: list
    n_train: int


def read_own(data: str | None, sft_data: str | None, tokenizer: Tokenizer, paired: bool, skip_bad: bool = False, held_out: str | None = None) -> tuple[OwnFile, OwnFile]:  # fmt: skip
    """(preferences, responses to imitate) from a preference file, an SFT file, or both; what is remarkable about them is
    said. A tenth of each file's prompts is held out, and no prompt that is held out in one is trained on in either.
    Without an SFT file, SFT imitates the chosen (or liked) responses, each once. held_out: a file in the form of `data`,
    which is held out in place of the tenths.

    paired: False for a loss of single responses. Raises UserError, with file and line, for input that cannot be used.
    """
    load = load_preferences if paired or not data or holds_pairs(data) else load_feedback
    files = (load(data, skip_bad=skip_bad) if data else [], load_demonstrations(sft_data, skip_bad=skip_bad) if sft_data else [])
    apart = load(held_out, skip_bad=skip_bad) if held_out else []
    for path, examples in zip((data, sft_data, held_out), (*files, apart)):
        for remark in remarks(examples):
            print(f"{path}: {remark}")
    prompts = {e.prompt for examples in (*files, apart) for e in examples}
    if twins := len(prompts) - len({same_prompt(prompt) for prompt in prompts}):
        print(f"{twins} of {len(prompts)} prompts differ from another one by blanks, letter case or Unicode form only: held out or trained on together")
    preferences, demonstrations = set_apart(files, apart, held_out) if held_out else split_by_prompt(*files)
    for examples, path, (train, _) in zip(files, (data, sft_data), (preferences, demonstrations)):
        if examples and not train:
            raise UserError(f"{path}: every prompt is held out in the other file; add examples with other prompts")
    if not sft_data:
        demonstrations = tuple(map(chosen_responses, preferences))
        n, liked = len(demonstrations[0]), "chosen" if load is load_preferences else "liked"
        again = sum(load is load_preferences or e.label for e in preferences[0]) - n
        print(f"{data}: no --sft-data, so SFT imitates its {liked} responses{f' ({again} of them stand there again, and are imitated once)' if again else ''}")  # fmt: skip
    sources = (" and ".join([path, *([held_out] if held_out else [])]) for path in (str(data or sft_data), str(sft_data or data)))
    return tuple(OwnFile(source, [*train, *kept], [encode_example(tokenizer, e) for e in (*train, *kept)], len(train)) for source, (train, kept) in zip(sources, (preferences, demonstrations)))  # fmt: skip


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


def set_apart(files: Sequence[list], apart: list, path: str) -> list[tuple[list, list]]:
    """As `split_by_prompt`, but what is held out is `apart`, of a file `path`, and its chosen responses."""
    prompts = {same_prompt(e.prompt) for e in apart}
    train = [[e for e in examples if same_prompt(e.prompt) not in prompts] for examples in files]
    print(f"{path}: {len(apart)} examples are held out, in place of a tenth; {sum(map(len, files)) - sum(map(len, train))} others have their prompts, and are not trained on")
    return list(zip(train, (apart, chosen_responses(apart))))


def chosen_responses(preferences: Sequence[Preference] | Sequence[Feedback]) -> list[Demonstration]:
    """The chosen, or liked, half of preferences, as responses to imitate: each once, in however many pairs it won."""
    if all(isinstance(p, Preference) for p in preferences):
        liked = [Demonstration(p.prompt, p.chosen, p.line) for p in preferences]
    else:
        liked = [Demonstration(p.prompt, p.completion, p.line) for p in preferences if p.label]
    return list({(d.prompt, d.response): d for d in reversed(liked)}.values())[::-1]  # the first of its kind stays


LONGEST = 2048  # tokens: what a context is fitted to at most


def fitted_context(own: Sequence[OwnFile], shortest: int) -> int:
    """A context for these files: the 99th percentile of their lengths (of the file with the longer one), between
    `shortest` and LONGEST tokens."""
    lengths = [sorted(e.length for e in file.encoded) for file in own if file.encoded]
    percentile = max(of_file[math.ceil(0.99 * len(of_file)) - 1] for of_file in lengths)
    return max(shortest, min(percentile, LONGEST))


def describe_choice(own: Sequence[OwnFile], tokenizer: Tokenizer, context: int, chosen: Sequence[str]) -> str:
    """One line on the vocabulary and the context. chosen: the flags that nobody gave."""
    texts = [text for file in own for e in file.examples[:500] for text in vars(e).values() if isinstance(text, str)]
    rate = sum(len(text.encode()) for text in texts) / max(1, sum(len(tokenizer.encode(text)) for text in texts))
    name = "GPT-2's vocabulary" if tokenizer.name == "gpt2" else "the toy shop's vocabulary"
    foreign = ", made for other texts: GPT-2's is not in tiktoken's cache, and --tokenizer gpt2 fetches it once" if tokenizer.name == "toy" and "tokenizer" in chosen else ""  # fmt: skip
    fits = sum(e.length <= context for file in own for e in file.encoded) / sum(len(file.encoded) for file in own)
    return f"{own[0].source}: {name} ({rate:.1f} bytes a token{foreign}) and a context of {context:,} tokens ({fits:.1%} of the examples fit); --{' and --'.join(chosen)} {'changes' if len(chosen) == 1 else 'change'} that"  # fmt: skip


def own_corpus(own: tuple[OwnFile, OwnFile], context: int) -> Corpus:
    """What of the user's files fits the context. What is held out was decided before, and is the same for every context."""
    longest = max(e.length for file in own for e in file.encoded)
    train, held_out = [], []  # of each file
    for file in own:
        said_already = file is own[1] and own[0].examples and file.source == own[0].source  # the chosen halves of pairs
        say = (lambda message: None) if said_already else print
        kept = fitting(file.encoded, file.examples, context, file.source, say, file.n_train, longest)
        train.append([file.encoded[i] for i in kept if i < file.n_train])
        held_out.append([i for i in kept if i >= file.n_train])
    preferences, demonstrations = own
    (encoded, responses), (kept_preferences, kept_responses) = train, ([file.encoded[i] for i in kept] for file, kept in zip(own, held_out))
    of_pairs = not preferences.examples or isinstance(preferences.examples[0], Preference)
    kind = "pairs" if of_pairs else "single responses"
    print(f"held out by prompt: {len(kept_preferences)} of {len(kept_preferences) + len(encoded)} {kind}, {len(kept_responses)} of {len(kept_responses) + len(responses)} responses")  # fmt: skip
    if not of_pairs and len({e.desirable for e in encoded}) == 1:
        print(f"{preferences.source}: every response to train on is {'liked' if encoded[0].desirable else 'disliked'}; the other kind is never seen")
    asked, numbers = (preferences, held_out[0]) if held_out[0] else (demonstrations, held_out[1])
    prompts = [asked.examples[i].prompt for i in numbers]
    pairs = ([preferences.examples[i] for i in held_out[0]], kept_preferences) if of_pairs else ([], [])
    return Corpus(responses, kept_responses, encoded, kept_preferences, HeldOut(prompts, kept_responses, *pairs, judge=None))


# ---------------------------------------------------------------------------------------------------------- what fits


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


# ------------------------------------------------------- what is remarkable about a file, before anybody trains on it


# What other chat templates write between the turns; ChatML's, Llama's, Gemma's, Zephyr's, Anthropic's, Alpaca's, Vicuna's.
MARKS = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|end_header_id|eot_id|begin_of_text|endoftext|user|assistant|system|end)\|>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|\n\n(?:Human|Assistant):|### (?:Instruction|Response|Human|Assistant):|(?:USER|ASSISTANT):"
)
TURN = re.compile(r"^\W*(?:human|user|assistant)\W*:", re.IGNORECASE | re.MULTILINE)
LONG_BEGINNING = 100  # characters


def remarks(examples: Sequence) -> list[str]:
    """What to know of a file's examples (all of one kind), each with how many lines it is true of and the first of them."""
    found = []

    def remark(holds: Callable, text: str) -> None:
        lines = [e.line for e in examples if holds(e)]
        if lines:
            found.append(f"{len(lines)} of {len(examples)} lines (first: line {lines[0]}) {text}")

    remark(lambda e: any(map(MARKS.search, texts_of(e))), "hold marks of another chat template, which are learned letter by letter; take them out: the prompt and the response get marks of their own")  # fmt: skip
    remark(is_transcript, "have an empty prompt and a transcript as a response, so that what the human says is imitated too; put all but the last answer into the prompt")
    remark(lambda e: not is_transcript(e) and begins_alike(e), f"have a chosen and a rejected response with the same {LONG_BEGINNING} characters or more before they part; if that is a conversation, put it into the prompt")  # fmt: skip
    seen: set = set()
    remark(lambda e: key_of(e) in seen or seen.add(key_of(e)), "repeat another line to the letter, and count as often as they stand there")
    remark(lambda e: opposite_of(e) in seen, "contradict another line: the same responses to the same prompt, preferred the other way round")
    return found


def texts_of(example: object) -> list[str]:
    """The prompt and the responses of an example of any kind."""
    return [value for value in vars(example).values() if isinstance(value, str)]


def is_transcript(example: object) -> bool:
    prompt, *responses = texts_of(example)
    return not prompt.strip() and any(TURN.search(response) for response in responses)


def begins_alike(example: object) -> bool:
    """Whether the responses of a pair share their beginning: half of the shorter one, and LONG_BEGINNING characters."""
    if not isinstance(example, Preference):
        return False
    common = len(os.path.commonprefix([example.chosen, example.rejected]))
    return common >= max(LONG_BEGINNING, min(len(example.chosen), len(example.rejected)) / 2)


def key_of(example: object) -> tuple:
    """All that an example says, without its line."""
    return tuple(value for name, value in vars(example).items() if name != "line")


def opposite_of(example: object) -> tuple | None:
    """What an example would say that contradicts this one; None for responses to imitate, which contradict nothing."""
    if isinstance(example, Preference):
        return example.prompt, example.rejected, example.chosen
    return (example.prompt, example.completion, not example.label) if isinstance(example, Feedback) else None


def proposed_weights(examples: Sequence[EncodedFeedback], desirable_weight: float, undesirable_weight: float) -> str | None:
    """What to weigh liked and disliked responses with where their numbers are far from equal; None where they are not.
    The KTO paper's rule (arXiv:2402.01306, section 4.2): the weighted numbers are in a ratio from 1:1 to 4:3."""
    liked = sum(e.desirable for e in examples)
    disliked = len(examples) - liked
    if not liked or not disliked or 0.9 <= desirable_weight * liked / max(undesirable_weight * disliked, 1e-9) <= 1.1 * 4 / 3:
        return None
    if liked > disliked:
        low, high, flag = 3 / 4 * liked / disliked, liked / disliked, "--undesirable-weight"
    else:
        low, high, flag = disliked / liked, 4 / 3 * disliked / liked, "--desirable-weight"
    return f"{liked} liked and {disliked} disliked responses: {flag} between {low:.2g} and {high:.2g}, with the other weight at 1, would balance them"
