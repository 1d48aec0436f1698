"""Files that are whole or not there at all: checkpoints, and the folder of a run.

    runs/1/config.json      what was asked for, complete: a resumed run needs nothing else
    runs/1/sft.pt, dpo.pt   the last checkpoint of each stage; when the stage is over, its model
    runs/1/metrics.jsonl    one JSON object a training step
    runs/1/samples.jsonl    held-out prompts, answered before and after, with the marks of a judge if there is one
    runs/1/summary.json     the closing table; "unfinished" while it is measured, and where that failed

A file is written beside its name, forced to disk, and then renamed over it, which happens at once or not at all.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mini_dpo.errors import UserError
from mini_dpo.model import GPT, GPTConfig


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill a file that appears as `path` when it is complete. Raises UserError where the disk refuses,
    leaving whatever stood at `path` as it was."""
    beside = path.with_name(f".{path.name}.part")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a failed write as a RuntimeError
        beside.unlink(missing_ok=True)
        kept = "; the file that was there is kept" if path.exists() else ""
        raise UserError(f"{path}: cannot be written ({error}){kept}; make room or choose another place") from error


def write_json(path: Path, value: object) -> None:
    """Write one JSON value, indented for people. A number that is not finite becomes null: JSON knows none."""
    text = json.dumps(only_finite(value), indent=2, allow_nan=False)
    write_whole(path, lambda file: file.write(text.encode() + b"\n"))


def only_finite(value: Any) -> Any:
    """The same JSON value with None for each number in it that is not finite."""
    if isinstance(value, dict):
        return {key: only_finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [only_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line."""
    write_whole(path, lambda file: file.writelines(json.dumps(row).encode() + b"\n" for row in rows))


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote. Raises UserError where it is not there or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error


# ---------------------------------------------------------------------------------------------------- checkpoints


def save_checkpoint(path: Path, model: GPT, tokenizer: str, **state: Any) -> None:
    """Write a model with what is needed to use it, the stage that made it ("sft" or "dpo", by the file's name if `state`
    does not say), and any further state that resuming needs."""
    payload = {"model": model.state_dict(), "config": asdict(model.config), "tokenizer": tokenizer, "stage": path.stem, **state}
    write_whole(path, lambda file: torch.save(payload, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, executing nothing that is in it. Raises UserError where it cannot be."""
    try:
        file = open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        try:
            payload = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged or foreign file fails in many ways, none with a class of its own
            raise UserError(f"{path}: not a checkpoint of mini_dpo, or a damaged one ({type(error).__name__})") from error
    if not isinstance(payload, dict) or not {"model", "config", "tokenizer"} <= payload.keys():
        raise UserError(f"{path}: not a checkpoint of mini_dpo (no model, config and tokenizer in it)")
    return payload


def load_model(path: Path, **changes: Any) -> tuple[GPT, str]:
    """The model in a checkpoint and its tokenizer's name; `changes` override fields of its config (say, dropout=0)."""
    return build_model(path, load_checkpoint(path), **changes)


def build_model(path: Path, payload: dict[str, Any], **changes: Any) -> tuple[GPT, str]:
    """The same from what `load_checkpoint` has read from `path`."""
    try:
        model = GPT(GPTConfig(**{**payload["config"], **changes}))
        model.load_state_dict(payload["model"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: the weights do not fit the model they claim to be ({error})") from error
    return model, payload["tokenizer"]


def find_model(path: Path) -> Path:
    """The checkpoint a user means: a file itself; of a run's folder, the SFT model, from which preference training
    starts. Raises UserError where there is none."""
    checkpoint = path / "sft.pt" if path.is_dir() else path
    if not checkpoint.exists():
        raise UserError(f"{path}: no model there; name a run's folder (it has sft.pt) or a checkpoint file")
    return checkpoint


# ------------------------------------------------------------------------------------------------------ run folders


def new_run(out: Path | None, config: dict[str, Any]) -> Path:
    """Make the folder of a new run with its config.json inside, in one step. Never touches a folder that exists.

    Without `out` it is the next number under `runs/`. Raises UserError where `out` exists or cannot be made.
    """
    parent = out.parent if out else Path("runs")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=parent) as draft:
            filled = Path(draft) / "run"
            filled.mkdir()
            write_json(filled / "config.json", config)
            while True:
                run = out or parent / str(1 + max((int(p.name) for p in parent.iterdir() if p.name.isdecimal()), default=0))
                if out and out.exists():
                    raise UserError(f"{out} exists; choose another --out, or go on with it: --resume {out}")
                try:
                    filled.rename(run)  # fails if another run has just taken the number
                    return run
                except OSError:
                    if out or not run.exists():
                        raise
    except OSError as error:
        raise UserError(f"{out or parent}: the run's folder cannot be made ({error.strerror}); choose another --out") from error


class MetricsLog:
    """`metrics.jsonl`: one JSON object a step. A checkpoint remembers how long the file was, and resuming cuts it back
    to that length, so that no step stands in it twice and no line is half written."""

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        try:
            self.file = open(path, "ab")
            if self.file.tell() < length:
                raise UserError(f"{path}: shorter than the checkpoint remembers; it was changed, and the run cannot go on")
            self.file.truncate(length)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error

    def write(self, record: dict[str, Any]) -> None:
        try:
            self.file.write(json.dumps(record).encode() + b"\n")
            self.file.flush()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); make room, then --resume {self.path.parent}") from error

    def length(self) -> int:
        """The file's length in bytes, once all of it is on the disk."""
        os.fsync(self.file.fileno())
        return self.path.stat().st_size
