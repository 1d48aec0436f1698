"""What machines differ in: which device computes, and how it keeps its memory."""

from __future__ import annotations

import ctypes
import os
import sys

import torch
from torch import Tensor

# --- the device


NO_DEVICE = "--device {}: {}; use --device cpu"  # the device, and the trouble with it


def pick_device(device: str) -> str:
    """The device to use: "auto" is "cuda" if there is a GPU that works, else "cpu". Prints a line if there is
    a GPU that does not work.
    """
    if device != "auto":
        return device
    if not torch.cuda.is_available():
        return "cpu"
    trouble = trouble_with("cuda")
    if trouble:
        print(f"no GPU is used: {trouble}; going on with the CPU", flush=True)
    return "cpu" if trouble else "cuda"


def trouble_with(device: str) -> str | None:
    """Why a device cannot compute, or None if it can. On a GPU a small sum is tried: only a trial shows that
    another program holds the GPU, or that this build of torch does not support it.
    """
    if not {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]:
        return "this machine, or this build of torch, has none"
    if device == "cpu":
        return None
    wanted = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    there = torch.cuda.device_count() if device == "cuda" else 1
    if wanted > there:
        return f"{wanted} processes need {wanted} GPUs, and this machine has {there}"
    try:
        own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
        torch.ones(2, device=own).sum().item()
    except RuntimeError as error:
        return f"there is one, and it does not work ({one_line(error)})"
    return None


def own_gpu(device: str) -> None:
    """If torchrun started several processes, make "cuda" mean the GPU of this process."""
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def lacks(device: str, dtype: str) -> str | None:
    """A line about what is asked of a device and what the device only imitates; None if there is nothing to
    say.
    """
    if (
        device == "cuda"
        and dtype == "bfloat16"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        return (
            f"{torch.cuda.get_device_name()} has no bfloat16 of its own and imitates it "
            "slowly; --dtype float32 is likely faster"
        )
    return None


def one_line(error: BaseException) -> str:
    """The type of an error and the first line of its message. torch.compile wraps the original error; the
    original is taken.
    """
    while within := getattr(error, "inner_exception", None) or error.__cause__:
        error = within
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0].strip(": ")[:200]


def send(tensor: Tensor, device: str | torch.device) -> Tensor:
    """Move a tensor to the device. To a CUDA GPU the copy goes through pinned memory, so that it runs while
    the GPU works. On other devices such a copy could be read too late, so the copy is a plain one.
    """
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """Matrix products in bfloat16 if `dtype` is "bfloat16". Weights, sums and log-probs stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


# --- its memory


def keep_freed_memory() -> None:
    """Ask glibc to keep the memory that torch frees, for the next tensor. Otherwise the memory goes back to
    the system, and every page must be requested again: on a CPU this takes a third of a small model's
    step. Blocks of 32 MiB and more (gradients and logits of a large model) still go back, so that unused
    blocks of this size do not add up. On other systems than Linux with glibc this does nothing.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # from malloc.h
        libc.mallopt(m_mmap_threshold, 32 * 2**20)  # the largest that it takes
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def resident_peak(device: str) -> float:
    """The most memory used so far, in bytes: of the GPU, or of the process (0 if Python cannot say)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# CUDA and MPS, Linux, Windows, cuBLAS
NO_ROOM = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is used up. Only CUDA has a class for this error; the others are
    known by their words.
    """
    in_words = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_ROOM)
    return in_words or isinstance(error, (MemoryError, torch.OutOfMemoryError))
