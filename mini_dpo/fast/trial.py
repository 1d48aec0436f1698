"""A fast way to compute something, taken after a trial against the plain way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mini_dpo.devices import one_line, out_of_memory

# a block computed again has what it needs: no failure
EARLY_STOP = torch.utils.checkpoint._StopRecomputationError


class FastWay:
    """A fast way to compute what a plain way computes too, for machines that cannot be known ahead.

    The fast way is taken after a trial: on a small example it has to give the plain way's values and
    gradients. Where it does not, or fails, then or later, one line says why, and the plain way does the work
    from there on.
    """

    def __init__(self, name: str, without: str) -> None:
        """name: what the line calls it. without: how things go on where it is given up."""
        self.name, self.without = name, without
        self.passed: set[tuple] = set()  # the kinds of input that it was tried with
        self.given_up = False

    def take(
        self, fast: Callable, plain: Callable, inputs: Sequence[Tensor], trial: Callable[[], tuple]
    ) -> Any:
        """What fast(*inputs) or plain(*inputs) returns. trial: makes the arguments of `disagreement`, of the
        same kind.
        """
        if self.given_up:
            return plain(*inputs)
        try:
            self.try_once(inputs, trial)
            return fast(*inputs)
        except Exception as error:  # a compiler fails in many ways, none with a class of its own
            if out_of_memory(error) or isinstance(error, EARLY_STOP):
                raise
            self.given_up = True
            print(f"{self.name} is not used: {one_line(error)}; {self.without}", flush=True)
            return plain(*inputs)

    def try_once(self, inputs: Sequence[Tensor], trial: Callable[[], tuple]) -> None:
        """Hold the fast way against the plain one, once for each kind of input. Raises ArithmeticError if
        they differ.
        """
        x, device = inputs[0], inputs[0].device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        kind = len(inputs), x.shape[-1], dtype
        if kind in self.passed:
            return
        off = disagreement(*trial())
        if not off <= tolerance(dtype, device):  # nan is not
            raise ArithmeticError(f"in a trial its values or gradients were off by {off:.2g} of their size")
        self.passed.add(kind)


def tolerance(dtype: torch.dtype, device: str) -> float:
    """How far two ways to compute the same may differ: some roundings. TF32 rounds to ten bits, bfloat16 to
    seven.
    """
    if dtype == torch.float32 and device == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        return 1e-2
    return {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2}[dtype]


def disagreement(
    fast: Callable, plain: Callable, inputs: Sequence[Tensor], parameters: Sequence[Tensor] = ()
) -> float:
    """How far two functions of `inputs` differ: in their values, with and without gradient, and in their
    gradients with respect to inputs and parameters. It is the largest error of a row of a tensor, relative to
    that row and the tensor's mean row.
    """
    found = []
    # activation checkpointing counts what is kept for the gradient; what the trial keeps must not be counted
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept):
        for function in (fast, plain):
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_() for x in inputs]
                values = as_tuple(function(*leaves))
            weights = [draw(y.shape, seed).to(y) for seed, y in enumerate(values)]
            # as in training, where the way back is outside of it
            with torch.autocast(inputs[0].device.type, enabled=False):
                gradients = torch.autograd.grad(
                    values, [*leaves, *parameters], weights, materialize_grads=True
                )
            with torch.no_grad():
                scored = as_tuple(function(*inputs))
            found.append([y.detach().cpu().double() for y in (*scored, *values, *gradients)])
    errors = [
        ((a - b).norm(dim=-1) / (b.norm(dim=-1) + b.norm(dim=-1).mean()).clamp(min=1e-30)).max()
        for a, b in zip(*found, strict=True)
    ]
    return float(torch.stack(errors).max())


def as_tuple(values: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return values if isinstance(values, tuple) else (values,)


def draw(shape: Sequence[int], seed: int) -> Tensor:
    """Normal numbers that leave the generators of training alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
