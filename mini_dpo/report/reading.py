"""What the page of a run is made of: the run's files, each held against what the run says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from mini_dpo.errors import UserError, expecting
from mini_dpo.files import read_json, read_unchanged
from mini_dpo.saving.metrics import read_metrics


class Run(NamedTuple):
    """A run's files. settings, versions: of config.json. rows: the steps of metrics.jsonl. summary: {} before
    anything is measured. samples, words: a row a prompt and a row a pair, as far as they are measured.
    """

    settings: dict[str, Any]
    versions: dict[str, Any]
    rows: list[dict]
    summary: dict[str, Any]
    samples: list[dict]
    words: list[dict]

    @property
    def finished(self) -> bool:
        """Whether all is measured."""
        return bool(self.summary) and not self.summary.get("unfinished")

    @property
    def loss(self) -> str | None:
        """The name of the loss; None for SFT alone."""
        return None if self.settings["stage"] == "sft" else self.settings["loss"].rsplit(":", 1)[-1]

    @property
    def data(self) -> str:
        """What it was trained on, in a word."""
        own, world = self.settings["data"] or self.settings["sft_data"], self.settings.get("world") or "shop"
        if own or world == "shop":
            return Path(own).name if own else "the toy shop"
        return f"the world {world.rsplit(':', 1)[-1]}"


def read_run(folder: Path) -> Run:
    """Read a run's files. Raises UserError if there is no step in it yet, or if a file is missing, was
    changed or is from another run.
    """
    config = read_json(folder / "config.json")
    rows = read_metrics(folder)
    path = folder / "summary.json"
    summary = read_json(path) if path.exists() else {}
    with expecting(folder / "config.json", "the settings of a run"):
        settings, versions = dict(config["settings"]), dict(config.get("versions") or {})
    if summary and summary.get("id") != settings.get("id"):
        raise UserError(f"{path}: from another run than config.json beside it")
    samples, words = (kept_rows(folder / name, summary) for name in ("samples.jsonl", "words.jsonl"))
    return Run(settings, versions, rows, summary, samples, words)


def kept_rows(path: Path, summary: dict) -> list[dict]:
    """The rows of a file that the summary knows; [] if it knows of none."""
    digests = summary.get("sha256")
    if not isinstance(digests, dict) or path.name not in digests:
        return []
    lines = read_unchanged(path, summary).splitlines()
    with expecting(path, "what the run wrote"):
        return [json.loads(line) for line in lines]
