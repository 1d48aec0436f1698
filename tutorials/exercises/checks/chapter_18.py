"""Checks of chapter 18."""

from __future__ import annotations

import math

import torch

from mini_dpo.theory.bradley_terry import kl, optimal_policy
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


@prop(
    "entropy",
    says="of K equally likely responses it is log K, in nats",
    usually="the sign is wrong, or the logarithm is one to the base 2",
)
def uniform(answer):
    for K in (1, 2, 8):
        found = answer(torch.full((K,), -math.log(K), dtype=torch.float64))
        expect(close(found, math.log(K)), f"of {K} equally likely ones: {shown(found)}")


@prop(
    "entropy",
    says="log K less the entropy is the divergence from the uniform policy",
    usually="log-probs are averaged over responses, without their probabilities",
)
def divergence(answer):
    policy = log_tensor(0.7, 0.2, 0.1)
    even = torch.full((3,), -math.log(3), dtype=torch.float64)
    found, wanted = answer(policy), math.log(3) - float(kl(policy, even))
    expect(close(found, wanted), f"of [0.7, 0.2, 0.1]: {shown(found)}")


@prop("entropy", says="what is never said counts 0", usually="0 times minus infinity is nan")
def never(answer):
    found = answer(tensor(math.log(0.5), math.log(0.5), -math.inf))
    expect(finite(found) and close(found, math.log(2)), f"of [0.5, 0.5, 0]: {shown(found)}")


@prop(
    "expected_distinct",
    says="one draw contains one response",
    usually="the probability of a miss is summed, not that of a hit",
)
def one_draw(answer):
    found = answer(log_tensor(0.7, 0.2, 0.1), 1)
    expect(close(found, 1), f"of [0.7, 0.2, 0.1], 1 draw: {shown(found)}")


@prop(
    "expected_distinct",
    says="two draws contain 2 less the chance that they agree",
    usually="draws are counted, not responses, or (1 - p)^n is not what it should be",
)
def two_draws(answer):
    found = answer(log_tensor(0.7, 0.2, 0.1), 2)
    expect(close(found, 2 - (0.49 + 0.04 + 0.01)), f"of [0.7, 0.2, 0.1], 2 draws: {shown(found)}")


@prop(
    "expected_distinct",
    says="very many rare responses are nearly always different",
    usually="1 - p is 1 in floating point; use log1p and expm1",
)
def rare(answer):
    # a thousand of many more: each has the probability 1e-20
    found = answer(torch.full((1000,), math.log(1e-20), dtype=torch.float64), 64)
    expect(close(found * 1e15, 64 * 1e-17 * 1e15), f"1000 responses of 1e-20, 64 draws: {shown(found)}")


REF, REWARD = log_tensor(0.6, 0.3, 0.1), tensor(0.0, 1.0, 3.0)
WORLD = "ref = [0.6, 0.3, 0.1], reward = [0, 1, 3]"


@prop(
    "entropy_slope",
    says="where all rewards are equal, entropy does not change",
    usually="the covariance is not taken around the means",
)
def equal_rewards(answer):
    found = answer(REF, tensor(2, 2, 2), 0.5)
    expect(close(found, 0), f"ref = [0.6, 0.3, 0.1], reward = [2, 2, 2], beta 0.5: {shown(found)}")


@prop(
    "entropy_slope",
    says="it is what a small change of 1/beta does to the entropy",
    usually="the covariance with log ref is left out or has the wrong sign, or the derivative is that "
    "with respect to beta",
)
def small_change(answer):
    def entropy_at(rate):
        policy = optimal_policy(REF, REWARD, 1 / rate)
        return float(-(policy.exp() * policy).sum())

    for beta in (0.5, 4.0):
        wanted = (entropy_at(1 / beta + 1e-4) - entropy_at(1 / beta - 1e-4)) / 2e-4
        found = answer(REF, REWARD, beta)
        expect(close(found, wanted, 1e-5), f"{WORLD}, beta {beta}: {shown(found)}")
