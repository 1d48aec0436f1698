"""GPT-2's architecture, by hand.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", as its authors' code has it: LayerNorm
before each half of a block, learned positions, the tanh form of GELU, and an output matrix that is the token embedding
itself. The names of the parameters are GPT-2's too, so that its published weights fit.

Letters in the shape comments: B sequences, T positions, V vocabulary, C channels, H heads, D = C / H channels a head,
S places in the cache.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mini_dpo.devices import FastWay, draw
from mini_dpo.packing import Layout, attention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # queries, keys, values (..., H, T, D) -> (..., H, T, D)


# A hundred times what GPT-2's largest has: what is beyond is a slip, and would be noticed only when memory is used up.
LARGEST = {"vocab_size": 5_000_000, "context": 100_000, "n_layer": 4_800, "n_head": 2_500, "n_embd": 160_000}


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
        for name, most in LARGEST.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} must be a whole number from 1 to {most:,}, not {str(value)[:40]}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")


PRESETS = {
    "toy": GPTConfig(vocab_size=666, context=128, n_layer=2, n_head=4, n_embd=128),
    "gpt2": GPTConfig(),
}


class Attention(nn.Module):
    """The two matrices around attention: into queries, keys and values a head, and from the mixed values back."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., T, C) -> queries, keys and values, (..., H, T, D) each."""
        q, k, v = self.c_attn(x).chunk(3, dim=-1)  # (..., T, C) each
        return tuple(z.unflatten(-1, (self.n_head, -1)).transpose(-3, -2) for z in (q, k, v))


def causal(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Each position takes a weighted mean of the values at its own and earlier positions: (B, H, T, D)."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)


def remembering(q: Tensor, k: Tensor, v: Tensor, cache: Tensor, positions: Tensor) -> Tensor:
    """The same where earlier keys and values lie in a layer's cache, (2, B, H, S, D), and join them: (B, H, T, D)."""
    keys, values, seen = remember(cache, positions, k, v)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)


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

    compiled = False  # whether torch.compile fuses what lies on either side of attention

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attend: Attend, rows: Tensor | None = None) -> Tensor:
        """(..., T, C) -> (..., T, C). With rows (R,), only those of x (T, C) go on after attention: -> (R, C)."""
        q, k, v = self.half(Block.read, x)  # (..., H, T, D) each
        y = attend(q, k, v).transpose(-3, -2).flatten(-2)  # (..., T, C)
        if rows is not None:
            x, y = x.index_select(0, rows), y.index_select(0, rows)  # (R, C)
        return self.half(Block.write, x, y)

    def read(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The half before the positions meet: queries, keys and values."""
        return self.attn.split(self.ln_1(x))

    def write(self, x: Tensor, y: Tensor) -> Tensor:
        """The half after: what a position has gathered, and what its MLP makes of it, added to the stream."""
        x = x + self.drop(self.attn.c_proj(y))
        return x + self.drop(self.mlp(self.ln_2(x)))

    def half(self, half: Callable, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """One of the two halves, as it is written or as torch.compile makes it."""
        if not self.compiled:
            return half(self, *inputs)
        return COMPILE.take(partial(run_compiled, half, self), partial(half, self), inputs, partial(small_half, half, self, inputs))


COMPILE = FastWay("--compile", "going on without it")


def run_compiled(half: Callable, block: Block, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
    return compiled(half)(block, *inputs)


def small_half(half: Callable, block: Block, inputs: Sequence[Tensor]) -> tuple:
    """What a compiled half is tried on: sixteen positions, and the block's own weights without dropout, of which no two
    draws are the same."""
    block = copy.deepcopy(block).requires_grad_()
    block.drop.p = 0.0
    small = [draw((16, x.shape[-1]), seed).to(x) for seed, x in enumerate(inputs)]  # (T, C) each
    return partial(run_compiled, half, block), partial(half, block), small, list(block.parameters())


@lru_cache
def compiled(half: Callable) -> Callable:
    """Half a block as torch.compile makes it, once for rows of every length and for every block."""
    return torch.compile(half, dynamic=True)


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
        self.recompute = False  # forget what is inside a block and compute it again for the gradient: less memory, more time
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
            positions = torch.arange(self.check_length(T), device=ids.device).expand(B, T)  # (B, T)
        if cache is None:
            return self.stream(ids, positions, [partial(causal, dropout=self.dropout)] * len(self.h))
        return self.stream(ids, positions, [partial(remembering, cache=cache[i], positions=positions) for i in range(len(cache))])

    def hidden_at(self, ids: Tensor, layout: Layout, rows: Tensor) -> Tensor:
        """The same for a packed row of token ids (T,), at the rows asked for: (R, C). See packing.py.

        The last block goes no further than attention for the others: nobody will look at them. Raises ValueError
        where a text is longer than the context.
        """
        self.check_length(layout.longest)
        return self.stream(ids, layout.positions, [attention(layout, self.dropout)] * len(self.h), rows)

    def stream(self, ids: Tensor, positions: Tensor, attends: Sequence[Attend], rows: Tensor | None = None) -> Tensor:
        """Embed, go through the blocks, each with its own way to attend, and normalise: (..., T) -> (..., T, C)."""
        x = self.drop(self.wte(ids) + self.wpe(positions))  # (..., T, C)
        for block, attend in zip(self.h, attends):
            wanted = rows if block is self.h[-1] else None
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, attend, wanted, use_reentrant=False, preserve_rng_state=self.dropout > 0)
            else:
                x = block(x, attend, wanted)
        return self.ln_f(x)

    def compile_blocks(self) -> None:
        """Have torch.compile translate the blocks from now on."""
        for block in self.h:
            block.compiled = True

    @property
    def dropout(self) -> float:
        """The share of attention weights that is set to zero now."""
        return self.config.dropout if self.training else 0.0

    def check_length(self, T: int) -> int:
        """T, unless it is more than the context: then ValueError."""
        if T > self.config.context:
            raise ValueError(f"{T} tokens do not fit the model's context of {self.config.context}")
        return T

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
