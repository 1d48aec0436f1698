"""Checks of chapter 6."""

from __future__ import annotations

import itertools
import math

import torch

from mini_dpo.theory.bradley_terry import kl
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


@prop(
    "mean_loss",
    says="one batch: its sum by its count",
    usually="the sum itself, or divided by the number of batches",
)
def one_batch(answer):
    expect(close(answer([6.0], [3]), 2), f"{called(answer, [6.0], [3])} is {shown(answer([6.0], [3]))}")


@prop(
    "mean_loss",
    says="however the pairs are cut into batches, the mean is the same",
    usually="a mean of the batches' means: in a small batch each pair then weighs more",
)
def however_cut(answer):
    for sums, counts in (([1.0, 5.0], [1, 2]), ([3.0, 3.0], [2, 1]), ([1.0, 2.0, 3.0], [1, 1, 1])):
        expect(
            close(answer(sums, counts), 2),
            "three pairs with losses 1, 2 and 3, cut into batches: "
            f"{called(answer, sums, counts)} is {shown(answer(sums, counts))}",
        )


@prop(
    "mean_loss",
    says="an empty batch changes nothing",
    usually="0 / 0 in one batch, or the empty batch counted as one",
)
def empty_batch(answer):
    try:
        found = answer([6.0, 0.0], [3, 0])
    except ZeroDivisionError:
        found = math.nan
    expect(close(found, 2), f"{called(answer, [6.0, 0.0], [3, 0])} is {shown(found)}")


@prop(
    "learning_rate",
    says="the first step is not wasted: it is above zero, and the last step of the warm-up is at the peak",
    usually="step / warmup, which begins at 0; steps are counted from 0",
)
def rises(answer):
    for step, wanted in ((0, 0.25), (1, 0.5), (3, 1.0)):
        expect(
            close(answer(step, 20, 4, 1.0), wanted),
            f"{called(answer, step, 20, 4, 1.0)} is {shown(answer(step, 20, 4, 1.0))}",
        )


@prop(
    "learning_rate",
    says="no warm-up is allowed: then step 0 is at the peak",
    usually="a division by warmup, which may be 0, or a fall that begins one step too early",
)
def no_warmup(answer):
    try:
        found = answer(0, 20, 0, 3.0)
    except ZeroDivisionError:
        found = math.nan
    expect(close(found, 3), f"{called(answer, 0, 20, 0, 3.0)} is {shown(found)}")


@prop(
    "learning_rate",
    says="half way between warm-up and end it is half the peak, and it falls all the way",
    usually="the cosine is stretched over all steps instead of those after the warm-up, or is "
    "a whole or a quarter of a wave, or a line",
)
def falls(answer):
    expect(
        close(answer(12, 20, 4, 2.0), 1),
        f"{called(answer, 12, 20, 4, 2.0)} is {shown(answer(12, 20, 4, 2.0))}",
    )
    rates = [answer(step, 20, 4, 2.0) for step in range(4, 20)]
    expect(
        all(a > b > 0 for a, b in itertools.pairwise(rates)),
        f"steps 4 to 19 of 20 with 4 of warm-up: {shown(rates)}",
    )
    expect(
        close(answer(8, 20, 4, 2.0), 1 + math.sqrt(0.5)),
        f"a quarter of the way down, {called(answer, 8, 20, 4, 2.0)} is "
        f"{shown(answer(8, 20, 4, 2.0))}: that is no cosine",
    )


REF, POLICY = log_tensor(0.5, 0.3, 0.2), log_tensor(0.1, 0.2, 0.7)


@prop(
    "mean_change",
    says="where nothing has changed it is zero",
    usually="the log-probs themselves instead of their difference",
)
def nothing_changed(answer):
    expect(close(answer(REF, REF), 0), f"both [0.5, 0.3, 0.2]: {shown(answer(REF, REF))}")


@prop(
    "mean_change",
    says="it is never positive: what was typical becomes less so",
    usually="the sign; or a plain mean, or one under the policy: the responses are drawn from the reference",
)
def never_positive(answer):
    for ref, policy in ((REF, POLICY), (POLICY, REF)):
        expect(
            answer(ref, policy) < 0,
            f"reference {shown(ref.exp())}, policy {shown(policy.exp())}: {shown(answer(ref, policy))}",
        )


@prop(
    "mean_change",
    says="it is -KL(reference || policy)",
    usually="a plain mean over the responses, in which a rare one weighs as much as a common one",
)
def minus_kl(answer):
    for ref, policy in ((REF, POLICY), (POLICY, REF)):
        expect(
            close(answer(ref, policy), -kl(ref, policy)),
            f"reference {shown(ref.exp())}, policy {shown(policy.exp())}: {shown(answer(ref, policy))}",
        )


@prop(
    "mean_change",
    says="a response that the reference never gives does not count",
    usually="0 times infinity, which is nan: leave it out before multiplying",
)
def never_given(answer):
    ref, policy = torch.cat([REF, tensor(-math.inf)]), torch.cat([REF, tensor(-math.inf)])
    found = answer(ref, policy)
    expect(finite(found) and close(found, 0), f"both [0.5, 0.3, 0.2, 0]: {shown(found)}")
