"""Checks of chapter 12."""

from __future__ import annotations

import torch

from mini_dpo.model import GPT, GPTConfig
from tutorials.exercises.checking import Properties, expect, registrar

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)

with torch.device("meta"):  # names without numbers
    NAMES = list(GPT(GPTConfig(vocab_size=5, context=4, n_layer=11, n_head=1, n_embd=2)).state_dict())


@prop(
    "our_name",
    says="every weight keeps its name, with and without the prefix",
    usually="the prefix is cut by its length, or wherever it stands; "
    "a weight's own bias is taken for the mask",
)
def weights_keep_their_names(answer):
    for name in NAMES:
        for published in (name, f"transformer.{name}"):
            found = answer(published)
            expect(found == name, f"{published!r} becomes {found!r}")


@prop(
    "our_name",
    says="what is no weight of its own has no name",
    usually="one of the two masks, or the second copy of the embedding, is forgotten, or known with one "
    "prefix only",
)
def others_have_none(answer):
    for name in ("h.0.attn.bias", "h.10.attn.masked_bias", "lm_head.weight"):
        for published in (name, f"transformer.{name}"):
            found = answer(published)
            expect(found == "", f"{published!r} becomes {found!r}")


def drawn(V: int = 7, C: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(V, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


@prop(
    "with_new_rows",
    says="the old rows stay as they are, and k rows come after them",
    usually="the new rows come first, or there is one of them, or all rows are moved",
)
def old_rows_stay(answer):
    for k in (1, 3):
        old = drawn()
        found = answer(old.clone(), k)
        expect(
            tuple(found.shape) == (7 + k, 5), f"7 rows and {k} new ones have the shape {tuple(found.shape)}"
        )
        expect(torch.equal(found[:7], old), "a row of an old token has changed")


@prop(
    "with_new_rows",
    says="whatever the hidden state, a new token's logit is the mean of the old ones",
    usually="zeros (a logit of 0, wherever the others are), random rows, or a mean over the wrong dimension",
)
def the_mean_of_the_logits(answer):
    for seed in range(3):
        old, hidden = drawn(seed=seed), drawn(1, seed=seed + 10)[0]
        logits = answer(old.clone(), 2) @ hidden  # (V + 2,)
        expect(
            torch.allclose(logits[7:], logits[:7].mean().expand(2)),
            f"the old logits have the mean {logits[:7].mean():.3f}, a new one is {logits[-1]:.3f}",
        )


USER, ASSISTANT = "user", "assistant"


@prop(
    "split_at_turns",
    says="conversations with the same beginning are split after it",
    usually="the prompt is the first turn only, or it keeps the response",
)
def the_same_beginning(answer):
    for before in ([(USER, "a")], [(USER, "a"), (ASSISTANT, "b"), (USER, "c")]):
        found = answer([*before, (ASSISTANT, "yes")], [*before, (ASSISTANT, "no")])
        expect(tuple(found) == (before, "yes", "no"), f"after {before} the answers yes and no give {found!r}")


@prop(
    "split_at_turns",
    says="a response is never cut, however alike the two are",
    usually="the texts are compared letter by letter; or equal responses are taken for a part of the prompt",
)
def never_inside_a_turn(answer):
    before = [(USER, "a")]
    for one, two in (("Yes, I do.", "Yes, I think."), ("Yes", "Yes, sir"), ("Yes", "Yes")):
        found = answer([*before, (ASSISTANT, one)], [*before, (ASSISTANT, two)])
        expect(tuple(found) == (before, one, two), f"the answers {one!r} and {two!r} give {found!r}")


BAD = {
    "other questions": ([(USER, "a"), (ASSISTANT, "x")], [(USER, "b"), (ASSISTANT, "y")]),
    "one that goes on": (
        [(USER, "a"), (ASSISTANT, "x"), (USER, "b"), (ASSISTANT, "z")],
        [(USER, "a"), (ASSISTANT, "y")],
    ),
    "one that does not answer": ([(USER, "a"), (ASSISTANT, "x")], [(USER, "a")]),
    "a user's turn last": ([(USER, "a"), (USER, "x")], [(USER, "a"), (USER, "y")]),
    "nothing": ([], []),
}


@prop(
    "split_at_turns",
    says="what is not a prompt with two responses raises ValueError",
    usually="the rest is joined, or what one has more is dropped; or the roles are not looked at",
)
def others_are_refused(answer):
    for what, (chosen, rejected) in BAD.items():
        try:
            found = answer(list(chosen), list(rejected))
        except ValueError:
            continue
        except Exception as error:
            expect(False, f"{what} raises {type(error).__name__}: {error}")
        expect(False, f"{what} gives {found!r}")
