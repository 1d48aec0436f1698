"""Checks of chapter 3."""

from __future__ import annotations

import math

from tutorials.exercises.checking import Properties, called, close, expect, registrar, shown

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)


@prop(
    "perplexity",
    says="a model that is equally unsure between k tokens at every step has perplexity k",
    usually="a sign, a logarithm in another base, or no division by the number of tokens",
)
def equally_unsure(answer):
    for k in (1, 2, 10):
        for lengths in ([1], [3], [2, 2]):
            logps = [-n * math.log(k) for n in lengths]
            expect(
                close(answer(logps, lengths), k),
                f"k = {k}: {called(answer, logps, lengths)} is {shown(answer(logps, lengths))}",
            )


@prop(
    "perplexity",
    says="all tokens count alike: cutting a response in two changes nothing",
    usually="a mean over responses (of log-probs a token, or of perplexities), in which a "
    "short one weighs as much as a long one",
)
def tokens_alike(answer):
    whole, cut = answer([-1.0, -8.0], [1, 4]), answer([-1.0, -2.0, -6.0], [1, 1, 3])
    expect(
        close(whole, cut),
        f"{called(answer, [-1.0, -8.0], [1, 4])} is {shown(whole)}, and with the second "
        f"response cut in two, {called(answer, [-1.0, -2.0, -6.0], [1, 1, 3])} is {shown(cut)}",
    )


@prop(
    "perplexity",
    says="long responses do not overflow",
    usually="the exponential is taken of the sum, and the root afterwards: take the mean first",
)
def long(answer):
    try:
        found = answer([-3000.0], [1000])
    except (OverflowError, ZeroDivisionError):
        found = math.inf
    expect(close(found, math.exp(3)), f"{called(answer, [-3000.0], [1000])} is {shown(found)}")


@prop(
    "draw",
    says="over many evenly spread u each token comes out for its share",
    usually="comparison with a single probability instead of the sum up to there, or the order",
)
def shares(answer):
    for probabilities in ([0.5, 0.5], [0.2, 0.3, 0.5], [0.7, 0.0, 0.3]):
        counts = [0] * len(probabilities)
        for i in range(1000):
            token = answer(probabilities, (i + 0.5) / 1000)
            expect(
                token in range(len(probabilities)),
                f"{called(answer, probabilities, (i + 0.5) / 1000)} is {shown(token)}, no token",
            )
            counts[token] += 1
        expect(
            all(abs(n / 1000 - p) < 0.002 for n, p in zip(counts, probabilities, strict=True)),
            f"with probabilities {shown(probabilities)} and 1000 evenly spread u, the tokens "
            f"come out {counts} times",
        )


@prop(
    "draw",
    says="small u give the first tokens, and a token of probability 0 never comes out",
    usually="`<=` where `<` is meant: u may be exactly 0 and exactly a sum",
)
def edges(answer):
    for probabilities, u, wanted in (
        ([0.5, 0.5], 0.0, 0),
        ([0.5, 0.5], 0.5, 1),
        ([0.0, 1.0], 0.0, 1),
        ([0.25, 0.75], 0.25, 1),
    ):
        expect(
            answer(probabilities, u) == wanted,
            f"{called(answer, probabilities, u)} is {shown(answer(probabilities, u))}",
        )


@prop(
    "draw",
    says="there is always a token, even where the probabilities sum to a little less than one",
    usually="floating-point sums are not exact: the loop ends without a token, or the last "
    "one is taken although it has no probability",
)
def rounding(answer):
    u = math.nextafter(1, 0)
    for probabilities in ([0.1] * 10, [*[0.1] * 10, 0.0]):
        expect(
            answer(probabilities, u) == 9,
            f"{called(answer, probabilities, u)}, with u the last number before 1, is "
            f"{shown(answer(probabilities, u))}",
        )


P = [0.1, 0.4, 0.2, 0.3]


@prop(
    "keep_likeliest",
    says="the result sums to one, and tokens stay in their places",
    usually="not divided by what was kept, returned in sorted order, or nothing was kept (the "
    "token that crosses top_p belongs to it)",
)
def still_a_distribution(answer):
    for top_p in (0.3, 0.5, 0.75, 1.0):
        found = answer(P, top_p)
        expect(len(found) == len(P) and close(sum(found), 1), f"{called(answer, P, top_p)} is {shown(found)}")
        kept = [i for i, p in enumerate(found) if p > 0]
        expect(
            all(close(found[i] * P[kept[0]], found[kept[0]] * P[i]) for i in kept),
            f"{called(answer, P, top_p)} is {shown(found)}: what is kept should keep its ratios",
        )


@prop(
    "keep_likeliest",
    says="what is kept reaches top_p, and would not without the least likely of it",
    usually="one token too few (the one that crosses top_p is needed) or too many",
)
def fewest(answer):
    for top_p, n in ((0.3, 1), (0.4, 1), (0.45, 2), (0.75, 3), (0.95, 4), (1.0, 4)):
        found = [i for i, p in enumerate(answer(P, top_p)) if p > 0]
        wanted = sorted(sorted(range(4), key=lambda i: -P[i])[:n])
        expect(
            found == wanted,
            f"{called(answer, P, top_p)} keeps the tokens {found}, of probability "
            f"{shown(sum(P[i] for i in found))} together",
        )
