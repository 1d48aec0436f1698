"""Several processes that train one model: `torchrun --nproc-per-node N -m mini_dpo.train ...`.

Every process has the whole model and its share of each batch's trees. Two things are added up over the
processes: the log-probs of the responses, so that each process computes the loss of the whole batch, whatever
that loss reads; and, after the backward pass through its own share, the gradients. So one step is the step of
one process with the whole batch. With a single process, nothing here does anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mini_dpo.errors import UserError

T = TypeVar("T")


def join_processes() -> None:
    """Meet the other processes, if torchrun started any. Only the first one prints from here on.

    Raises UserError where the others cannot be reached.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" or dist.is_initialized():
        return
    try:
        dist.init_process_group()
    except (ValueError, RuntimeError) as error:  # RuntimeError: torch.distributed's own
        raise UserError(
            "WORLD_SIZE is set, and the processes do not meet "
            f"({str(error).splitlines()[0][:200]}); start with torchrun, or unset WORLD_SIZE"
        ) from error
    if rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (as long as the process)


def leave_processes() -> None:
    """Leave the other processes: from here on this process works alone."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def speaks() -> bool:
    """Whether this process is the one that prints errors, also before it met the others and afterwards."""
    return "MASTER_ADDR" not in os.environ or os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def together(work: Callable[[], T]) -> T:
    """`work()`, in every process. A UserError in one process is raised in all, so that no process waits for
    one that has ended.
    """
    if processes() == 1:
        return work()
    done: list[T] = []
    own: UserError | None = None
    try:
        done.append(work())
    except UserError as error:
        own = error
    mistakes: list[UserError | None] = [None] * processes()
    dist.all_gather_object(mistakes, own)
    for mistake in filter(None, mistakes):
        raise mistake
    return done[0]


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of the `values` of all processes. The gradient goes to the part of this process only: if every
    process computes the same loss from the sum, the sum of the parameters' gradients is the gradient of
    that loss.
    """
    if processes() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return values + (total - values.detach())


def sum_gradients(gradients: Iterable[Tensor]) -> None:
    """Replace each gradient, in place, by the sum of every process's."""
    if processes() > 1:
        for gradient in gradients:
            dist.all_reduce(gradient)


def of_the_first(value: T) -> T:
    """The first process's `value`, in all processes: for values that could differ and must not."""
    if processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def wait_for_all() -> None:
    """Wait until every process has come this far."""
    if processes() > 1:
        dist.barrier()


def any_process(flag: bool) -> bool:
    """Whether the flag is true in any process. The flag goes through the CPU, so that a GPU need not wait."""
    if processes() == 1:
        return flag
    flags = torch.tensor(int(flag))
    dist.all_reduce(flags)
    return bool(flags)
