"""Where the time of a DPO step goes, measured: a naive step, then each idea added, and what it gains.

    python -m mini_dpo.bench                  the small shape, on the CPU or one GPU
    python -m mini_dpo.bench --model gpt2     GPT-2's shape with its vocabulary of 50,257
    python -m mini_dpo.bench --growth         the cost by prompt, response, batch, vocabulary and layers

Each row is a process of its own, so that the peak of its memory is its own. All rows have the same model and
the same batches, which the seed makes. If the packages trl and transformers can be imported, TRL's trainer
runs the same batches with the same optimizer, and the last table compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from mini_dpo.bench.growth import growth_table, measure_growth
from mini_dpo.bench.rows import RUNGS, measure_gemm, measure_rung
from mini_dpo.bench.tables import ladder_table
from mini_dpo.bench.trl import TRL_ROWS, measure_trl
from mini_dpo.bench.workload import BenchSettings
from mini_dpo.cli import parser_for, run_command
from mini_dpo.devices import NO_DEVICE, pick_device, trouble_with
from mini_dpo.errors import UserError, did_you_mean, flag
from mini_dpo.files import write_json

MEASUREMENTS: dict[str, Callable[[BenchSettings], object]] = {
    **{name: partial(measure_rung, name=name) for name in RUNGS},
    **{f"gemm-{name}": partial(measure_gemm, dtype=getattr(torch, name)) for name in ("float32", "bfloat16")},
    **{
        f"trl-{ours}": partial(measure_trl, precomputed=precomputed, dtype=dtype)
        for ours, precomputed, dtype, _ in TRL_ROWS.values()
    },
    "growth": measure_growth,
}


def main() -> None:
    settings = BenchSettings(
        **vars(parser_for(BenchSettings, "bench", __doc__.split("\n\n")[0]).parse_args())
    )
    for name in ("batch_size", "batches", "repeats"):
        if getattr(settings, name) is not None and getattr(settings, name) < 1:
            raise UserError(f"{flag(name)} must be at least 1, not {getattr(settings, name)}")
    if settings.device != "auto" and (trouble := trouble_with(settings.device)):
        raise UserError(NO_DEVICE.format(settings.device, trouble))
    small = settings.model == "toy"
    settings = replace(
        settings,
        device=pick_device(settings.device),
        batch_size=settings.batch_size or (8 if small else 4),
        batches=settings.batches or (8 if small else 4),
    )
    if settings.row and settings.row not in MEASUREMENTS:
        raise UserError(
            f"there is no row {settings.row}{did_you_mean(settings.row, MEASUREMENTS)}; the "
            f"rows are {', '.join(MEASUREMENTS)}"
        )
    if settings.row:
        print(json.dumps(MEASUREMENTS[settings.row](settings)))
        return
    results = growth_table(settings) if settings.growth else ladder_table(settings)
    if settings.json:
        write_json(Path(settings.json), results)


if __name__ == "__main__":
    run_command(main)
