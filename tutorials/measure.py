"""Measure what takes long, over seeds, and keep the numbers in tutorials/measured/ for the pages.

    python -m tutorials.measure                 what is missing of everything; hours
    python -m tutorials.measure short main      these two
    python -m tutorials.measure --list          what there is, how long it takes, and how much of it is kept
    python -m tutorials.measure main --show     print the table that is kept

A measurement has parts, for example one training run a seed. Each part is a run of `python -m mini_dpo.train`
in runs/measure; its numbers are added to tutorials/measured/NAME.json when the part is complete. All runs
compute in one thread, because another number of threads adds up in another order.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

import torch

from mini_dpo.cli import run_command
from mini_dpo.compare import CompareSettings, arguments_of, train_once
from mini_dpo.errors import TrainingFailed, UserError
from mini_dpo.evaluation.table import closing_rows, table_of
from mini_dpo.files import read_json, write_json
from mini_dpo.losses import LOSSES
from mini_dpo.progress import clock
from tutorials.chapters import HERE

KEPT = HERE / "measured"
RUNS = Path("runs") / "measure"
SEEDS = range(5)
LABELS = {"facts": "facts, -8 to 8", "tone": "tone, -4 to 4", "length": "length, -6 to 0"}  # the shop's marks


@dataclass(frozen=True)
class Measurement:
    """What is measured. flags: those of `python -m mini_dpo.train`, without --seed and --out.
    minutes: what a part takes on one core. losses: the parts are these losses, each over all seeds, from one
    SFT model a seed; without them, a part is a seed.
    """

    flags: str
    minutes: float
    losses: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        return " ".join(
            ["python -m mini_dpo.compare" if self.losses else "python -m mini_dpo.train", self.flags]
        )

    @property
    def parts(self) -> list[tuple[str, int]]:
        """The name of a loss (dpo, where there is no choice) and a seed, for each part."""
        return [(loss, seed) for seed in SEEDS for loss in self.losses or ("dpo",)]


MEASUREMENTS = {
    "first": Measurement("--stage sft --steps 50", 0.4),  # chapter 3
    "short": Measurement("--sft-steps 150 --steps 125", 1.3),  # chapters 3 and 6
    "main": Measurement("", 1.6),  # the README
    "losses": Measurement("", 1.0, tuple(LOSSES)),  # what was measured: all losses
}


# --- measuring


def measure(name: str) -> None:
    """Measure the parts of a measurement that are missing; a line for each, with the time that is left."""
    found, kept = MEASUREMENTS[name], kept_parts(name)
    missing = [part for part in found.parts if label(*part) not in kept]
    begun = time.perf_counter()
    for done, (loss, seed) in enumerate(missing, 1):
        try:
            kept[label(loss, seed)] = numbers(run_part(name, loss, seed))
        except TrainingFailed as error:  # one loss that fails does not stop the others
            print(f"{name}, {label(loss, seed)}: not kept ({error})", flush=True)
            continue
        write_json(
            KEPT / f"{name}.json", {"command": found.command, "torch": torch.__version__, "parts": kept}
        )
        left = (time.perf_counter() - begun) / done * (len(missing) - done)
        print(f"{name}, {label(loss, seed)}: {done} of {len(missing)}, {clock(left)} left", flush=True)


def run_part(name: str, loss: str, seed: int) -> Path:
    """Make the run of a part, or go on with it. Returns its folder."""
    found, folder = MEASUREMENTS[name], RUNS / f"{name}-{seed}"
    seeded = ["--seed", str(seed)]
    if not found.losses:
        train_once(folder, [*found.flags.split(), *seeded])
        return folder
    train_once(folder / "sft", ["--stage", "sft", "--world", "shop", *seeded])
    train_once(folder / loss, arguments_of(CompareSettings(out=str(folder), seed=seed), loss))
    return folder / loss


def numbers(folder: Path) -> dict[str, float]:
    """The numbers of a run's closing table, by model: {"sft/reward": 2.7, "dpo/kl": 3.1, ...}."""
    summary = read_json(folder / "summary.json")
    return {
        f"{model}/{key}": value
        for model in ("sft", "dpo")
        for key, value in summary.get(model, {}).items()
        if isinstance(value, (int, float)) and not key.endswith(("_error", "seconds"))
    } | {"prompts": summary["prompts"]}


# --- what is kept


def label(loss: str, seed: int) -> str:
    """The name of a part in a file: "dpo, seed 3"."""
    return f"{loss}, seed {seed}"


def kept_parts(name: str) -> dict[str, dict[str, float]]:
    """The numbers of each part that is kept, by its label."""
    path = KEPT / f"{name}.json"
    return read_json(path)["parts"] if path.exists() else {}


def over_seeds(name: str, loss: str = "dpo") -> dict[str, list[float]]:
    """Each quantity of a measurement, its value for each seed that is kept."""
    kept = kept_parts(name)
    rows = [kept[label(loss, seed)] for seed in SEEDS if label(loss, seed) in kept]
    if len(rows) < 2:
        raise UserError(f"too little of {name} is kept: python -m tutorials.measure {name}")
    return {key: [row[key] for row in rows] for key in rows[0]}


def spreads(name: str, loss: str = "dpo") -> dict[str, tuple[float, float]]:
    """Each quantity of a measurement: its mean over seeds, and the standard deviation of one seed's value."""
    return {key: (fmean(values), stdev(values)) for key, values in over_seeds(name, loss).items()}


def table(name: str) -> str:
    """The closing table of a run, with mean and standard deviation over seeds."""
    return losses_table(name) if MEASUREMENTS[name].losses else run_table(name)


def run_table(name: str) -> str:
    """The closing table of a run, each number as mean ± standard deviation over seeds."""
    summary: dict = {"labels": LABELS, "sft": {}}
    for key, (mean, spread) in spreads(name).items():
        model, _, quantity = key.partition("/")
        if not quantity:
            summary[key] = round(mean)
        elif quantity != "unfinished":
            summary.setdefault(model, {}).update({quantity: mean, f"{quantity}_error": spread})
    text = re.sub(r"\(([\d.]+)\)$|\(([\d.]+)\) ", r"± \1\2 ", table_of(closing_rows(summary)), flags=re.M)
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join([*lines, f"(mean ± standard deviation over {len(over_seeds(name)['prompts'])} seeds)"])


COLUMNS: dict[str, tuple[Callable[[dict], list[float]], str]] = {
    "reward": (lambda found: found["dpo/reward"], ".2f"),
    "win rate": (lambda found: found["dpo/win_rate"], ".3f"),
    "KL": (lambda found: found["dpo/kl"], ".2f"),
    "chosen": (lambda found: change(found, "logps/chosen"), "+.1f"),
    "rejected": (lambda found: change(found, "logps/rejected"), "+.1f"),
    "tokens": (lambda found: found["dpo/response_tokens"], ".1f"),
}


def change(found: dict[str, list[float]], key: str) -> list[float]:
    """A log-prob after preference training less the one before, for each seed."""
    return [after - before for before, after in zip(found[f"sft/{key}"], found[f"dpo/{key}"], strict=True)]


def losses_table(name: str) -> str:
    """A line a loss, the highest mean reward first: each column as mean ± standard deviation over seeds. The
    last column is the difference of the rewards to DPO's, seed by seed, ± its standard error.
    """
    found = {loss: over_seeds(name, loss) for loss in kept_losses(name)}
    lines = [f"{'loss':18}" + "".join(f"{column:>15}" for column in COLUMNS) + f"{'less DPO':>16}"]
    for loss in sorted(found, key=lambda loss: -fmean(found[loss]["dpo/reward"])):
        cells = []
        for values, form in COLUMNS.values():
            column = values(found[loss])
            cells.append(f"{fmean(column):{form}} ± {stdev(column):{form.lstrip('+')}}")
        cells.append("" if loss == "dpo" or "dpo" not in found else paired(found[loss], found["dpo"]))
        lines.append(f"{loss:18}" + "".join(f"{text:>15}" for text in cells[:-1]) + f"{cells[-1]:>16}")
    return "\n".join(line.rstrip() for line in lines)


def kept_losses(name: str) -> list[str]:
    """The losses of which every seed is kept."""
    kept = kept_parts(name)
    return [loss for loss in MEASUREMENTS[name].losses if all(label(loss, seed) in kept for seed in SEEDS)]


def paired(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> str:
    """The mean difference of the rewards of two losses on the same seeds, ± its standard error."""
    gaps = [a - b for a, b in zip(ours["dpo/reward"], theirs["dpo/reward"], strict=True)]
    return f"{fmean(gaps):+.2f} ± {stdev(gaps) / sqrt(len(gaps)):.2f}"


# --- the command


def overview() -> Iterator[str]:
    """A line a measurement: how much of it is kept, how long the rest takes."""
    for name, found in MEASUREMENTS.items():
        kept, parts = kept_parts(name), len(found.parts)
        done = sum(label(*part) in kept for part in found.parts)
        left = clock(60 * found.minutes * (parts - done))
        yield f"{name:8} {done:3} of {parts:3} parts kept, {left} left on one core   {found.command}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tutorials.measure",
        description="Measure what takes long, over seeds, and keep the numbers where the pages read them.",
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure (default: everything)")
    parser.add_argument("--list", action="store_true", help="say what there is, and measure nothing")
    parser.add_argument(
        "--show", action="store_true", help="print the tables that are kept, and measure nothing"
    )
    settings = parser.parse_args()
    if unknown := [name for name in settings.names if name not in MEASUREMENTS]:
        raise UserError(f"there is no measurement {unknown[0]!r}; there are {', '.join(MEASUREMENTS)}")
    if settings.list:
        print("\n".join(overview()))
        return
    torch.set_num_threads(1)
    for name in settings.names or MEASUREMENTS:
        if settings.show:
            print(f"{MEASUREMENTS[name].command}\n\n{table(name)}\n")
        else:
            measure(name)


if __name__ == "__main__":
    run_command(main)
