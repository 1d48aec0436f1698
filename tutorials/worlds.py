"""The worlds beside the shop over seeds, and what the guards refuse: what `python -m tutorials.measure worlds
guard` keeps and prints. `sight`, whose prompts are pictures, has a measurement of its own.
"""

from __future__ import annotations

from functools import cache
from operator import itemgetter
from statistics import fmean, median, stdev

from mini_dpo.compare import train_once
from mini_dpo.corpus.worlds import world_corpus
from mini_dpo.evaluation.table import table_of
from mini_dpo.files import read_json
from mini_dpo.report.reading import read_run
from mini_dpo.saving.checkpoint import load_model
from mini_dpo.worlds.finding import find_world
from mini_dpo.worlds.world import rows_of, win_rate
from tutorials.kept import (
    OVER_SEEDS,
    RUNS,
    Columns,
    Numbers,
    closing_numbers,
    comparison,
    over_seeds,
    run_rows,
    summary_of,
)

WORLDS = ("voice", "code", "digest", "digest_long", "guard")


def of_world(flags: str, name: str, world: str, seed: int) -> Numbers:
    """The closing table of `python -m mini_dpo.train --world WORLD`, and the share of right labels."""
    folder = RUNS / f"{world}-{seed}"
    train_once(folder, ["--world", world, "--seed", str(seed)])
    return {**closing_numbers(folder), "label_accuracy": read_json(folder / "summary.json")["label_accuracy"]}


def worlds_table() -> str:
    """A line a world: how it went. Then the marks and the counts of each, before and after."""
    lines = [f"{'':12}{'win rate, median':>18}{'least, largest':>18}{'KL, nats':>15}{'labels right':>15}"]
    blocks = []
    for name in WORLDS:
        found, world = over_seeds("worlds", name), find_world(name)
        rates, kl = found["dpo/win_rate"], found["dpo/kl"]
        ends, spread = f"{min(rates):.3f}, {max(rates):.3f}", f"{fmean(kl):.2f} ± {stdev(kl):.2f}"
        right = found["label_accuracy"][0]
        lines.append(f"{name:12}{median(rates):>18.3f}{ends:>18}{spread:>15}{right:>15.3f}")
        headings, *rows = run_rows(summary_of("worlds", name, {**world.marks, **world.counts}))
        kept = {"true reward", *world.marks.values(), *world.counts.values(), "tokens per response"}
        shown = [row for row in rows if row[0].strip() in kept]
        blocks.append(table_of([[name, *headings[1:]], *shown]))
    return "\n\n".join(["\n".join(lines), *blocks, OVER_SEEDS])


# --- what the guards refuse

# what is trained, from the SFT model of `guard`
GUARDS = {
    "beta 0.6": "--world guard",
    "SFT": "",
    "beta 0.1": "--world guard --beta 0.1",
    "beta 0.3": "--world guard --beta 0.3",
    "beta 1": "--world guard --beta 1",
    "beta 3": "--world guard --beta 3",
    "5 % forbidden": "--world guard-few",
    "80 % forbidden": "--world guard-many",
}
GUARD_COLUMNS: Columns = {
    "forbidden": (itemgetter("declined_forbidden"), ".2f"),
    "only sounds so": (itemgetter("declined_borderline"), ".2f"),
    "harmless": (itemgetter("declined_harmless"), ".2f"),
    "reward": (itemgetter("reward"), ".2f"),
    "win rate": (itemgetter("win_rate"), ".3f"),
    "KL": (itemgetter("kl"), ".2f"),
}


def of_guard(flags: str, name: str, variant: str, seed: int) -> Numbers:
    """What the guards refuse on held-out prompts of the world `guard`, and the KL divergence."""
    of_world(flags, "worlds", "guard", seed)
    start = RUNS / f"guard-{seed}"
    if variant in ("beta 0.6", "SFT"):
        folder = start
    else:
        folder = RUNS / f"guard-{seed}-{variant.replace(' ', '-').replace('%', 'percent')}"
        model, tokenizer = load_model(start / "sft.pt")
        held_out = world_corpus("guard", tokenizer, model.config.context).held_out
        seeded = [*GUARDS[variant].split(), "--seed", str(seed)]
        train_once(folder, ["--stage", "dpo", "--init-from", str(start), *seeded], held_out)
    run = read_run(folder)
    if variant == "SFT":
        return {**refusals(run.samples, "sft", asked_elsewhere()), "kl": 0.0}
    return {**refusals(run.samples, "dpo", asked_elsewhere()), "kl": run.summary["dpo"]["kl"]}


def refusals(samples: list[dict], who: str, left_out: set[str]) -> Numbers:
    """The mean reward, the share that is declined of each kind of request, and the win rate over the SFT
    model, of the answers to all prompts but those that are left out.
    """
    rows = [row for row in samples if row["prompt"] not in left_out]
    marks = [row["marks"][who] for row in rows]
    means = {
        key: fmean(mark[key] for mark in marks if key in mark)
        for key in ("reward", "declined_forbidden", "declined_borderline", "declined_harmless")
    }
    prompts, ours, theirs = ([row[key] for row in rows] for key in ("prompt", who, "sft"))
    return {
        "prompts": len(rows),
        **means,
        "win_rate": win_rate(find_world("guard").judge, prompts, ours, theirs),
    }


@cache
def asked_elsewhere() -> set[str]:
    """The prompts that another share of forbidden ones trains on."""
    worlds = (find_world(GUARDS[share].split()[-1]) for share in GUARDS if "forbidden" in share)
    return {row["prompt"] for world in worlds for row in rows_of(world)["train"][1]}


def guard_table() -> str:
    """A line a variant, the one that refuses most forbidden requests first."""
    return comparison("guard", tuple(GUARDS), GUARD_COLUMNS)
