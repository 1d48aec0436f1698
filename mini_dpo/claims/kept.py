"""What was measured, kept in one file. It is written whole after each claim and seed, so that work that was
stopped goes on with the next seed.
"""

from __future__ import annotations

import io
import time
from contextlib import redirect_stdout
from pathlib import Path

from mini_dpo.claims.claim import Claim
from mini_dpo.errors import UserError
from mini_dpo.files import read_json, write_json

Numbers = dict[str, dict[str, float | None]]  # seed -> name -> number; null for what is not finite


class Kept:
    """The numbers of each claim. path: the file, None to keep nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.claims: dict[str, Numbers] = {}
        if path and path.exists():
            self.claims = read_json(path).get("claims", {})
            if not isinstance(self.claims, dict):
                raise UserError(f"{path}: not a file of this command; choose another --json")

    def measure(self, claim: Claim, seeds: int) -> list[dict[str, float]]:
        """The numbers of seeds 0, 1, ...: those that are kept, and the others measured now."""
        known = self.claims.setdefault(claim.name, {})
        for seed in range(seeds):
            if str(seed) not in known:
                known[str(seed)] = measured(claim, seed)
                if self.path:
                    write_json(self.path, {"claims": self.claims})
        return [finite(claim, known[str(seed)], self.path) for seed in range(seeds)]


def measured(claim: Claim, seed: int) -> dict[str, float | None]:
    """One seed's numbers, and the CPU seconds they took. What training prints is left out."""
    started = time.process_time()
    with redirect_stdout(io.StringIO()):
        numbers = claim.measure(seed)
    return {**numbers, "CPU seconds": time.process_time() - started}


def finite(claim: Claim, numbers: dict[str, float | None], path: Path | None) -> dict[str, float]:
    """The same with nan for null. Raises UserError where the deciding number is missing."""
    if claim.number not in numbers:
        raise UserError(f"{path}: {claim.name} has other numbers than are measured today; take it out")
    return {name: float("nan") if x is None else x for name, x in numbers.items()}
