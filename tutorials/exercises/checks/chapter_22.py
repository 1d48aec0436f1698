"""Checks of chapter 22."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from tutorials.exercises.checking import Properties, close, expect, registrar, shown, tensor

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)

END = 2
ROWS = [([0], [1, 0, END]), ([0, 1], [END]), ([1], [0, 0]), ([1, 1, 0], [1, END])]  # prompts and responses


def logits_of(n: int, T: int, V: int = 3, seed: int = 0) -> Tensor:
    """Logits (n, T, V) that look like a model's."""
    return torch.randn(n, T, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def after(ids: list[int]) -> Tensor:
    """What a small model of three tokens would say after ids: (3,)."""
    return logits_of(1, 1, seed=int("1" + "".join(map(str, ids)), 3))[0, 0]


def padded(rows: list[tuple[list[int], list[int]]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """(ids, mask), (B, T) each."""
    T = max(len(prompt) + len(response) for prompt, response in rows)
    ids, mask = torch.full((len(rows), T), pad), torch.zeros(len(rows), T, dtype=torch.bool)
    for i, (prompt, response) in enumerate(rows):
        whole = prompt + response
        ids[i, : len(whole)] = torch.tensor(whole)
        mask[i, len(prompt) : len(whole)] = True
    return ids, mask


@prop("batch_logps", says="one number per response, (B,)", usually="the sum runs over all rows, or over none")
def one_each(answer):
    ids, mask = padded(ROWS)
    found = answer(logits_of(*ids.shape), ids, mask)
    expect(
        found.shape == (len(ROWS),),
        f"for {len(ROWS)} responses the answer has the shape {tuple(found.shape)}",
    )


@prop(
    "batch_logps",
    says="over all responses to a prompt (two words, at most three of them) the probabilities sum to one",
    usually="a token is looked up in its own row instead of the row before it, the end is not counted, or "
    "the softmax is not over the tokens",
)
def all_sum_to_one(answer):
    responses = [[*w, END] for n in range(3) for w in itertools.product(range(2), repeat=n)]
    responses += [list(w) for w in itertools.product(range(2), repeat=3)]
    ids, mask = padded([([1], response) for response in responses])
    logits = torch.stack(
        [
            torch.cat(
                [
                    logits_of(1, 1, seed=int("1" + "".join(map(str, row[: t + 1])), 3))[0]
                    for t in range(len(row))
                ]
            )
            for row in ids.tolist()
        ]
    )
    total = float(answer(logits, ids, mask).exp().sum())
    expect(close(total, 1), f"the probabilities of all 15 responses sum to {shown(total)}")


@prop(
    "batch_logps",
    says="what is padded, and what is in the prompt's other rows, changes nothing",
    usually="the mask is not looked at, or it is multiplied with an infinite log-prob",
)
def padding_is_nothing(answer):
    ids, mask = padded(ROWS)
    logits = logits_of(*ids.shape)
    other, odd = logits.clone(), padded(ROWS, pad=1)[0]
    for i, (prompt, response) in enumerate(ROWS):
        other[i, : len(prompt) - 1] = 9.0
        other[i, len(prompt) + len(response) :, 1] = -torch.inf
    found, again = answer(logits, ids, mask), answer(other, odd, mask)
    expect(close(found, again), f"{shown(found)} becomes {shown(again)}")


@prop(
    "batch_logps",
    says="there is a gradient to the logits: at the rows before response tokens, and nowhere else",
    usually="`.item()`, `.tolist()` or `torch.no_grad()` cuts the answer from what it was computed of",
)
def has_a_gradient(answer):
    ids, mask = padded(ROWS)
    logits = logits_of(*ids.shape).requires_grad_()
    found = answer(logits, ids, mask)
    expect(getattr(found, "requires_grad", False), "the answer has no gradient")
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    moved = gradient.abs().sum(-1) > 0  # (B, T)
    wanted = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    expect(
        bool((moved == wanted).all()),
        f"rows with a gradient: {shown(moved.int())}; wanted: {shown(wanted.int())}",
    )


START = tensor(1.0, -2.0, 0.5)
GRADIENTS = [tensor(0.3, -4.0, 1e-3), tensor(0.1, 2.0, -1e-3), tensor(-0.2, 0.0, 5.0)]


def walk(step, gradients=GRADIENTS, lr=0.1):
    """The values after each step."""
    value, m, v = START, torch.zeros_like(START), torch.zeros_like(START)
    way = []
    for t, gradient in enumerate(gradients, 1):
        value, m, v = step(value, gradient, m, v, t, lr)
        way.append(value)
    return way


@prop("adam_step", says="nothing that was given is changed", usually="`m *= ...` or `value -= ...` in place")
def unchanged(answer):
    given = [START.clone(), GRADIENTS[0].clone(), torch.zeros(3).double(), torch.zeros(3).double()]
    kept = [x.clone() for x in given]
    answer(*given, 1, 0.1)
    expect(all(map(torch.equal, given, kept)), f"after the call the arguments are {shown(given)}")


@prop(
    "adam_step",
    says="the first step is lr against the gradient's sign, however large the gradient is",
    usually="no correction of the bias (then the first step is too small or too large), or the sign is wrong",
)
def first_step(answer):
    found = walk(answer, GRADIENTS[:1])[0]
    wanted = START - 0.1 * GRADIENTS[0].sign()
    expect(
        close(found, wanted, 1e-4),
        f"from {shown(START)} with the gradient {shown(GRADIENTS[0])} and lr 0.1 the step leads to "
        f"{shown(found)}",
    )


@prop(
    "adam_step",
    says="three steps are those of torch.optim.Adam with betas=(0.9, 0.95)",
    usually="a decay rate of 0.999",
)
def as_torch(answer):
    parameter = START.clone().requires_grad_()
    optimizer = torch.optim.Adam([parameter], lr=0.1, betas=(0.9, 0.95), eps=1e-8)
    for t, (found, gradient) in enumerate(zip(walk(answer), GRADIENTS, strict=True), 1):
        parameter.grad = gradient.clone()
        optimizer.step()
        wanted = parameter.detach()
        expect(
            close(found, wanted, 1e-9),
            f"after step {t} the values are {shown(found)}, torch has {shown(wanted)}",
        )


def probabilities_of(ids: list[int]) -> list[float]:
    """Of three tokens, the last of which ends."""
    return [0.5, 0.3, 0.2] if ids[-1] == 0 else [0.1, 0.2, 0.7]


@prop(
    "respond",
    says="the end is part of the response, and nothing comes after it",
    usually="the loop stops before the end is kept, or goes on after it, or looks for it in the prompt too",
)
def ends(answer):
    for numbers, wanted in (([0.9], [END]), ([0.1, 0.6, 0.9], [0, 1, END]), ([0.1, 0.1, 0.95], [0, 0, END])):
        for prompt in ([0], [END, 0]):  # an end in the prompt ends nothing
            found = answer(lambda ids: [0.5, 0.3, 0.2], list(prompt), END, 9, iter([*numbers, *[0.0] * 9]))
            expect(
                found == wanted,
                f"prompt {shown(prompt)}, the numbers {shown(numbers)}, and zeros after them: "
                f"the response is {shown(found)}",
            )


@prop("respond", says="it is cut after `longest` tokens", usually="one token more or less")
def is_cut(answer):
    found = answer(probabilities_of, [0], END, 3, itertools.repeat(0.1))
    expect(found == [0, 0, 0], f"at most 3 tokens, and the numbers are all 0.1: {shown(found)}")


@prop(
    "respond",
    says="each token is drawn after all tokens before it, and the prompt is not changed",
    usually="every token is drawn after the prompt alone, or `prompt.append(...)` changes the caller's list",
)
def reads_on(answer):
    asked = []

    def watched(ids):
        asked.append(list(ids))
        return probabilities_of(ids)

    prompt = [1, 0]
    answer(watched, prompt, END, 9, iter([0.1, 0.6, 0.5]))
    expect(
        asked == [[1, 0], [1, 0, 0], [1, 0, 0, 1]] and prompt == [1, 0],
        f"the probabilities were asked for after {shown(asked)}, and the prompt is now {shown(prompt)}",
    )
