"""Attention over a packed row: FlexAttention on a CUDA device, spans everywhere else."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from mini_dpo.devices import send
from mini_dpo.fast.trial import FastWay, draw
from mini_dpo.packing import Layout, attend_by_spans, lay_out, sees

FLEX = FastWay("FlexAttention", "attention goes span by span: the same numbers, more slowly")
FLEX_DEVICES = ("cuda",)  # where it is a kernel, forward and backward
BLOCK = 128  # tokens that it takes or leaves together


def attention(layout: Layout, dropout: float = 0.0) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The function that mixes values as `sees` allows: queries, keys and values (H, T, D) -> (H, T, D).

    Span after span, which works everywhere. On a CUDA device the whole row is one call of FlexAttention,
    which has no dropout, once a trial has shown that it gives the same there.
    """
    by_spans = partial(attend_by_spans, sizes=layout.sizes, dropout=dropout)
    if dropout or FLEX.given_up or layout.positions.device.type not in FLEX_DEVICES:
        return by_spans
    at_once = partial(attend_at_once, mask=block_mask(layout))
    return lambda *qkv: FLEX.take(at_once, by_spans, qkv, partial(small_row, *qkv))


def attend_at_once(q: Tensor, k: Tensor, v: Tensor, mask: object) -> Tensor:
    """Attention over the whole row in one call of FlexAttention (arXiv:2412.05496)."""
    return compiled_flex_attention()(q[None], k[None], v[None], block_mask=mask)[0]


@lru_cache(maxsize=1)
def compiled_flex_attention() -> Callable:
    """FlexAttention as one kernel, made once for rows of every length. fullgraph: where it cannot be, an
    error says so, and not a row's whole (T, T) matrix of scores, which is what it is uncompiled.
    """
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


def small_row(*qkv: Tensor) -> tuple:
    """What FlexAttention is tried on: two trees in five blocks of tokens, cut inside of a prompt and of
    responses.
    """
    layout = lay_out([(150, 90, 120), (60, 100, 3)]).to(qkv[0].device)
    # (H, T, D) each
    inputs = [draw((len(z), len(layout.positions), z.shape[-1]), seed).to(z) for seed, z in enumerate(qkv)]
    return (
        partial(attend_at_once, mask=block_mask(layout)),
        partial(attend_by_spans, sizes=layout.sizes),
        inputs,
    )


def block_mask(layout: Layout) -> object:
    """`sees` for FlexAttention, with the blocks of keys that each block of queries has to look at: from the
    one where its first token's tree begins to its own.
    """
    from torch.nn.attention.flex_attention import BlockMask

    device, T = layout.trees.device, len(layout.trees)
    starts = torch.zeros(len(layout.sizes), dtype=torch.long)
    # (trees,), their first places
    starts[1:] = torch.tensor([sum(size) for size in layout.sizes[:-1]]).cumsum(0)
    starts = send(starts, device)
    blocks = torch.arange(-(-T // BLOCK), device=device)  # (N,)
    first = starts[layout.trees[blocks * BLOCK]] // BLOCK  # (N,)
    number = blocks - first + 1  # (N,), blocks of keys to look at
    # (N, N): the first `number` of a row are read
    wanted = (first[:, None] + blocks).clamp(max=len(blocks) - 1)
    see = lambda b, h, query, key: sees(layout, query, key)  # noqa: E731
    return BlockMask.from_kv_blocks(
        number[None, None].int(), wanted[None, None].int(), BLOCK_SIZE=BLOCK, mask_mod=see, seq_lengths=(T, T)
    )
