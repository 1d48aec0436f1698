"""Checks of chapter 8."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid

from tutorials.exercises.checking import Properties, called, close, expect, finite, registrar, shown, tensor

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)


@prop("ipo_loss", says="one value a pair", usually="a mean over the batch")
def one_a_pair(answer):
    expect(
        tuple(answer(tensor(0.0, 1.0), 0.5).shape) == (2,),
        f"{called(answer, tensor(0.0, 1.0), 0.5)} is {shown(answer(tensor(0.0, 1.0), 0.5))}",
    )


@prop(
    "ipo_loss",
    says="at the reference, h = 0, it is 1 / (4 beta^2)",
    usually="a target of 1 / beta, or the target multiplied by beta",
)
def at_reference(answer):
    for beta in (0.1, 0.5, 2.0):
        expect(
            close(answer(tensor(0.0), beta), tensor(1 / (4 * beta**2))),
            f"{called(answer, tensor(0.0), beta)} is {shown(answer(tensor(0.0), beta))}",
        )


@prop(
    "ipo_loss",
    says="it turns: its minimum is 0 at a positive finite h, and beyond it the loss rises again",
    usually="beta inside the square with h, or a function that only falls",
)
def turns(answer):
    for beta in (0.5, 0.25):
        goal = 1 / (2 * beta)
        below, there, beyond = answer(tensor(goal - 1, goal, goal + 1), beta).tolist()
        expect(
            close(there, 0) and close(below, 1) and close(beyond, 1),
            f"beta {beta}: at h = {goal - 1:g}, {goal:g} and {goal + 1:g} it is "
            f"{shown([below, there, beyond])}",
        )


def dpo(m):
    return -logsigmoid(m)


def hinge(m):
    return (1 - m).clamp(min=0)


M = tensor(-2.0, 0.0, 0.5, 3.0)


@prop("unflip", says="without noise it is the loss itself", usually="a factor too many")
def no_noise(answer):
    expect(
        close(answer(dpo, M, 0.0), dpo(M)),
        f"epsilon 0, margins {shown(M)}, the DPO loss {shown(dpo(M))}: {shown(answer(dpo, M, 0.0))}",
    )


@prop(
    "unflip",
    says="its mean over flips is the given loss: (1 - epsilon) R(m) + epsilon R(-m) = L(m)",
    usually="that is cDPO, which adds the noise instead of taking it out; or the division by "
    "1 - 2 epsilon is missing",
)
def unbiased(answer):
    for name, loss in (("DPO", dpo), ("hinge", hinge)):
        for epsilon in (0.1, 0.4):
            mean = (1 - epsilon) * answer(loss, M, epsilon) + epsilon * answer(loss, -M, epsilon)
            expect(
                close(mean, loss(M)),
                f"the {name} loss, epsilon {epsilon}, margins {shown(M)}: the mean over flips "
                f"is {shown(mean)}, the loss {shown(loss(M))}",
            )


@prop(
    "log_odds",
    says="at P = 1/2 it is 0, and at P = 3/4 it is log 3",
    usually="1 - average, or P itself, where 1 - P is meant",
)
def known_values(answer):
    average = torch.tensor([0.5, 0.75]).log()
    expect(
        close(answer(average), [0.0, math.log(3)], 1e-5),
        f"{called(answer, average)} is {shown(answer(average))}",
    )


@prop(
    "log_odds",
    says="it is right for a nearly certain response, in float32",
    usually="1 - exp(average) loses all its digits, or is 0; expm1 keeps them",
)
def nearly_certain(answer):
    average = torch.tensor([-1e-4, -1e-9])
    wanted = [-math.log(math.expm1(1e-4)), -math.log(math.expm1(1e-9))]
    found = answer(average)
    expect(
        close(found, wanted, 1e-4),
        f"log P = {shown(average)}: {shown(found)}, and in exact arithmetic {shown(wanted)}",
    )


@prop(
    "log_odds",
    says="it is finite for an unlikely response, and its slope is 1 / (1 - P) everywhere",
    usually="exp of a large number, log(exp(...)), a clamp that stops the gradient, or "
    "`where` with a branch that is infinite (its gradient is nan, used or not)",
)
def slope(answer):
    average = torch.tensor([-100.0, -1.0, -1e-3, -1e-9], requires_grad=True)
    found = answer(average)
    found.sum().backward()
    wanted = [1 / -math.expm1(a) for a in average.tolist()]
    expect(
        finite(found.detach()) and close(average.grad, wanted, 1e-3),
        f"log P = {shown(average.detach())}: values {shown(found.detach())}, slopes {shown(average.grad)}",
    )
