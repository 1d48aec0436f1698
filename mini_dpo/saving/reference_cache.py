"""The reference's log-probs, kept in a file beside the data for the next run: `--precompute-ref`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mini_dpo.batches import EncodedPair
from mini_dpo.errors import UserError, expecting
from mini_dpo.files import read_archive, write_whole
from mini_dpo.model import GPT
from mini_dpo.processes import of_the_first, rank
from mini_dpo.reference import are_pairs, know_reference, reference_logps

ROUNDING = 1e-3  # how far above 0, the most, a log-prob may be


def cached_reference(
    reference: GPT,
    examples: Sequence[Any],
    beside: Path,
    tokenizer: str,
    dtype: str,
    batch_size: int | None,
    tokens: int | None = None,
    say: Callable[[str], None] = print,
) -> list:
    """The examples with the reference's log-probs: from the file that holds exactly these, or scored now and
    kept in that file.

    beside: the data file, beside which the log-probs are kept. The name of the file has a hash of all that
        the numbers depend on, so that another reference, tokenizer or data has another file. A file that
        cannot be read is made again. If a file cannot be written, a line says so.
    """
    digest = hash_all(reference, examples, tokenizer, dtype)
    path = beside.with_name(f"{beside.name}.ref-{digest[:16]}.pt")
    kept = of_the_first(
        read_kept(path, digest, (len(examples), 2) if are_pairs(examples) else (len(examples),))
    )
    logps = kept if kept is not None and holds(kept, reference, examples, dtype, say, path) else None
    if logps is not None:
        say(f"reference log-probs from {path}")
        return know_reference(examples, logps)
    say("scoring the reference ...")
    logps = reference_logps(reference, examples, dtype, batch_size, tokens)
    if rank() == 0:
        try:
            write_whole(
                path,
                lambda file: torch.save({"digest": digest, "logps": logps, "sha256": sha256_of(logps)}, file),
            )
            say(f"kept in {path}")
        except UserError as error:
            say(f"not kept for the next run: {error}")
    return know_reference(examples, logps)


def hash_all(reference: GPT, examples: Sequence[Any], tokenizer: str, dtype: str) -> str:
    """SHA-256 of the weights, of the tokens of all examples, and of the settings that change the numbers."""
    digest = hashlib.sha256(
        repr((vars(reference.config), tokenizer, dtype, reference.wte.weight.device.type)).encode()
    )
    for name, weight in reference.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
    for example in examples:
        sequences = (
            (example.chosen, example.rejected) if isinstance(example, EncodedPair) else (example.sequence,)
        )
        digest.update(repr([tuple(sequence) for sequence in sequences]).encode())
    return digest.hexdigest()


def sha256_of(logps: Tensor) -> str:
    """SHA-256 of the bytes of a tensor."""
    return hashlib.sha256(logps.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def read_kept(path: Path, digest: str, shape: tuple[int, ...]) -> Tensor | None:
    """The log-probs in a file; None if it is missing or damaged, or holds other numbers than its
    name says.
    """
    try:
        with expecting(path, "reference log-probs"):
            kept = read_archive(path)
            logps = kept["logps"]
            usable = (
                kept["digest"] == digest
                and logps.shape == shape
                and logps.dtype == torch.float32
                and kept["sha256"] == sha256_of(logps)
            )
            # 0 at most, but for rounding
            return logps if usable and bool((logps.isfinite() & (logps < ROUNDING)).all()) else None
    except UserError:  # whatever it holds, it can be made again
        return None


def holds(
    kept: Tensor, reference: GPT, examples: Sequence[Any], dtype: str, say: Callable[[str], None], path: Path
) -> bool:
    """Whether a file holds the log-probs of this reference: a few examples, with the first and the last, are
    scored again and compared.
    """
    asked = torch.linspace(0, len(examples) - 1, min(8, len(examples))).long()
    again = reference_logps(reference, [examples[i] for i in asked], dtype, 1)
    if torch.allclose(kept[asked], again, rtol=2e-2 if dtype == "bfloat16" else 1e-4, atol=1e-2):
        return True
    say(f"{path} does not hold this reference's log-probs, and is made again")
    return False
