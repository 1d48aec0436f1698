"""The blocks of a model as torch.compile makes them: `--compile`.

This file does not import model.py, which imports this room: a block is whatever has a block's parts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from mini_dpo.fast.trial import FastWay, draw

COMPILE = FastWay("--compile", "going on without it")
Half = Callable[..., Any]  # a tensor, or a tuple of them


def compile_blocks(model: Any) -> None:
    """Have torch.compile translate the blocks of `model` from now on, after a trial."""
    for block in model.h:
        block.forward = partial(forward, block)


def forward(block: Any, x: Tensor, attend: Callable, rows: Tensor | None = None) -> Tensor:
    """`Block.forward`, cut where attention is, which depends on the batch: both halves are compiled."""
    y = attend(*take(before_attention, block, x)).transpose(-3, -2).flatten(-2)  # (..., T, C)
    if rows is not None:
        x, y = x.index_select(0, rows), y.index_select(0, rows)  # (R, C)
    return take(after_attention, block, x, y)


def before_attention(block: Any, x: Tensor) -> tuple[Tensor, ...]:
    """The half before the positions meet: queries, keys and values."""
    return block.attn.heads(block.ln_1(x))


def after_attention(block: Any, x: Tensor, y: Tensor) -> Tensor:
    """The half after: what a position has gathered, and what its MLP makes of it, added to the stream."""
    x = x + block.drop(block.attn.c_proj(y))
    return x + block.drop(block.mlp(block.ln_2(x)))


def take(half: Half, block: Any, *inputs: Tensor) -> Any:
    """One of the two halves, compiled if the trial allows it."""
    return COMPILE.take(
        partial(run_compiled, half, block),
        partial(half, block),
        inputs,
        partial(small_half, half, block, inputs),
    )


def run_compiled(half: Half, block: Any, *inputs: Tensor) -> Any:
    return compiled(half)(block, *inputs)


def small_half(half: Half, block: Any, inputs: Sequence[Tensor]) -> tuple:
    """What a compiled half is tried on: sixteen positions, and the block's own weights without dropout, of
    which no two draws are the same.
    """
    block = copy.deepcopy(block).requires_grad_()
    block.drop.p = 0.0
    small = [draw((16, x.shape[-1]), seed).to(x) for seed, x in enumerate(inputs)]  # (T, C) each
    return partial(run_compiled, half, block), partial(half, block), small, list(block.parameters())


@lru_cache
def compiled(half: Half) -> Half:
    """Half a block as torch.compile makes it, once for rows of every length and for every block."""
    return torch.compile(half, dynamic=True)
