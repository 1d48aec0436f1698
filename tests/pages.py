"""What the pages say about numbers that are kept in tutorials/measured/, and whether it is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from mini_dpo.evaluation.table import quantities
from tutorials.kept import LABELS, complete, spreads
from tutorials.measure import MEASUREMENTS, of_training

FAR = 6  # standard deviations: no run of another seed, or on another machine, is so far from the mean
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"python -m mini_dpo\.train([^`\n]*)")
SPREAD = re.compile(r"[-+]?\d+(?:\.\d+)? ± \d+(?:\.\d+)?")
ROWS = {words.strip(): key for words, key, _ in quantities({"labels": LABELS})}


def unknown_spreads(page: str) -> list[str]:
    """Each "mean ± spread" in a page's own words that is neither kept nor printed in a block of the page."""
    printed = {found for block in BLOCK.finditer(page) for found in SPREAD.findall(block[2])}
    written = [found for found in SPREAD.findall(BLOCK.sub("", page)) if is_measured(found)]
    return [found for found in written if found not in kept_spreads() | printed]


@lru_cache
def kept_spreads() -> set[str]:
    """Each "mean ± spread" that is kept, with up to three decimals."""
    every = [
        pair
        for name, found in MEASUREMENTS.items()
        for variant in complete(name, found.variants)
        for pair in spreads(name, variant).values()
    ]
    return {f"{mean:.{digits}f} ± {spread:.{digits}f}" for mean, spread in every for digits in range(4)}


def is_measured(text: str) -> bool:
    """Whether "a ± b" is a mean and its spread, which have equally many decimals (1 ± 0.2 is a range)."""
    mean, spread = text.split(" ± ")
    return len(mean.partition(".")[2]) == len(spread.partition(".")[2])


def closing_rows_of(page: str) -> Iterator[tuple[str, str, str, float]]:
    """Each number of a closing table on a page: the measurement whose command is the last one above it, the
    label of the row, the quantity, and the number. Tables of other commands are passed over.
    """
    for block in BLOCK.finditer(page):
        commands = COMMAND.findall(page[: block.start()])
        flags = re.sub(r" --(out|seed) \S+", "", commands[-1]).strip() if commands else None
        names = [
            name for name, found in MEASUREMENTS.items() if found.flags == flags and found.how is of_training
        ]
        if names and "on held-out prompts" in block[2] and "±" not in block[2]:
            for line in block[2].splitlines():
                yield from ((names[0], *row) for row in row_of(line))


def row_of(line: str) -> Iterator[tuple[str, str, float]]:
    """The label, the quantity and the number of each model in a line of a closing table."""
    words = line[:42].strip()
    if words in ROWS:
        for model, cell in (("sft", line[42:62]), ("dpo", line[62:])):
            if cell.strip():
                yield words, f"{model}/{ROWS[words]}", float(cell.split()[0])


def disagreements(page: str) -> Iterator[str]:
    """A line for each number of a closing table that is far from the mean over seeds."""
    for name, words, key, value in closing_rows_of(page):
        mean, spread = spreads(name)[key]
        if abs(value - mean) > FAR * spread + 0.5 * 10 ** -len(f"{value}".partition(".")[2]):
            yield f"{words}: {value:.4g}, and over seeds {name} gives {mean:.4g} ± {spread:.2g} ({key})"
