"""Exercises of chapter 13, Inside the transformer. Then: python -m tutorials.exercises 13"""

from __future__ import annotations

from torch import Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """13.1  LayerNorm of one position, without the module: x (C,), weight (C,), bias (C,) -> (C,). The
    variance is the mean square of the differences to the mean, and 1e-5 is added to it under the root.
    """
    raise NotImplementedError


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """13.2  One head of attention in which each position sees itself and what is before it: queries, keys and
    values (T, D) each -> (T, D). It is right for scores of 1000 as well. torch's own attention and
    model.py's are not used.
    """
    raise NotImplementedError


def parameters(vocab_size: int, context: int, n_layer: int, n_embd: int) -> int:
    """13.3  How many numbers a GPT-2 of this shape has. Its output matrix is its embedding. The matrices of
    blocks have biases. Each block has two LayerNorms, and one more is at the end, each with a weight and a
    bias.
    """
    raise NotImplementedError
