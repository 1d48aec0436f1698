"""Answers of whole sentences, for the worlds whose judge knows each sentence that can be said: loose words,
repetition and a list of all facts are worth nothing there.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mini_dpo.worlds.world import choose, pattern_of


class Sentence(NamedTuple):
    """A sentence of an answer as a judge reads it: the part of an answer that it is, which of that part's
    forms, and what it tells, by field.
    """

    part: str
    form: int
    told: dict[str, str]


Patterns = list[tuple[str, int, re.Pattern[str]]]


def patterns_of(parts: Mapping[str, Sequence[str]], fields: Mapping[str, Sequence[str]]) -> Patterns:
    """The forms of each part, as what `read` takes. fields: the values of each field in braces."""
    return [
        (part, i, pattern_of(form, fields)) for part, forms in parts.items() for i, form in enumerate(forms)
    ]


def read(text: str, patterns: Patterns) -> tuple[list[Sentence], int]:
    """The sentences of a text that are known, and how many there are too many: those that are unknown, and
    all but one of each part.
    """
    sentences = re.findall(r"\S.*?(?:[.!?](?=\s)|$)", text, re.DOTALL)
    said = [
        Sentence(part, i, match.groupdict())
        for sentence in sentences
        for part, i, pattern in patterns
        if (match := pattern.fullmatch(sentence))
    ]
    return said, len(sentences) - len({sentence.part for sentence in said})


def named(said: Iterable[Sentence], field: str, truth: str, vague: str) -> int:
    """1: the sentences name the true value of a field and no other; 0: they name none; -1: another one.
    vague: what names none.
    """
    values = {sentence.told[field] for sentence in said if field in sentence.told} - {vague}
    return 0 if not values else 1 if values == {truth} else -1


def tell(rng: random.Random, truth: str, values: Sequence[str], vague: str, right: float) -> str:
    """A field's value as somebody tells it: true with the chance `right`, else vague or any value, either as
    likely.
    """
    u = rng.random()
    return truth if u < right else vague if u < (1 + right) / 2 else choose(rng, values)
