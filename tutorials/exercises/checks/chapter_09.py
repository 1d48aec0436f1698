"""Checks of chapter 9."""

from __future__ import annotations

import random

import torch

from tutorials.exercises.checking import Properties, called, close, expect, registrar, shown, tensor

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)

FEATURES = torch.tensor([[1.0, 0.2], [1.0, -0.2], [-1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)


@prop(
    "will_rise",
    says="in a table, where each response has a weight of its own, the chosen one always rises",
    usually="the sign of the difference, or chosen and rejected swapped",
)
def table(answer):
    for probabilities in (tensor(0.25, 0.25, 0.25, 0.25), tensor(0.9, 0.05, 0.03, 0.02)):
        expect(
            bool(answer(torch.eye(4, dtype=torch.float64), probabilities, 0, 1)),
            "four responses with features of their own, probabilities "
            f"{shown(probabilities)}: {answer(torch.eye(4, dtype=torch.float64), probabilities, 0, 1)}",
        )


@prop(
    "will_rise",
    says="in the chapter's example it rises at first, and falls once Yes is common",
    usually="the mean feature is left out, or is a plain mean instead of the policy's",
)
def the_chapter_s(answer):
    for probabilities, wanted in (
        (tensor(0.48, 0.48, 0.02, 0.02), True),
        (tensor(0.27, 0.11, 0.62, 0.0), False),
    ):
        expect(
            bool(answer(FEATURES, probabilities, 0, 1)) is wanted,
            f"No, Never, Yes, Maybe with probabilities {shown(probabilities)}, No chosen over "
            f"Never: {answer(FEATURES, probabilities, 0, 1)}",
        )


@prop(
    "will_rise",
    says="it says what a small step of gradient descent on the DPO loss does, on 200 random worlds",
    usually="a length was divided out with the wrong sign, or only one feature was looked at",
)
def small_step(answer):
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        features = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        ref = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(-1)
        theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        policy = (ref + features @ theta).log_softmax(-1)
        (gradient,) = torch.autograd.grad(-torch.nn.functional.logsigmoid(policy[0] - policy[1]), theta)
        rise = float(((ref - 1e-6 * features @ gradient).log_softmax(-1) - ref)[0])
        expect(
            bool(answer(features, ref.exp(), 0, 1)) is (rise > 0),
            f"features {shown([[round(x, 2) for x in row] for row in features.tolist()])}, "
            f"probabilities {shown([round(p, 2) for p in ref.exp().tolist()])}: a step changes the "
            f"log-prob by {rise:.1e}, the answer is {answer(features, ref.exp(), 0, 1)}",
        )


@prop(
    "is_determined",
    says="a chain is enough",
    usually="every pair was asked for, or pairs were followed in one direction only",
)
def chain(answer):
    for n, pairs in ((1, []), (2, [(0, 1)]), (4, [(0, 1), (1, 2), (2, 3)]), (4, [(3, 2), (1, 2), (1, 0)])):
        expect(answer(n, pairs) is True, f"{called(answer, n, pairs)} is {answer(n, pairs)}")


@prop(
    "is_determined",
    says="two islands are not, nor is a response that was never compared",
    usually="it was asked only whether each response stands in some pair, or how many pairs there are",
)
def islands(answer):
    for n, pairs in (
        (2, []),
        (4, [(0, 1), (2, 3)]),
        (3, [(0, 1), (1, 0)]),
        (6, [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]),
    ):
        expect(answer(n, pairs) is False, f"{called(answer, n, pairs)} is {answer(n, pairs)}")


@prop(
    "is_determined",
    says="a response compared with itself, and a pair in any order, change nothing",
    usually="only one direction of each pair was followed",
)
def any_order(answer):
    rng = random.Random(0)
    for _ in range(50):
        n = rng.randrange(2, 7)
        pairs = [(rng.randrange(n), rng.randrange(n)) for _ in range(rng.randrange(1, 8))]
        turned = [(b, a) for a, b in reversed(pairs)]
        expect(
            answer(n, pairs) == answer(n, turned),
            f"{called(answer, n, pairs)} is {answer(n, pairs)}, and with each pair turned "
            f"round {answer(n, turned)}",
        )


@prop(
    "length_corrected", says="responses of one length: the margin stays", usually="a division by the length"
)
def equal_lengths(answer):
    expect(
        close(answer(1.5, 20, 20, 0.3), 1.5),
        f"{called(answer, 1.5, 20, 20, 0.3)} is {shown(answer(1.5, 20, 20, 0.3))}",
    )


@prop(
    "length_corrected",
    says="a pair whose chosen response is the longer one teaches less: its margin is already larger",
    usually="the sign: subtracting rewards length",
)
def longer_teaches_less(answer):
    found = answer(0.0, 30, 10, 0.05)
    expect(found > 0, f"{called(answer, 0.0, 30, 10, 0.05)} is {shown(found)}")


@prop(
    "length_corrected",
    says="if people's reward is r + alpha tokens, then a policy with the margin of r alone "
    "explains their comparisons",
    usually="alpha twice, or the lengths' ratio instead of their difference",
)
def explains(answer):
    for r_w, r_l, length_w, length_l in ((2.0, 1.0, 12, 7), (0.0, 0.5, 3, 9)):
        felt = r_w + 0.1 * length_w - r_l - 0.1 * length_l
        found = answer(r_w - r_l, length_w, length_l, 0.1)
        expect(
            close(found, felt),
            f"rewards {r_w} and {r_l}, lengths {length_w} and {length_l}, alpha 0.1: people "
            f"feel a difference of {shown(felt)}; "
            f"{called(answer, r_w - r_l, length_w, length_l, 0.1)} is {shown(found)}",
        )
