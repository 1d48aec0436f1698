"""Checks of chapter 17."""

from __future__ import annotations

import torch

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

REF = log_tensor(0.2, 0.5, 0.2, 0.1)
COMPARED = torch.tensor([True, True, True, False])
WORLD = "ref = [0.2, 0.5, 0.2, 0.1], the last one in no pair"


@prop(
    "unseen",
    says="where nothing changes, it is what the reference says",
    usually="the compared responses are summed instead of the others",
)
def nothing_changed(answer):
    found = answer(REF, tensor(0, 0, 0, 0), COMPARED)
    expect(close(found, 0.1), f"{WORLD}, no change: {shown(found)}")


@prop(
    "unseen",
    says="it falls when the compared ones gain, and the other way round",
    usually="probabilities do not sum to one: the normaliser is that of the reference",
)
def through_the_normaliser(answer):
    for change, wanted in (([1.0, 1.0, 1.0], 0.1 / (0.1 + 0.9 * 2.718281828)), ([1.0, -2.0, 1.0], None)):
        found = answer(REF, tensor(*change, 0), COMPARED)
        if wanted is None:
            wanted = 0.1 / (0.1 + 0.4 * 2.718281828 + 0.5 * 0.1353352832)
        expect(close(found, wanted), f"{WORLD}, change {shown(change)}: {shown(found)}")


@prop(
    "unseen",
    says="what is said of the change of a response in no pair does not count",
    usually="all changes are added, also those of responses that are in no pair",
)
def not_its_own(answer):
    one, other = (answer(REF, tensor(0.5, -0.5, 0, own), COMPARED) for own in (0.0, 7.0))
    expect(
        close(one, other), f"{WORLD}: {shown(one)}, and with a change of 7 for the last one {shown(other)}"
    )


@prop("unseen", says="changes of any size can be used", usually="exp before the sum; use log_softmax")
def large_changes(answer):
    found = answer(REF, tensor(1000, -1000, 0, 0), COMPARED)
    expect(close(found, 0.0), f"{WORLD}, change [1000, -1000, 0]: {shown(found)}")


@prop(
    "will_be_asked",
    says="one pair asks about two responses",
    usually="a pair is counted as one draw, or both responses must be the one that is meant",
)
def one_pair(answer):
    found = answer(0.5, 1)
    expect(close(found, 0.75), f"{called(answer, 0.5, 1)} is {shown(found)}")


@prop("will_be_asked", says="it never exceeds 1", usually="the probabilities of the draws are added")
def at_most_one(answer):
    found = answer(0.3, 50)
    expect(close(found, 1 - 0.7**100), f"{called(answer, 0.3, 50)} is {shown(found)}")


@prop(
    "will_be_asked",
    says="a tiny probability is not lost",
    usually="1 - p is 1 in floating point; use log1p and expm1",
)
def tiny(answer):
    found = answer(1e-20, 50)
    expect(
        0 < found < 1 and close(found * 1e18, 1.0),
        f"{called(answer, 1e-20, 50)} is {shown(found)}, not 1e-18",
    )


REWARD = tensor(0.0, 1.0, -2.0)
WEIGHTS = tensor(0.5, 0.3, 0.2)


@prop(
    "information",
    says="of two equal responses with probability 1/2 each, a comparison tells 1/8",
    usually="only one of the two orders is counted, or p (1 - p) is missing",
)
def two_equal(answer):
    found = answer(tensor(0.5, 0.5), tensor(0, 0))
    expect(
        close(found, [[0.125, -0.125], [-0.125, 0.125]]), f"weights [0.5, 0.5], reward [0, 0]: {shown(found)}"
    )


@prop(
    "information",
    says="a constant that is added to all rewards cannot be seen: rows sum to zero",
    usually="the diagonal is that of the weights, or a response is compared with itself",
)
def constants(answer):
    found = answer(WEIGHTS, REWARD)
    expect(
        close(found.sum(-1), [0.0] * 3),
        f"weights [0.5, 0.3, 0.2], reward [0, 1, -2]: the rows sum to {shown(found.sum(-1))}",
    )


@prop(
    "information",
    says="it is the mean of minus the second derivatives of the log-likelihood",
    usually="p is used where p (1 - p) is meant, or the probabilities of the pair are added",
)
def second_derivatives(answer):
    def risk(r):
        p = torch.sigmoid(REWARD[:, None] - REWARD)  # the true one
        gap = r[:, None] - r
        logp = torch.nn.functional.logsigmoid
        return -(WEIGHTS[:, None] * WEIGHTS * (p * logp(gap) + (1 - p) * logp(-gap))).sum()

    wanted = torch.autograd.functional.hessian(risk, REWARD)
    found = answer(WEIGHTS, REWARD)
    expect(close(found, wanted), f"weights [0.5, 0.3, 0.2], reward [0, 1, -2]: {shown(found)}")
