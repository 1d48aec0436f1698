"""One way to write a file and one way to read it: a file is complete or absent, and damage is found.

A file is written under another name in the same folder, forced to disk, and then renamed. A rename happens
completely or not at all. The other name is random and new, so that neither a second process nor a link can
redirect the writing. What is read again is compared with a checksum.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mini_dpo.errors import UserError, expecting

try:
    import fcntl
except ImportError:  # Windows, where two processes on one run are not told apart
    fcntl = None  # type: ignore[assignment]

CHECKPOINT = "a checkpoint of mini_dpo"
LARGEST_LOG = 2**28  # bytes: a line each of more than 500,000 steps
LARGEST_JSON = 2**24  # bytes: a thousand times what a run's settings or its table need


# --- writing


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file, which appears as `path` when it is complete.
    Raises UserError if the disk refuses; a file that was at `path` before is then kept.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(beside, "xb") as file:  # x: a new file or none, never through a link
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        settle_names(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save reports a failed write as a RuntimeError
        beside.unlink(missing_ok=True)
        kept = "; the file that was there is kept" if path.exists() else ""
        raise UserError(
            f"{path}: cannot be written ({error}){kept}; make room or choose another place"
        ) from error


def settle_names(folder: Path) -> None:
    """Force the names in a folder to disk, so that a rename survives a power cut. On Windows this does
    nothing.
    """
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object, indented for people, with its own checksum as the last entry. A number that is not
    finite becomes null, because JSON has no other form for it.
    """
    value = only_finite(value)
    text = json.dumps({**value, "checksum": checksum(value)}, indent=2, allow_nan=False)
    write_whole(path, lambda file: file.write(text.encode() + b"\n"))


def write_jsonl(path: Path, rows: Iterable[dict]) -> str:
    """Write one JSON object a line; returns the SHA-256 of the file."""
    content = b"".join(json_line(row) for row in rows)
    write_whole(path, lambda file: file.write(content))
    return hashlib.sha256(content).hexdigest()


def json_line(row: dict) -> bytes:
    """A JSON object as one line of bytes, with null for numbers that are not finite."""
    return json.dumps(only_finite(row), allow_nan=False).encode() + b"\n"


def only_finite(value: Any) -> Any:
    """The same JSON value, with None for each number that is not finite."""
    if isinstance(value, dict):
        return {str(key): only_finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [only_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def checksum(value: dict) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a JSON object; its layout does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside this context, no other process works on the run in `folder`. The system releases the lock when
    this process ends, in whatever way. Unfinished files of a process that was killed are removed.
    Raises UserError if another process is at work.
    """
    descriptor = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if descriptor is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{folder}: another process is at work on this run; wait until it has ended, or stop it"
                ) from error
        for left_over in folder.glob(f".*.{'[0-9a-f]' * 16}.part"):
            left_over.unlink(missing_ok=True)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


# --- reading


def size_of(path: str | Path, largest: float = math.inf) -> int:
    """The size of a file in bytes.
    Raises UserError if there is no such file, if it is a folder or a pipe (reading a pipe would wait), or if
    it is larger than `largest`.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte in it
        raise UserError(
            f"{path}: cannot be read ({getattr(error, 'strerror', error)}); check the path"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(
            f"{path}: not a file but a "
            f"{'folder' if stat.S_ISDIR(found.st_mode) else 'pipe or a device; write it to a file first'}"
        )
    if found.st_size > largest:
        raise UserError(
            f"{path}: {found.st_size:,} bytes, and no file of this kind has more than {largest:,}"
        )
    return found.st_size


def read_bytes(path: str | Path, largest: float = math.inf) -> bytes:
    """The content of a file. Raises UserError as `size_of` does, and if the file cannot be read."""
    size_of(path, largest)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except MemoryError as error:
        raise UserError(f"{path}: too large for this machine's memory") from error


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's content, which is read piece by piece. Raises UserError as `size_of` does."""
    size_of(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote; the result is without the checksum.
    Raises UserError if the file is missing, is not JSON, or has another checksum.
    """
    try:
        value = json.loads(read_bytes(path, LARGEST_JSON))
        if isinstance(value, dict) and value.pop("checksum", None) == checksum(value):
            return value
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({str(error)[:200]})") from error
    raise UserError(
        f"{path}: its checksum is not that of its content: it was changed or damaged, or "
        "another version of mini_dpo wrote it"
    )


def read_unchanged(path: Path, summary: dict) -> str:
    """The text of a file of a run. Raises UserError if its SHA-256 is not the one in the summary of
    the run.
    """
    content = read_bytes(path, LARGEST_LOG)
    with expecting(path, "what the run wrote"):
        if hashlib.sha256(content).hexdigest() != summary["sha256"][path.name]:
            raise ValueError("it was changed or damaged")
        return content.decode()


def read_archive(path: Path) -> Any:
    """Read what torch.save wrote, onto the CPU. No code in it is run. Raises UserError as `check_archive`."""
    check_archive(path)
    with damaged(path):
        return torch.load(path, map_location="cpu", weights_only=True)


def check_archive(path: Path, what: str = CHECKPOINT) -> None:
    """Check a file that torch.save wrote, a zip archive of uncompressed entries, each with a checksum.

    Raises UserError if there is no such file, if a checksum is wrong, or if an entry would unpack to more
    than the file holds. what: as `damaged`.
    """
    size = size_of(path)
    with damaged(path, what), zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if (
            any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            or sum(entry.file_size for entry in entries) > size
        ):
            raise ValueError("compressed")
        if min(entry.header_offset for entry in entries) > 0:
            raise ValueError("something stands before its first entry")  # which another reader might read
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("an entry stands in it twice")
        if broken := archive.testzip():
            raise ValueError(f"{broken} is damaged")


@contextmanager
def damaged(path: Path, what: str = CHECKPOINT) -> Iterator[None]:
    """Inside this context, whatever goes wrong is a UserError, that the file is not `what`: a damaged or
    foreign file fails in many ways, none with a class of its own.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:
        raise UserError(
            f"{path}: not {what}, or a damaged one ({type(error).__name__}: {str(error)[:100]})"
        ) from error


def no_link(path: str, flags: int) -> int:
    """An opener for `open`: refuses a symbolic link, and does not wait for a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
