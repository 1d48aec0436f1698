"""A batch as one row of tokens, with no padding and each prompt once; and attention over such a row.

A prompt and its responses are a tree with the prompt as its trunk. Two pairs, prompt (p), chosen (c),
rejected (r):

    row         p  p  p  c  c  c  r  r    p  p  c  c  r  r  r
    positions   0  1  2  3  4  5  3  4    0  1  2  3  2  3  4      where a token stands in its own text
    trees       0  0  0  0  0  0  0  0    1  1  1  1  1  1  1
    branches    0  0  0  1  1  1  2  2    0  0  1  1  2  2  2      0 for the trunk
    parents    -1  0  1  2  3  4  2  6   -1  8  9 10  9 12 13      the token before it in its own text

A token sees itself and its ancestors, and nothing else: `sees` says so, and whatever computes attention
agrees with it.

Letters: T tokens in the row, H heads, D channels a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mini_dpo.devices import send


class Layout(NamedTuple):
    """Who stands where. sizes: of each tree, the tokens of its prompt and of each response. The others: (T,)
    each, as in the module's first lines.
    """

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
    """Lay trees one after the other; sizes: of each, (prompt tokens, tokens of response 1, of 2, ...)."""
    columns: list[list[int]] = [[], [], [], []]
    positions, trees, branches, parents = columns
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
    return Layout(sizes, *(torch.tensor(column) for column in columns))


def sees(layout: Layout, query: Tensor, key: Tensor) -> Tensor:
    """Whether the token at place `query` of the row sees the one at `key`: itself or an ancestor.

    Places are whole numbers in tensors of any shapes that fit each other; the answer is of bool.
    """
    trees, branches = layout.trees, layout.branches
    same_text = (trees[query] == trees[key]) & ((branches[key] == 0) | (branches[key] == branches[query]))
    return same_text & (key <= query)


def attend_by_spans(
    q: Tensor, k: Tensor, v: Tensor, sizes: Sequence[tuple[int, ...]], dropout: float = 0.0
) -> Tensor:
    """Attention tree by tree: the prompt with its first response is one causal span; each further response is
    another, whose keys and values are the prompt's and its own.
    """
    spans = [size for prompt, first, *others in sizes for size in (prompt + first, *others)]
    pieces = zip(*(z[None].split(spans, dim=2) for z in (q, k, v)), strict=True)  # (1, H, span, D) each
    mixed = []
    for prompt, _, *others in sizes:
        q, k, v = next(pieces)
        mixed.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout))
        trunk = k[:, :, :prompt], v[:, :, :prompt]
        for response in others:
            q, k, v = next(pieces)
            k, v = torch.cat((trunk[0], k), dim=2), torch.cat((trunk[1], v), dim=2)  # (1, H, prompt + own, D)
            seen = torch.ones(response, prompt + response, dtype=torch.bool, device=q.device).tril(prompt)
            mixed.append(F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout))
    return torch.cat(mixed, dim=2)[0]  # (H, T, D)
