"""From a file's rows to checked examples.

    preferences     {"prompt": "...", "chosen": "...", "rejected": "..."}     one object a line
    demonstrations  {"prompt": "...", "response": "..."}                      for SFT
    feedback        {"prompt": "...", "completion": "...", "label": true}     for losses of single responses

What looks like a mistake stops the program with the file, the line and the remedy (jsonl.py).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from mini_dpo.errors import UserError
from mini_dpo.jsonl import Say, read_rows


@dataclass(frozen=True)
class Preference:
    """Two responses to a prompt and which of them people chose. line: its line in the file."""

    prompt: str
    chosen: str
    rejected: str
    line: int = 0


@dataclass(frozen=True)
class Feedback:
    """One response to a prompt and whether people liked it. line: its line in the file."""

    prompt: str
    completion: str
    label: bool
    line: int = 0


@dataclass(frozen=True)
class Demonstration:
    """A prompt and a response to imitate. line: its line in the file."""

    prompt: str
    response: str
    line: int = 0


Example = TypeVar("Example", Preference, Feedback, Demonstration)


def load_preferences(path: str | Path, say: Say = print, skip_bad: bool = False) -> list[Preference]:
    """Read a preference file. Pairs of two identical responses teach nothing: they are left out, and `say` is
    given a line about them. skip_bad: leave out what cannot be used, also with a line.

    Raises UserError, with file and line, for anything that is not what the module's first lines describe.
    """
    pairs = load(path, Preference, say, skip_bad)
    kept = [pair for pair in pairs if pair.chosen != pair.rejected]
    if len(kept) < len(pairs):
        first = next(pair.line for pair in pairs if pair.chosen == pair.rejected)
        say(
            f"{path}: left out {len(pairs) - len(kept)} of {len(pairs)} pairs: chosen and "
            f"rejected are the same (first: line {first})"
        )
    if not kept:
        raise UserError(f"{path}: no pair is left to train on; chosen and rejected must differ")
    return kept


def load_demonstrations(path: str | Path, say: Say = print, skip_bad: bool = False) -> list[Demonstration]:
    """Read an SFT file. Raises UserError as `load_preferences` does."""
    return load(path, Demonstration, say, skip_bad)


def load_feedback(path: str | Path, say: Say = print, skip_bad: bool = False) -> list[Feedback]:
    """Read a file of single responses. Raises UserError as `load_preferences` does."""
    return load(path, Feedback, say, skip_bad)


def load(path: str | Path, kind: type[Example], say: Say, skip_bad: bool) -> list[Example]:
    """A file's examples of one kind, in order."""
    keys = [field.name for field in fields(kind) if field.name != "line"]
    return [kind(**row, line=line) for line, row in read_rows(path, keys, say, skip_bad)]
