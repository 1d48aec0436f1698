"""Checkpoints, and the folder of a run.

runs/1/config.json      the settings, complete: a resumed run needs nothing else
runs/1/sft.pt, dpo.pt   the last checkpoint of each stage; when the stage is over, its model
runs/1/metrics.jsonl    one JSON object a training step
runs/1/samples.jsonl    held-out prompts, answered before and after, with the marks of a judge if there is one
runs/1/words.jsonl      some held-out pairs, each token with its part of the reward
runs/1/summary.json     the closing table; "unfinished" while the run is measured, or if that failed
runs/1/report.html      all of this as one page, made from these files
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mini_dpo import __version__
from mini_dpo.errors import UserError, expecting
from mini_dpo.files import json_line, no_link, read_archive, settle_names, size_of, write_json, write_whole
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.pictures import find_tokenizer, new_model
from mini_dpo.saving.foreign import WEIGHTS
from mini_dpo.saving.huggingface import is_published, read_published
from mini_dpo.tokenizer import Tokenizer

# --- checkpoints


def versions() -> dict[str, str]:
    """The versions that write a file. Each run and each checkpoint keeps them."""
    return {"mini_dpo": __version__, "torch": str(torch.__version__)}


def save_checkpoint(path: Path, model: GPT, tokenizer: str, **state: Any) -> None:
    """Write a model and what is needed to use it.
    tokenizer: its name. state: what resuming needs; also `stage`, the stage that made the model ("sft" or
        "dpo"; by default the name of the file).
    """
    payload = {
        "model": model.state_dict(),
        "config": asdict(model.config),
        "tokenizer": tokenizer,
        "stage": path.stem,
        "versions": versions(),
        **state,
    }
    write_whole(path, lambda file: torch.save(payload, file))


# What a checkpoint holds, and of which type; what follows `stage` is for going on with a run.
ENTRIES: dict[str, Any] = {
    "model": dict,
    "config": dict,
    "tokenizer": str,
    "stage": str,
    "step": int,
    "finished": bool,
    "run": str,
    "log_length": int,
    "log_sha256": str,
    "seconds": float,
    "owed": (dict, type(None)),
}


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, or a folder from Hugging Face, onto the CPU. No code in it is run. Raises UserError
    if it is neither.
    """
    if is_published(path):
        return read_published(path)
    payload = read_archive(path)
    if not isinstance(payload, dict) or not {"model", "config", "tokenizer", "stage"} <= payload.keys():
        raise UserError(f"{path}: not a checkpoint of mini_dpo (no model, config, tokenizer and stage in it)")
    wrong = [
        name for name, kind in ENTRIES.items() if name in payload and not isinstance(payload[name], kind)
    ]
    owed = list((payload.get("owed") or {}).values()) if not wrong else []
    if wrong or not all(
        isinstance(value, float) and math.isfinite(value) for value in (payload.get("seconds", 0.0), *owed)
    ):
        raise UserError(
            f"{path}: not a checkpoint of mini_dpo ({wrong[0] if wrong else 'a number in it'} "
            "is not what it should be)"
        )
    return payload


def load_own(path: Path, run: str) -> dict[str, Any]:
    """A checkpoint of the run with the id `run`, to resume from. Raises UserError if it is from
    another run.
    """
    payload = load_checkpoint(path)
    if payload.get("run") != run or not {"step", "finished"} <= payload.keys():
        raise UserError(
            f"{path}: from another run than config.json beside it; put the run's own file "
            "back, or start a new run"
        )
    return payload


def load_model(path: str | Path, **changes: Any) -> tuple[GPT, Tokenizer]:
    """The model in a checkpoint and its tokenizer. changes: fields of its config to replace, say
    dropout=0.
    """
    return build_model(Path(path), load_checkpoint(Path(path)), **changes)


def check_weights(path: Path, model: GPT, weights: dict[str, Any]) -> None:
    """Raise UserError unless `weights`, from `path`, have the names, shapes and types of this model, and are
    finite.
    """
    wanted = {name: (weight.shape, weight.dtype) for name, weight in model.state_dict().items()}
    plain = all(
        isinstance(w, torch.Tensor) and w.layout == torch.strided and w.is_contiguous()
        for w in weights.values()
    )
    if (
        not plain
        or (path.is_file() and sum(w.nbytes for w in weights.values()) > size_of(path))
        or wanted != {name: (w.shape, w.dtype) for name, w in weights.items()}
    ):
        raise UserError(
            f"{path}: the weights do not fit the model they claim to be: other names, shapes or types"
        )
    if not all(bool(part.isfinite().all()) for weight in weights.values() for part in weight.split(2**10)):
        raise UserError(f"{path}: a weight is not a finite number; the file is of no use")


def load_weights(path: Path, model: GPT, weights: dict[str, Any]) -> None:
    """Give a model the weights read from `path`. Raises UserError if they are of another model."""
    check_weights(path, model, weights)
    model.load_state_dict(weights)


def build_model(path: Path, payload: dict[str, Any], **changes: Any) -> tuple[GPT, Tokenizer]:
    """As `load_model`, from what `load_checkpoint` has read from `path`. Raises UserError if the weights do
    not fit, before the memory for a model is used.
    """
    with expecting(path, "a model that can be built"):
        config = replace(GPTConfig(**payload["config"]), **changes)
        if config.n_layer > len(payload["model"]):
            raise ValueError(f"{config.n_layer} blocks, and {len(payload['model'])} tensors in all")
    tokenizer = find_tokenizer(payload["tokenizer"])
    with torch.device("meta"):  # shapes without numbers
        model = new_model(config, tokenizer)
    check_weights(path, model, payload["model"])
    model.load_state_dict(apart(payload["model"]), assign=True)  # the numbers that were read, not a copy
    if tokenizer.vocab_size != config.vocab_size:
        raise UserError(
            f"{path}: a model of {config.vocab_size} tokens, and the tokenizer {tokenizer.name:.40} has "
            f"{tokenizer.vocab_size}; it was made with another version of mini_dpo"
        )
    return model, tokenizer


def apart(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights; those that a file keeps in one piece of memory are copied, so that a step on one does
    not move another.
    """
    pieces = {name: weight.untyped_storage() for name, weight in weights.items()}
    shared = Counter(piece.data_ptr() for piece in pieces.values())
    return {
        name: weight.clone()
        if shared[pieces[name].data_ptr()] > 1 or pieces[name].nbytes() != weight.nbytes
        else weight
        for name, weight in weights.items()
    }


def load_frozen(path: Path, device: str) -> GPT:
    """A model in evaluation mode, without gradients: the policy before its first step, or the reference."""
    model, _ = load_model(path, dropout=0.0)
    return model.to(device).eval().requires_grad_(False)


def find_model(path: Path) -> Path:
    """The model at a path: a checkpoint file, the SFT model in the folder of a run, or a folder from Hugging
    Face. Raises UserError if there is none.
    """
    if is_published(path):
        return path
    if path.is_dir() and (path / "sft.pt").exists() and any((path / name).exists() for name in WEIGHTS):
        raise UserError(
            f"{path}: both a run (sft.pt) and a published model are there; name the file that is meant"
        )
    checkpoint = path / "sft.pt" if path.is_dir() else path
    if not checkpoint.exists():
        raise UserError(
            f"{path}: no model there; name a run's folder (it has sft.pt), a checkpoint file, "
            "or a folder from Hugging Face (it has config.json and model.safetensors)"
        )
    return checkpoint


# --- run folders


def new_run(out: Path | None, config: dict[str, Any]) -> Path:
    """Make the folder of a new run, with its config.json, in one step. An existing folder is never changed.

    out: the folder; by default the next number under `runs/`. Raises UserError if `out` exists or cannot be
        made.
    """
    parent = out.parent if out else Path("runs")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=parent) as draft:
            filled = Path(draft) / "run"
            filled.mkdir()
            write_json(filled / "config.json", config)
            while True:
                run = out or parent / str(
                    1 + max((int(p.name) for p in parent.iterdir() if p.name.isdecimal()), default=0)
                )
                if out and out.exists():
                    raise UserError(f"{out} exists; choose another --out, or go on with it: --resume {out}")
                try:
                    filled.rename(run)  # fails if another run has just taken the number
                    settle_names(parent)
                    return run
                except OSError:
                    if out or not run.exists():
                        raise
    except OSError as error:
        raise UserError(
            f"{out or parent}: the run's folder cannot be made ({error.strerror}); choose another --out"
        ) from error


class MetricsLog:
    """`metrics.jsonl`: one JSON object a step. A checkpoint keeps the length and the SHA-256 of the log.
    Resuming cuts the log to that length, so that no step is in it twice and no line is incomplete.
    """

    def __init__(self, path: Path, saved: dict[str, Any]) -> None:
        """Open the log. saved: the checkpoint to resume from, {} before the first. Raises UserError if the
        log has changed since that checkpoint.
        """
        self.path = path
        length, expected = saved.get("log_length", 0), saved.get("log_sha256", hashlib.sha256().hexdigest())
        try:
            self.file = open(path, "a+b", opener=no_link)  # noqa: SIM115 (open as long as the run)
            there = os.fstat(self.file.fileno()).st_size
            self.file.seek(0)
            self.digest = hashlib.sha256(self.file.read(length) if 0 <= length <= there else b"")
            if not 0 <= length <= there or self.digest.hexdigest() != expected:
                raise UserError(
                    f"{path}: not what the checkpoint remembers; it was changed, and the run cannot go on"
                )
            self.file.truncate(length)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error

    def write(self, record: dict[str, Any]) -> None:
        """Add the record of a step. Raises UserError if the disk refuses."""
        line = json_line(record)
        try:
            self.file.write(line)
            self.file.flush()
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); make room, then --resume "
                f"{self.path.parent}"
            ) from error
        self.digest.update(line)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the log. All of the log is on the disk then."""
        os.fsync(self.file.fileno())
        return {"log_length": self.path.stat().st_size, "log_sha256": self.digest.hexdigest()}
