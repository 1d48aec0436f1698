"""Solutions of chapter 14."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pixels(patch: int) -> list[int]:
    return [patch >> 2 * i & 3 for i in range(16)]


def hallucination(there: list[set[str]], named: list[list[str]]) -> tuple[float, float, float]:
    made_up = [
        sum(thing not in things or thing in caption[:i] for i, thing in enumerate(caption))
        for things, caption in zip(there, named, strict=True)
    ]
    mentions = sum(map(len, named))
    seen = sum(len(things & set(caption)) for things, caption in zip(there, named, strict=True))
    return (
        sum(made_up) / mentions if mentions else 0.0,
        sum(n > 0 for n in made_up) / len(named),
        seen / sum(map(len, there)),
    )


def mdpo_loss(r_w: Tensor, r_l: Tensor, r_o: Tensor, beta: float, anchor: float) -> Tensor:
    return (
        -F.logsigmoid(beta * (r_w - r_l))
        - F.logsigmoid(beta * (r_w - r_o))
        - F.logsigmoid(beta * r_w - anchor)
    )
