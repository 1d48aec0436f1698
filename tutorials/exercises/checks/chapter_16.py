"""Checks of chapter 16."""

from __future__ import annotations

import math

from tutorials.exercises.checking import Properties, called, close, expect, registrar, shown

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)

OURS, THEIRS = [1.0, 4.0, 2.0, 9.0], [0.0, 2.0, 3.0, 5.0]


@prop(
    "paired_error",
    says="if we are better by the same amount on each prompt, there is no error",
    usually="the errors of both means are added, as for different prompts",
)
def same_amount(answer):
    found = answer([3.0, 5.0, 11.0], [1.0, 3.0, 9.0])
    expect(close(found, 0), f"{called(answer, [3.0, 5.0, 11.0], [1.0, 3.0, 9.0])} is {shown(found)}")


@prop(
    "paired_error",
    says="of two prompts it is half of how far the two differences are apart",
    usually="N is used in place of N - 1, or the root of N is missing",
)
def two_prompts(answer):
    found = answer([1.0, 6.0], [0.0, 2.0])  # differences 1 and 4
    expect(close(found, 1.5), f"{called(answer, [1.0, 6.0], [0.0, 2.0])} is {shown(found)}")


@prop(
    "paired_error",
    says="the same results four times over have about half the error",
    usually="the root of N is missing",
)
def four_times(answer):
    one, four = answer(OURS, THEIRS), answer(4 * OURS, 4 * THEIRS)
    wanted = one * math.sqrt(3 / 15)  # of N - 1
    expect(
        close(four, wanted),
        f"{called(answer, OURS, THEIRS)} is {shown(one)}, and four times over {shown(four)}",
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@prop(
    "both_orders",
    says="a judge who only likes the first place finds a tie",
    usually="the probabilities of both orders are added up as they are, or one order is asked twice",
)
def likes_the_first(answer):
    found = answer(lambda first, second: 0.9, [1, 2], [5, 0])
    expect(close(found, 0.5), f"a judge who prefers the first with 0.9, whatever it is: {shown(found)}")


@prop(
    "both_orders",
    says="a judge who does not care for the place says what he says in one order",
    usually="the win rate of the other side is returned",
)
def honest(answer):
    found = answer(lambda first, second: sigmoid(first - second), [1, 3], [0, 5])
    wanted = (sigmoid(1) + sigmoid(-2)) / 2
    expect(close(found, wanted), f"judge(a, b) = sigmoid(a - b), ours [1, 3], theirs [0, 5]: {shown(found)}")


@prop(
    "both_orders",
    says="what ours wins, theirs loses",
    usually="ties are not counted half, or verdicts are rounded to winners",
)
def together_one(answer):
    judge = lambda first, second: sigmoid(first - second + 1.0)  # noqa: E731
    found, turned = answer(judge, OURS, THEIRS), answer(judge, THEIRS, OURS)
    wanted = (
        sum((sigmoid(a - b + 1) + 1 - sigmoid(b - a + 1)) / 2 for a, b in zip(OURS, THEIRS, strict=True)) / 4
    )
    expect(
        close(found + turned, 1) and close(found, wanted),
        f"judge(a, b) = sigmoid(a - b + 1): {shown(found)}, and exchanged {shown(turned)}",
    )


@prop("strict_level", says="for one comparison it is alpha", usually="1 - alpha is returned")
def one(answer):
    found = answer(1, 0.05)
    expect(close(found, 0.05), f"{called(answer, 1, 0.05)} is {shown(found)}")


@prop(
    "strict_level",
    says="k comparisons at this level err with probability alpha",
    usually="alpha is divided by k, which is a little too strict, or is taken to the power k",
)
def k_together(answer):
    for k, alpha in ((2, 0.5), (20, 0.05)):
        found = answer(k, alpha)
        together = 1 - (1 - found) ** k
        expect(
            close(together, alpha),
            f"{called(answer, k, alpha)} is {shown(found)}: all together {shown(together)}",
        )


@prop("strict_level", says="a tiny alpha is not lost", usually="1 - alpha is 1; use log1p and expm1")
def tiny(answer):
    found = answer(10, 1e-18)
    expect(close(found * 1e19, 1), f"{called(answer, 10, 1e-18)} is {shown(found)}, not 1e-19")
