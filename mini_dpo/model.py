"""GPT-2's architecture, by hand.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", as its authors' code has it: LayerNorm
before each half of a block, learned positions, the tanh form of GELU, and an output matrix that is the token embedding
itself. The names of the parameters are GPT-2's too, so that its published weights fit.

Letters in the shape comments: B sequences, T positions, V vocabulary, C channels, H heads, D = C / H channels a head,
S places in the cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults are GPT-2's smallest: 124,439,808 parameters.

    vocab_size: tokens that can be read and written. context: positions that can be looked back on, prompt and response
    together. n_layer: blocks. n_head: attention heads a block. n_embd: channels. dropout: share of the activations set
    to zero in `train()` mode. Raises ValueError for a shape that cannot be built.
    """

    vocab_size: int = 50257
    context: int = 1024
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")


PRESETS = {
    "toy": GPTConfig(vocab_size=666, context=128, n_layer=2, n_head=4, n_embd=128),
    "gpt2": GPTConfig(),
}


class Attention(nn.Module):
    """Causal self-attention: each position takes a weighted mean of the values at its own and earlier positions."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, positions: Tensor | None, cache: Tensor | None) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)  # (B, T, C) each
        q, k, v = (z.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for z in (q, k, v))  # (B, H, T, D)
        if cache is None:
            dropout = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)  # (B, H, T, D)
        else:
            keys, values, seen = remember(cache, positions, k, v)
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)  # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))  # (B, T, C)


def remember(cache: Tensor, positions: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Write new keys and values into the cache at their positions; return all keys, all values, and who sees whom.

    A row's place s in the cache is its position s, so a query at position p may look at places 0..p. Places beyond were
    never written or belong to padding: padding sits right of the text, and the next real token overwrites it.
    """
    rows = torch.arange(len(positions), device=positions.device)[:, None]  # (B, 1)
    cache[0][rows, :, positions] = k.transpose(1, 2)  # cache: (2, B, H, S, D)
    cache[1][rows, :, positions] = v.transpose(1, 2)
    places = torch.arange(cache.shape[3], device=positions.device)  # (S,)
    seen = places <= positions[:, None, :, None]  # (B, 1, T, S)
    return cache[0], cache[1], seen


class MLP(nn.Module):
    """Two matrices and a GELU: what a position does with what it has gathered."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # (B, T, C)


class Block(nn.Module):
    """Attention, then MLP; each reads a normalised copy of the stream and adds its answer to it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, positions: Tensor | None, cache: Tensor | None) -> Tensor:
        x = x + self.drop(self.attn(self.ln_1(x), positions, cache))  # (B, T, C)
        return x + self.drop(self.mlp(self.ln_2(x)))  # (B, T, C)


class GPT(nn.Module):
    """A GPT-2 of any size. `forward` gives logits; `hidden` stops before the output matrix, the costly last product."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.context, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.initialise()

    def initialise(self) -> None:
        """GPT-2's: normal weights of deviation 0.02 (positions 0.01), zero biases, LayerNorm as it comes. A block adds
        to the stream twice, so each of the 2 n_layer last matrices is made sqrt(2 n_layer) smaller (section 2.3)."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name == "wpe.weight":
                nn.init.normal_(parameter, std=0.01)
            elif name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layer))
            elif ".ln_" not in name and not name.startswith("ln_f"):
                nn.init.normal_(parameter, std=0.02)

    def hidden(self, ids: Tensor, positions: Tensor | None = None, cache: Tensor | None = None) -> Tensor:
        """The stream after the last LayerNorm: (B, T) token ids -> (B, T, C).

        Without a cache, row b is read from position 0 on and each position sees itself and what is left of it, so
        padding on the right changes nothing. With a cache (see `empty_cache`), `positions` (B, T) says where in its
        row each token stands; earlier tokens are remembered there. Raises ValueError beyond the context.
        """
        B, T = ids.shape
        if positions is None:
            if T > self.config.context:
                raise ValueError(f"{T} tokens do not fit the model's context of {self.config.context}")
            positions = torch.arange(T, device=ids.device).expand(B, T)  # (B, T)
        x = self.drop(self.wte(ids) + self.wpe(positions))  # (B, T, C)
        for i, block in enumerate(self.h):
            x = block(x, positions, None if cache is None else cache[i])  # (B, T, C)
        return self.ln_f(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V): the score of each token to come next. The output matrix is the embedding (tied)."""
        return F.linear(hidden, self.wte.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) -> logits (B, T, V); those at position t are for the token at t + 1."""
        return self.logits(self.hidden(ids))

    def empty_cache(self, rows: int, places: int) -> Tensor:
        """Room for the keys and values of `places` positions of `rows` sequences: (n_layer, 2, B, H, S, D)."""
        n_head, n_embd = self.config.n_head, self.config.n_embd
        return self.wte.weight.new_zeros(len(self.h), 2, rows, n_head, places, n_embd // n_head)
