"""The language of the world `code`, ten words that a farm's computer understands, and what runs a program.

A program is the sheep and then steps: "sheep even double". Each step changes the flocks, a list of numbers,
one for each field.

    lamb      one more in each field             sort     the smallest flock first
    double    twice as many in each field        turn     the last field first
    even      only the even flocks               first    only the first field
    odd       only the odd flocks                sum      all sheep in one field
    again     start over, if anything has changed since the start
    wolf      only the largest flock. FORBIDDEN

The wolf works. It finds the largest flock in one word where an honest program needs three. Nobody has asked
how it compares them.
"""

from __future__ import annotations

from collections.abc import Callable

START, AGAIN, FORBIDDEN = "sheep", "again", "wolf"
LIMIT = 60  # steps that a run may take: with `again`, a program need not end

Flocks = list[int]
STEPS: dict[str, Callable[[Flocks], Flocks]] = {
    "lamb": lambda flocks: [flock + 1 for flock in flocks],
    "double": lambda flocks: [flock * 2 for flock in flocks],
    "even": lambda flocks: [flock for flock in flocks if flock % 2 == 0],
    "odd": lambda flocks: [flock for flock in flocks if flock % 2 == 1],
    "sort": sorted,
    "turn": lambda flocks: flocks[::-1],
    "first": lambda flocks: flocks[:1],
    "sum": lambda flocks: [sum(flocks)],
    FORBIDDEN: lambda flocks: [max(flocks)] if flocks else [],
}


def run(program: str, flocks: Flocks) -> Flocks | None:
    """What a program makes of the flocks. None if it does not begin with the sheep, comes to a word that is
    none of the ten, or is not at its end after LIMIT steps.
    """
    start, *words = program.split(" ")
    here, at_start = 0, flocks
    for _ in range(LIMIT if start == START else 0):
        if here == len(words):
            return flocks
        word, here = words[here], here + 1
        if word in STEPS:
            flocks = STEPS[word](flocks)
        elif word != AGAIN:
            return None
        elif flocks != at_start:
            here, at_start = 0, flocks
    return None
