"""A batch as one row of tokens, with no padding and each prompt once; and attention over such a row.

A prompt and its responses are a tree with the prompt as its trunk. Two pairs, prompt (p), chosen (c), rejected (r):

    row         p  p  p  c  c  c  r  r    p  p  c  c  r  r  r
    positions   0  1  2  3  4  5  3  4    0  1  2  3  2  3  4      where a token stands in its own text
    trees       0  0  0  0  0  0  0  0    1  1  1  1  1  1  1
    branches    0  0  0  1  1  1  2  2    0  0  1  1  2  2  2      0 for the trunk
    parents    -1  0  1  2  3  4  2  6   -1  8  9 10  9 12 13      the token before it in its own text

A token sees itself and its ancestors, and nothing else: `sees` says so, and whatever computes attention agrees with it.

Letters: T tokens in the row, H heads, D channels a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mini_dpo.devices import FastWay, draw, send


class Layout(NamedTuple):
    """Who stands where. sizes: of each tree, the tokens of its prompt and of each response. The others: (T,) each, as
    in the module's first lines."""

    sizes: Sequence[tuple[int, ...]]
    positions: Tensor
    trees: Tensor
    branches: Tensor
    parents: Tensor

    @property
    def longest(self) -> int:
        """Tokens of the longest text: prompt and response together."""
        return max(prompt + response for prompt, *responses in self.sizes for response in responses)

    def to(self, device: str | torch.device) -> Layout:
        return Layout(self.sizes, *(send(tensor, device) for tensor in self[1:]))


def lay_out(sizes: Sequence[tuple[int, ...]]) -> Layout:
    """Lay trees one after the other; sizes: (prompt tokens, tokens of response 1, of response 2, ...) of each."""
    positions, trees, branches, parents = [], [], [], []
    for tree, (prompt, *responses) in enumerate(sizes):
        root = len(positions)
        positions += range(prompt)
        parents += [-1, *range(root, root + prompt - 1)][:prompt]
        for response in responses:
            first = len(positions)
            positions += range(prompt, prompt + response)
            parents += [root + prompt - 1 if prompt else -1, *range(first, first + response - 1)]
        trees += [tree] * (prompt + sum(responses))
        branches += [branch for branch, size in enumerate((prompt, *responses)) for _ in range(size)]
    return Layout(sizes, *(torch.tensor(values) for values in (positions, trees, branches, parents)))


def sees(layout: Layout, query: Tensor, key: Tensor) -> Tensor:
    """Whether the token at place `query` of the row sees the one at `key`: whether it is itself or an ancestor.

    Places are whole numbers in tensors of any shapes that fit each other; the answer is of bool.
    """
    trees, branches = layout.trees, layout.branches
    same_text = (trees[query] == trees[key]) & ((branches[key] == 0) | (branches[key] == branches[query]))
    return same_text & (key <= query)


def attention(layout: Layout, dropout: float = 0.0) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The function that mixes values as `sees` allows: queries, keys and values (H, T, D) -> (H, T, D).

    Span after span, which works everywhere. On a CUDA device the whole row is one call of FlexAttention, which has no
    dropout, once a trial has shown that it gives the same there.
    """
    by_spans = partial(attend_by_spans, sizes=layout.sizes, dropout=dropout)
    if dropout or FLEX.given_up or layout.positions.device.type not in FLEX_DEVICES:
        return by_spans
    at_once = partial(attend_at_once, mask=block_mask(layout))
    return lambda *qkv: FLEX.take(at_once, by_spans, qkv, partial(small_row, *qkv))


def attend_by_spans(q: Tensor, k: Tensor, v: Tensor, sizes: Sequence[tuple[int, ...]], dropout: float = 0.0) -> Tensor:
    """Attention tree by tree: the prompt with its first response is one causal span; each further response is another,
    whose keys and values are the prompt's and its own."""
    spans = [size for prompt, first, *others in sizes for size in (prompt + first, *others)]
    pieces = zip(*(z[None].split(spans, dim=2) for z in (q, k, v)))  # (1, H, span, D) each
    mixed = []
    for prompt, _, *others in sizes:
        q, k, v = next(pieces)
        mixed.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout))
        trunk = k[:, :, :prompt], v[:, :, :prompt]
        for response in others:
            q, k, v = next(pieces)
            k, v = (torch.cat(parts, dim=2) for parts in zip(trunk, (k, v)))  # (1, H, prompt + response, D)
            seen = torch.ones(response, prompt + response, dtype=torch.bool, device=q.device).tril(prompt)
            mixed.append(F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout))
    return torch.cat(mixed, dim=2)[0]  # (H, T, D)


FLEX = FastWay("FlexAttention", "attention goes span by span: the same numbers, more slowly")
FLEX_DEVICES = ("cuda",)  # where it is a kernel, forward and backward
BLOCK = 128  # tokens that it takes or leaves together


def attend_at_once(q: Tensor, k: Tensor, v: Tensor, mask: object) -> Tensor:
    """Attention over the whole row in one call of FlexAttention (arXiv:2412.05496)."""
    return compiled_flex_attention()(q[None], k[None], v[None], block_mask=mask)[0]


@lru_cache(maxsize=1)
def compiled_flex_attention() -> Callable:
    """FlexAttention as one kernel, made once for rows of every length. fullgraph: where it cannot be, an error says so,
    and not a row's whole (T, T) matrix of scores, which is what it is uncompiled."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


def small_row(*qkv: Tensor) -> tuple:
    """What FlexAttention is tried on: two trees in five blocks of tokens, cut inside of a prompt and of responses."""
    layout = lay_out([(150, 90, 120), (60, 100, 3)]).to(qkv[0].device)
    inputs = [draw((len(z), len(layout.positions), z.shape[-1]), seed).to(z) for seed, z in enumerate(qkv)]  # (H, T, D) each
    return partial(attend_at_once, mask=block_mask(layout)), partial(attend_by_spans, sizes=layout.sizes), inputs


def block_mask(layout: Layout) -> object:
    """`sees` for FlexAttention, with the blocks of keys that each block of queries has to look at: from the one where
    its first token's tree begins to its own."""
    from torch.nn.attention.flex_attention import BlockMask

    device, T = layout.trees.device, len(layout.trees)
    starts = torch.zeros(len(layout.sizes), dtype=torch.long)
    starts[1:] = torch.tensor([sum(size) for size in layout.sizes[:-1]]).cumsum(0)  # (trees,), their first places
    starts = send(starts, device)
    blocks = torch.arange(-(-T // BLOCK), device=device)  # (N,)
    first = starts[layout.trees[blocks * BLOCK]] // BLOCK  # (N,)
    number = blocks - first + 1  # (N,), blocks of keys to look at
    wanted = (first[:, None] + blocks).clamp(max=len(blocks) - 1)  # (N, N): the first `number` of a row are read
    see = lambda b, h, query, key: sees(layout, query, key)  # noqa: E731
    return BlockMask.from_kv_blocks(number[None, None].int(), wanted[None, None].int(), BLOCK_SIZE=BLOCK, mask_mod=see, seq_lengths=(T, T))
