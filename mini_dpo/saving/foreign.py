"""Files of a published model, which may come from anybody: JSON and tensors, read without executing
anything.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mini_dpo.errors import UserError, expecting
from mini_dpo.files import LARGEST_JSON, check_archive, damaged, read_bytes, size_of
from mini_dpo.formats.files import GIT_LFS, POINTER, each_key_once

# In the order in which they are looked for. An index names the files over which the tensors are spread.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PUBLISHED = "weights that can be read"
Reopen = Callable[[], dict[str, Callable[[], Any]]]  # opens a file: what reads each tensor, by name


def read_foreign(path: Path) -> dict[str, Any]:
    """A JSON object that somebody else wrote. Raises UserError if the file holds none."""
    content = read_bytes(path, LARGEST_JSON)
    refuse_pointer(path, content)
    with expecting(path, "a JSON object"):
        try:
            value = json.loads(content, object_pairs_hook=each_key_once)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(value, dict):
            raise ValueError("another value")
        return value


def refuse_pointer(path: Path, content: bytes) -> None:
    """Raise UserError if a file is what Git LFS leaves in place of the file."""
    if content.startswith(GIT_LFS):
        raise UserError(f"{path}: {POINTER}")


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights. Raises UserError if there are none."""
    there = [name for name in WEIGHTS if (folder / name).exists()]
    if any(name.startswith("pytorch") for name in there) and not has_safetensors():
        there = [name for name in there if name.startswith("pytorch")]
    if not there:
        raise UserError(f"{folder}: no weights there; it needs model.safetensors or pytorch_model.bin")
    first = folder / there[0]
    if first.suffix != ".json":
        return [first]
    with expecting(first, "an index of weights"):
        names = sorted(set(read_foreign(first)["weight_map"].values()))
        if not names or any(
            Path(name).name != name or name == ".." or not name.isprintable() for name in names
        ):
            raise ValueError("a name in it is no file of this folder")
    return [folder / name for name in names]


def has_safetensors() -> bool:
    """Whether the package that reads model.safetensors is installed."""
    try:
        import safetensors  # noqa: F401
    except ImportError:
        return False
    return True


def names_in(file: Path) -> list[tuple[str, Reopen]]:
    """The names of a file's tensors, each with what opens the file anew: so what was read before does not
    stay in memory. Raises UserError for a damaged file.
    """
    size_of(file)
    with open(file, "rb") as opened:
        refuse_pointer(file, opened.read(64))
    reopen = reader_of(file)
    names = list(reopen())
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: not weights: a name in it is no text")
    return [(name, reopen) for name in names]


def reader_of(file: Path) -> Reopen:
    """A function that opens a file of weights and gives, for each name, what reads the tensor."""
    if file.suffix == ".safetensors":
        return partial(open_safetensors, file)
    if zipfile.is_zipfile(file):
        check_archive(file, PUBLISHED)
        return partial(open_archive, file)
    held = load_pickled(file)  # as torch wrote files before version 1.6: all or nothing
    return lambda: {name: partial(held.pop, name) for name in list(held)}


def open_safetensors(file: Path) -> dict[str, Callable[[], Any]]:
    """A file in the format of safetensors, which holds no code."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError(f"{file}: needs another package: pip install safetensors") from error
    try:
        held = safe_open(file, framework="pt")
        return {name: partial(held.get_tensor, name) for name in held.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError as error:
        raise UserError(
            f"{file}: damaged, or not safetensors ({str(error)[:100]}); fetch it again"
        ) from error


def open_archive(file: Path) -> dict[str, Callable[[], Any]]:
    """A file as torch writes it; the tensors stay in the file until they are copied."""
    held = load_pickled(file, mmap=True)
    return {name: partial(held.get, name) for name in held}


def load_pickled(file: Path, **how: Any) -> dict:
    """A dictionary that torch.save wrote. No code in the file is run."""
    with damaged(file, PUBLISHED):
        held = torch.load(file, map_location="cpu", weights_only=True, **how)
        if not isinstance(held, dict):
            raise ValueError("another value")
        return held


def plain(file: Path, name: str, reopen: Reopen, expected: tuple[int, ...]) -> Tensor:
    """A tensor of a file, without anything beside its numbers. Raises UserError unless it has this shape, and
    floating-point numbers.
    """
    try:
        held = reopen()[name]()
        tensor = torch.Tensor.detach(held) if isinstance(held, Tensor) else None
    except Exception as error:  # a damaged file fails in many ways, none with a class of its own
        raise UserError(
            f"{file}: {name} cannot be read ({type(error).__name__}: {str(error)[:100]})"
        ) from error
    if tensor is None or tensor.is_nested or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise UserError(f"{file}: {name} is no tensor with all its numbers")
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise UserError(f"{file}: {name} is of the type {tensor.dtype}, which is not that of weights")
    if tuple(tensor.shape) != expected:
        raise UserError(f"{file}: {name} has the shape {tuple(tensor.shape)}, and needs {expected}")
    return tensor
