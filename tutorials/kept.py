"""The numbers that `python -m tutorials.measure` keeps in tutorials/measured/, and tables of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import sqrt
from operator import itemgetter
from pathlib import Path
from statistics import fmean, stdev

from mini_dpo.errors import UserError
from mini_dpo.evaluation.table import closing_rows, table_of
from mini_dpo.files import read_json, write_json
from tutorials.chapters import HERE

KEPT = HERE / "measured"
RUNS = Path("runs") / "measure"
SEEDS = range(5)
OVER_SEEDS = f"(mean ± standard deviation over {len(SEEDS)} seeds)"
LABELS = {"facts": "facts, -8 to 8", "tone": "tone, -4 to 4", "length": "length, -6 to 0"}  # the shop's marks

Numbers = dict[str, float]  # of one part, by what they are: {"sft/reward": 2.7, "dpo/kl": 3.1, ...}


def label(variant: str, seed: int) -> str:
    """The name of a part in a file: "dpo, seed 3"."""
    return f"{variant}, seed {seed}"


def keep(name: str, value: dict) -> None:
    """Write the file of a measurement."""
    write_json(KEPT / f"{name}.json", value)


def kept_parts(name: str) -> dict[str, Numbers]:
    """The numbers of each part that is kept, by its label."""
    path = KEPT / f"{name}.json"
    return read_json(path)["parts"] if path.exists() else {}


def closing_numbers(folder: Path) -> Numbers:
    """The numbers of a run's closing table, without their errors."""
    summary = read_json(folder / "summary.json")
    found = {
        f"{model}/{key}": value
        for model in ("sft", "dpo")
        for key, value in summary.get(model, {}).items()
        if isinstance(value, (int, float)) and not key.endswith(("_error", "seconds"))
    }
    return {"prompts": summary["prompts"], **found}


def over_seeds(name: str, variant: str = "dpo") -> dict[str, list[float]]:
    """Each quantity of a measurement, its value for each seed. Raises UserError if a seed is missing."""
    kept = kept_parts(name)
    rows = [kept[label(variant, seed)] for seed in SEEDS if label(variant, seed) in kept]
    if len(rows) < len(SEEDS):
        raise UserError(f"too little of {name} is kept: python -m tutorials.measure {name}")
    return {key: [row[key] for row in rows] for key in rows[0]}


def spreads(name: str, variant: str = "dpo") -> dict[str, tuple[float, float]]:
    """Each quantity of a measurement: its mean over seeds, and the standard deviation of one seed's value."""
    return {key: (fmean(values), stdev(values)) for key, values in over_seeds(name, variant).items()}


def complete(name: str, variants: Sequence[str]) -> list[str]:
    """The variants of a measurement of which every seed is kept."""
    kept = kept_parts(name)
    return [v for v in variants if all(label(v, seed) in kept for seed in SEEDS)]


# --- tables


def run_table(name: str) -> str:
    """The closing table of a run over seeds."""
    return f"{table_of(run_rows(summary_of(name)))}\n{OVER_SEEDS}"


def run_rows(summary: dict) -> list[list[str]]:
    """The rows of a closing table, with spreads in place of errors."""
    headings, *rows = closing_rows(summary)
    spread = re.compile(r"\(([\d.]+)\)")
    return [headings, *([words, *(spread.sub(r"± \1", cell) for cell in cells)] for words, *cells in rows)]


def summary_of(name: str, variant: str = "dpo", labels: dict[str, str] = LABELS) -> dict:
    """What is kept of a variant in the form of a run's summary: means, with spreads in place of errors."""
    summary: dict = {"labels": labels, "sft": {}}
    for key, (mean, spread) in spreads(name, variant).items():
        model, _, quantity = key.partition("/")
        if not quantity:
            summary[key] = round(mean)
        elif quantity != "unfinished":
            summary.setdefault(model, {}).update({quantity: mean, f"{quantity}_error": spread})
    return summary


def change(key: str) -> Callable[[dict], list[float]]:
    """A log-prob after preference training less the one before, for each seed."""
    return lambda found: [b - a for a, b in zip(found[f"sft/{key}"], found[f"dpo/{key}"], strict=True)]


# what a column shows of a variant, and its format
Columns = dict[str, tuple[Callable[[dict], list[float]], str]]
LOSS_COLUMNS: Columns = {
    "reward": (itemgetter("dpo/reward"), ".2f"),
    "win rate": (itemgetter("dpo/win_rate"), ".3f"),
    "KL": (itemgetter("dpo/kl"), ".2f"),
    "chosen": (change("logps/chosen"), "+.1f"),
    "rejected": (change("logps/rejected"), "+.1f"),
    "tokens": (itemgetter("dpo/response_tokens"), ".1f"),
}
SAMPLING_COLUMNS: Columns = {
    "reward": (itemgetter("reward"), ".2f"),
    "facts": (itemgetter("facts"), ".2f"),
    "tone": (itemgetter("tone"), ".2f"),
}
# of a model that looks: what it and its SFT model make up and see; then what its preferences taught it
SIGHT_COLUMNS: Columns = {
    "made up": (itemgetter("dpo/imagined"), ".2f"),
    "SFT: made up": (itemgetter("sft/imagined"), ".2f"),
    "share made up": (itemgetter("dpo/chair"), ".3f"),
    "recall": (itemgetter("dpo/recall"), ".3f"),
    "SFT: recall": (itemgetter("sft/recall"), ".3f"),
    "reward": (itemgetter("dpo/reward"), ".2f"),
}
LOOK_COLUMNS: Columns = {
    "win rate": (itemgetter("dpo/win_rate"), ".3f"),
    "KL": (itemgetter("dpo/kl"), ".2f"),
    "pairs right": (itemgetter("dpo/reward_accuracy"), ".3f"),
    "blanked": (itemgetter("dpo/blanked_accuracy"), ".3f"),
}


def comparison(name: str, variants: Sequence[str], columns: Columns) -> str:
    """A line a variant, the largest first column first. The last column is the difference of the first column
    to the first variant's, seed by seed: its mean ± its standard error.
    """
    found = {variant: over_seeds(name, variant) for variant in complete(name, variants)}
    if not found:
        raise UserError(f"too little of {name} is kept: python -m tutorials.measure {name}")
    first, (value, _) = variants[0], next(iter(columns.values()))
    lines = [f"{'':18}" + "".join(f"{column:>15}" for column in columns) + f"   minus {first}"]
    for variant, numbers in sorted(found.items(), key=lambda item: -fmean(value(item[1]))):
        cells = []
        for of, form in columns.values():
            values = of(numbers)
            cells.append(f"{fmean(values):{form}} ± {stdev(values):{form.lstrip('+')}}")
        row = f"{variant:18}" + "".join(f"{cell:>15}" for cell in cells)
        if variant != first and first in found:
            row += f"   {paired(value(numbers), value(found[first]))}"
        lines.append(row)
    return "\n".join([*lines, OVER_SEEDS])


def paired(ours: list[float], theirs: list[float]) -> str:
    """The mean difference of two lists of numbers from the same seeds, ± its standard error."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    return f"{fmean(gaps):+.2f} ± {stdev(gaps) / sqrt(len(gaps)):.2f}"
