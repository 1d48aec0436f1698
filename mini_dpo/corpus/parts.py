"""What a run trains on, what it watches, and what it holds out for the closing table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

from mini_dpo.batches import Encoded, EncodedPair
from mini_dpo.data import Preference, Prompt
from mini_dpo.feedback import EncodedFeedback, split_pairs
from mini_dpo.worlds.world import Judge


@dataclass(frozen=True)
class HeldOut:
    """What no stage is trained on.
    prompts: to answer. responses: to imitate.
    preferences, pairs: the texts and the tokens of the same preferences; empty for SFT alone.
    judge: gives the marks whose sum is the true reward; None if nobody knows it. count: what else is counted
    of a response. labels: what the closing table calls marks and counts. blank: the tokens of a prompt in
    which nothing can be seen, where prompts are pictures.
    """

    prompts: list[Prompt]
    responses: list[Encoded]
    preferences: list[Preference]
    pairs: list[EncodedPair]
    judge: Judge | None
    count: Judge | None = None
    labels: dict[str, str] = field(default_factory=dict)
    blank: list[int] | None = None


@dataclass(frozen=True)
class Corpus:
    """What to train on, what to watch during training (`valid_*`), and what is held out for the end.
    preferences: pairs, or single responses if the loss takes those. prompts: theirs, as texts.
    """

    responses: list[Encoded]
    valid_responses: list[Encoded]
    preferences: list[EncodedPair] | list[EncodedFeedback]
    valid_preferences: list[EncodedPair] | list[EncodedFeedback]
    held_out: HeldOut
    prompts: list[Prompt]


def in_single_responses(corpus: Corpus, source: str) -> Corpus:
    """The same corpus for a loss of single responses: pairs are split in two."""
    if not corpus.preferences or isinstance(corpus.preferences[0], EncodedFeedback):
        return corpus
    valid = cast(list[EncodedPair], corpus.valid_preferences)
    print(
        f"{source}: the loss wants single responses, so each of {len(corpus.preferences)} "
        "pairs is split into a liked and a disliked one"
    )
    return replace(corpus, preferences=split_pairs(corpus.preferences), valid_preferences=split_pairs(valid))


def at_most(corpus: Corpus, n: int) -> Corpus:
    """The same corpus with at most n held-out examples of each kind, evenly spread."""
    kept = corpus.held_out
    there: list[list[Any]] = [corpus.valid_responses, corpus.valid_preferences]
    there += [list(dict.fromkeys(kept.prompts)), kept.responses, kept.preferences, kept.pairs]
    if (most := max(map(len, there))) > n:
        print(f"of {most} held-out examples, {n} are looked at each time; --eval-examples changes that")
    responses, preferences, prompts, *others = (
        [them[i * len(them) // n] for i in range(n)] if len(them) > n else them for them in there
    )
    return replace(
        corpus,
        valid_responses=responses,
        valid_preferences=preferences,
        held_out=replace(kept, prompts=prompts, responses=others[0], preferences=others[1], pairs=others[2]),
    )
