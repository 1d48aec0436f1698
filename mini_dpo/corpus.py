"""Which examples a run trains on, watches, and keeps for the end: the toy shop's files, or the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mini_dpo.data import (
    Demonstration,
    Encoded,
    EncodedFeedback,
    EncodedPair,
    Feedback,
    Preference,
    encode_demonstrations,
    encode_feedback,
    encode_preferences,
    holds_pairs,
    load_demonstrations,
    load_feedback,
    load_preferences,
    same_prompt,
    split_by_prompt,
    split_pairs,
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
    """What to train on, what to watch while training (`valid_*`), and what to keep for the end. preferences: pairs, or
    single responses if the loss wants those."""

    responses: list[Encoded]
    valid_responses: list[Encoded]
    preferences: list[EncodedPair] | list[EncodedFeedback]
    valid_preferences: list[EncodedPair] | list[EncodedFeedback]
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


def load_corpus(data: str | None, sft_data: str | None, tokenizer: Tokenizer, context: int, paired: bool = True) -> Corpus:
    """The toy shop's corpus if no file is named, else the user's. paired: False for a loss of single responses.

    The user's files are split by prompt, a tenth held out. Without an SFT file of their own, SFT imitates the chosen
    (or liked) responses. Raises UserError, with file and line, for input that cannot be used.
    """
    corpus = toy_corpus(tokenizer, context) if data is None and sft_data is None else own_corpus(data, sft_data, tokenizer, context, paired)
    if paired or not corpus.preferences or isinstance(corpus.preferences[0], EncodedFeedback):
        return corpus
    print(f"{data or 'the toy shop'}: the loss wants single responses, so each of {len(corpus.preferences)} pairs is split into a liked and a disliked one")
    return replace(corpus, preferences=split_pairs(corpus.preferences), valid_preferences=split_pairs(corpus.valid_preferences))


def toy_corpus(tokenizer: Tokenizer, context: int, held_out: str = "test") -> Corpus:
    """The shop's six files: train, validation and test share no prompt. held_out: which of them is kept for the end."""
    sft = {s: encode_demonstrations(load_demonstrations(path), tokenizer, context, path.name) for s, path in TOY_SFT.items()}
    preferences = {split: load_preferences(path) for split, path in TOY_PREFERENCES.items()}
    pairs = {s: encode_preferences(examples, tokenizer, context, TOY_PREFERENCES[s].name) for s, examples in preferences.items()}
    kept = HeldOut([p.prompt for p in preferences[held_out]], sft[held_out], preferences[held_out], pairs[held_out], judge)
    return Corpus(sft["train"], sft["valid"], pairs["train"], pairs["valid"], kept)


def own_corpus(data: str | None, sft_data: str | None, tokenizer: Tokenizer, context: int, paired: bool) -> Corpus:
    """A preference file, an SFT file, or both. No prompt that is held out in one is trained on in either."""
    of_pairs = paired or not data or holds_pairs(data)
    load, encode_them = (load_preferences, encode_preferences) if of_pairs else (load_feedback, encode_feedback)
    files = (load(data) if data else [], load_demonstrations(sft_data) if sft_data else [])
    (preferences, kept_preferences), (demonstrations, kept_demonstrations) = split_by_prompt(*files)
    for path, train, whole in ((data, preferences, files[0]), (sft_data, demonstrations, files[1])):
        if whole and not train:
            raise UserError(f"{path}: every prompt is held out in the other file; add examples with other prompts")
    prompts = {e.prompt for examples in files for e in examples}
    if twins := len(prompts) - len({same_prompt(prompt) for prompt in prompts}):
        print(f"{twins} of {len(prompts)} prompts differ from another one by blanks, letter case or Unicode form only: held out or trained on together")
    if not sft_data:
        print(f"{data}: no --sft-data, so SFT imitates its {'chosen' if of_pairs else 'liked'} responses")
        demonstrations, kept_demonstrations = chosen_responses(preferences), chosen_responses(kept_preferences)
    source, sft_source = str(data), str(sft_data or data)
    responses = encode_demonstrations(demonstrations, tokenizer, context, sft_source)
    kept_responses = encode_demonstrations(kept_demonstrations, tokenizer, context, f"{sft_source} (held out)")
    encoded = encode_them(preferences, tokenizer, context, source)
    kept_encoded = encode_them(kept_preferences, tokenizer, context, f"{source} (held out)")
    kept = kept_preferences or kept_demonstrations
    kind = "pairs" if of_pairs else "single responses"
    print(f"held out by prompt: {len(kept_encoded)} of {len(kept_encoded) + len(encoded)} {kind}, {len(kept_responses)} of {len(kept_responses) + len(responses)} responses")  # fmt: skip
    prompts = [e.prompt for e in kept if len(tokenizer.encode_prompt(e.prompt)) < context]
    if not of_pairs and len({e.desirable for e in encoded}) == 1:
        print(f"{source}: every response to train on is {'liked' if encoded[0].desirable else 'disliked'}; the other kind is never seen")
    pairs = (kept_preferences, kept_encoded) if of_pairs else ([], [])
    return Corpus(responses, kept_responses, encoded, kept_encoded, HeldOut(prompts, kept_responses, *pairs, judge=None))


def chosen_responses(preferences: Sequence[Preference] | Sequence[Feedback]) -> list[Demonstration]:
    """The chosen, or liked, half of preferences, as responses to imitate."""
    if all(isinstance(p, Preference) for p in preferences):
        return [Demonstration(p.prompt, p.chosen, p.line) for p in preferences]
    return [Demonstration(p.prompt, p.completion, p.line) for p in preferences if p.label]
