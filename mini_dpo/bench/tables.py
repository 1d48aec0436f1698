"""The table of all rows, each measured in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mini_dpo.bench.rows import RUNGS
from mini_dpo.bench.trl import TRL_ROWS, TUNED
from mini_dpo.bench.workload import (
    SHAPES,
    BenchSettings,
    count_tokens,
    floor_flops,
    make_pairs,
    where,
    workload,
)
from mini_dpo.errors import UserError, flag


def ladder_table(settings: BenchSettings) -> dict:
    """Measure and print row by row. Returns all numbers."""
    config, tokens = SHAPES[settings.model], count_tokens(make_pairs(settings))
    results: dict[str, Any] = {
        "settings": workload(settings),
        "where": where(settings),
        "tokens": tokens,
        "floor_flops": floor_flops(config, tokens),
    }
    results["gemm"] = {
        dtype: run_row(settings, f"gemm-{dtype}") for dtype in dict.fromkeys((settings.dtype, "bfloat16"))
    }
    results |= {"rows": {}, "trl": {}}
    print(ladder_heading(results), flush=True)
    for name, rung in RUNGS.items():
        if (rung.compiled and not settings.compile) or (settings.device == "cuda" and name == "keep"):
            continue
        results["rows"][name] = run_row(settings, name)
        print(line(results, name), flush=True)
    if not all(importlib.util.find_spec(name) for name in ("trl", "transformers")):
        print("\nTRL is not installed, so it is not measured (pip install trl transformers)")
        return results
    print(trl_heading(), flush=True)
    for name, (ours, _, _, tuned) in TRL_ROWS.items():
        if not (tuned and settings.device == "cuda"):
            results["trl"][name] = run_row(settings, f"trl-{ours}", TUNED if tuned else None)
            print(trl_line(results, name), flush=True)
    return results


def ladder_report(results: dict) -> str:
    """What `ladder_table` prints, from the numbers that it returns (or that --json has kept)."""
    lines = [ladder_heading(results), *(line(results, name) for name in results["rows"])]
    if results["trl"]:
        lines += [trl_heading(), *(trl_line(results, name) for name in results["trl"])]
    return "\n".join(lines)


def ladder_heading(results: dict) -> str:
    """What is measured, the least work that it needs, and the names of the columns."""
    settings, tokens, config = results["settings"], results["tokens"], SHAPES[results["settings"]["model"]]
    rates = " and ".join(f"{rate / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, rate in results["gemm"].items())
    return "\n".join(
        [
            f"{settings['model']}: {config.n_layer} blocks x {config.n_embd}, vocabulary "
            f"{config.vocab_size:,}; {settings['batches']} batches of "
            f"{settings['batch_size']} pairs, {results['where']}",
            f"a pair: {tokens['padded']:.0f} tokens in padded rows, {tokens['sequences']:.0f} "
            f"without padding, {tokens['packed']:.0f} with the prompt once, {tokens['responses']:.0f} of "
            "them in responses",
            f"the floor: {results['floor_flops'] / 1e9:.2f} GFLOP a pair; these matrices "
            f"alone run at {rates}",
            "",
            f"{'':50}{'pairs/s':>9}{'':17}{'tokens/s':>10}{'MB':>8}{'of floor':>10}{'buys':>8}",
        ]
    )


def line(results: dict, name: str) -> str:
    """A row, with its gain over the row before."""
    names = list(results["rows"])
    before = results["rows"][names[names.index(name) - 1]] if names.index(name) else None
    row = results["rows"][name]
    gain = f"{row['pairs_per_second'] / before['pairs_per_second']:7.2f}x" if before else ""
    return rung_line(results, RUNGS[name].idea, row, RUNGS[name].dtype) + gain


def trl_heading() -> str:
    """The names of the columns of the rows of TRL."""
    figures = f"{'tokens/s':>10}{'MB':>8}{'of floor':>10}"
    return f"\n{'TRL on the same batches':50}{'pairs/s':>9}{'':17}{figures}{'ours':>8}{'memory':>8}"


def trl_line(results: dict, name: str) -> str:
    """A row of TRL, with the speed and the memory of this package's row that does the same, as ratios."""
    ours, _, dtype, _ = TRL_ROWS[name]
    row, our_row = results["trl"][name], results["rows"][ours]
    speed, memory = (
        our_row["pairs_per_second"] / row["pairs_per_second"],
        our_row["megabytes"] / (row["megabytes"] or math.nan),
    )
    return rung_line(results, name, row, dtype) + f"{speed:7.2f}x{memory:7.2f}x"


def rung_line(results: dict, title: str, row: dict, dtype: str | None) -> str:
    """Speed, its range over the rounds, memory, and the share of the greatest possible speed. Tokens a second
    are tokens of the packed row for all rows.
    """
    speed, tokens = row["pairs_per_second"], results["tokens"]["packed"]
    share = results["floor_flops"] * speed / results["gemm"][dtype or results["settings"]["dtype"]]
    spread = f"({row['slowest_round']:.3g} - {row['fastest_round']:.3g})"
    return (
        f"{title:50}{speed:>9.3g}  {spread:15}{speed * tokens:>10,.0f}{row['megabytes']:>8,.0f}{share:>9.0%} "
    )


def run_row(settings: BenchSettings, name: str, environment: dict[str, str] | None = None) -> Any:
    """Measure a row in a process of its own. Raises UserError if it fails."""
    flags = [part for key, value in workload(settings).items() for part in (flag(key), str(value))]
    root = str(Path(__file__).resolve().parent.parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "mini_dpo.bench", "--row", name, *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
    )
    if done.returncode:
        raise UserError(f"the row {name} failed:\n{done.stderr.strip()[-2000:]}")
    *said, result = done.stdout.strip().splitlines()
    print(*said, sep="\n", end="\n" * bool(said), flush=True)  # that a fast way is not used
    return json.loads(result)
