"""What hypothesis draws, and the tiny models and worlds that tests are played on."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from mini_dpo.batches import Encoded, EncodedPair
from mini_dpo.losses import PairLogps, Responses
from mini_dpo.model import GPT, GPTConfig

TINY = GPTConfig(vocab_size=5, context=12, n_layer=2, n_head=2, n_embd=8)

seeds = st.integers(0, 2**31 - 1)
betas = st.floats(0.02, 5.0)
smoothings = st.floats(0.0, 0.45)
probabilities = st.floats(0.05, 0.95)
margins = st.floats(-50.0, 50.0)


def tiny_gpt(seed: int = 0, dropout: float = 0.0, **shape: int) -> GPT:
    """A GPT in float64, in eval mode; its weights are scaled up so that its choices are strong and mistakes
    show.
    """
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**{**vars(TINY), "dropout": dropout, **shape})).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(20)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


@st.composite
def encoded_trees(
    draw, n: int | None = None, responses: int | None = None, vocab_size: int = 5, longest: int = 5
) -> list[list[Encoded]]:
    """Prompts of one to `longest` tokens, each with responses (one to five, if it is not said how many) of as
    many.
    """
    tokens = st.lists(st.integers(0, vocab_size - 1), min_size=1, max_size=longest)
    trees = []
    for _ in range(n if n is not None else draw(st.integers(1, 4))):
        prompt = draw(tokens)
        trees.append([Encoded(prompt, draw(tokens)) for _ in range(responses or draw(st.integers(1, 5)))])
    return trees


def encoded_sequences(n: int | None = None, **shape: int) -> st.SearchStrategy[list[Encoded]]:
    """Sequences of one to five prompt tokens and one to five response tokens."""
    return encoded_trees(n, responses=1, **shape).map(lambda trees: [sequence for (sequence,) in trees])


def encoded_pairs(n: int | None = None, **shape: int) -> st.SearchStrategy[list[EncodedPair]]:
    """Pairs of responses, each to a prompt of its own."""
    return encoded_trees(n, responses=2, **shape).map(lambda trees: [EncodedPair(*tree) for tree in trees])


def pair_from_h(h: Tensor, shift: float = 0.0) -> PairLogps:
    """Pairs whose log-ratio difference is exactly h (B,); `shift` is added to both log-ratios."""
    zero = torch.zeros_like(h)
    one = torch.ones_like(h)
    return PairLogps(Responses(h + shift, one, zero), Responses(zero + shift, one, zero))


@st.composite
def pair_logps(draw, size: int | None = None) -> PairLogps:
    """Random pairs: log-probs of the size that text has, lengths from one token on."""
    B = size or draw(st.integers(1, 6))
    logps = st.lists(st.floats(-200, -0.01), min_size=B, max_size=B)
    lengths = st.lists(st.integers(1, 50), min_size=B, max_size=B)

    def responses() -> Responses:
        policy, ref = (torch.tensor(draw(logps), dtype=torch.float64) for _ in range(2))
        return Responses(policy, torch.tensor(draw(lengths)), ref)

    return PairLogps(responses(), responses())


@st.composite
def worlds(draw, smallest: int = 2, largest: int = 8) -> tuple[Tensor, Tensor, float]:
    """An enumerable world: (reference log-probs (K,), reward (K,), beta)."""
    K = draw(st.integers(smallest, largest))
    generator = torch.Generator().manual_seed(draw(seeds))
    ref_logps = (2 * torch.randn(K, generator=generator, dtype=torch.float64)).log_softmax(-1)
    reward = draw(st.floats(0.1, 3.0)) * torch.randn(K, generator=generator, dtype=torch.float64)
    return ref_logps, reward, draw(betas)
