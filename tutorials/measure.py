"""Measure what takes long, over seeds, and keep the numbers in tutorials/measured/ for the pages.

    python -m tutorials.measure                 what is missing of everything; hours
    python -m tutorials.measure short main      these two
    python -m tutorials.measure --list          what there is, how long it takes, and how much of it is kept
    python -m tutorials.measure main --show     print the table that is kept
    python -m tutorials.measure --draw          draw all losses, as they are kept, into pictures/compare.png

A measurement has parts, for example one training run a seed. The numbers of a part are added to
tutorials/measured/NAME.json when the part is complete, so a measurement that was stopped goes on with the
next part. The runs are in runs/measure. All of them compute in one thread, because another number of threads
adds up in another order.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from mini_dpo.claims.shop_runs import run_of
from mini_dpo.cli import run_command
from mini_dpo.compare import train_once
from mini_dpo.corpus.worlds import world_corpus
from mini_dpo.errors import TrainingFailed, UserError
from mini_dpo.evaluation.measuring import judge_all
from mini_dpo.generate import generate
from mini_dpo.losses import LOSSES
from mini_dpo.plot.comparison import draw_compare
from mini_dpo.progress import clock
from mini_dpo.saving.checkpoint import load_model
from mini_dpo.worlds.shop import judge
from tutorials.chapters import HERE
from tutorials.kept import (
    LOOK_COLUMNS,
    LOSS_COLUMNS,
    RUNS,
    SAMPLING_COLUMNS,
    SEEDS,
    SIGHT_COLUMNS,
    Numbers,
    closing_numbers,
    comparison,
    complete,
    keep,
    kept_parts,
    label,
    run_table,
    summary_of,
)
from tutorials.worlds import GUARDS, WORLDS, guard_table, of_guard, of_world, worlds_table

# --- what is measured of one seed


def of_training(flags: str, name: str, variant: str, seed: int) -> Numbers:
    """The closing table of `python -m mini_dpo.train` with these flags."""
    folder = RUNS / f"{name}-{seed}"
    train_once(folder, [*flags.split(), "--seed", str(seed)])
    return closing_numbers(folder)


def of_loss(flags: str, name: str, loss: str, seed: int) -> Numbers:
    """The closing table of a loss: a run of `python -m mini_dpo.claims --full`, which are in runs/claims. All
    losses of a seed start from the same SFT model.
    """
    return closing_numbers(run_of(seed, loss)[0])


PLAIN = "--sft-weight 0"  # the loss alone
SIGHT = {  # what is learned from, and by which loss, from the same SFT model
    "default": "--world sight",
    "two captions": f"--world sight {PLAIN}",
    "added": f"--world sight-added {PLAIN}",
    "swapped": f"--world sight-swapped {PLAIN}",
    "added, mDPO": f"--world sight-added --loss mdpo {PLAIN}",
    "swapped, mDPO": f"--world sight-swapped --loss mdpo {PLAIN}",
    "pictures alone": f"--world sight-added --loss mdpo --pair-weight 0 {PLAIN}",
}


def of_sight(flags: str, name: str, variant: str, seed: int) -> Numbers:
    """The closing table of a row of SIGHT. All rows of a seed start from the same SFT model."""
    sft, seeded = RUNS / f"{name}-{seed}" / "sft", ["--seed", str(seed)]
    train_once(sft, [*"--stage sft --world sight --eval-examples 64".split(), *seeded])
    run = sight_run(name, variant, seed)
    train_once(run, ["--stage", "dpo", "--init-from", str(sft), *SIGHT[variant].split(), *seeded])
    return closing_numbers(run)


def sight_run(name: str, variant: str, seed: int) -> Path:
    """The folder of such a run."""
    return RUNS / f"{name}-{seed}" / variant.replace(",", "").replace(" ", "-")


SAMPLING: dict[str, tuple[float, float | None]] = {
    "temperature 1": (1.0, None),
    "temperature 0.7": (0.7, None),
    "temperature 0": (0.0, None),
    "top-p 0.8": (1.0, 0.8),
}


def of_sampling(flags: str, name: str, way: str, seed: int) -> Numbers:
    """What the judge thinks of the answers of an SFT model, drawn in one of the ways of SAMPLING."""
    folder = RUNS / f"short-{seed}"
    train_once(folder, [*flags.split(), "--seed", str(seed)])
    model, tokenizer = load_model(folder / "sft.pt")
    prompts = world_corpus("shop", tokenizer, model.config.context).held_out.prompts[:256]
    temperature, top_p = SAMPLING[way]
    ids = generate(
        model,
        [tokenizer.encode_prompt(prompt) for prompt in prompts],
        end_of_text=tokenizer.end_of_text,
        max_new_tokens=80,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    marks = judge_all(judge, prompts, [tokenizer.decode_response(response) for response in ids])
    return {key: fmean(mark[key] for mark in marks) for key in ("reward", "facts", "tone")}


ROUNDS = {"one round": 1, "three rounds": 3}


def of_online(flags: str, name: str, variant: str, seed: int) -> Numbers:
    """The closing table of DPO on the clerks' pairs, or on the policy's own in one round or three, from the
    same SFT model.
    """
    start = RUNS / f"short-{seed}"
    train_once(start, [*flags.split(), "--seed", str(seed)])
    if variant == "offline":
        return closing_numbers(start)
    rounds = ROUNDS[variant]
    folder = RUNS / f"online-{seed}-{rounds}"
    begin = ["--stage", "online", "--init-from", str(start)]
    train_once(folder, [*begin, "--rounds", str(rounds), "--seed", str(seed)])
    return closing_numbers(folder)


@dataclass(frozen=True)
class Measurement:
    """What is measured. flags: those of `python -m mini_dpo.train`, without --seed and --out. minutes: what a
    part takes on one core. how: one of the functions above. variants: what is compared on each seed; the
    first one is what the others are compared with.
    """

    flags: str
    minutes: float
    how: Callable[[str, str, str, int], Numbers] = of_training
    variants: tuple[str, ...] = ("dpo",)

    @property
    def parts(self) -> list[tuple[str, int]]:
        return [(variant, seed) for seed in SEEDS for variant in self.variants]


SHORT = "--sft-steps 150 --steps 125"
MEASUREMENTS = {
    "first": Measurement("--stage sft --steps 50", 0.3),  # chapter 3
    "short": Measurement(SHORT, 1.5),  # chapters 3 and 6
    "sampling": Measurement(SHORT, 0.1, of_sampling, tuple(SAMPLING)),  # chapter 3
    "main": Measurement("", 2.0),  # the README
    "online": Measurement(SHORT, 1.5, of_online, ("offline", *ROUNDS)),  # chapter 17
    "worlds": Measurement("", 1.5, of_world, WORLDS),  # what was measured: every world but shop and sight
    "guard": Measurement("", 0.8, of_guard, tuple(GUARDS)),  # likewise: what the guards refuse
    "sight": Measurement("", 1.0, of_sight, tuple(SIGHT)),  # chapter 14
    "losses": Measurement("", 1.2, of_loss, tuple(LOSSES)),  # what was measured: all losses
}


# --- measuring


def measure(name: str) -> None:
    """Measure the parts of a measurement that are missing; a line for each, with the time that is left."""
    found, parts = MEASUREMENTS[name], kept_parts(name)
    missing = [part for part in found.parts if label(*part) not in parts]
    begun = time.perf_counter()
    for done, (variant, seed) in enumerate(missing, 1):
        try:
            parts[label(variant, seed)] = found.how(found.flags, name, variant, seed)
        except TrainingFailed as error:  # one loss that fails does not stop the others
            print(f"{name}, {label(variant, seed)}: not kept ({error})", flush=True)
            continue
        keep(name, {"flags": found.flags, "torch": torch.__version__, "parts": parts})
        left = (time.perf_counter() - begun) / done * (len(missing) - done)
        print(f"{name}, {label(variant, seed)}: {done} of {len(missing)}, {clock(left)} left", flush=True)


# --- the command

OWN_TABLES = {of_world: worlds_table, of_guard: guard_table}


def table(name: str) -> str:
    """What is kept of a measurement, each number as mean ± standard deviation over seeds."""
    found = MEASUREMENTS[name]
    if found.how in OWN_TABLES:
        return OWN_TABLES[found.how]()
    columns = {
        of_loss: [LOSS_COLUMNS],
        of_online: [LOSS_COLUMNS],
        of_sampling: [SAMPLING_COLUMNS],
        of_sight: [SIGHT_COLUMNS, LOOK_COLUMNS],
    }.get(found.how)
    tables = [comparison(name, found.variants, of) for of in columns or ()]
    return "\n\n".join(tables) or run_table(name)


def overview() -> Iterator[str]:
    """A line a measurement: how much of it is kept, how long the rest takes."""
    for name, found in MEASUREMENTS.items():
        parts = kept_parts(name)
        done = sum(label(*part) in parts for part in found.parts)
        left = clock(60 * found.minutes * (len(found.parts) - done))
        yield f"{name:8} {done:3} of {len(found.parts):3} parts kept, {left} left on one core"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tutorials.measure",
        description="Measure what takes long, over seeds, and keep the numbers for the pages.",
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure (default: everything)")
    parser.add_argument("--list", action="store_true", help="say what there is, and measure nothing")
    parser.add_argument("--show", action="store_true", help="print what is kept, and measure nothing")
    parser.add_argument(
        "--draw", action="store_true", help="draw the picture of all losses from what is kept, likewise"
    )
    settings = parser.parse_args()
    if unknown := [name for name in settings.names if name not in MEASUREMENTS]:
        raise UserError(f"there is no measurement {unknown[0]!r}; there are {', '.join(MEASUREMENTS)}")
    if settings.list:
        print("\n".join(overview()))
        return
    if settings.draw:
        summaries = {loss: summary_of("losses", loss) for loss in complete("losses", tuple(LOSSES))}
        draw_compare(summaries, HERE / "pictures" / "compare.png")
        return
    torch.set_num_threads(1)
    for name in settings.names or MEASUREMENTS:
        if settings.show:
            print(table(name), end="\n\n")
        else:
            measure(name)


if __name__ == "__main__":
    run_command(main)
