"""Solutions of chapter 22."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from tutorials.exercises.solutions.chapter_03 import draw


def batch_logps(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    logps = logits[:, :-1].log_softmax(-1)  # (B, T - 1, V), row t speaks of the token at t + 1
    chosen = logps.gather(-1, ids[:, 1:, None]).squeeze(-1)  # (B, T - 1)
    return chosen.masked_fill(~mask[:, 1:], 0).sum(1)


def adam_step(
    value: Tensor, gradient: Tensor, m: Tensor, v: Tensor, t: int, lr: float
) -> tuple[Tensor, Tensor, Tensor]:
    m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient**2
    mean, square = m / (1 - 0.9**t), v / (1 - 0.95**t)  # zeros at the start pull both towards zero
    return value - lr * mean / (square.sqrt() + 1e-8), m, v


def respond(
    probabilities: Callable[[list[int]], list[float]],
    prompt: list[int],
    end: int,
    longest: int,
    uniforms: Iterator[float],
) -> list[int]:
    response: list[int] = []
    while len(response) < longest:
        response.append(draw(probabilities(prompt + response), next(uniforms)))
        if response[-1] == end:
            break
    return response
