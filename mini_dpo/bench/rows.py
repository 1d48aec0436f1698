"""The rows of the table, and how one is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch

from mini_dpo.batches import EncodedPair, collate_pairs
from mini_dpo.bench.steps import (
    LoopAdamW,
    collate_apart,
    collate_padded,
    logps_at_responses,
    logps_of_everything,
    padded_objective,
)
from mini_dpo.bench.workload import BETA, SHAPES, BenchSettings, count_tokens, make_pairs
from mini_dpo.devices import keep_freed_memory, resident_peak
from mini_dpo.fast.compiled import compile_blocks
from mini_dpo.losses import LOSSES
from mini_dpo.model import GPT
from mini_dpo.objectives import preference_objective
from mini_dpo.optimizers import LoopConfig, make_optimizer
from mini_dpo.reference import freeze, precompute_reference
from mini_dpo.training import train_step


@dataclass(frozen=True)
class Rung:
    """A row: the idea that it adds to the row before, and how its step is made."""

    idea: str
    collate: Callable = collate_pairs
    padded: Callable | None = None
    fused: bool = True
    keeps_memory: bool = True
    precomputed: bool = False
    compiled: bool = False
    dtype: str | None = None


RUNGS = {
    "naive": Rung(
        "padded rows, logits everywhere, a live reference",
        collate_padded,
        logps_of_everything,
        fused=False,
        keeps_memory=False,
    ),
    "fused": Rung("+ AdamW in one fused kernel", collate_padded, logps_of_everything, keeps_memory=False),
    "keep": Rung("+ keep freed memory (CPU)", collate_padded, logps_of_everything),
    "responses": Rung("+ output matrix at response tokens only", collate_padded, logps_at_responses),
    "packed": Rung("+ one row without padding", collate_apart),
    "shared": Rung("+ each prompt once", collate_pairs),
    "precomputed": Rung("+ reference scored beforehand", precomputed=True),
    "bfloat16": Rung("+ products in bfloat16", precomputed=True, dtype="bfloat16"),
    "compiled": Rung("+ torch.compile", precomputed=True, dtype="bfloat16", compiled=True),
}


def measure_rung(settings: BenchSettings, name: str) -> dict:
    """Measure one row: prepare, warm up, time the step of each batch, and take the peak of memory."""
    rung = RUNGS[name]
    if rung.keeps_memory:
        keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(settings.seed)
    before = resident_peak(settings.device)
    policy = GPT(SHAPES[settings.model]).to(settings.device)
    reference: Any = freeze(policy)
    batches = make_pairs(settings)
    dtype = rung.dtype or settings.dtype
    if rung.precomputed:
        batches = [precompute_reference(reference, pairs, dtype, settings.batch_size) for pairs in batches]
        reference = None
    if rung.compiled:
        compile_blocks(policy)
    config = LoopConfig(steps=10**6, lr=1e-5, dtype=dtype)
    optimizer = make_optimizer(policy, config)
    if not rung.fused:
        optimizer = LoopAdamW(policy.parameters(), lr=config.lr, weight_decay=0.0)
    objective = (
        padded_objective(reference, rung.padded)
        if rung.padded
        else preference_objective(LOSSES["dpo"], {"beta": BETA}, reference)
    )

    def step(pairs: list[EncodedPair]) -> None:
        train_step(policy, optimizer, objective, [rung.collate(pairs)], config, step=0)

    return time_steps(settings, step, batches, before)


def time_steps(settings: BenchSettings, step: Callable, batches: list, before: float) -> dict:
    """Run each batch once to warm up, then `repeats` times; the median of each batch counts.
    before: bytes of memory used before. Returns pairs per second, and megabytes.
    """
    seconds: list[list[float]] = [[] for _ in batches]
    for repeat in range(settings.repeats + 1):
        for batch, times in zip(batches, seconds, strict=True):
            taken = seconds_of(settings, partial(step, batch))
            if repeat:
                times.append(taken)
    rounds = [sum(times[r] for times in seconds) for r in range(settings.repeats)]
    pairs = sum(map(len, batches))
    return {
        "pairs_per_second": pairs / sum(median(times) for times in seconds),
        "slowest_round": pairs / max(rounds),
        "fastest_round": pairs / min(rounds),
        "megabytes": (resident_peak(settings.device) - before) / 1e6,
    }


def seconds_of(settings: BenchSettings, run: Callable[[], object]) -> float:
    """The seconds that `run` takes, until the device has finished."""
    started = now(settings.device)
    run()
    return now(settings.device) - started


def now(device: str) -> float:
    """The time in seconds, after the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure_gemm(settings: BenchSettings, dtype: torch.dtype) -> float:
    """The FLOP/s of this machine for the matrix products of a step, forward and backward: an upper limit for
    every step that is made of them.
    """
    keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = True
    config, tokens = SHAPES[settings.model], count_tokens(make_pairs(settings))
    C, T, R = (
        config.n_embd,
        *(round((settings.batch_size or 1) * tokens[name]) for name in ("packed", "responses")),
    )
    body = [(T, C, 3 * C), (T, C, C), (T, C, 4 * C), (T, 4 * C, C)]
    flops, seconds = 0.0, 0.0
    for (n, k, m), times in [(shape, config.n_layer) for shape in body] + [((R, C, config.vocab_size), 1)]:
        x, w, g = (
            torch.randn(shape, device=settings.device, dtype=dtype) for shape in ((n, k), (m, k), (n, m))
        )
        for product in (lambda: x @ w.T, lambda: g @ w, lambda: g.T @ x):
            product()
            taken = [seconds_of(settings, product) for _ in range(max(5, settings.repeats))]
            flops, seconds = flops + times * 2 * n * k * m, seconds + times * median(taken)
    return flops / seconds
