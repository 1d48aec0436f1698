"""Each token's part of the reward, on held-out pairs: which words the policy was taught to prefer."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import NamedTuple

import torch

from mini_dpo.batches import collate_pairs
from mini_dpo.corpus.parts import HeldOut
from mini_dpo.devices import autocast
from mini_dpo.formats.conversations import as_json
from mini_dpo.logprobs import token_logps
from mini_dpo.losses import Loss, Responses
from mini_dpo.model import GPT
from mini_dpo.tokenizer import Tokenizer

SHOWN_PAIRS = 6  # held-out pairs, the first ones


class Word(NamedTuple):
    """A piece of a response. value: the sum over its tokens; more than one where a character needs them."""

    text: str
    value: float
    tokens: int


def token_scale(variant: Loss, hyperparameters: dict) -> float | None:
    """beta, where the loss's reward is beta log(pi / ref), a sum over tokens. None where it is not, because
    the loss has no reference, no beta or a reward of another form (it is asked for that of two made-up
    responses); tokens then show log(pi / ref) itself.
    """
    if not variant.reference or "beta" not in hyperparameters:
        return None
    beta = float(hyperparameters["beta"])
    some = Responses(torch.tensor([-3.0, -8.0]), torch.tensor([2, 3]), torch.tensor([-4.0, -6.5]))
    return beta if torch.allclose(variant.rewards(some, **hyperparameters), beta * some.logratio) else None


@torch.no_grad()
def word_rewards(
    policy: GPT, other: GPT, tokenizer: Tokenizer, held_out: HeldOut, scale: float | None, dtype: str
) -> list[dict]:
    """The first held-out pairs as rows: {"prompt", "chosen", "rejected"}, the responses as lists of words.

    other: the reference, or where the loss has none the model before preference training.
    scale: as `token_scale` says. The values of a response's words, scale * log(policy / other) in units of
    reward or nats, add up to the response's.
    """
    rows, device = [], policy.wte.weight.device
    for preference, pair in zip(held_out.preferences[:SHOWN_PAIRS], held_out.pairs, strict=False):
        batch = collate_pairs([pair]).sequences.to(device)
        with autocast(device, dtype):
            ratios = token_logps(policy, batch) - token_logps(other, batch)  # (R,)
        values = ratios.double() * (1 if scale is None else scale)
        chosen, rejected = (
            words(tokenizer, response.response, values[batch.index.owners == i].tolist())
            for i, response in enumerate((pair.chosen, pair.rejected))
        )
        rows.append({"prompt": as_json(preference.prompt), "chosen": chosen, "rejected": rejected})
    return rows


def words(tokenizer: Tokenizer, ids: Sequence[int], values: Sequence[float]) -> list[Word]:
    """Tokens as words, each with its value. Tokens that hold parts of one character are one word. Bytes that
    are no character are written as \\xNN.
    """
    found, decoder = [], codecs.getincrementaldecoder("utf-8")("backslashreplace")
    text, total, tokens = "", 0.0, 0
    for place, (token, value) in enumerate(zip(ids, values, strict=True), 1):
        text += decoder.decode(tokenizer.encoding.decode_single_token_bytes(token), place == len(ids))
        total, tokens = total + value, tokens + 1
        if not decoder.getstate()[0]:  # no character is begun
            found.append(Word(text, total, tokens))
            text, total, tokens = "", 0.0, 0
    return found
