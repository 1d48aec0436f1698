"""A loss's formula computed with as many digits as it takes: its values and slopes, and where a condition
holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, DecimalException, localcontext
from functools import partial
from typing import Any

from mini_dpo.check.formula import GREEK, Reader
from mini_dpo.check.places import FUNCTIONS, Equation, OutOfReach, Place, Response, Unreadable
from mini_dpo.losses import Loss, PairLogps, UnpairedLogps


def read(loss: Loss) -> dict[str, Equation]:
    """The equations of a loss's docstring by name, "L" first. Raises Unreadable."""
    if not loss.formula:
        raise Unreadable("there is none")
    lines = re.split(r",?\s*\n\s*(?=[^\n=]*?=)|,\s{2,}", loss.formula)
    sides: list[Any] = [
        re.fullmatch(r"\s*([\w']+)(?:\((\w+)\))?\s*=\s*(.+)", line, re.DOTALL) for line in lines
    ]
    if unread := [line for line, side in zip(lines, sides, strict=True) if not side]:
        raise Unreadable(f"{unread[0].strip()!r} is not an equation")
    functions = {*FUNCTIONS, "mean", "sorted", *(side[1] for side in sides if side[2])}
    words = {word for choices in loss.choices.values() for word in choices}
    equations = {
        side[1]: Equation(side[1], side[2] or "", Reader(side[3], functions, words).all()) for side in sides
    }
    if next(iter(equations)) != "L" or len(equations) < len(sides):
        raise Unreadable("the first equation must be that of L, and each name be defined once")
    return equations


def place(loss: Loss, logps: PairLogps | UnpairedLogps, hyper: dict, formula: dict[str, Equation]) -> Place:
    """A batch in exact numbers, and everything else that a formula may name."""

    def responses(which) -> list[Response]:
        refs = [None] * len(which) if which.ref is None else [Decimal(x) for x in which.ref.tolist()]
        return [
            Response(Decimal(s), ref, Decimal(n))
            for s, ref, n in zip(which.policy.tolist(), refs, which.lengths.tolist(), strict=True)
        ]

    symbols = {}
    for name, x in hyper.items():
        if not isinstance(x, str):
            symbols[name] = Decimal(x)
            if match := re.match(r"([^\W\d]\w*),", loss.describe(name)):
                symbol = match[1].translate(GREEK)
                if symbol in symbols and symbol != name:
                    raise Unreadable(f"{symbol} is the symbol of two hyperparameters")
                if symbol not in ("h", "r", "r_w", "r_l", "r_o", "e", "s"):
                    symbols[symbol] = Decimal(x)
    words = frozenset(x for x in hyper.values() if isinstance(x, str))
    if isinstance(logps, PairLogps):
        examples, liked, mismatched = (
            [
                dict(zip("wlo", of_one, strict=False))
                for of_one in zip(*(responses(side) for side in vars(logps).values()), strict=True)
            ],
            [],
            [],
        )
    else:
        examples, liked = [{"": y} for y in responses(logps.responses)], logps.desirable.tolist()
        mismatched = [] if logps.mismatched is None else [Decimal(x) for x in logps.mismatched.tolist()]
    return Place(examples, liked, mismatched, symbols, words, formula)


def exactly(evaluate: Callable[[], Decimal], within: str = "1e-20", least: int = 60) -> Decimal | None:
    """The value once twice the digits give the same; None where it has none, or takes more than a thousand
    digits.
    least: the fewest digits that can tell anything.
    """
    before = None
    for digits in (n for n in (60, 120, 240, 480, 960) if n >= least):
        with localcontext(Context(prec=digits, Emax=MAX_EMAX, Emin=MIN_EMIN)):
            try:
                value = evaluate()
            except OutOfReach:
                return None
            except DecimalException:
                before = None
                continue
            if (
                before is not None
                and before.is_finite()
                and value.is_finite()
                and abs(value - before) <= Decimal(within) * (1 + abs(value))
            ):
                return value
            before = value
    return None


# in nats, and how many digits a step takes to be seen; the second where the slope is so steep that the first
# leaves it
STEPS = (Decimal("1e-25"), 60), (Decimal("1e-280"), 480)
STEEP = Decimal("1e15")


def values_and_slopes(
    loss: Loss, logps: PairLogps | UnpairedLogps, hyper: dict, formula: dict[str, Equation], of: int = 0
) -> tuple[list, list]:
    """What the formula gives: the value of each example, and for each response of example number `of` (chosen
    before rejected) the slopes of the batch's total by s, from below and from above. None where floats do not
    reach.
    """
    here = place(loss, logps, hyper, formula)
    constant = here if loss.facts.estimate else None
    whole_batch = re.search(r"\b(mean|sorted)\b", loss.formula)

    def value(at: Place, i: int) -> Decimal:
        try:
            found = formula["L"].body(replace(at, i=i))
        except (TypeError, RecursionError) as error:
            raise Unreadable(
                "a function has too few or too many arguments, or something is defined by "
                f"itself ({type(error).__name__})"
            ) from error
        if isinstance(found, bool):
            raise Unreadable("L is a comparison")
        return found

    def total(at: Place) -> Decimal:
        """Of those examples that a move of this one can change."""
        changing = range(len(at.examples)) if whole_batch else [of]
        return sum((value(replace(at, constant=constant), i) for i in changing), Decimal())

    def moved(side: str, step: Decimal) -> Place:
        examples = list(here.examples)
        examples[of] = {**examples[of], side: replace(examples[of][side], s=examples[of][side].s + step)}
        return replace(here, examples=examples)

    def slope(side: str, sign: int) -> Decimal | None:
        for step, digits in STEPS:
            found = exactly(
                lambda: (total(moved(side, sign * step)) - total(here)) / (sign * step), "1e-12", digits
            )
            if found is None or abs(found) < STEEP:
                break
        return found

    values = [exactly(partial(value, here, i)) for i in range(len(here.examples))]
    return values, [[slope(side, sign) for sign in (-1, 1)] for side in here.examples[of]]


def holds_where(loss: Loss, logps: PairLogps | UnpairedLogps, hyper: dict, condition: str) -> list[bool]:
    """Whether a condition in the formula's symbols holds, for each example. Raises Unreadable."""
    try:
        formula = read(loss)
    except Unreadable:
        formula = {}  # the condition may need none of its definitions
    body = Reader(
        condition,
        {*FUNCTIONS, "mean", "sorted", *(name for name, equation in formula.items() if equation.parameter)},
        set(),
    ).all()
    here = place(loss, logps, hyper, formula)
    with localcontext(Context(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN)):
        return [bool(body(replace(here, i=i))) for i in range(len(here.examples))]
