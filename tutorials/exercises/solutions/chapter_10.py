"""Solutions of chapter 10."""

from __future__ import annotations

import hashlib
import json

KEYS = ("prompt", "chosen", "rejected")


def read_pairs(text: str) -> list[dict]:
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: not JSON") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number}: not an object")
        for key in KEYS:
            if not isinstance(row.get(key), str):
                raise ValueError(f"line {number}: no text for {key!r}")
            if key != "prompt" and not row[key].strip():
                raise ValueError(f"line {number}: {key!r} is empty")
        pairs.append({key: row[key] for key in KEYS})
    return pairs


def hold_out(prompts: list[str], share: float) -> list[bool]:
    def place(prompt: str) -> float:
        """A number in [0, 1) that looks random and depends on nothing but the text."""
        return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") / 2**64

    return [place(prompt) < share for prompt in prompts]


def training_bytes(parameters: int, live_reference: bool) -> int:
    per_parameter = 4 + 4 + 8  # the weight, its gradient, AdamW's two averages
    return parameters * (per_parameter + (4 if live_reference else 0))
