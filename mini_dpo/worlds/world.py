"""What a world is: prompts, responses as sloppy people write them, and a judge who knows their true reward.

A world of your own is a file with a `World` in it: `python -m mini_dpo.train --world mine.py:NAME`. Its rows
are made in memory, always the same ones. Which of two responses people prefer is drawn from the Bradley-Terry
model, P(a over b) = sigmoid(reward(a) - reward(b)): mostly the better response, not always.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import torch

from mini_dpo.theory.bradley_terry import wins

Judge = Callable[[str, str], dict[str, float]]  # (prompt, response) -> marks by name
Value = TypeVar("Value")
PATIENCE = 1000  # draws in vain, until a world is asked no more
Row = dict[str, str]  # a line of a file: {"prompt", "response"} or {"prompt", "chosen", "rejected"}

# split: SFT examples, preference pairs
SPLIT_SIZES = {"train": (4000, 4000), "valid": (200, 200), "test": (256, 256)}


def nothing(prompt: str, response: str) -> dict[str, float]:
    """A world that counts nothing beside its marks."""
    return {}


@dataclass(frozen=True, eq=False)
class World:
    """A small world with a known reward. The functions that draw use the given random numbers and no others.

    about: what is preferred here, in a line.
    write_prompt: a random prompt; there must be more than 6,000 different ones.
    write_response: a random response to a prompt, of any quality: SFT imitates them all.
    judge: the marks of a response, by name; their sum is the true reward. It takes any text as a response,
        and raises ValueError for a prompt of another world. The rewards of two responses should typically
        differ by several points, as the defaults of the losses expect.
    marks: what the closing table calls each mark.
    count, counts: what else is counted of a response and shown as a mean, with no part in the reward. What
        does not apply to a prompt is left out, and its mean is over the other prompts.
    write_pair: two different responses to a prompt, to be compared; by default two of `write_response`.
    write_other: another prompt, to which the chosen response of a pair does not fit: (rng, prompt, chosen).
        What mDPO sets it against; without it, the prompt of another pair.
    rater: the marks by which people choose, if that is not the judge.
    pictures: prompts are pictures in the form of pictures.py, and the model sees.
    sft_epochs: passes over the SFT examples, where the default is too few.
    loss_options: hyperparameters of losses by their name, where the shop's are not good here.
    sft_weight: what the chosen response's negative log-likelihood, in nats per token, counts in preference
        training, where the default is not to count it.
    """

    name: str
    about: str
    write_prompt: Callable[[random.Random], str]
    write_response: Callable[[random.Random, str], str]
    judge: Judge
    marks: dict[str, str]
    count: Judge = nothing
    counts: dict[str, str] = field(default_factory=dict)
    write_pair: Callable[[random.Random, str], tuple[str, str]] | None = None
    write_other: Callable[[random.Random, str, str], str] | None = None
    rater: Judge | None = None
    pictures: bool = False
    sft_epochs: float | None = None
    loss_options: dict[str, dict[str, float]] = field(default_factory=dict)
    sft_weight: float = 0.0


def reward(marks: dict[str, float]) -> float:
    """The true reward: the sum of the marks."""
    return sum(marks.values())


# --- the rows of a world


@lru_cache(maxsize=4)
def rows_of(world: World, seed: int = 1) -> dict[str, tuple[list[Row], list[Row]]]:
    """The rows of a world, (SFT examples, preferences) of each split. No prompt is in two splits."""
    rng = random.Random(seed)
    prompts = distinct_prompts(world, rng)
    rows = {}
    for split, (n_sft, n_pairs) in SPLIT_SIZES.items():
        sft = [
            {"prompt": prompt, "response": world.write_response(rng, prompt)}
            for prompt, _ in zip(prompts, range(n_sft), strict=False)
        ]
        pairs = [preference(world, rng, prompt) for prompt, _ in zip(prompts, range(n_pairs), strict=False)]
        rows[split] = sft, pairs
    return rows


def distinct_prompts(world: World, rng: random.Random) -> Iterator[str]:
    """Prompts without end, no prompt twice. Raises ValueError if the world has no more of them."""
    seen, tries = set(), 0
    while tries < PATIENCE:
        prompt = world.write_prompt(rng)
        tries += 1
        if prompt not in seen:
            seen.add(prompt)
            tries = 0
            yield prompt
    raise ValueError(f"the world {world.name} has {len(seen)} different prompts, and they are not enough")


def preference(world: World, rng: random.Random, prompt: str) -> Row:
    """Two different responses to a prompt as chosen and rejected, drawn from their rewards."""
    a, b = world.write_pair(rng, prompt) if world.write_pair else two_responses(world, rng, prompt)
    rater = world.rater or world.judge
    p = 1 / (1 + math.exp(reward(rater(prompt, b)) - reward(rater(prompt, a))))  # P(a over b)
    chosen, rejected = (a, b) if rng.random() < p else (b, a)
    other = {"other": world.write_other(rng, prompt, chosen)} if world.write_other else {}
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **other}


def two_responses(world: World, rng: random.Random, prompt: str) -> tuple[str, str]:
    """Two different responses. Raises ValueError if the world writes only one to this prompt."""
    a = world.write_response(rng, prompt)
    for _ in range(PATIENCE):
        b = world.write_response(rng, prompt)
        if b != a:
            return a, b
    raise ValueError(f"the world {world.name} writes one response only to {prompt!r}")


# --- the judge's view


def prefers(judge: Judge, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> torch.Tensor:
    """1 where the judge prefers ours to theirs on the same prompt, 1/2 for a tie, else 0: (N,)."""
    # (N, 2), in float32: 8 - 1.2 is 7 - 0.2
    rewards = torch.tensor(
        [
            [reward(judge(prompt, text)) for text in texts]
            for prompt, *texts in zip(prompts, ours, theirs, strict=True)
        ]
    )
    return wins(*rewards.T)


def win_rate(judge: Judge, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> float:
    """How often the judge prefers ours; ties count half."""
    return float(prefers(judge, prompts, ours, theirs).mean())


def label_accuracy(judge: Judge, rows: Sequence[Row]) -> float:
    """The share of preferences that agree with the true reward; ties count half. The rest is noise of the
    draw.
    """
    return win_rate(judge, *([row[key] for row in rows] for key in ("prompt", "chosen", "rejected")))


# --- for whoever writes a world


def choose(rng: random.Random, values: Sequence[Value], weights: Sequence[float] | None = None) -> Value:
    """One of the values, each as likely as the others or as its weight says."""
    weights = weights or [1 / len(values)] * len(values)
    u = rng.random()
    for value, weight in zip(values, weights, strict=True):
        if u < weight:
            return value
        u -= weight
    return values[-1]


def pattern_of(template: str, kinds: Mapping[str, Sequence[str]]) -> re.Pattern[str]:
    """A template as a regular expression that captures its fields: {kind} is one of the values of its kind.
    A value that begins another one comes after that one among the values.
    """
    pattern = re.escape(template)
    for kind, values in kinds.items():
        pattern = pattern.replace(re.escape("{" + kind + "}"), f"(?P<{kind}>{'|'.join(values)})")
    return re.compile(pattern)
