"""What was measured, kept in one file. The file is written whole after each seed, so that work that was
stopped goes on with the next seed. Claims that read the same numbers share them.
"""

from __future__ import annotations

import io
import math
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mini_dpo.claims.claim import Claim
from mini_dpo.errors import UserError
from mini_dpo.files import read_json, write_json

Numbers = dict[str, dict[str, float | None]]  # seed -> name -> number; null for what is not finite


class Kept:
    """The numbers of each measurement, and the row of each claim. path: the file, None to keep nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        found = read_json(path) if path and path.exists() else {"measured": {}, "claims": {}}
        self.measured: dict[str, Numbers] = found.get("measured", {})
        self.claims: dict[str, dict[str, Any]] = {
            name: as_numbers(row) for name, row in found.get("claims", {}).items()
        }

    def measure(self, claim: Claim, seeds: int) -> list[dict[str, float]]:
        """The numbers of seeds 0, 1, ...: those that are kept, and the others measured now."""
        name = f"{claim.measure.__module__.rpartition('.')[2]}.{claim.measure.__name__}"
        known = self.measured.setdefault(name, {})
        for seed in range(seeds):
            if str(seed) not in known:
                known[str(seed)] = measured(claim, seed)
                self.write()
        numbers = [known[str(seed)] for seed in range(seeds)]
        if any(claim.number not in of_seed for of_seed in numbers):
            raise UserError(f"{self.path}: {name} has other numbers than are measured today; take it out")
        return [as_numbers(of_seed) for of_seed in numbers]

    def conclude(self, claim: Claim, deciding: list[float]) -> dict[str, Any]:
        """Keep what a page shows of a claim, and return it."""
        mean, low, high = claim.spread(deciding)
        self.claims[claim.name] = {
            **{name: getattr(claim, name) for name in ("text", "number", "where", "chapter", "exact")},
            "verdict": claim.verdict(deciding),
            "wanted": str(claim.wanted),
            "mean": mean,
            "low": low,
            "high": high,
            "seeds": len(deciding),
        }
        self.write()
        return self.claims[claim.name]

    def write(self) -> None:
        if self.path:
            write_json(self.path, {"claims": self.claims, "measured": self.measured})


def as_numbers(kept: dict[str, Any]) -> dict[str, Any]:
    """What was read of a file, with nan for each number that is not finite: the file has a null."""
    return {name: math.nan if value is None else value for name, value in kept.items()}


def measured(claim: Claim, seed: int) -> dict[str, float | None]:
    """One seed's numbers, and the CPU seconds they took. What training prints is left out."""
    started = time.process_time()
    with redirect_stdout(io.StringIO()):
        numbers = claim.measure(seed)
    return {**numbers, "CPU seconds": time.process_time() - started}


def row(name: str, found: dict[str, Any]) -> str:
    """Three lines of what is kept of a claim: the verdict and the claim; the number and its interval; what it
    was measured on.
    """
    several = found["seeds"] > 1
    spread = f" [{found['low']:.3g}, {found['high']:.3g}]" if several else ""
    seeds = f"{found['seeds']} seeds" if several else "no chance in it"
    return (
        f"{found['verdict']:11} {found['text']}\n"
        f"{'':11} {found['number']}: {found['mean']:.3g}{spread}, wanted {found['wanted']}\n"
        f"{'':11} {found['where']}, {seeds} ({name}, chapter {found['chapter']})"
    )
