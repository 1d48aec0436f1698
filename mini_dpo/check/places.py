"""Where a formula is looked at, in exact numbers: an example of a batch, and what its symbols mean there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal

LARGEST = 560  # e to more than this is where floats come to their end, and losses cut their exponents


class Unreadable(ValueError):
    """A formula that cannot be read; the message says at what."""


class Incomplete(Unreadable):
    """A formula that says nothing of a case that there is."""


class OutOfReach(ArithmeticError):
    """An exponent that floats do not reach."""


@dataclass(frozen=True)
class Response:
    """One response in exact numbers: s, s_ref and |y|."""

    s: Decimal
    ref: Decimal | None
    length: Decimal

    @property
    def r(self) -> Decimal:
        if self.ref is None:
            raise Unreadable("it speaks of a reference, and the loss has none")
        return self.s - self.ref


@dataclass(frozen=True)
class Place:
    """Example number i of a batch. examples: of each, its responses by side ("w", "l" and perhaps "o", or ""
    for a single one), and whether it is liked. side: the response that `y` means. constant: where means are
    taken instead, if they have no gradient.
    """

    examples: list[dict[str, Response]]
    liked: list[bool]
    mismatched: list[Decimal]
    symbols: dict[str, Decimal]
    words: frozenset[str]
    formula: dict
    i: int = 0
    side: str = ""
    local: dict[str, Decimal] = field(default_factory=dict)
    constant: Place | None = None

    def response(self, name: str) -> Response:
        """The response that y, y_w or y_l means."""
        sides = self.examples[self.i]
        side = name[2:] if name != "y" else self.side
        if side not in sides:
            raise Unreadable(f"{name} is not a response of an example")
        return sides[side]

    def number(self, name: str) -> Decimal:
        """What a name stands for."""
        if name in self.local:
            return self.local[name]
        if name in self.formula and not self.formula[name].parameter:
            return self.formula[name].body(
                replace(self, local={key: x for key, x in self.local.items() if key == "r'"})
            )
        if name in self.symbols:
            return self.symbols[name]
        if name == "h":
            return self.response("y_w").r - self.response("y_l").r
        if name in ("r", "r_w", "r_l", "r_o"):
            return self.response("y" + name[1:]).r
        if name == "e":
            return Decimal(1).exp()
        if name[-2:] in ("_w", "_l") and name[:-2] in self.formula:
            return replace(self, side=name[-1]).number(name[:-2])
        raise Unreadable(f"{name} is not defined")


Body = Callable[[Place], Decimal]  # bool for a comparison


@dataclass(frozen=True)
class Equation:
    """name = body, or name(parameter) = body."""

    name: str
    parameter: str
    body: Body


def bounded_exp(x: Decimal) -> Decimal:
    if x > LARGEST:
        raise OutOfReach
    return x.exp()


def power(base: Decimal, exponent: Decimal) -> Decimal:
    if base > 0 and exponent * base.ln() > LARGEST:
        raise OutOfReach
    return base**exponent


def quotient(a: Decimal, b: Decimal) -> Decimal:
    found = a / b
    if found and found.adjusted() > LARGEST / math.log(10):
        raise OutOfReach
    return found


FUNCTIONS: dict[str, Callable[..., Decimal]] = {
    "log": lambda x: x.ln(),
    "exp": bounded_exp,
    "sigma": lambda x: 1 / (1 + (-x).exp()),
    "max": max,
    "min": min,
    "clip": lambda x, low, high: min(high, max(low, x)),
    "abs": abs,
    "sqrt": lambda x: x.sqrt(),
}
