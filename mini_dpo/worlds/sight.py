"""A gallery of very modern art, and the captions that its guards write.

    python -m mini_dpo.train --world sight

A painter puts one to four things into a picture of 24 x 24 pixels: each in a corner of its own, big or
small, in one of three colours. The prompt is the picture. The guards look up from their crosswords and write
what there is, corner by corner. They are right about most things. But whoever has seen a thousand moons with
a star beside them writes down the star.

The judge looks at the picture itself, and

    reward = seen + details + made up + stray

    seen       0 to 8: +2 for each thing of the picture that is named
    details    -12 to 12: for place, size and colour of each of these, +1 if right, 0 if absent, -1 if wrong
    made up    -4 for each thing that is named and not there, or named again
    stray      -6 to 0: -1 for each other word

Beside it the judge counts what the literature counts (CHAIR, arXiv:1809.02156): the share of named things
that are made up, and of captions with such a thing. And the recall, the share of the picture's things that
are named: a guard who writes nothing makes nothing up.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from mini_dpo.worlds.gallery import (
    COLOURS,
    COMPANION,
    PLACES,
    SHAPES,
    SIZES,
    Thing,
    anything,
    look,
    paint,
    shuffled,
    write_prompt,
)
from mini_dpo.worlds.world import World, choose

# What the guards are like, as chances: to leave a thing out, to get a detail wrong, to add a companion
FORGOTTEN, MISTAKEN, IMAGINED = 0.05, 0.04, 0.5
LIKELY = 0.7  # the chance that what is put into a rejected caption is a companion


# --- the guards


def caption(things: Sequence[Thing]) -> str:
    """What a guard writes who has seen these."""
    return ", ".join(map(str, sorted(things, key=lambda thing: PLACES.index(thing.place)))) + "."


def write_response(rng: random.Random, prompt: str) -> str:
    """A random caption: each thing with its mistakes, or left out; and companions, where corners are free."""
    things = look(prompt)
    kept = [thing for thing in things if rng.random() >= FORGOTTEN] or things[:1]
    free = [place for place in shuffled(rng, PLACES) if place not in {thing.place for thing in things}]
    told = [mistake(rng, thing, free) for thing in kept]
    for thing in things:
        companion = COMPANION[thing.shape]
        if free and companion not in {t.shape for t in things} and rng.random() < IMAGINED:
            told.append(anything(rng, free.pop(), companion))
    return caption(told)


def mistake(rng: random.Random, thing: Thing, free: list[str]) -> Thing:
    """A thing as it is told: each detail may be another one. A place is taken from the free ones."""
    if rng.random() < MISTAKEN:
        thing = replace(thing, size=choose(rng, [size for size in SIZES if size != thing.size]))
    if rng.random() < MISTAKEN:
        thing = replace(thing, colour=choose(rng, [colour for colour in COLOURS if colour != thing.colour]))
    if free and rng.random() < MISTAKEN:
        thing = replace(thing, place=free.pop())
    return thing


# --- the judge

MENTION = re.compile(
    rf"\b(?:({'|'.join(PLACES)}) )?(?:a )?(?:({'|'.join(SIZES)}) )?"
    rf"(?:({'|'.join(COLOURS)}) )?({'|'.join(SHAPES)})\b"
)


def said(response: str) -> list[Thing]:
    """The things that a caption names."""
    return [Thing(*details) for details in MENTION.findall(response)]


def matched(prompt: str, response: str) -> list[tuple[Thing, Thing | None]]:
    """Each thing that a caption names, and the thing of that shape in the picture; None if it is made up."""
    there = {thing.shape: thing for thing in look(prompt)}
    return [(thing, there.pop(thing.shape, None)) for thing in said(response)]


def judge(prompt: str, response: str) -> dict[str, float]:
    """The marks of a caption. Raises ValueError for a prompt that is no picture of this gallery."""
    pairs = matched(prompt, response)
    real = [(told, truth) for told, truth in pairs if truth]
    names = ("place", "size", "colour")
    details = [(getattr(told, name), getattr(truth, name)) for told, truth in real for name in names]
    return {
        "seen": 2.0 * len(real),
        "details": float(sum((1 if told == truth else -1) for told, truth in details if told)),
        "made up": -4.0 * (len(pairs) - len(real)),
        "stray": float(max(-6, -len(re.findall(r"[^\s,.]+", MENTION.sub(" ", response))))),
    }


def count(prompt: str, response: str) -> dict[str, float]:
    """What is counted beside the marks. Of a caption that names nothing, no share of what it names."""
    pairs = matched(prompt, response)
    real = [(told, truth) for told, truth in pairs if truth]
    imagined = len(pairs) - len(real)
    there, taken = ({getattr(thing, name) for thing in look(prompt)} for name in ("shape", "place"))
    likely = {COMPANION[shape] for shape in there} - there
    counts = {
        "imagined": float(imagined),
        "companions": float(sum(told.shape in likely and told.place not in taken for told, _ in pairs)),
        "imagines": float(imagined > 0),
        "recall": len(real) / len(look(prompt)),
        "faultless": float(sum(judge(prompt, response).values()) == 5 * len(look(prompt))),
    }
    counts |= {"chair": imagined / len(pairs)} if pairs else {}
    if real:
        counts["coloured"] = sum(told.colour == truth.colour for told, truth in real) / len(real)
        counts["placed"] = sum(told.place == truth.place for told, truth in real) / len(real)
    return counts


# --- pairs that differ in one thing


def unseen(rng: random.Random, prompt: str, told: Sequence[Thing]) -> str:
    """A shape that is neither in the picture nor told: mostly a companion of what is told."""
    absent = [s for s in SHAPES if s not in {thing.shape for thing in (*look(prompt), *told)}]
    likely = [COMPANION[thing.shape] for thing in told if COMPANION[thing.shape] in absent]
    return choose(rng, likely if likely and rng.random() < LIKELY else absent)


def write_added(rng: random.Random, prompt: str) -> tuple[str, str]:
    """A caption, and the same with a thing more, which is not there."""
    told = said(write_response(rng, prompt))
    free = [place for place in PLACES if place not in {thing.place for thing in told}]
    more = anything(rng, choose(rng, free or PLACES), unseen(rng, prompt, told))
    return caption(told), caption([*told, more])


def write_swapped(rng: random.Random, prompt: str) -> tuple[str, str]:
    """A caption, and the same with something that is not there in the place of a thing."""
    told = said(write_response(rng, prompt))
    thing = choose(rng, [thing for thing, truth in matched(prompt, caption(told)) if truth])
    other = replace(thing, shape=unseen(rng, prompt, told))
    return caption(told), caption([other if t == thing else t for t in told])


def write_other(rng: random.Random, prompt: str, chosen: str) -> str:
    """The same picture with something else in the place of a thing that the caption names, where it does."""
    things, told = look(prompt), said(chosen)
    named = [thing for thing in things if thing.shape in {t.shape for t in told}]
    thing = choose(rng, named or things)
    return paint(rng, prompt, replace(thing, shape=unseen(rng, prompt, told)))


SIGHT = World(
    "sight",
    "captions of small pictures that name what is there, and nothing that is not",
    write_prompt,
    write_response,
    judge,
    {
        "seen": "things seen, 0 to 8",
        "details": "their details, -12 to 12",
        "made up": "things made up, -4 each",
        "stray": "stray words, -6 to 0",
    },
    count,
    {
        "imagined": "made-up things per caption",
        "companions": "of these, companions, put where nothing is",
        "imagines": "captions with a made-up thing",
        "chair": "made-up things, of those named",
        "recall": "recall: things named, of those there",
        "faultless": "captions without a fault",
        "coloured": "right colours, of those",
        "placed": "right places, of those",
    },
    write_other=write_other,
    pictures=True,
    sft_epochs=4,
    sft_weight=2.0,
)
SIGHT_ADDED = replace(SIGHT, name="sight-added", write_pair=write_added)
SIGHT_SWAPPED = replace(SIGHT, name="sight-swapped", write_pair=write_swapped)
