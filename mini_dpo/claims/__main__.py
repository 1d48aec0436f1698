"""What is said of DPO, measured: a number for each claim, its interval over seeds, and a verdict.

python -m mini_dpo.claims                          the claims that small worlds decide
python -m mini_dpo.claims --claim no_reward_model  one of them, with all of its numbers
python -m mini_dpo.claims --full                   all, also those that need hours of training
python -m mini_dpo.claims --full --claim shop_as_good,shop_noise     two of those, the others later
python -m mini_dpo.claims --show                   what --full has found so far, without measuring
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mini_dpo.claims import FULL, QUICK
from mini_dpo.claims.claim import Claim
from mini_dpo.claims.kept import Kept, row
from mini_dpo.cli import option, parser_for, run_command
from mini_dpo.errors import UserError, did_you_mean
from mini_dpo.progress import clock

FULL_FILE = "tutorials/measured/claims.json"


@dataclass(frozen=True)
class ClaimsSettings:
    """Which claims, and how many seeds."""

    claim: str | None = option(str, "these claims, by name, with commas between them", metavar="NAMES")
    seeds: int | None = option(int, "seeds of each claim, 2 at least (default: the claim's own)")
    full: bool = option(bool, "also the claims that train on the toy shop, for hours", False)
    show: bool = option(bool, "print what is kept of the claims, and measure nothing", False)
    json: str | None = option(
        str,
        f"keep all numbers in this file, and go on with it (default with --full and --show: {FULL_FILE})",
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
    path = settings.json or (FULL_FILE if settings.full or settings.show else None)
    kept = Kept(Path(path) if path else None)
    if settings.show:
        there = [claim.name for claim in claims if claim.name in kept.claims]
        print("\n".join(row(name, kept.claims[name]) for name in there))
        return
    started = time.perf_counter()
    for claim in claims:
        # a world without chance needs no second seed
        seeds = claim.seeds if claim.seeds == 1 else settings.seeds or claim.seeds
        numbers = kept.measure(claim, seeds)
        found = kept.conclude(claim, [of_seed[claim.number] for of_seed in numbers])
        print(row(claim.name, found), flush=True)
        if settings.claim:
            print(every_number(claim, numbers))
    print(f"\n{clock(time.perf_counter() - started)} in all")


def chosen(settings: ClaimsSettings) -> list[Claim]:
    """The claims that are asked for. Raises UserError for an unknown name."""
    known = {claim.name: claim for claim in QUICK + FULL}
    if settings.claim is None:
        return QUICK + FULL if settings.full or settings.show else QUICK
    names = settings.claim.split(",")
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            raise UserError(f"there is no claim {name}{near}; there are {', '.join(known)}")
    return [known[name] for name in names]


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
