"""Checks of chapter 13."""

from __future__ import annotations

import torch

from tutorials.exercises.checking import Properties, called, close, expect, finite, registrar, shown, tensor

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)

ONE, ZERO = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)


def draws(*shape):
    """A few tensors of a shape, the same every time."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(3)]


@prop(
    "layer_norm",
    says="with weight 1 and bias 0, the result has the mean 0",
    usually="the mean was not subtracted",
)
def mean_zero(answer):
    for x in (tensor(1, 2, 3, 6), tensor(-5, 0, 0, 1)):
        found = answer(x, ONE, ZERO)
        expect(close(found.sum(), 0), f"the mean of {called(answer, x, ONE, ZERO)} is {shown(found.mean())}")


@prop(
    "layer_norm",
    says="with weight 1 and bias 0, the result of large numbers has the mean square 1",
    usually="it was divided by the variance, or `std()` divides by C - 1 instead of C",
)
def square_one(answer):
    for x in (tensor(-3000, 1000, 1000, 1000), tensor(1e4, 2e4, 3e4, 5e4)):
        found = answer(x, ONE, ZERO)
        expect(
            close(found.square().mean(), 1),
            f"the mean square of {called(answer, x, ONE, ZERO)} is {shown(found.square().mean())}",
        )


@prop(
    "layer_norm",
    says="where all channels are equal, the result is the bias",
    usually="nothing was added under the root, and 0 / 0 is not a number",
)
def equal_channels(answer):
    x, bias = 3 * ONE, tensor(1, -2, 0, 5)
    found = answer(x, ONE, bias)
    expect(close(found, bias), f"{called(answer, x, ONE, bias)} is {shown(found)}")


@prop(
    "layer_norm",
    says="each channel has its own weight and bias, in this order",
    usually="the bias was added before the multiplication",
)
def weight_and_bias(answer):
    x, weight, bias = draws(6)
    plain, found = answer(x, torch.ones_like(x), torch.zeros_like(x)), answer(x, weight, bias)
    expect(close(found, plain * weight + bias), f"{called(answer, x, weight, bias)} is {shown(found)}")


@prop(
    "attend",
    says="the first position sees itself alone: it takes its own value",
    usually="later positions were seen, or the mask is transposed",
)
def first_position(answer):
    q, k, v = draws(4, 2)
    found = answer(q, k, v)[0]
    expect(close(found, v[0]), f"with v[0] = {shown(v[0])}, the first row of the result is {shown(found)}")


@prop(
    "attend",
    says="where all scores are equal, a position takes the mean of the values up to its own",
    usually="weights do not sum to one: the softmax was taken before later positions were left out",
)
def equal_scores(answer):
    _, k, v = draws(5, 3)
    found = answer(torch.zeros_like(v), k, v)
    for t in range(5):
        expect(
            close(found[t], v[: t + 1].mean(0)),
            f"with queries of zeros, row {t} is {shown(found[t])}, not the mean of the first {t + 1} values",
        )


@prop(
    "attend",
    says="scores are divided by the square root of D",
    usually="by D, or by the number of positions, or not at all",
)
def scale(answer):
    D = 4
    q, k = torch.ones(2, D, dtype=torch.float64), torch.zeros(2, D, dtype=torch.float64)
    k[0] = 1.0  # scores D and 0: after the division 2 and 0
    found = answer(q, k, torch.eye(2, D, dtype=torch.float64))[1, 0]
    wanted = float(torch.tensor(2.0, dtype=torch.float64).sigmoid())
    expect(
        close(found, wanted),
        f"one query whose products with two keys are 4 and 0, in four dimensions, gives the first key the "
        f"weight {shown(found)}",
    )


@prop(
    "attend",
    says="scores of 1000 give numbers",
    usually="exponentials were taken without subtracting the largest score",
)
def large_scores(answer):
    q, k, v = (1000 * x for x in draws(3, 2))
    expect(finite(answer(q, k, v)), f"{called(answer, q, k, v)} is not finite")


@prop(
    "parameters",
    says="one more token in the vocabulary is one more row of the embedding",
    usually="the output matrix was counted as well, and it is the embedding",
)
def vocabulary(answer):
    found = answer(11, 5, 1, 8) - answer(10, 5, 1, 8)
    expect(found == 8, f"with 8 channels, the 11th token costs {found}")


@prop(
    "parameters",
    says="one more block has 12 C² + 13 C numbers",
    usually="biases, a LayerNorm, or the matrix that brings the heads together were left out",
)
def blocks(answer):
    found = answer(10, 5, 3, 8) - answer(10, 5, 2, 8)
    expect(found == 12 * 64 + 13 * 8, f"with 8 channels, the third block has {found}")


@prop(
    "parameters",
    says="it is the number of GPT-2's smallest, and of a tiny one",
    usually="the positions or the last LayerNorm were left out",
)
def known(answer):
    for shape, wanted in (((50257, 1024, 12, 768), 124_439_808), ((3, 4, 1, 2), 92)):
        expect(answer(*shape) == wanted, f"{called(answer, *shape)} is {shown(answer(*shape))}")
