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
    """The device that is meant: auto is cuda where there is one that works, else cpu. A line says if one does
    not.
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
    """Why nothing can be computed on a device, None where it can. Of a GPU a first sum is asked: one that is
    held by another program, or too old for this build of torch, is found by nothing less.
    """
    if not {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]:
        return "this machine, or this build of torch, has none"
    if device == "cpu":
        return None
    wanted, there = (
        int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        torch.cuda.device_count() if device == "cuda" else 1,
    )
    if device != "cpu" and wanted > there:
        return f"{wanted} processes need {wanted} GPUs, and this machine has {there}"
    try:
        torch.ones(
            2, device=f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
        ).sum().item()
    except RuntimeError as error:
        return f"there is one, and it does not work ({one_line(error)})"
    return None


def own_gpu(device: str) -> None:
    """Where torchrun has started several processes, "cuda" is from here on the GPU of this one."""
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def lacks(device: str, dtype: str) -> str | None:
    """What a device is asked for and does not have, though it computes."""
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
    """An error's kind and the first line of what it says. torch.compile wraps the one that tells into
    others.
    """
    while within := getattr(error, "inner_exception", None) or error.__cause__:
        error = within
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0].strip(": ")[:200]


def send(tensor: Tensor, device: str | torch.device) -> Tensor:
    """To the device. To a CUDA GPU through pinned memory, so that the copy runs beside what the GPU is doing;
    elsewhere the memory might be another tensor's before such a copy has read it.
    """
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """Matrix products in bfloat16 where `dtype` says so; weights, sums and log-probs stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


# --- its memory


def keep_freed_memory() -> None:
    """Ask glibc to keep memory that torch frees for its next tensor, rather than hand it back to the system
    and fault
    every page in again: on a CPU this is a third of a small model's step. Pieces of 32 MiB and more (a large
    model's gradients and logits) still go back, so that holes of their size do not pile up. Elsewhere it does
    nothing.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # from malloc.h
        libc.mallopt(m_mmap_threshold, 32 * 2**20)  # the largest that it takes
        libc.mallopt(m_trim_threshold, 2**31 - 1)


# CUDA and MPS, Linux, Windows, cuBLAS
NO_ROOM = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is used up. Only CUDA's has a class of its own; the others say so in
    words.
    """
    in_words = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_ROOM)
    return in_words or isinstance(error, (MemoryError, torch.OutOfMemoryError))
