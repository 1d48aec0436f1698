"""Checks of chapter 1."""

from __future__ import annotations

import itertools
import random

from torch.nn.functional import logsigmoid

from tutorials.exercises.checking import Properties, called, close, expect, registrar, shown, tensor

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)

SCORES = [(0.0, 0.0), (1.0, 0.0), (0.0, 2.0), (-1.5, 3.0), (2.5, 2.0)]


@prop(
    "preference_probability",
    says="whoever has the higher score is preferred more often than not; equal scores give one half",
    usually="the two scores are swapped, or the sign of the exponent is wrong",
)
def higher_wins(answer):
    for a, b in SCORES:
        p = answer(a, b)
        expect(close(p, 0.5) if a == b else (p - 0.5) * (a - b) > 0, f"{called(answer, a, b)} is {shown(p)}")


@prop(
    "preference_probability",
    says="P(a over b) and P(b over a) sum to one",
    usually="scores instead of their exponentials in the fraction, or something cut off at 0 and 1",
)
def two_outcomes(answer):
    for a, b in SCORES:
        expect(
            close(answer(a, b) + answer(b, a), 1),
            f"{called(answer, a, b)} is {shown(answer(a, b))}, and {called(answer, b, a)} is "
            f"{shown(answer(b, a))}",
        )


@prop(
    "preference_probability",
    says="odds multiply along a chain: if a is twice as likely as b to win against it, and b "
    "three times as likely as c, then a is six times as likely as c",
    usually="another curve than the logistic one (a normal distribution's, a ratio of scores, "
    "a power of ten)",
)
def odds_multiply(answer):
    def odds(a, b):
        return answer(a, b) / answer(b, a)

    for a, b, c in ((1.0, 0.0, 0.0), (1.0, 0.5, 0.0), (2.0, -1.0, 0.5)):
        expect(
            close(odds(a, b) * odds(b, c), odds(a, c)),
            f"with scores {shown((a, b, c))} the odds are {shown(odds(a, b))}, "
            f"{shown(odds(b, c))} and, from the first to the last, {shown(odds(a, c))}",
        )


@prop(
    "preference_probability",
    says="a point of score is a factor of e in the odds",
    usually="another base, say 2, or 10 with 400 points as in chess",
)
def base_e(answer):
    expect(
        close(answer(1.0, 0.0) / answer(0.0, 1.0), 2.718281828),
        f"{called(answer, 1.0, 0.0)} is {shown(answer(1.0, 0.0))}: odds of "
        f"{shown(answer(1.0, 0.0) / answer(0.0, 1.0))}",
    )


@prop(
    "preference_probability",
    says="it can be computed for scores of any size",
    usually="exp of a large number, or a difference of two nearly equal ones",
)
def any_size(answer):
    for a, b in ((1000.0, 0.0), (0.0, 1000.0), (1e6, 1e6 + 1), (-1e6, 1e6)):
        try:
            p = answer(a, b)
        except OverflowError:
            expect(False, f"{called(answer, a, b)} overflows")
        expect(0 <= p <= 1 and (p > 0.5) == (a > b), f"{called(answer, a, b)} is {shown(p)}")
    p = answer(0.0, 100.0)
    expect(
        p > 0,
        f"{called(answer, 0.0, 100.0)} is {shown(p)}: small, but not zero; its logarithm is wanted one day",
    )


DATA = [
    ([0.0, 0.0], [0], [1]),
    ([1.0, 0.0, -1.0], [0, 0, 1], [1, 2, 2]),
    ([0.5, -2.0, 1.0], [1, 2, 2, 0], [0, 1, 0, 2]),
    ([0.0, 0.0], [0], [0]),
]


@prop(
    "missing_wins",
    says="one number a drink, and together they are zero: somebody's win is somebody's loss",
    usually="only the winners, or only the losers, were counted, or the two got different amounts",
)
def sums_to_zero(answer):
    for scores, winners, losers in DATA:
        found = answer(scores, winners, losers)
        expect(
            len(found) == len(scores),
            f"{called(answer, scores, winners, losers)} has {len(found)} numbers for {len(scores)} drinks",
        )
        expect(
            close(sum(found), 0),
            f"{called(answer, scores, winners, losers)} is {shown(found)}: together {shown(sum(found))}",
        )


@prop(
    "missing_wins",
    says="a drink that won against an equal has fewer expected wins than it had: its number is negative",
    usually="the sign: expected minus actual, not actual minus expected (or 1.1, if you use it)",
)
def sign(answer):
    scores, winners, losers = DATA[0]
    expect(
        answer(scores, winners, losers)[0] < 0,
        f"{called(answer, scores, winners, losers)} is {shown(answer(scores, winners, losers))}",
    )


@prop(
    "missing_wins",
    says="it is the derivative of -sum log P(winner over loser): what small steps of each score measure",
    usually="the probability of the outcome that happened where that of the other one is "
    "meant, or a mean over the comparisons where the sum is meant",
)
def derivative(answer):
    for scores, winners, losers in DATA:
        s = tensor(*scores).requires_grad_()
        (-logsigmoid(s[winners] - s[losers]).sum()).backward()
        expect(
            close(answer(scores, winners, losers), s.grad),
            f"{called(answer, scores, winners, losers)} is "
            f"{shown(answer(scores, winners, losers))}; small steps measure "
            f"{shown([round(x, 6) for x in s.grad.tolist()])}",
        )


CYCLE = [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
NEVER_WON = [[0, 1, 1], [1, 0, 1], [0, 0, 0]]
NEVER_LOST = [[0, 2, 1], [0, 0, 1], [0, 1, 0]]
ISLANDS = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
ONE_WAY = [[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


@prop(
    "has_finite_fit",
    says="three drinks that beat each other in a circle have a best fit",
    usually="each pair was asked to have beaten each other; it is enough that there is a way round",
)
def circle(answer):
    expect(answer(CYCLE) is True, f"{called(answer, CYCLE)} is {answer(CYCLE)}")


@prop(
    "has_finite_fit",
    says="a drink that never won, or never lost, has no finite score",
    usually="only one direction was followed (who is beaten, but not by whom), or both were mixed",
)
def never(answer):
    for wins in (NEVER_WON, NEVER_LOST):
        expect(answer(wins) is False, f"{called(answer, wins)} is {answer(wins)}")


@prop(
    "has_finite_fit",
    says="two groups that were never compared, or of which one always won, have no best fit",
    usually="each drink was looked at alone: it has won and has lost, but only within its group",
)
def groups(answer):
    for wins in (ISLANDS, ONE_WAY):
        expect(answer(wins) is False, f"{called(answer, wins)} is {answer(wins)}")


@prop(
    "has_finite_fit",
    says="it agrees with the condition checked split by split, on 200 random tables",
    usually="the search stops too early: who is reached must be followed further",
)
def split_by_split(answer):
    rng = random.Random(0)
    for n in (2, 3, 4, 5, 6) * 40:
        wins = [[int(a != b and rng.random() < 0.3) for b in range(n)] for a in range(n)]
        splits = (set(group) for size in range(1, n) for group in itertools.combinations(range(n), size))
        wanted = all(any(wins[b][a] for b in range(n) if b not in first for a in first) for first in splits)
        expect(bool(answer(wins)) == wanted, f"{called(answer, wins)} is {answer(wins)}")
