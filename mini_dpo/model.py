"""GPT-2's architecture, by hand.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", as its authors' code has it:
LayerNorm before each half of a block, learned positions, the tanh form of GELU, and an output matrix that is
the token embedding itself. The names of the parameters are GPT-2's too, so that its published weights fit.

Letters in the shape comments: B sequences, T positions, V vocabulary, C channels, H heads, D = C / H channels
a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mini_dpo.fast.flex import attention
from mini_dpo.packing import Layout

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # queries, keys, values (..., H, T, D) -> (..., H, T, D)

# A hundred times what GPT-2's largest has: more is a slip, and would be noticed when memory is used up.
BOUNDS = {"vocab_size": 5_000_000, "context": 100_000, "n_layer": 4_800, "n_head": 2_500, "n_embd": 160_000}


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults are GPT-2's smallest: 124,439,808 parameters.

    vocab_size: tokens that can be read and written. context: positions that can be looked back on, prompt and
    response together. n_layer: blocks. n_head: attention heads a block. n_embd: channels. dropout: share of
    the activations set to zero in `train()` mode. Raises ValueError for a shape that cannot be built.
    """

    vocab_size: int = 50257
    context: int = 1024
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, most in BOUNDS.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} must be a whole number from 1 to {most:,}, not {str(value)[:40]}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")


PRESETS = {
    "toy": GPTConfig(vocab_size=667, context=128, n_layer=2, n_head=4, n_embd=128),
    "gpt2": GPTConfig(),
}


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v: each position takes a weighted mean of the values that it sees.

    q (..., T, D), k and v (..., S, D), seen (T, S) of bool -> (..., T, D). This is all that attention is.
    Training uses torch's kernels, and the tests hold them to these four lines.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., T, S)
    scores = scores.masked_fill(~seen, -math.inf)
    weights = scores.softmax(dim=-1)  # (..., T, S), each row sums to one
    return weights @ v


def causal(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax_attention where each position sees itself and what is before it: (B, H, T, D)."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)


class SelfAttention(nn.Module):
    """Where positions exchange what they hold: each asks with a query, is found by a key, gives a value."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, attend: Attend, rows: Tensor | None = None) -> Tensor:
        """(..., T, C) -> (..., T, C). attend: softmax_attention, for what this batch's positions see.
        rows (R,): the only positions of x (T, C) that are wanted, -> (R, C).
        """
        q, k, v = self.heads(x)  # (..., H, T, D) each
        y = attend(q, k, v).transpose(-3, -2).flatten(-2)  # (..., T, C), the heads side by side
        return self.c_proj(y if rows is None else y.index_select(0, rows))

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """(..., T, C) -> queries, keys and values of each head, (..., H, T, D) each."""
        qkv = self.c_attn(x).chunk(3, dim=-1)  # (..., T, C) each
        return tuple(z.unflatten(-1, (self.n_head, -1)).transpose(-3, -2) for z in qkv)


class MLP(nn.Module):
    """Two matrices and a GELU: what a position makes of what it has gathered."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # (..., T, C)


class Block(nn.Module):
    """x + attn(ln_1(x)), then x + mlp(ln_2(x)): each half adds its answer to the stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = SelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attend: Attend, rows: Tensor | None = None) -> Tensor:
        """(..., T, C) -> (..., T, C); with rows (R,), only those positions go on: (T, C) -> (R, C)."""
        y = self.attn(self.ln_1(x), attend, rows)
        x = (x if rows is None else x.index_select(0, rows)) + self.drop(y)
        return x + self.drop(self.mlp(self.ln_2(x)))


class GPT(nn.Module):
    """A GPT-2 of any size. `forward` gives logits; `hidden` stops before the output matrix, the costliest."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.context, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.recompute = False  # whether blocks are computed again for the gradient: less memory, more time
        self.initialise()

    def initialise(self) -> None:
        """GPT-2's: normal weights of deviation 0.02 (positions 0.01), zero biases, LayerNorm as it comes. A
        block adds to the stream twice, so each of the 2 n_layer last matrices is made sqrt(2 n_layer) smaller
        (section 2.3).
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name == "wpe.weight":
                nn.init.normal_(parameter, std=0.01)
            elif name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layer))
            elif ".ln_" not in name and not name.startswith("ln_f"):
                nn.init.normal_(parameter, std=0.02)

    def hidden(self, ids: Tensor) -> Tensor:
        """The stream after the last LayerNorm: (B, T) token ids -> (B, T, C).

        Each position sees itself and what is before it, so padding on the right changes nothing. Raises
        ValueError beyond the context.
        """
        T = self.check_length(ids.shape[1])
        positions = torch.arange(T, device=ids.device).expand(ids.shape)  # (B, T)
        return self.stream(ids, positions, [partial(causal, dropout=self.dropout)] * len(self.h))

    def hidden_at(self, ids: Tensor, layout: Layout, rows: Tensor) -> Tensor:
        """The same for a packed row of token ids (T,), at the rows asked for: (R, C). See packing.py.

        The last block computes no other rows after attention. Raises ValueError where a text is longer than
        the context.
        """
        self.check_length(layout.longest)
        return self.stream(ids, layout.positions, [attention(layout, self.dropout)] * len(self.h), rows)

    def stream(
        self, ids: Tensor, positions: Tensor, attends: Sequence[Attend], rows: Tensor | None = None
    ) -> Tensor:
        """Embed, go through the blocks, each with its `attend`, and normalise: (..., T) -> (..., T, C)."""
        x = self.drop(self.wte(ids) + self.wpe(positions))  # (..., T, C)
        for block, attend in zip(self.h, attends, strict=True):
            wanted = rows if block is self.h[-1] else None
            if self.recompute and torch.is_grad_enabled():
                random = self.dropout > 0
                x = checkpoint(block, x, attend, wanted, use_reentrant=False, preserve_rng_state=random)
            else:
                x = block(x, attend, wanted)
        return self.ln_f(x)

    @property
    def dropout(self) -> float:
        """The share of attention weights that is set to zero now."""
        return self.config.dropout if self.training else 0.0

    def check_length(self, T: int) -> int:
        """T, unless it is more than the context: then ValueError."""
        if self.config.context < T:
            raise ValueError(f"{T} tokens do not fit the model's context of {self.config.context}")
        return T

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V): the score of each token to come next. The output matrix is the embedding."""
        return F.linear(hidden, self.wte.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) -> logits (B, T, V); those at position t are for the token at t + 1."""
        return self.logits(self.hidden(ids))
