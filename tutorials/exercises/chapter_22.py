"""Exercises of chapter 22, One thing of your own. Then: python -m tutorials.exercises 22"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor


def batch_logps(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """22.1  log P(response | prompt) of B responses at once, with a gradient to the logits. logits (B, T,
    V), ids (B, T), mask (B, T) of bool -> (B,). It is exercise 2.3 without the loop. Shorter rows are padded
    on the right with any ids, which are not under the mask.
    """
    raise NotImplementedError


def adam_step(
    value: Tensor, gradient: Tensor, m: Tensor, v: Tensor, t: int, lr: float
) -> tuple[Tensor, Tensor, Tensor]:
    """22.2  Adam's step number t = 1, 2, ...: (the new value, the new m, the new v). m and v are zeros before
    the first step. Nothing that is given is changed. It is algorithm 1 of arXiv:1412.6980, with the decay
    rates 0.9 and 0.95 and the epsilon 1e-8.
    """
    raise NotImplementedError


def respond(
    probabilities: Callable[[list[int]], list[float]],
    prompt: list[int],
    end: int,
    longest: int,
    uniforms: Iterator[float],
) -> list[int]:
    """22.3  A response to a prompt, drawn token by token. probabilities(ids) are those of the next token.
    The response ends with the token `end`, which is part of it, or after `longest` tokens. Each token takes
    the next number of `uniforms`, evenly spread over [0, 1), as in exercise 3.2.
    """
    raise NotImplementedError
