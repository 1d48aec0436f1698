"""How the cost of a step grows with prompt, response, batch, vocabulary and layers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import linear_regression, median

import torch

from mini_dpo.batches import Encoded, EncodedPair, collate_pairs
from mini_dpo.bench.rows import seconds_of
from mini_dpo.bench.tables import run_row
from mini_dpo.bench.workload import BETA, SHAPES, BenchSettings, where, workload
from mini_dpo.devices import keep_freed_memory
from mini_dpo.losses import LOSSES
from mini_dpo.model import GPT
from mini_dpo.objectives import preference_objective
from mini_dpo.optimizers import LoopConfig, make_optimizer
from mini_dpo.reference import freeze
from mini_dpo.training import train_step

# what is doubled, and from where
FIRST_SIZES = {"prompt": 64, "response": 64, "batch": 8, "vocabulary": 512, "layers": 4}
TIMES = (1, 2, 4)


def growth_table(settings: BenchSettings) -> dict:
    """Double one size at a time; print the table and return its numbers."""
    results = {
        "settings": workload(settings),
        "where": where(settings),
        "growth": run_row(settings, "growth"),
    }
    print(growth_report(results))
    return results


def growth_report(results: dict) -> str:
    """The table: the milliseconds of a step at 1, 2 and 4 times each size, the exponent of a power law
    through the three, and the cost of one more token of prompt, token of response, pair, and so on.
    """
    lines = [
        f"a step of {FIRST_SIZES['batch']} pairs with a live reference, {SHAPES['toy'].n_embd} "
        f"channels, {results['where']}; one size at a time is doubled, and doubled again",
        "",
        f"{'ms a step':22}"
        + "".join(f"{'x ' + str(t):>9}" for t in TIMES)
        + f"{'exponent':>11}{'ms for one more':>18}",
    ]
    for name, start in FIRST_SIZES.items():
        ms = [1000 * seconds for seconds in results["growth"][name]]
        exponent = slope([math.log(t) for t in TIMES], [math.log(m) for m in ms])
        more = slope([start * t for t in TIMES], ms)
        lines.append(
            f"{name + ' (' + str(start) + ')':22}"
            + "".join(f"{m:9.1f}" for m in ms)
            + f"{exponent:11.2f}{more:18.3g}"
        )
    return "\n".join(lines)


def slope(x: list[float], y: list[float]) -> float:
    """The slope of the straight line through points, by least squares."""
    return linear_regression(x, y).slope


def measure_growth(settings: BenchSettings) -> dict[str, list[float]]:
    """Seconds a step at 1, 2 and 4 times each size."""
    keep_freed_memory()
    return {
        name: [time_case(settings, {**FIRST_SIZES, name: t * start}) for t in TIMES]
        for name, start in FIRST_SIZES.items()
    }


def time_case(settings: BenchSettings, sizes: dict[str, int]) -> float:
    """The median seconds of several steps, after two that are not counted."""
    step = growth_step(settings, sizes)
    return median([seconds_of(settings, step) for _ in range(settings.repeats + 2)][2:])


def growth_step(settings: BenchSettings, sizes: dict[str, int]) -> Callable[[], object]:
    """A step of the trainer for pairs of these sizes."""
    draw = random.Random(settings.seed)

    def text(n: int) -> list[int]:
        return [draw.randrange(sizes["vocabulary"]) for _ in range(n)]

    prompts = [text(sizes["prompt"]) for _ in range(sizes["batch"])]
    batch = collate_pairs(
        [
            EncodedPair(Encoded(p, text(sizes["response"])), Encoded(p, text(sizes["response"])))
            for p in prompts
        ]
    )
    torch.manual_seed(settings.seed)
    policy = GPT(replace(SHAPES["toy"], vocab_size=sizes["vocabulary"], n_layer=sizes["layers"])).to(
        settings.device
    )
    config = LoopConfig(steps=10**6, lr=1e-5, dtype=settings.dtype)
    objective = preference_objective(LOSSES["dpo"], {"beta": BETA}, freeze(policy))
    return partial(train_step, policy, make_optimizer(policy, config), objective, [batch], config, 0)
