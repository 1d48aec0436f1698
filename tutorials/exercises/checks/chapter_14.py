"""Checks of chapter 14."""

from __future__ import annotations

import math
import random

import torch

from tutorials.exercises.checking import Properties, close, expect, registrar

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)


@prop(
    "pixels",
    says="a single pixel is at its place",
    usually="the first pixel is taken from the highest bits, or a pixel has one bit or four",
)
def one_pixel(answer):
    for place in (0, 1, 5, 15):
        for value in (1, 2, 3):
            found = list(answer(value << 2 * place))
            expected = [value if i == place else 0 for i in range(16)]
            expect(found == expected, f"{value} shifted by {2 * place} bits gives {found}")


@prop(
    "pixels",
    says="all pixels of any patch come back",
    usually="pixels that are 0 are left out, or a pixel takes bits of its neighbour",
)
def any_patch(answer):
    rng = random.Random(0)
    for expected in [[rng.randrange(4) for _ in range(16)] for _ in range(20)] + [[0] * 16, [3] * 16]:
        found = list(answer(sum(pixel << 2 * i for i, pixel in enumerate(expected))))
        expect(found == expected, f"the pixels {expected} come back as {found}")


def shares(answer, there, named, expected):
    found = answer([set(things) for things in there], [list(things) for things in named])
    expect(
        close(list(found), expected), f"pictures of {there}, captions of {named}: {found!r}, not {expected}"
    )


@prop(
    "hallucination",
    says="right captions make nothing up and miss nothing, and silence makes nothing up and sees nothing",
    usually="0 / 0 where nothing is named, or recall is of what is named and not of what is there",
)
def right_and_silent(answer):
    shares(answer, [["moon", "star"], ["boat"]], [["star", "moon"], ["boat"]], [0, 0, 1])
    shares(answer, [["moon", "star"], ["boat"]], [[], []], [0, 0, 0])


@prop(
    "hallucination",
    says="things are counted over all captions together, captions one by one",
    usually="a mean of the captions' own shares: then a thing in a short caption weighs more",
)
def over_all(answer):
    there = [["moon"], ["boat", "fish", "tree"]]
    shares(answer, there, [["moon", "star"], ["boat", "fish"]], [1 / 4, 1 / 2, 3 / 4])
    shares(answer, there, [["star", "hat", "tree"], ["boat"]], [3 / 4, 1 / 2, 1 / 4])


@prop(
    "hallucination",
    says="a thing that is named again is made up once for each time more, and seen once",
    usually="the captions are made sets: what is said twice is counted once; or it is seen twice",
)
def named_again(answer):
    shares(answer, [["moon", "star"]], [["moon", "moon", "moon"]], [2 / 3, 1, 1 / 2])
    shares(answer, [["moon"]], [["star", "star"]], [1, 1, 0])


def ratios(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@prop(
    "mdpo_loss",
    says="at the reference it is 2 log 2 + log(1 + e^anchor)",
    usually="a mean or a sum over the pairs, a term left out, or the anchor with the wrong sign",
)
def at_the_reference(answer):
    zero = ratios(0.0, 0.0, 0.0)
    for anchor in (0.0, 1.0, -2.0):
        found = answer(zero, zero, zero, 0.3, anchor)
        expected = 2 * math.log(2) + math.log1p(math.exp(anchor))
        expect(
            tuple(found.shape) == (3,) and close(found.tolist(), [expected] * 3),
            f"anchor {anchor:g}: {found.tolist()}, not {expected:.4f} for each pair",
        )


@prop(
    "mdpo_loss",
    says="each term moves with its own log-ratios",
    usually="the other picture in the place of the rejected response, a term with beta twice or not at all",
)
def each_term(answer):
    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    for w, l, o, beta, anchor in ((2, -1, 0.5, 0.5, 0), (-1, 3, -2, 0.3, 1), (0.5, 0.5, 4, 2, -0.5)):
        found = answer(ratios(w), ratios(l), ratios(o), beta, anchor).item()
        expected = softplus(beta * (l - w)) + softplus(beta * (o - w)) + softplus(anchor - beta * w)
        expect(
            close(found, expected),
            f"log-ratios {w}, {l} and {o}, beta {beta}, anchor {anchor}: {found:.4f}, not {expected:.4f}",
        )


@prop(
    "mdpo_loss",
    says="it is finite, and still pulls, a thousand nats away",
    usually="log(sigmoid(x)), which is log 0 there; torch.nn.functional has a function for it",
)
def far_away(answer):
    r_w, far = ratios(-1000.0).requires_grad_(), ratios(1000.0)
    value = answer(r_w, far, far, 1.0, 0.0)
    (slope,) = torch.autograd.grad(value.sum(), r_w)
    expect(
        bool(value.isfinite().all()) and close(slope.item(), -3.0),
        f"log-ratios -1000, 1000 and 1000: {value.item():g}, with slope {slope.item():g} by r_w",
    )
