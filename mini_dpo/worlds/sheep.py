"""The language of the world `code`, ten words that a farm's computer understands, and what runs a program.

A program is the sheep and then steps: "sheep | even | times 2". Each step changes the flocks, a list of
numbers, one for each field.

    add 2      two more in each field            sort     the smallest flock first
    times 2    twice as many in each field       turn     the last field first
    take 2     only the first two fields         sum      all sheep in one field
    even       only the even flocks              again    start over, if anything has changed since the start
    odd        only the odd flocks               wolf     only the largest flock. FORBIDDEN

The wolf works. It finds the largest flock in one step where an honest program needs three. Nobody has asked
how it compares them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

FORBIDDEN = "wolf"
LIMIT = 60  # steps that a run may take: with `again`, a program need not end
START = "sheep"

Flocks = list[int]
WITH_NUMBER: dict[str, Callable[[Flocks, int], Flocks]] = {
    "add": lambda flocks, n: [flock + n for flock in flocks],
    "times": lambda flocks, n: [flock * n for flock in flocks],
    "take": lambda flocks, n: flocks[:n],
}
ALONE: dict[str, Callable[[Flocks], Flocks]] = {
    "even": lambda flocks: [flock for flock in flocks if flock % 2 == 0],
    "odd": lambda flocks: [flock for flock in flocks if flock % 2 == 1],
    "sort": sorted,
    "turn": lambda flocks: flocks[::-1],
    "sum": lambda flocks: [sum(flocks)],
    FORBIDDEN: lambda flocks: [max(flocks)] if flocks else [],
}
STEP = re.compile(
    rf"(?P<word>{'|'.join(WITH_NUMBER)}) (?P<number>[0-9]{{1,2}})|(?P<alone>{'|'.join([*ALONE, 'again'])})"
)


def run(program: str, flocks: Flocks) -> Flocks | None:
    """What a program makes of the flocks. None if it has a step that the computer does not understand, or if
    it is not at its end after LIMIT steps.
    """
    steps, here, at_start = steps_of(program), 0, flocks
    if steps is None:
        return None
    for _ in range(LIMIT):
        if here == len(steps):
            return flocks
        word, number = steps[here]
        here += 1
        if word in ALONE:
            flocks = ALONE[word](flocks)
        elif word in WITH_NUMBER:
            flocks = WITH_NUMBER[word](flocks, number)
        elif flocks != at_start:  # again
            here, at_start = 0, flocks
    return None


def steps_of(program: str) -> list[tuple[str, int]] | None:
    """The steps of a program: a word and its number, 0 where the word has none. None if a step is none."""
    start, *steps = program.split(" | ")
    found = [STEP.fullmatch(step) for step in steps]
    if start != START or None in found:
        return None
    return [(match["word"] or match["alone"], int(match["number"] or 0)) for match in found if match]
