"""Checks of chapter 7."""

from __future__ import annotations

import itertools

import torch

from mini_dpo.theory.bradley_terry import kl
from tutorials.exercises.checking import (
    Properties,
    called,
    close,
    expect,
    log_tensor,
    registrar,
    shown,
    tensor,
)

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)


@prop(
    "kl_estimate",
    says="it is zero where the two models agree",
    usually="the 1 is missing, or a log-prob instead of a difference",
)
def zero(answer):
    logps = tensor(-1.0, -2.0, -30.0)
    expect(close(answer(logps, logps), 0), f"{called(answer, logps, logps)} is {shown(answer(logps, logps))}")


@prop(
    "kl_estimate",
    says="it is never negative, whatever the sample",
    usually="that is k1, the plain mean of the log-ratio; or the ratio in exp is upside down",
)
def never_negative(answer):
    for policy, ref in ((tensor(-2.0), tensor(-1.0)), (tensor(-5.0, -1.0), tensor(-3.0, -1.1))):
        expect(answer(policy, ref) >= 0, f"{called(answer, policy, ref)} is {shown(answer(policy, ref))}")


@prop(
    "kl_estimate",
    says="over all responses, each as often as the policy writes it, it is the divergence",
    usually="the ratio is upside down (which way does the policy stand in exp?), k2, or a sum "
    "where a mean is meant",
)
def unbiased(answer):
    policy, ref = log_tensor(0.5, 0.25, 0.25), log_tensor(0.125, 0.125, 0.75)
    drawn = torch.tensor([0, 0, 1, 2])  # exactly as often as the policy says
    found = answer(policy[drawn], ref[drawn])
    expect(
        close(found, kl(policy, ref)),
        "policy [0.5, 0.25, 0.25], reference [0.125, 0.125, 0.75], the first response drawn "
        f"twice and the others once: {shown(found)}",
    )


P = [0.5, 0.3, 0.2]


@prop(
    "best_of_n",
    says="the best of one draw is that draw",
    usually="n - 1 draws, or a power of the wrong thing",
)
def best_of_one(answer):
    expect(close(answer(P, 1), P), f"{called(answer, P, 1)} is {shown(answer(P, 1))}")


@prop(
    "best_of_n",
    says="it is a distribution",
    usually="p**n for each response: that is the chance of drawing it every time",
)
def sums_to_one(answer):
    for n in (2, 5):
        expect(close(sum(answer(P, n)), 1), f"{called(answer, P, n)} is {shown(answer(P, n))}")


@prop(
    "best_of_n",
    says="it agrees with listing all draws, for two and three of them",
    usually="the worst of n instead of the best, or p**n made to sum to one",
)
def by_listing(answer):
    for n in (2, 3):
        wanted = [0.0, 0.0, 0.0]
        for draws in itertools.product(range(3), repeat=n):
            wanted[max(draws)] += torch.tensor([P[i] for i in draws]).prod().item()
        expect(close(answer(P, n), wanted), f"{called(answer, P, n)} is {shown(answer(P, n))}")


@prop("choose", says="among equal win rates, the largest beta", usually="the first, or the smallest")
def largest_of_equals(answer):
    for betas in ([0.1, 0.3, 1.0], [1.0, 0.1, 0.3]):
        expect(
            answer(betas, [0.8, 0.8, 0.8], 100) == 1.0,
            f"{called(answer, betas, [0.8, 0.8, 0.8], 100)} is {shown(answer(betas, [0.8, 0.8, 0.8], 100))}",
        )


@prop(
    "choose",
    says="a win rate within one standard error of the best is as good as the best",
    usually="the best win rate's own beta; or the error is not a square root, not divided by "
    "n, or taken twice",
)
def within_the_error(answer):
    betas, rates = [0.1, 0.3, 1.0], [0.90, 0.88, 0.70]
    expect(
        answer(betas, rates, 100) == 0.3,
        f"the error of 0.90 on 100 prompts is 0.03; {called(answer, betas, rates, 100)} is "
        f"{shown(answer(betas, rates, 100))}",
    )
    near = [0.90, 0.88, 0.85]
    expect(
        answer(betas, near, 100) == 0.3,
        f"{called(answer, betas, near, 100)} is {shown(answer(betas, near, 100))}: 0.85 is "
        "farther than one error",
    )
    expect(
        answer(betas, [1.0, 1.0, 0.99], 100) == 0.3,
        f"a win rate of 1 has an error of 0; {called(answer, betas, [1.0, 1.0, 0.99], 100)} "
        f"is {shown(answer(betas, [1.0, 1.0, 0.99], 100))}",
    )
    expect(
        answer(betas, rates, 10_000) == 0.1,
        f"on 10,000 prompts it is 0.003; {called(answer, betas, rates, 10_000)} is "
        f"{shown(answer(betas, rates, 10_000))}",
    )
