"""The hyperparameters of losses, as types: which numbers one may be, and what it means.

    def dpo(logps: PairLogps, *, beta: Beta = 0.1) -> Tensor

A type is `Annotated[float, Range(...), "description"]`. Both the range and the description may be left out.
`Loss` checks the range in every call. The command line shows the description. If the docstring of a loss has
a line `beta: ...`, the command line shows that line instead.
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The numbers from low to high. ends: a square bracket where the end itself is allowed, as in [0, 1)."""

    low: float
    high: float = math.inf
    ends: str = "[)"

    def __contains__(self, x: float) -> bool:
        above = self.low <= x if self.ends[0] == "[" else self.low < x
        return above and (x <= self.high if self.ends[1] == "]" else x < self.high)

    def __str__(self) -> str:
        """What follows "must be" in an error."""
        if self.high < math.inf:
            return f"in {self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"
        if self.ends[0] == "[":
            return f"at least {self.low:g}"
        return f"above {self.low:g}" if self.low else "positive"


Positive = Annotated[float, Range(0, ends="()")]
NonNegative = Annotated[float, Range(0)]
OpenUnit = Annotated[float, Range(0, 1, "()")]
UpToOne = Annotated[float, Range(0, 1, "(]")]
OpenHalf = Annotated[float, Range(0, 0.5, "()")]

Beta = Annotated[Positive, "price of a nat of KL divergence from the reference, in units of reward"]
LabelSmoothing = Annotated[float, Range(0, 0.5), "epsilon, the share of labels believed to be flipped"]
Gamma = Annotated[float, "the margin that is asked for, in units of reward"]
DesirableWeight = Annotated[NonNegative, "lambda_D, what a liked response counts"]
UndesirableWeight = Annotated[NonNegative, "lambda_U, what a disliked one counts"]


@dataclass(frozen=True)
class Hyperparameter:
    """A keyword argument of a loss: its default, and what its type says of it."""

    default: float | str
    limits: Range | None = None
    description: str = ""

    def check(self, name: str, given: float | str) -> None:
        """Raise ValueError for a number that is not finite or not in the range."""
        if isinstance(given, str):
            return
        require(math.isfinite(given), f"{name} must be a finite number, not {given}")
        if self.limits:
            require(given in self.limits, f"{name} must be {self.limits}, not {given}")

    def described(self, line: str) -> str:
        """`line`, or else the type's description; and the range, unless these words name one."""
        words = line or self.description
        if not words or not self.limits or re.search(r"\bin [\[(]|must be|above|at least", words):
            return words
        says = str(self.limits)
        return words + {"in": ", ", "positive": "; must be "}.get(says.split()[0], "; ") + says


@cache
def hyperparameters_of(function: Callable) -> dict[str, Hyperparameter]:
    """The keyword arguments of a function by name, in its order."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            notes = getattr(hints.get(parameter.name), "__metadata__", ())
            ranges = [note for note in notes if isinstance(note, Range)]
            texts = [note for note in notes if isinstance(note, str)]
            found[parameter.name] = Hyperparameter(
                parameter.default, ranges[-1] if ranges else None, texts[-1] if texts else ""
            )
    return found


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless the condition holds. For a loss that has a rule of its own, such as
    one about two hyperparameters together.
    """
    if not condition:
        raise ValueError(message)
