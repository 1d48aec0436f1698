"""What is said of DPO, measured: a number for each claim, its interval over seeds, and a verdict.

python -m mini_dpo.claims                          the claims that small worlds decide
python -m mini_dpo.claims --claim no_reward_model  one of them, with all of its numbers
python -m mini_dpo.claims --full                   all, also those that need hours of training
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mini_dpo.claims import FULL, QUICK
from mini_dpo.claims.claim import Claim
from mini_dpo.claims.kept import Kept
from mini_dpo.cli import option, parser_for, run_command
from mini_dpo.errors import UserError, did_you_mean
from mini_dpo.progress import clock

FULL_FILE = "tutorials/measured/claims.json"


@dataclass(frozen=True)
class ClaimsSettings:
    """Which claims, and how many seeds."""

    claim: str | None = option(str, "one claim, by its name", metavar="NAME")
    seeds: int | None = option(int, "seeds of each claim, 2 at least (default: the claim's own)")
    full: bool = option(bool, "also the claims that train on the toy shop, for hours", False)
    json: str | None = option(
        str,
        f"keep all numbers in this file, and go on with it (default with --full: {FULL_FILE})",
        metavar="PATH",
    )


def main() -> None:
    parser = parser_for(
        ClaimsSettings, "claims", "What is said of DPO, measured: a number for each claim, and a verdict."
    )
    settings = ClaimsSettings(**vars(parser.parse_args()))
    if settings.seeds is not None and settings.seeds <= 1:
        raise UserError("--seeds must be at least 2: an interval needs two numbers")
    claims = chosen(settings)
    path = settings.json or (FULL_FILE if settings.full else None)
    kept = Kept(Path(path) if path else None)
    started = time.perf_counter()
    for claim in claims:
        # a world without chance needs no second seed
        seeds = claim.seeds if claim.seeds == 1 else settings.seeds or claim.seeds
        numbers = kept.measure(claim, seeds)
        kept.conclude(claim, [of_seed[claim.number] for of_seed in numbers])
        print(row(claim, numbers), flush=True)
        if settings.claim:
            print(every_number(claim, numbers))
    print(f"\n{clock(time.perf_counter() - started)} in all")


def chosen(settings: ClaimsSettings) -> list[Claim]:
    """The claims that are asked for. Raises UserError for an unknown name."""
    known = {claim.name: claim for claim in QUICK + FULL}
    if settings.claim is None:
        return QUICK + FULL if settings.full else QUICK
    if settings.claim not in known:
        near = did_you_mean(settings.claim, known)
        raise UserError(f"there is no claim {settings.claim}{near}; there are {', '.join(known)}")
    return [known[settings.claim]]


def row(claim: Claim, numbers: list[dict[str, float]]) -> str:
    """Two lines: the verdict, the claim and its chapter; the number, its interval, and the world."""
    deciding = [of_seed[claim.number] for of_seed in numbers]
    mean, low, high = claim.spread(deciding)
    spread = f" [{low:.3g}, {high:.3g}]" if len(deciding) > 1 else ""
    seeds = f"{len(deciding)} seeds" if len(deciding) > 1 else "no chance in it"
    return (
        f"{claim.verdict(deciding):11} {claim.text} ({claim.name}, chapter {claim.chapter})\n"
        f"{'':11} {claim.number}: {mean:.3g}{spread}, wanted {claim.wanted}; {claim.where}, {seeds}"
    )


def every_number(claim: Claim, numbers: list[dict[str, float]]) -> str:
    """A line for each number, with its spread over seeds."""
    lines = []
    for name in numbers[0]:
        mean, low, high = claim.spread([of_seed[name] for of_seed in numbers])
        spread = f"  [{low:.4g}, {high:.4g}]" if len(numbers) > 1 else ""
        lines.append(f"{'':13}{name:60} {mean:9.4g}{spread}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
