"""Checks of chapter 4."""

from __future__ import annotations

import torch

from mini_dpo.theory.bradley_terry import kl, objective, optimal_policy
from tutorials.exercises.checking import (
    Properties,
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

REF = log_tensor(0.5, 0.3, 0.2)
REWARD = tensor(0.0, 1.0, 3.0)
WORLD = "ref = [0.5, 0.3, 0.2], reward = [0, 1, 3]"


@prop(
    "optimum",
    says="it is a policy: its probabilities sum to one",
    usually="Z was left out, or probabilities were returned where log-probs are asked for",
)
def a_policy(answer):
    for beta in (0.5, 1.0, 2.0):
        total = float(answer(REF, REWARD, beta).exp().sum())
        expect(close(total, 1), f"{WORLD}, beta {beta}: the exponentials of the answer sum to {shown(total)}")


@prop(
    "optimum",
    says="equal rewards leave the reference as it is",
    usually="the reference is not in it, or enters as its logarithm's logarithm",
)
def nothing_to_gain(answer):
    found = answer(REF, tensor(2.0, 2.0, 2.0), 0.5)
    expect(
        close(found, REF),
        f"ref = [0.5, 0.3, 0.2], reward = [2, 2, 2]: the probabilities become {shown(found.exp())}",
    )


@prop(
    "optimum",
    says="the smaller beta, the more the best response gets",
    usually="beta is multiplied where it divides",
)
def beta_divides(answer):
    strict, lax = (float(answer(REF, REWARD, beta)[2].exp()) for beta in (5.0, 0.2))
    expect(
        strict < lax and lax > 0.99,
        f"{WORLD}: the best response has probability {shown(strict)} at beta 5 and {shown(lax)} at beta 0.2",
    )


@prop("optimum", says="no other policy has a higher J", usually="the exponent: reward divided by beta, once")
def nothing_is_better(answer):
    generator = torch.Generator().manual_seed(0)
    for beta in (0.5, 2.0):
        ours = answer(REF, REWARD, beta)
        for _ in range(200):
            other = (ours + 0.3 * torch.randn(3, generator=generator, dtype=torch.float64)).log_softmax(-1)
            a, b = (float(objective(p, REF, REWARD, beta)) for p in (ours, other))
            expect(
                a >= b - 1e-12,
                f"{WORLD}, beta {beta}: J of the answer is {shown(a)}; the policy "
                f"{shown(other.exp())} has {shown(b)}",
            )


@prop(
    "optimum",
    says="rewards of any size can be used",
    usually="exp(reward / beta) overflows or underflows; stay with logarithms until the end",
)
def any_size(answer):
    found = answer(REF, 1000 * REWARD, 0.5)
    expect(
        finite(found) and close(found.exp(), tensor(0.0, 0.0, 1.0)),
        f"ref = [0.5, 0.3, 0.2], reward = [0, 1000, 3000], beta 0.5: {shown(found)}",
    )


@prop(
    "gain",
    says="it is never negative, and zero where all rewards are equal",
    usually="log Z without the factor beta, a sign, or the reference's own reward left out",
)
def never_negative(answer):
    for reward in (tensor(2.0, 2.0, 2.0), tensor(-5.0, -5.0, -5.0)):
        found = answer(REF, reward, 0.5)
        expect(close(found, 0), f"ref = [0.5, 0.3, 0.2], reward = {shown(reward)}, beta 0.5: {shown(found)}")
    expect(answer(REF, REWARD, 0.5) > 0, f"{WORLD}, beta 0.5: {shown(answer(REF, REWARD, 0.5))}")


@prop(
    "gain",
    says="it is J of the best policy less J of the reference, both worked out by hand",
    usually="beta is missing in one place, the KL divergence was subtracted a second time, or "
    "the reference's mean reward is not weighted by its probabilities",
)
def by_hand(answer):
    for beta in (0.3, 1.0, 4.0):
        wanted = objective(optimal_policy(REF, REWARD, beta), REF, REWARD, beta) - objective(
            REF, REF, REWARD, beta
        )
        expect(
            close(answer(REF, REWARD, beta), wanted),
            f"{WORLD}, beta {beta}: {shown(answer(REF, REWARD, beta))}",
        )


@prop("gain", says="rewards of any size can be used", usually="exp before log; use logsumexp")
def large_rewards(answer):
    found = answer(REF, 1000 * REWARD, 0.5)
    expect(finite(found), f"ref = [0.5, 0.3, 0.2], reward = [0, 1000, 3000], beta 0.5: {shown(found)}")


@prop(
    "beta_for",
    says="at the price that it names, the best policy is so many nats away",
    usually="the wrong half of the interval is kept (KL falls as beta rises), too few "
    "halvings, or the divergence the other way round",
)
def spends_it(answer):
    for nats in (0.01, 0.5, 1.2):
        beta = answer(REF, REWARD, nats)
        found = float(kl(optimal_policy(REF, REWARD, beta), REF))
        expect(
            close(found, nats, 1e-5),
            f"{WORLD}: {answer.__name__}(ref, reward, {nats}) is {shown(float(beta))}, and "
            f"there KL(optimum || ref) is {shown(found)}",
        )


@prop(
    "beta_for",
    says="rewards twice as large need twice the price",
    usually="the search stops at the edge of an interval that is too small",
)
def scales(answer):
    one, two = answer(REF, REWARD, 0.5), answer(REF, 2 * REWARD, 0.5)
    expect(
        close(2 * one, two, 1e-5),
        f"{WORLD}, 0.5 nats: {shown(float(one))}; with twice the reward {shown(float(two))}",
    )
