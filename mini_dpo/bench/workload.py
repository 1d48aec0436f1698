"""What all rows measure: the same batches, made from the seed, and the same model."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch

from mini_dpo.batches import Encoded, EncodedPair
from mini_dpo.cli import option
from mini_dpo.model import GPTConfig

SHAPES = {"toy": GPTConfig(vocab_size=512, context=512, n_layer=4, n_head=4, n_embd=256), "gpt2": GPTConfig()}
BETA = 0.1


@dataclass(frozen=True)
class BenchSettings:
    """What to measure."""

    model: str = option(
        str,
        "the shape: toy is 4 blocks of 256 channels and 512 tokens, gpt2 GPT-2's smallest",
        "toy",
        tuple(SHAPES),
    )
    device: str = option(str, "where to compute; auto takes cuda, else cpu", "auto", ("auto", "cpu", "cuda"))
    dtype: str = option(
        str, "of all rows but the last, which shows bfloat16", "float32", ("float32", "bfloat16")
    )
    batch_size: int | None = option(int, "pairs per batch (default: 8; 4 for gpt2)")
    batches: int | None = option(int, "batches, each of other lengths (default: 8; 4 for gpt2)")
    repeats: int = option(int, "how often each batch is measured; its median counts", 5)
    compile: bool = option(bool, "a further row with torch.compile", False)
    growth: bool = option(bool, "show how the cost grows instead of the ladder", False)
    seed: int = option(int, "of weights and batches", 0)
    json: str | None = option(str, "write everything that was measured to this file as well", metavar="PATH")
    row: str | None = option(str, "measure this row alone, in this process, and print it as JSON")


def make_pairs(settings: BenchSettings) -> list[list[EncodedPair]]:
    """Batches of pairs of random tokens: prompts of 20 to 200 tokens, responses of 10 to 200, median 60."""
    draw = random.Random(settings.seed)
    V = SHAPES[settings.model].vocab_size

    def text(n: int) -> list[int]:
        return [draw.randrange(V) for _ in range(n)]

    def pair() -> EncodedPair:
        prompt = text(draw.randint(20, 200))
        chosen, rejected = (
            text(min(200, max(10, round(draw.lognormvariate(math.log(60), 0.7))))) for _ in range(2)
        )
        return EncodedPair(Encoded(prompt, chosen), Encoded(prompt, rejected))

    return [[pair() for _ in range(settings.batch_size or 1)] for _ in range(settings.batches or 1)]


def count_tokens(batches: list[list[EncodedPair]]) -> dict[str, float]:
    """Tokens a pair: in a packed row, in two padded rows, without padding, and of responses only."""
    pairs = [pair for batch in batches for pair in batch]
    longest = [
        max(max(p.chosen.n_tokens, p.rejected.n_tokens) for p in batch) for batch in batches for _ in batch
    ]
    responses = sum(len(s.response) for pair in pairs for s in (pair.chosen, pair.rejected))
    counts = {
        "packed": sum(pair.n_tokens for pair in pairs),
        "padded": 2 * sum(longest),
        "sequences": sum(pair.chosen.n_tokens + pair.rejected.n_tokens for pair in pairs),
        "responses": responses,
    }
    return {name: count / len(pairs) for name, count in counts.items()}


def floor_flops(config: GPTConfig, tokens: dict[str, float]) -> float:
    """The multiplications and additions that a pair needs at least: for each weight of a matrix and each
    token, two in the forward pass and four in the backward pass. The prompt counts once, the output matrix
    at response tokens only, and no reference.
    """
    return 6 * (
        12 * config.n_layer * config.n_embd**2 * tokens["packed"]
        + config.vocab_size * config.n_embd * tokens["responses"]
    )


def workload(settings: BenchSettings) -> dict:
    """The settings that decide what is measured; not those of printing and keeping."""
    names = ("model", "device", "dtype", "batch_size", "batches", "repeats", "seed")
    return {name: getattr(settings, name) for name in names}


def where(settings: BenchSettings) -> str:
    """The name of the device that computes."""
    if settings.device == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU thread{'s' * (torch.get_num_threads() > 1)}"
