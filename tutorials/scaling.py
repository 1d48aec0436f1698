"""The tea house in three sizes of model and three sizes of data: what chapter 19 shows.

python -m tutorials.scaling      five seeds of each; about fifteen minutes on one core
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from statistics import fmean, stdev

import torch
from torch import Tensor

from mini_dpo import exact
from mini_dpo.batches import Encoded, collate
from mini_dpo.cli import run_command
from mini_dpo.files import read_json, write_json
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.objectives import sft_objective
from mini_dpo.optimizers import LoopConfig
from mini_dpo.reference import freeze
from mini_dpo.theory.bradley_terry import kl, optimal_policy, preference_probability
from mini_dpo.theory.tabular import draw_comparisons
from mini_dpo.training import train
from tutorials.kept import KEPT, SEEDS

FILE = KEPT / "scaling.json"
BETA = 0.5
RESPONSES = exact.list_responses()
# blocks, heads, channels
SIZES = {"1 block of 3 channels": (1, 1, 3), "1 block of 6": (1, 1, 6), "2 blocks of 32": (2, 2, 32)}
LABELS = (100, 1_000, 10_000, 0)  # for each of the two prompts; 0: infinitely many
# learning rates; a size with a number of labels takes the best one on seeds that are not measured
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
TRIALS = (100, 101, 102)  # those seeds


def kept() -> dict[str, dict]:
    """What is kept: "rates", by size with labels and by rate, and "seeds", by seed."""
    return read_json(FILE)


def config_of(size: str) -> GPTConfig:
    n_layer, n_head, n_embd = SIZES[size]
    V = len(exact.WORDS) + 1
    return GPTConfig(V, 1 + exact.LONGEST_RESPONSE, n_layer=n_layer, n_head=n_head, n_embd=n_embd)


def make_reference(size: str, seed: int) -> GPT:
    """A GPT of this size after SFT on the corpus of this seed: 24 responses, the same for all sizes."""
    generator = torch.Generator().manual_seed(seed)
    corpus = torch.randint(len(RESPONSES), (24,), generator=generator).tolist()
    batch = collate([Encoded(exact.PROMPTS[i % 2], RESPONSES[k]) for i, k in enumerate(corpus)])
    torch.manual_seed(seed)
    model = GPT(config_of(size)).double()
    config = LoopConfig(steps=150, lr=3e-3, seed=seed)
    train(model, sft_objective, dict.fromkeys(range(config.steps), batch), config, name="sft")
    return freeze(model)


def learn(reference: GPT, reward: Tensor, labels: int, lr: float, seed: int) -> GPT:
    """The reference, trained by DPO on so many comparisons of its own responses to each prompt."""
    pairs, weights = compare(exact.score_all(reference, RESPONSES), reward, labels, seed)
    policy = freeze(reference).requires_grad_(True)
    objective = exact.expected_dpo(reference, *pairs, weights, BETA)
    config = LoopConfig(steps=300, lr=lr, warmup=20, seed=seed)
    train(policy, objective, dict.fromkeys(range(300), exact.every_response(RESPONSES)), config, name="dpo")
    return policy


def compare(ref_logps: Tensor, reward: Tensor, labels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ordered pairs of the 30 responses to both prompts, (2, P), and how often each was seen, (P,), scaled so
    that all together count P / 2.
    """
    K = len(RESPONSES)
    if labels:
        draws = [draw_comparisons(ref_logps[i], reward[i], labels, 10 * seed + i) for i in range(2)]
        both = torch.cat([i * K + torch.stack(draws[i]) for i in range(2)], dim=1)  # (2, 2 labels)
        pairs, seen = both.unique(dim=1, return_counts=True)
        return pairs, seen.double() * seen.numel() / (2 * seen.sum())
    chosen, rejected = torch.cartesian_prod(torch.arange(K), torch.arange(K)).T  # (K K,)
    shares = [  # of each pair and label among infinitely many
        (logps[chosen] + logps[rejected]).exp() * preference_probability(r[chosen], r[rejected])
        for logps, r in zip(ref_logps, reward, strict=True)
    ]
    pairs, seen = (
        torch.cat([torch.stack([chosen, rejected]) + i * K for i in range(2)], dim=1),
        torch.cat(shares),
    )
    return pairs, seen * seen.numel() / (2 * seen.sum())


def shortfall(size: str, labels: int | None, lr: float, seed: int) -> float:
    """How far J is below the best J of this size's reference, in units of reward, the mean over both prompts.
    labels: None for the reference itself.
    """
    reference, reward = make_reference(size, seed), exact.make_reward(RESPONSES, seed)
    best = optimal_policy(exact.score_all(reference, RESPONSES), reward, BETA)  # (2, 15)
    policy = reference if labels is None else learn(reference, reward, labels, lr, seed)
    return BETA * float(kl(exact.score_all(policy, RESPONSES), best).mean())


def measure(seed: int, rates: dict[str, float]) -> dict[str, float]:
    """The shortfall of each size, untrained and after each number of labels."""
    return {
        name: shortfall(size, labels, rates.get(name, 0.0), seed)
        for size in SIZES
        for labels in (None, *LABELS)
        for name in [name_of(size, labels)]
    }


def name_of(size: str, labels: int | None) -> str:
    return f"{size}, {'untrained' if labels is None else labels}"


def table(found: dict[str, dict[str, float]]) -> str:
    """A line a size: the mean over seeds and the deviation of one seed, for each number of labels."""
    heads = ["untrained", *(f"{n:,} labels" if n else "infinitely many" for n in LABELS)]
    rows = [f"{'':22}" + "".join(f"{head:>17}" for head in heads)]
    for size in SIZES:
        cells = []
        for labels in (None, *LABELS):
            values = [of_seed[name_of(size, labels)] for of_seed in found.values()]
            cells.append(f"{fmean(values):.3f} ± {stdev(values):.3f}")
        rows.append(f"{size:22}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(rows)


def rate_table(found: dict[str, dict[str, float]]) -> str:
    """A line per size and number of labels: the shortfall at each learning rate."""
    rows = [f"{'learning rate':30}" + "".join(f"{lr:>8g}" for lr in RATES)]
    for name, of_rate in found.items():
        rows.append(f"{name:30}" + "".join(f"{of_rate[str(lr)]:>8.3f}" for lr in RATES))
    return "\n".join(rows)


def search() -> dict[str, dict[str, float]]:
    """The mean shortfall of each size with each number of labels at each rate, on the trials' seeds."""
    return {
        name_of(size, labels): {
            str(lr): fmean(shortfall(size, labels, lr, seed) for seed in TRIALS) for lr in RATES
        }
        for size in SIZES
        for labels in LABELS
    }


def main() -> None:
    torch.set_num_threads(1)
    with redirect_stdout(StringIO()):  # all trainings say how far they are
        tried = search()
    print(rate_table(tried), flush=True)
    rates = {name: float(min(of_rate, key=lambda lr: of_rate[lr])) for name, of_rate in tried.items()}
    found = {}
    for seed in SEEDS:
        with redirect_stdout(StringIO()):
            found[str(seed)] = measure(seed, rates)
        print(f"seed {seed}: " + ", ".join(f"{x:.3f}" for x in found[str(seed)].values()), flush=True)
    write_json(FILE, {"rates": tried, "seeds": found})
    print(table(found))


if __name__ == "__main__":
    run_command(main)
