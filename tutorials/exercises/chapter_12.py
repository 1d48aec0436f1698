"""Exercises of chapter 12, A model that was here before you. Then: python -m tutorials.exercises 12"""

from __future__ import annotations

from torch import Tensor


def our_name(name: str) -> str:
    """12.1  The name that this project gives to a tensor of a published GPT-2, or "" where the tensor is no
    weight of its own.

    Names there may begin with "transformer.", and here they never do; otherwise they are the same. In each
    block, "attn.bias" and "attn.masked_bias" are the causal mask and not weights. "lm_head.weight" is the
    embedding once more.
    """
    raise NotImplementedError


def with_new_rows(embedding: Tensor, k: int) -> Tensor:
    """12.2  The embedding (V, C) with k new tokens at its end, (V + k, C). Whatever the hidden state, a new
    token's logit must be the mean of the old tokens' logits.
    """
    raise NotImplementedError


def split_at_turns(
    chosen: list[tuple[str, str]], rejected: list[tuple[str, str]]
) -> tuple[list[tuple[str, str]], str, str]:
    """12.3  Two conversations as (the prompt, the chosen response, the rejected response).

    Each is a list of turns, (role, text), roles being "user" and "assistant". The prompt is the turns that
    both begin with; after it, each has one turn of the assistant, the response. Raises ValueError where that
    does not hold. Two responses may be equal.
    """
    raise NotImplementedError
