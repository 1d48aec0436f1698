"""A model that looks: pictures as prompts, for the GPT that reads text.

A picture is 24 x 24 pixels, each of the background or of one of three colours. As text it is 24 lines of 24
characters, of `.rgb`. The model reads it as 36 patches of 4 x 4 pixels, row by row:

    picture 24 x 24  ->  36 patches of 16 pixels  ->  36 ids  ->  one-hot (36, 64)  ->  Linear  ->  (36, C)

A pixel has four values, two bits, and so a patch has 32. Its id is the vocabulary's size plus that number.
An id of a patch is a prompt's id like any other: batches, packing, sampling and the loss do not know of
pictures. Only the embedding does: an id below the vocabulary's size is a token and has a vector of its own,
and one above is unpacked to its pixels again, and one linear layer makes the vector (as in ViT,
arXiv:2010.11929). No patch is ever predicted.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mini_dpo.data import Turn
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.tokenizer import Tokenizer, load_tokenizer

VALUES = ".rgb"  # of a pixel: background, red, green, blue
SIDE, PATCH = 24, 4  # pixels of a picture's side, and of a patch's
PIXELS = PATCH * PATCH
BLANK = "\n".join(["." * SIDE] * SIDE)  # a picture of nothing
PICTURE = re.compile(rf"([{VALUES}]{{{SIDE}}}\n){{{SIDE - 1}}}[{VALUES}]{{{SIDE}}}")
PICTURES = "pictures, "  # begins the name of a tokenizer that reads pictures; the name of its text's follows


def patches(picture: str) -> list[int]:
    """A picture as the numbers of its 36 patches, row by row: each 32 bits, two a pixel."""
    lines = picture.split("\n")
    return [
        sum(VALUES.index(lines[top + i // PATCH][left + i % PATCH]) << 2 * i for i in range(PIXELS))
        for top in range(0, SIDE, PATCH)
        for left in range(0, SIDE, PATCH)
    ]


def pixels_of(patch: int) -> list[str]:
    """The four lines of pixels that a patch's number holds: what `patches` has packed."""
    pixels = [VALUES[patch >> 2 * i & 3] for i in range(PIXELS)]
    return ["".join(pixels[i : i + PATCH]) for i in range(0, PIXELS, PATCH)]


class SeeingEmbedding(nn.Embedding):
    """The embedding of tokens and of patches. `weight` is that of the tokens, (V, C)."""

    def __init__(self, vocab_size: int, n_embd: int) -> None:
        super().__init__(vocab_size, n_embd)
        self.patch = nn.Linear(len(VALUES) * PIXELS, n_embd)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids of tokens and patches (..., T) -> (..., T, C)."""
        is_token = ids < self.num_embeddings  # (..., T)
        x = super().forward(ids.where(is_token, 0))  # (..., T, C)
        bits = 2 * torch.arange(PIXELS, device=ids.device)
        pixels = (ids - self.num_embeddings).clamp(min=0)[..., None] >> bits & 3  # (..., T, 16)
        colours = F.one_hot(pixels, len(VALUES)).flatten(-2)  # (..., T, 64)
        seen = self.patch(colours.to(x.dtype))  # (..., T, C)
        return torch.where(is_token[..., None], x, seen.to(x.dtype))


class PictureTokenizer(Tokenizer):
    """Encodes a prompt that is a picture as its patches, and every other text as text."""

    def encode_turn(self, turn: Turn) -> list[int]:
        """A turn of a conversation. The user's may be a picture."""
        if turn.role == "user" and PICTURE.fullmatch(turn.text):
            return [self.user, *(self.vocab_size + patch for patch in patches(turn.text))]
        return super().encode_turn(turn)


def find_tokenizer(name: str) -> Tokenizer:
    """The tokenizer called `name`: as `load_tokenizer`, or "pictures, " and such a name."""
    if not name.startswith(PICTURES):
        return load_tokenizer(name)
    return PictureTokenizer(name, load_tokenizer(name.removeprefix(PICTURES)).encoding)


def new_model(config: GPTConfig, tokenizer: Tokenizer) -> GPT:
    """A GPT as it begins. It sees if its tokenizer reads pictures."""
    model = GPT(config)
    if isinstance(tokenizer, PictureTokenizer):
        model.wte = SeeingEmbedding(config.vocab_size, config.n_embd)
        model.initialise()
    return model
