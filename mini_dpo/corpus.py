"""Which examples a run trains on, watches, and keeps for the end: the toy shop's files, or the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mini_dpo.data import (
    Demonstration,
    Encoded,
    EncodedPair,
    Preference,
    encode_demonstrations,
    encode_preferences,
    load_demonstrations,
    load_preferences,
    split_by_prompt,
)
from mini_dpo.errors import UserError
from mini_dpo.shop import Judge, judge
from mini_dpo.tokenizer import DATA, Tokenizer

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
    """What to train on, what to watch while training (`valid_*`), and what to keep for the end."""

    responses: list[Encoded]
    valid_responses: list[Encoded]
    pairs: list[EncodedPair]
    valid_pairs: list[EncodedPair]
    held_out: HeldOut


def files_of(data: str | None, sft_data: str | None) -> list[Path]:
    """The files a run reads: the user's, or the toy shop's."""
    own = [Path(path) for path in (data, sft_data) if path]
    return own or [*TOY_SFT.values(), *TOY_PREFERENCES.values()]


def fingerprints(paths: Sequence[Path]) -> dict[str, str]:
    """The SHA-256 of each file's bytes. Raises UserError where one cannot be read."""
    try:
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check the path") from error


def load_corpus(data: str | None, sft_data: str | None, tokenizer: Tokenizer, context: int) -> Corpus:
    """The toy shop's corpus if no file is named, else the user's.

    The user's files are split by prompt, a tenth held out. Without an SFT file of their own, SFT imitates the chosen
    responses. Raises UserError, with file and line, for input that cannot be used.
    """
    if data is None and sft_data is None:
        return toy_corpus(tokenizer, context)
    return own_corpus(data, sft_data, tokenizer, context)


def toy_corpus(tokenizer: Tokenizer, context: int) -> Corpus:
    """The shop's six files: train, validation and test share no prompt."""
    sft = {s: encode_demonstrations(load_demonstrations(path), tokenizer, context, path.name) for s, path in TOY_SFT.items()}
    preferences = {split: load_preferences(path) for split, path in TOY_PREFERENCES.items()}
    pairs = {s: encode_preferences(examples, tokenizer, context, TOY_PREFERENCES[s].name) for s, examples in preferences.items()}
    held_out = HeldOut([p.prompt for p in preferences["test"]], sft["test"], preferences["test"], pairs["test"], judge)
    return Corpus(sft["train"], sft["valid"], pairs["train"], pairs["valid"], held_out)


def own_corpus(data: str | None, sft_data: str | None, tokenizer: Tokenizer, context: int) -> Corpus:
    """A preference file, an SFT file, or both. No prompt that is held out in one is trained on in the other."""
    preferences, kept_preferences = split_by_prompt(load_preferences(data)) if data else ([], [])
    if sft_data:
        demonstrations, kept_demonstrations = split_by_prompt(load_demonstrations(sft_data))
        demonstrations = without_prompts(demonstrations, {p.prompt for p in kept_preferences}, sft_data)
    else:
        print(f"{data}: no --sft-data, so SFT imitates its chosen responses")
        demonstrations, kept_demonstrations = chosen_responses(preferences), chosen_responses(kept_preferences)
    source, sft_source = str(data), str(sft_data or data)
    responses = encode_demonstrations(demonstrations, tokenizer, context, sft_source)
    kept_responses = encode_demonstrations(kept_demonstrations, tokenizer, context, f"{sft_source} (held out)")
    pairs = encode_preferences(preferences, tokenizer, context, source)
    kept_pairs = encode_preferences(kept_preferences, tokenizer, context, f"{source} (held out)")
    kept = kept_preferences or kept_demonstrations
    print(f"held out by prompt: {len(kept_pairs)} of {len(kept_pairs) + len(pairs)} pairs, {len(kept_responses)} of {len(kept_responses) + len(responses)} responses")  # fmt: skip
    prompts = [e.prompt for e in kept if len(tokenizer.encode_prompt(e.prompt)) < context]
    held_out = HeldOut(prompts, kept_responses, kept_preferences, kept_pairs, judge=None)
    return Corpus(responses, kept_responses, pairs, kept_pairs, held_out)


def chosen_responses(preferences: Sequence[Preference]) -> list[Demonstration]:
    """The chosen half of preferences, as responses to imitate."""
    return [Demonstration(p.prompt, p.chosen, p.line) for p in preferences]


def without_prompts(demonstrations: list[Demonstration], prompts: set[str], source: str) -> list[Demonstration]:
    """Leave out examples whose prompt is held out elsewhere, aloud. Raises UserError if none is left."""
    kept = [d for d in demonstrations if d.prompt not in prompts]
    if len(kept) < len(demonstrations):
        print(f"{source}: left out {len(demonstrations) - len(kept)} of {len(demonstrations)} examples: their prompts are held-out preferences")
    if not kept:
        raise UserError(f"{source}: every prompt is a held-out preference's; add examples with other prompts")
    return kept
