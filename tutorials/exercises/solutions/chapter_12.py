"""Solutions of chapter 12."""

from __future__ import annotations

import torch
from torch import Tensor


def our_name(name: str) -> str:
    name = name.removeprefix("transformer.")
    if name == "lm_head.weight" or name.endswith((".attn.bias", ".attn.masked_bias")):
        return ""
    return name


def with_new_rows(embedding: Tensor, k: int) -> Tensor:
    mean = embedding.mean(0, keepdim=True)  # (1, C)
    return torch.cat([embedding, mean.expand(k, -1)])  # (V + k, C)


def split_at_turns(
    chosen: list[tuple[str, str]], rejected: list[tuple[str, str]]
) -> tuple[list[tuple[str, str]], str, str]:
    if len(chosen) != len(rejected) or not chosen or chosen[:-1] != rejected[:-1]:
        raise ValueError("the two do not begin with the same turns, or not with all but the last")
    if {chosen[-1][0], rejected[-1][0]} != {"assistant"}:
        raise ValueError("a response is the assistant's")
    return chosen[:-1], chosen[-1][1], rejected[-1][1]
