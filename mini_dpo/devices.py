"""What machines differ in: which device computes, how much memory it has, which fast ways work on it, and how many processes share the work."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mini_dpo.errors import UserError


# --------------------------------------------------------------------------------------------------------- the device


NO_DEVICE = "--device {}: {}; use --device cpu"  # the device, and the trouble with it


def pick_device(device: str) -> str:
    """The device that is meant: auto is cuda where there is one that works, else cpu. A line says if one does not."""
    if device != "auto":
        return device
    if not torch.cuda.is_available():
        return "cpu"
    trouble = trouble_with("cuda")
    if trouble:
        print(f"no GPU is used: {trouble}; going on with the CPU", flush=True)
    return "cpu" if trouble else "cuda"


def trouble_with(device: str) -> str | None:
    """Why nothing can be computed on a device, None where it can. Of a GPU a first sum is asked: one that is held by
    another program, or too old for this build of torch, is found by nothing less."""
    if not {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]:
        return "this machine, or this build of torch, has none"
    if device == "cpu":
        return None
    wanted, there = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count() if device == "cuda" else 1
    if device != "cpu" and wanted > there:
        return f"{wanted} processes need {wanted} GPUs, and this machine has {there}"
    try:
        torch.ones(2, device=f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device).sum().item()
    except RuntimeError as error:
        return f"there is one, and it does not work ({one_line(error)})"
    return None


def own_gpu(device: str) -> None:
    """Where torchrun has started several processes, "cuda" is from here on the GPU of this one."""
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def lacks(device: str, dtype: str) -> str | None:
    """What a device is asked for and does not have, though it computes."""
    if device == "cuda" and dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return f"{torch.cuda.get_device_name()} has no bfloat16 of its own and imitates it slowly; --dtype float32 is likely faster"
    return None


def one_line(error: Exception) -> str:
    """An error's kind and the first line of what it says. torch.compile wraps the one that tells into others."""
    while within := getattr(error, "inner_exception", None) or error.__cause__:
        error = within
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0].strip(": ")[:200]


def send(tensor: Tensor, device: str | torch.device) -> Tensor:
    """To the device. To a CUDA GPU through pinned memory, so that the copy runs beside what the GPU is doing; elsewhere
    the memory might be another tensor's before such a copy has read it."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """Matrix products in bfloat16 where `dtype` says so; weights, sums and log-probs stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


# --------------------------------------------------------------------------------------------------------- its memory


def keep_freed_memory() -> None:
    """Ask glibc to keep memory that torch frees for its next tensor, rather than hand it back to the system and fault
    every page in again: on a CPU this is a third of a small model's step. Pieces of 32 MiB and more (a large model's
    gradients and logits) still go back, so that holes of their size do not pile up. Elsewhere it does nothing."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # from malloc.h
        libc.mallopt(m_mmap_threshold, 32 * 2**20)  # the largest that it takes
        libc.mallopt(m_trim_threshold, 2**31 - 1)


NO_ROOM = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")  # CUDA and MPS, Linux, Windows, cuBLAS


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is used up. Only CUDA's has a class of its own; the others say so in words."""
    in_words = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_ROOM)
    return in_words or isinstance(error, (MemoryError, torch.OutOfMemoryError))


# ------------------------------------------------------------------------------------------------------ its fast ways


EARLY_STOP = torch.utils.checkpoint._StopRecomputationError  # a block computed again has what it needs: no failure


class FastWay:
    """A fast way to compute what a plain way computes too, for machines that cannot be known ahead.

    The fast way is taken after a trial: on a small example it has to give the plain way's values and gradients. Where
    it does not, or fails, then or later, one line says why, and the plain way does the work from there on.
    """

    def __init__(self, name: str, without: str) -> None:
        """name: what the line calls it. without: how things go on where it is given up."""
        self.name, self.without = name, without
        self.passed: set[tuple] = set()  # the kinds of input that it was tried with
        self.given_up = False

    def take(self, fast: Callable, plain: Callable, inputs: Sequence[Tensor], trial: Callable[[], tuple]) -> object:
        """What fast(*inputs) or plain(*inputs) returns. trial: makes the arguments of `disagreement`, of the same kind."""
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
        """Hold the fast way against the plain one, once for each kind of input. Raises ArithmeticError if they differ."""
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
    """How far two ways to compute the same may differ: some roundings. TF32 rounds to ten bits, bfloat16 to seven."""
    if dtype == torch.float32 and device == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        return 1e-2
    return {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2}[dtype]


def disagreement(fast: Callable, plain: Callable, inputs: Sequence[Tensor], parameters: Sequence[Tensor] = ()) -> float:
    """How far two functions of `inputs` differ, with and without gradient, and in their gradients with respect to
    inputs and parameters: the largest error of a row of a tensor, relative to that row and the tensor's mean row."""
    found = []
    # a block that will be computed again for the gradient is watched from outside; the trial is none of its business
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept):
        for function in (fast, plain):
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_() for x in inputs]
                values = as_tuple(function(*leaves))
            weights = [draw(y.shape, seed).to(y) for seed, y in enumerate(values)]
            with torch.autocast(inputs[0].device.type, enabled=False):  # as in training, where the way back is outside of it
                gradients = torch.autograd.grad(values, [*leaves, *parameters], weights, materialize_grads=True)
            with torch.no_grad():
                scored = as_tuple(function(*inputs))
            found.append([y.detach().cpu().double() for y in (*scored, *values, *gradients)])
    errors = [((a - b).norm(dim=-1) / (b.norm(dim=-1) + b.norm(dim=-1).mean()).clamp(min=1e-30)).max() for a, b in zip(*found)]
    return float(torch.stack(errors).max())


def as_tuple(values: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return values if isinstance(values, tuple) else (values,)


def draw(shape: Sequence[int], seed: int) -> Tensor:
    """Normal numbers that leave the generators of training alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------------------------- several processes


# Several processes train one model: `torchrun --nproc-per-node N -m mini_dpo.train ...`.
# Every process has the whole model and its share of each batch's trees. They add up two things: the log-probs of the
# responses, so that each computes the loss of the whole batch, whatever that loss looks at; and, after the backward pass
# through its own share, the gradients. So one step is the step of one process with the whole batch. With a single
# process, nothing here does anything.


T = TypeVar("T")


def join_processes() -> None:
    """Meet the other processes, if torchrun started any. Only the first goes on speaking."""
    if os.environ.get("WORLD_SIZE", "1") == "1" or dist.is_initialized():
        return
    try:
        dist.init_process_group()
    except (ValueError, RuntimeError) as error:  # RuntimeError: torch.distributed's own
        raise UserError(f"WORLD_SIZE is set, and the processes do not meet ({str(error).splitlines()[0][:200]}); start with torchrun, or unset WORLD_SIZE") from error
    if rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115: open as long as the process


def leave_processes() -> None:
    """Part from the others: from here on this process works alone."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def speaks() -> bool:
    """Whether this process is the one that people hear, also when it has not met the others or has parted from them."""
    return "MASTER_ADDR" not in os.environ or os.environ.get("RANK", "0") == "0"  # without the first nobody is to be met


def processes() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def together(work: Callable[[], T]) -> T:
    """`work()`, in every process. A user's mistake that any of them finds is raised in all, so that none waits for
    another that has gone."""
    if processes() == 1:
        return work()
    done, mistake = None, None
    try:
        done = work()
    except UserError as error:
        mistake = error
    mistakes: list[UserError | None] = [None] * processes()
    dist.all_gather_object(mistakes, mistake)
    for mistake in filter(None, mistakes):
        raise mistake
    return done


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of every process's `values`. The gradient goes to this process's part of it: if the same loss is computed
    from the sum everywhere, adding up the parameters' gradients gives that loss's gradient."""
    if processes() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return values + (total - values.detach())


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each parameter's gradient by the sum of every process's."""
    if processes() > 1:
        for parameter in parameters:
            dist.all_reduce(parameter.grad)


def of_the_first(value: T) -> T:
    """The first process's `value`, for all: what could differ between them and must not."""
    if processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def wait_for_all() -> None:
    """Go on when every process has come this far, and no message is under way any more."""
    if processes() > 1:
        dist.barrier()


def any_process(flag: bool) -> bool:
    """Whether the flag is up in any process. Goes over the CPU, so a GPU does not wait."""
    if processes() == 1:
        return flag
    flags = torch.tensor(int(flag))
    dist.all_reduce(flags)
    return bool(flags)
