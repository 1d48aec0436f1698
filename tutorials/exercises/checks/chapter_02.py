"""Checks of chapter 2."""

from __future__ import annotations

import itertools
import math

import torch

from tutorials.exercises.checking import Properties, called, close, expect, registrar, shown

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)

LOGITS = [[0.0, 0.0], [0.0, 1.0], [2.0, -1.0, 0.5], [-3.0, 0.0, 3.0, 1.0]]


@prop(
    "log_probability",
    says="the probabilities of all tokens sum to one",
    usually="a softmax without its denominator, or a log in base 2 or 10",
)
def sum_to_one(answer):
    for logits in LOGITS:
        total = sum(math.exp(answer(logits, token)) for token in range(len(logits)))
        expect(
            close(total, 1),
            f"with logits {shown(logits)} the exponentials of the answers sum to {shown(total)}",
        )


@prop(
    "log_probability",
    says="the difference of two log-probs is the difference of their logits",
    usually="the logits were divided by their sum, or squared, instead of taken as exponents",
)
def differences(answer):
    for logits in LOGITS:
        found = answer(logits, 0) - answer(logits, 1)
        expect(
            close(found, logits[0] - logits[1]),
            f"with logits {shown(logits)}: {called(answer, logits, 0)} less "
            f"{called(answer, logits, 1)} is {shown(found)}",
        )


@prop(
    "log_probability",
    says="it is finite for logits of any size, however unlikely the token",
    usually="exp(1000) overflows, and exp(-1000) is 0 and has no logarithm",
)
def any_size(answer):
    for logits, token, wanted in (
        ([1000.0, 0.0], 0, 0.0),
        ([1000.0, 0.0], 1, -1000.0),
        ([-1000.0, -1000.0], 0, -math.log(2)),
    ):
        try:
            found = answer(logits, token)
        except (OverflowError, ValueError, ZeroDivisionError) as error:
            expect(False, f"{called(answer, logits, token)} raises {type(error).__name__}")
        expect(close(found, wanted), f"{called(answer, logits, token)} is {shown(found)}")


EXAMPLES = [([5, 6], [7, 8], 0), ([1, 2], [1], 0), ([5], [7], 0), ([], [7, 8, 9], 0), ([1, 2, 3], [], 0)]


@prop(
    "lay_out",
    says="the ids are prompt, response, end, in this order",
    usually="the end was forgotten, or put between the two",
)
def order(answer):
    for prompt, response, end in EXAMPLES:
        ids, _ = answer([*prompt], [*response], end)
        expect(
            list(ids) == prompt + response + [end],
            f"the ids of {called(answer, prompt, response, end)} are {shown(ids)}",
        )


@prop("lay_out", says="there is a mask for each id", usually="the end has an id, but no place in the mask")
def as_many(answer):
    for prompt, response, end in EXAMPLES:
        ids, mask = answer([*prompt], [*response], end)
        expect(
            len(ids) == len(mask),
            f"{called(answer, prompt, response, end)} has {len(ids)} ids and a mask of {len(mask)}",
        )


@prop(
    "lay_out",
    says="a model that learns what is under the mask learns to stop",
    usually="the end-of-text token is not under the mask",
)
def stops(answer):
    for prompt, response, end in EXAMPLES:
        _, mask = answer([*prompt], [*response], end)
        expect(mask[-1], f"the mask of {called(answer, prompt, response, end)} is {shown(mask)}")


@prop(
    "lay_out",
    says="the response is scored, all of it, and the prompt is not",
    usually="the mask is one place too early or too late: shifting is not its business",
)
def response_only(answer):
    for prompt, response, end in EXAMPLES:
        _, mask = answer([*prompt], [*response], end)
        expect(
            [bool(m) for m in mask] == [False] * len(prompt) + [True] * (len(response) + 1),
            f"the mask of {called(answer, prompt, response, end)} is {shown(mask)}",
        )


@prop(
    "lay_out",
    says="what it was given is not changed",
    usually="`prompt += ...` or `response.append(...)` changes the caller's list",
)
def unchanged(answer):
    prompt, response = [5, 6], [7, 8]
    answer(prompt, response, 0)
    expect(
        (prompt, response) == ([5, 6], [7, 8]),
        f"after the call prompt and response are {shown(prompt)} and {shown(response)}",
    )


END = 2


def logits_of(ids):
    """What a small model of three tokens would say: row t depends on ids[0] to ids[t]."""
    rows = []
    for t in range(len(ids)):
        generator = torch.Generator().manual_seed(
            sum((token + 1) * 7**i for i, token in enumerate(ids[: t + 1]))
        )
        rows.append(2 * torch.randn(3, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


@prop(
    "response_logp",
    says="it is a sum: two tokens' log-prob is that of the first plus that of the second",
    usually="a mean over the tokens, or the mask is not looked at and the prompt is counted",
)
def additive(answer):
    ids = [0, 1, 0, END]
    logits = logits_of(ids)
    parts = [
        answer(logits, ids, [False, False, True, False]),
        answer(logits, ids, [False, False, False, True]),
    ]
    whole = answer(logits, ids, [False, False, True, True])
    expect(
        close(whole, sum(parts)),
        f"the token at 2 alone has {shown(parts[0])}, that at 3 alone {shown(parts[1])}, both "
        f"together {shown(whole)}",
    )


@prop(
    "response_logp",
    says="over all responses to a prompt (two words, at most three of them) the probabilities sum to one",
    usually="any sum: a token looked up in its own row, or in the one after it, instead of "
    "the one before. Below 1: the prompt is counted. Above 1: the end is not counted",
)
def all_sum_to_one(answer):
    for prompt in ([0], [1, 0]):
        ended = [[*words, END] for n in range(3) for words in itertools.product(range(2), repeat=n)]
        total = 0.0
        for response in ended + [list(words) for words in itertools.product(range(2), repeat=3)]:
            ids, mask = prompt + response, [False] * len(prompt) + [True] * len(response)
            total += math.exp(answer(logits_of(ids), ids, mask))
        expect(
            close(total, 1),
            f"after the prompt {shown(prompt)} the probabilities of all 15 responses sum to {shown(total)}",
        )


@prop(
    "response_logp",
    says="what stands in the prompt's rows before the last does not matter, and neither does padding",
    usually="the loop runs over all ids, or looks at rows that predict no response token",
)
def indifferent(answer):
    ids, mask = [0, 1, 0, END], [False, False, True, True]
    logits = logits_of(ids)
    other = logits.clone()
    other[0] += torch.tensor([3.0, -3.0, 1.0])
    padded = torch.cat([other, torch.full((2, 3), 9.0, dtype=torch.float64)])
    found = answer(logits, ids, mask), answer(padded, [*ids, 0, 0], [*mask, False, False])
    expect(
        close(*found),
        f"{shown(found[0])} becomes {shown(found[1])} when row 0 changes and two padding tokens follow",
    )
