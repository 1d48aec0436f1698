"""Checks of chapter 21."""

from __future__ import annotations

from tutorials.exercises.checking import Properties, called, close, expect, registrar, shown

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)

NUMBERS, T = [0.9, 1.5, 0.2, 1.1, 0.3], 2.776


@prop(
    "interval",
    says="the mean is in its middle, also where all numbers are moved",
    usually="the ends are not as far from the mean on both sides, or they are those of the numbers",
)
def middle(answer):
    for moved in (0.0, -3.0):
        numbers = [x + moved for x in NUMBERS]
        low, high = answer(numbers, T)
        expect(
            close((low + high) / 2, 0.8 + moved), f"the middle of {called(answer, numbers, T)} is elsewhere"
        )


@prop(
    "interval",
    says="it is as wide as t standard errors on each side; of 1 and 3 the standard error is 1",
    usually="the squares are divided by n and not by n - 1, or the root of n is forgotten",
)
def wide(answer):
    low, high = answer([1.0, 3.0], 2.0)
    expect(close((low, high), (0.0, 4.0)), f"{called(answer, [1.0, 3.0], 2.0)} is {shown((low, high))}")


@prop(
    "interval",
    says="the same numbers four times over give an interval of about half the width",
    usually="it is the spread of the numbers, which does not shrink, and not that of their mean",
)
def shrinks(answer):
    one, four = (high - low for low, high in (answer(NUMBERS, 2.0), answer(NUMBERS * 4, 2.0)))
    expect(0.4 < four / one < 0.5, f"the width goes from {shown(one)} to {shown(four)}")


@prop(
    "verdict",
    says="of an exact claim one counterexample is enough, however small",
    usually="the mean decides, or the interval",
)
def counterexample(answer):
    for numbers, wanted in (([5.0, 6.0, -1e-9], "false"), ([5.0, 0.1, 90.0], "holds"), ([0.0, 1.0], "false")):
        found = answer(numbers, 0.0, True, T)
        expect(found == wanted, f"{called(answer, numbers, 0.0, True, T)} is {found!r}")


@prop(
    "verdict",
    says="a measured claim holds here where its whole interval is above the least",
    usually="the mean decides, or one end of the interval that is not the lower one",
)
def whole(answer):
    for least, wanted in ((0.1, "holds here"), (0.3, "not here"), (2.0, "not here")):
        found = answer(NUMBERS, least, False, T)
        expect(found == wanted, f"{called(answer, NUMBERS, least, False, T)} is {found!r}")


@prop(
    "verdict",
    says="a measured claim never holds everywhere, and is never false",
    usually="the words of the exact claims are used",
)
def careful(answer):
    for numbers in ([1.0, 1.0], [-1.0, -1.0, -1.0]):
        found = answer(numbers, 0.0, False, T)
        expect(found in ("holds here", "not here"), f"{called(answer, numbers, 0.0, False, T)} is {found!r}")


POINTS = [(3.0, 9.0), (0.0, 2.0), (1.0, 8.0)]


@prop(
    "reward_at",
    says="it is on the straight line between two neighbours, and at a policy it is the policy's",
    usually="the points are not sorted, or the nearest policy is taken",
)
def on_the_line(answer):
    for far, wanted in ((0.5, 5.0), (1.0, 8.0), (2.0, 8.5), (0.0, 2.0)):
        found = answer(far, POINTS)
        expect(close(found, wanted), f"{called(answer, far, POINTS)} is {shown(found)}")


@prop(
    "reward_at",
    says="beyond the farthest policy there is no more than the best one has",
    usually="the last line is made longer, or nothing is found there",
)
def beyond(answer):
    found = answer(7.0, POINTS)
    expect(close(found, 9.0), f"{called(answer, 7.0, POINTS)} is {shown(found)}")


@prop(
    "reward_at",
    says="who has gone too far can stop earlier: more nats never give less",
    usually="the line is followed where it falls",
)
def never_less(answer):
    points = [(0.0, 2.0), (2.0, 9.0), (5.0, 6.0)]
    for far in (3.0, 5.0, 6.0):
        found = answer(far, points)
        expect(close(found, 9.0), f"{called(answer, far, points)} is {shown(found)}")
