"""Checks of chapter 15."""

from __future__ import annotations

from mini_dpo.theory.bradley_terry import kl, log_partition, optimal_policy
from tutorials.exercises.checking import (
    Properties,
    called,
    close,
    expect,
    finite,
    log_tensor,
    registrar,
    shown,
    tensor,
)

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)

REF, Q = log_tensor(0.5, 0.3, 0.2), tensor(0.0, 1.0, 3.0)


@prop(
    "soft_value",
    says="where all words are worth the same, the beginning is worth that too",
    usually="the reference's probabilities are left out, or beta is missing before the logarithm",
)
def all_the_same(answer):
    for beta in (0.3, 2.0):
        found = answer(REF, tensor(1.5, 1.5, 1.5), beta)
        expect(close(found, 1.5), f"ref = [0.5, 0.3, 0.2], q = [1.5, 1.5, 1.5], beta {beta}: {shown(found)}")


@prop(
    "soft_value",
    says="it is what the best choice of the next word earns, less the price of its divergence",
    usually="it is the mean or the maximum of q, or beta divides in the wrong place",
)
def best_choice(answer):
    for beta in (0.3, 1.0, 4.0):
        best = optimal_policy(REF, Q, beta)
        wanted = (best.exp() * Q).sum() - beta * kl(best, REF)
        found = answer(REF, Q, beta)
        expect(close(found, wanted), f"ref = [0.5, 0.3, 0.2], q = [0, 1, 3], beta {beta}: {shown(found)}")


@prop("soft_value", says="values of any size can be used", usually="exp before log; use logsumexp")
def large_values(answer):
    found = answer(REF, 1000 * Q, 0.5)
    expect(finite(found), f"ref = [0.5, 0.3, 0.2], q = [0, 1000, 3000], beta 0.5: {shown(found)}")


# two words, 0 and 1, and the end, 2
RESPONSES = [[2], [0, 2], [1, 2], [0, 0], [0, 1], [1, 0], [1, 1]]
LOGPS = log_tensor(0.1, 0.15, 0.05, 0.2, 0.1, 0.3, 0.1)
REWARD = tensor(1.0, -1.0, 0.5, 2.0, 0.0, -0.5, 3.0)
TREE = "the responses [2], [0, 2], [1, 2], [0, 0], [0, 1], [1, 0], [1, 1]"


@prop(
    "value_of",
    says="a complete response is worth its reward",
    usually="the probabilities below the beginning are not divided by their sum",
)
def leaves(answer):
    for response, reward in zip(RESPONSES, REWARD.tolist(), strict=True):
        found = answer(response, RESPONSES, LOGPS, REWARD, 0.5)
        expect(
            close(found, reward), f"{TREE}: of {response}, whose reward is {shown(reward)}, {shown(found)}"
        )


@prop(
    "value_of",
    says="the empty beginning is worth beta log Z",
    usually="beta is missing before the logarithm, or the mean reward is taken",
)
def the_root(answer):
    for beta in (0.3, 2.0):
        found = answer([], RESPONSES, LOGPS, REWARD, beta)
        wanted = beta * log_partition(LOGPS, REWARD, beta)
        expect(
            close(found, wanted), f"{TREE}, beta {beta}: {shown(found)}, and beta log Z is {shown(wanted)}"
        )


@prop(
    "value_of",
    says="rewards elsewhere in the tree do not matter",
    usually="words are looked for anywhere in the response instead of at its beginning",
)
def only_below(answer):
    elsewhere = REWARD + tensor(9.0, 0.0, 9.0, 0.0, 0.0, 9.0, 9.0)  # of all that do not begin with 0
    found, again = (answer([0], RESPONSES, LOGPS, r, 0.5) for r in (REWARD, elsewhere))
    expect(
        close(found, again),
        f"{TREE}: of [0], {shown(found)}; with 9 more for all others than [0, ...], {shown(again)}",
    )


@prop(
    "shaped",
    says="a potential of 0 everywhere changes nothing",
    usually="the rewards themselves are left out",
)
def nothing(answer):
    found = answer([1.0, -2.0, 0.5], [0.0, 0.0, 0.0])
    expect(close(found, [1.0, -2.0, 0.5]), f"{called(answer, [1.0, -2.0, 0.5], [0.0] * 3)} is {shown(found)}")


@prop(
    "shaped",
    says="the sum changes by the first potential alone, whatever the others are",
    usually="the potential behind the last word is not 0, or old and new are not neighbours",
)
def telescopes(answer):
    for potentials in ([3.0, 1.0, -4.0], [3.0, 7.0, 2.0]):
        found = answer([1.0, -2.0, 0.5], potentials)
        expect(
            close(sum(found), -0.5 - 3.0),
            f"{called(answer, [1.0, -2.0, 0.5], potentials)} is {shown(found)}, whose sum is "
            f"{shown(float(sum(found)))}; before shaping it was -0.5",
        )


@prop(
    "shaped",
    says="a word is paid for the potential that it leads to",
    usually="the sign is turned, or the word is paid for where it comes from",
)
def paid_for_where_it_leads(answer):
    found = answer([0.0, 0.0, 0.0], [0.0, 5.0, 0.0])
    expect(close(found, [5.0, -5.0, 0.0]), f"{called(answer, [0.0] * 3, [0.0, 5.0, 0.0])} is {shown(found)}")
