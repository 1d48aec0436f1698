"""The gallery's pictures: a painter who puts things into corners, and the eye that finds them there again.

A picture has 24 x 24 pixels and four corners. In a corner is nothing, or one thing: small, a pixel for each
"#" of its shape, or big, four pixels; red, green or blue; at any place of its corner that begins with a
patch. No two things in a picture have the same shape.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from mini_dpo.pictures import BLANK, PATCH, PICTURE, SIDE
from mini_dpo.worlds.world import Value, choose

SPRITES = """
moon  star  boat  fish  house tree  hat   rabbit
.###  #..#  ..#.  .#.#  .##.  .##.  .##.  #.#.
##..  .##.  ..##  ###.  ####  ####  .##.  #.#.
##..  .##.  ####  ###.  #..#  ####  .##.  ###.
.###  #..#  .##.  .#.#  #..#  .##.  ####  ####
"""
SHAPES, *ART = [line.split() for line in SPRITES.strip().splitlines()]
COUPLES = [(SHAPES[i], SHAPES[i ^ 1]) for i in range(len(SHAPES))]  # moon and star, boat and fish, ...
COMPANION = dict(COUPLES)  # what often stands beside a thing, in the pictures and more often in the captions
SIZES = {"small": 1, "big": 2}  # pixels for a "#"
COLOURS = ["red", "green", "blue"]
PLACES = ["top left", "top right", "bottom left", "bottom right"]
CORNER = SIDE // 2  # pixels of a corner's side
TOGETHER = 0.5  # the chance that the painter adds a thing's companion and not just anything


@dataclass(frozen=True)
class Thing:
    """What is in a corner, or what a caption says of it; "" for a detail that it does not tell."""

    place: str
    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.place} a {self.size} {self.colour} {self.shape}"


def crop(rows: Sequence[str]) -> list[str]:
    """Lines of pixels without what is blank around the thing on them."""
    rows = [row for row in rows if row.strip(".")]
    left = min(len(row) - len(row.lstrip(".")) for row in rows)
    right = max(len(row.rstrip(".")) for row in rows)
    return [row[left:right] for row in rows]


def sprite(shape: str, size: str) -> list[str]:
    """The lines of pixels of a thing, "#" and "."."""
    n = SIZES[size]
    rows = ["".join(pixel * n for pixel in line[SHAPES.index(shape)]) for line in ART]
    return crop([row for row in rows for _ in range(n)])


KNOWN = {"\n".join(sprite(shape, size)): (size, shape) for shape in SHAPES for size in SIZES}


def corner(place: str) -> tuple[slice, slice]:
    """The lines and the columns of a corner."""
    down, right = divmod(PLACES.index(place), 2)
    return slice(CORNER * down, CORNER * (down + 1)), slice(CORNER * right, CORNER * (right + 1))


def paint(rng: random.Random, picture: str, thing: Thing) -> str:
    """The picture with this thing in its corner, somewhere on the patches, in place of what is there."""
    n = PATCH * SIZES[thing.size]
    top, left = (PATCH * choose(rng, range((CORNER - n) // PATCH + 1)) for _ in range(2))
    shape = [row.ljust(n, ".") for row in sprite(thing.shape, thing.size)]
    rows = ["." * CORNER] * top + ["." * left + row + "." * (CORNER - n - left) for row in shape]
    rows += ["." * CORNER] * (CORNER - len(rows))
    canvas, (lines, columns) = [list(line) for line in picture.split("\n")], corner(thing.place)
    for line, row in zip(canvas[lines], rows, strict=True):
        line[columns] = row.replace("#", thing.colour[0])
    return "\n".join(map("".join, canvas))


@lru_cache(maxsize=1000)
def look(picture: str) -> tuple[Thing, ...]:
    """The things in a picture, corner by corner. Raises ValueError for what the painter has not painted."""
    things = []
    for place in PLACES if PICTURE.fullmatch(picture) else []:
        lines, columns = corner(place)
        rows = [line[columns] for line in picture.split("\n")[lines]]
        if colours := set("".join(rows)) - {"."}:
            found = KNOWN.get(re.sub("[rgb]", "#", "\n".join(crop(rows))))
            if len(colours) > 1 or found is None:
                raise ValueError(f"{place} in the picture is something that nobody knows")
            size, shape = found
            things.append(Thing(place, size, next(c for c in COLOURS if c[0] in colours), shape))
    if not things:
        raise ValueError(
            f"the judge only knows pictures of this gallery, with things in them: {picture!r:.60}"
        )
    return tuple(things)


def write_prompt(rng: random.Random) -> str:
    """A random picture."""
    shapes: list[str] = []
    for _ in range(choose(rng, [1, 2, 3, 4], [0.2, 0.35, 0.3, 0.15])):
        single = [COMPANION[shape] for shape in shapes if COMPANION[shape] not in shapes]
        others = [shape for shape in SHAPES if shape not in shapes]
        shapes.append(choose(rng, single if single and rng.random() < TOGETHER else others))
    picture = BLANK
    for place, shape in zip(shuffled(rng, PLACES), shapes, strict=False):
        picture = paint(rng, picture, anything(rng, place, shape))
    return picture


def shuffled(rng: random.Random, values: Sequence[Value]) -> list[Value]:
    """The values in a random order."""
    left = list(values)
    return [left.pop(choose(rng, range(len(left)))) for _ in values]


def anything(rng: random.Random, place: str, shape: str) -> Thing:
    """A thing of this shape at this place, in any size and colour."""
    return Thing(place, choose(rng, list(SIZES)), choose(rng, COLOURS), shape)
