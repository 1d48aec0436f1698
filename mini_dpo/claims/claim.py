"""A claim: a sentence, a number that decides it, and where the number must be for the claim to hold.

The verdict is a function of the numbers over seeds. It has four values.

    holds        the number is exact (no sampling and no training decides it), and as wanted in every world
    false        the number is exact, and in at least one world it is not as wanted: a counterexample
    holds here   the number is measured, and its whole interval over seeds is as wanted
    not here     the number is measured, and its interval is not, or not wholly, as wanted
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

HOLDS, FALSE, HOLDS_HERE, NOT_HERE = "holds", "false", "holds here", "not here"

# Student's t with 1, 2, ... degrees of freedom: 95% of it is between -T and T
T = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145]
T += [2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045]


class Interval(NamedTuple):
    """The mean of a number over seeds, and 95% of what the mean may be."""

    mean: float
    low: float
    high: float


def interval(numbers: Sequence[float]) -> Interval:
    """The t-interval of the mean, from one number per seed. With one seed it is everything; a number that is
    not finite makes all three not finite.
    """
    mean, n = fmean(numbers), len(numbers)
    if n == 1 or not math.isfinite(mean):
        return Interval(mean, -math.inf, math.inf)
    t = T[n - 2] if n - 2 < len(T) else 1.96 + 2.4 / (n - 1)
    half = t * stdev(numbers) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Wanted:
    """Where the deciding number is if the claim holds: above `low` and below `high`."""

    low: float = -math.inf
    high: float = math.inf

    def __contains__(self, number: float) -> bool:
        return self.low < number < self.high  # false for nan

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}"
        return f"below {self.high:g}" if self.low == -math.inf else f"between {self.low:g} and {self.high:g}"


def above(low: float) -> Wanted:
    return Wanted(low=low)


def below(high: float) -> Wanted:
    return Wanted(high=high)


@dataclass(frozen=True)
class Claim:
    """What is said, and how it is found out.

    name: on the command line. text: the claim, as people say it. measure: one seed in, named numbers out.
    number: the name of the one that decides. wanted: where it must be. exact: the number is a computation,
    and one counterexample is enough. where: what it was measured on. chapter: which explains it. seeds: how
    many worlds.
    """

    name: str
    text: str
    measure: Callable[[int], dict[str, float]]
    number: str
    wanted: Wanted
    where: str
    chapter: int
    exact: bool = False
    seeds: int = 10

    def verdict(self, numbers: Sequence[float]) -> str:
        """One of the four, from the deciding number of each seed."""
        if self.exact:
            return HOLDS if all(number in self.wanted for number in numbers) else FALSE
        _, low, high = interval(numbers)
        return HOLDS_HERE if low in self.wanted and high in self.wanted else NOT_HERE

    def spread(self, numbers: Sequence[float]) -> Interval:
        """What is shown beside the mean: of an exact number the least and the greatest, else the interval."""
        if self.exact:
            return Interval(fmean(numbers), min(numbers), max(numbers))
        return interval(numbers)
