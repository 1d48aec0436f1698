"""The tea house for reinforcement learning: what chapter 20 does, and what each detail of it is worth.

python -m tutorials.opponent      leaves out one detail after the other, with five seeds; about three minutes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import Tensor

from mini_dpo import exact
from mini_dpo.batches import Batch, Encoded
from mini_dpo.claims.worlds import tea_house
from mini_dpo.cli import run_command
from mini_dpo.files import write_json
from mini_dpo.logprobs import token_logps
from mini_dpo.model import GPT
from mini_dpo.reference import freeze
from mini_dpo.rlhf.algorithms import leave_one_out, returns_of, rloo_loss
from mini_dpo.rlhf.reward import per_response
from mini_dpo.rlhf.rollout import Rollout, Task, roll_out
from mini_dpo.theory.bradley_terry import kl, objective, optimal_policy

BETA, K = 0.5, 4
RESPONSES = exact.list_responses()
KEPT = Path(__file__).parent / "measured" / "opponent.json"


def world(seed: int = 0) -> tuple[GPT, Tensor]:
    """(the reference, the reward of each response to each prompt (2, 15)): the tea house of chapter 5."""
    house = tea_house(seed)
    return house.reference, house.reward


def exact_j(policy: GPT, seed: int = 0) -> Tensor:
    """J, the mean over both prompts, with every response listed: ()."""
    house = tea_house(seed)
    return objective(house.score(policy), house.ref, house.reward, BETA).mean()


def gap(policy: GPT, seed: int = 0) -> float:
    """KL(policy || optimum) in nats, the mean over both prompts."""
    house = tea_house(seed)
    return float(kl(house.score(policy).detach(), optimal_policy(house.ref, house.reward, BETA)).mean())


def write(policy: GPT, n: int, draw: int, k: int = K, seed: int = 0) -> Rollout:
    """n k responses of the policy to each of the two prompts, scored by the reward itself. A response of
    three words is complete: no more fit. draw: the seed of the random numbers.
    """
    reference, reward = world(seed)
    number = {tuple(response): i for i, response in enumerate(RESPONSES)}

    scores = []

    def score(written: Sequence[Encoded], batch: Batch) -> Tensor:
        scores.append(torch.stack([reward[y.prompt[0], number[tuple(y.response)]] for y in written]))
        return scores[0]

    task = Task(reference, score, exact.PROMPTS, exact.END, BETA, 2, k, exact.LONGEST_RESPONSE)
    drawn = roll_out(policy, task, exact.PROMPTS * n, draw)
    return replace(drawn, scores=scores[0], finished=torch.ones_like(drawn.finished))


def flat_gradient(value: Tensor, policy: GPT) -> Tensor:
    """The gradient with respect to all weights, as one vector."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(policy.parameters()))])


# --- what each detail is worth

Advantage = Callable[[Rollout], Tensor]  # a rollout to (S,)


def plain(rollout: Rollout) -> Tensor:
    return returns_of(rollout, BETA)


def one_left_out(rollout: Rollout) -> Tensor:
    return leave_one_out(returns_of(rollout, BETA), K)


def own_in_baseline(rollout: Rollout) -> Tensor:
    return leave_one_out(returns_of(rollout, BETA), K) * (K - 1) / K


def without_kl(rollout: Rollout) -> Tensor:
    return leave_one_out(rollout.scores, K)


def kl_turned(rollout: Rollout) -> Tensor:
    return leave_one_out(returns_of(rollout, -BETA), K)


# name: (advantages, passes over a step's responses, whether the ratio is clipped)
VARIANTS: dict[str, tuple[Advantage, int, bool]] = {
    "RLOO as it is": (one_left_out, 1, True),
    "no baseline": (plain, 1, True),
    "the response in its own baseline": (own_in_baseline, 1, True),
    "four passes, clipped": (one_left_out, 4, True),
    "four passes, not clipped": (one_left_out, 4, False),
    "no price for the KL divergence": (without_kl, 1, True),
    "the price with the wrong sign": (kl_turned, 1, True),
}


def train(advantage: Advantage, passes: int, clip: bool, seed: int, steps: int = 120, n: int = 8) -> float:
    """The distance from the optimum after so many steps of 2 n k responses each."""
    policy = freeze(world(seed)[0]).requires_grad_(True)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        rollout = write(policy, n, 1000 * seed + step, seed=seed)
        advantages = advantage(rollout)
        for _ in range(passes):
            logps = token_logps(policy, rollout.batch)
            loss = rloo_loss(rollout, advantages, logps) if clip else unclipped(rollout, advantages, logps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return gap(policy, seed)


def unclipped(rollout: Rollout, advantages: Tensor, logps: Tensor) -> Tensor:
    """The same with the ratio as it is; at one pass both are REINFORCE."""
    ratio = per_response(rollout.batch, logps - rollout.logps).exp()  # (S,)
    return -(ratio * advantages).mean()


def measure(seed: int) -> dict[str, float]:
    """The distance of each variant, in nats."""
    return {name: train(*variant, seed=seed) for name, variant in VARIANTS.items()}


def main() -> None:
    found = {}
    for seed in range(5):
        found[str(seed)] = measure(seed)
        print(f"seed {seed}: " + ", ".join(f"{x:.3f}" for x in found[str(seed)].values()), flush=True)
    write_json(KEPT, {"seeds": found})
    print(table(found))


def table(found: dict[str, dict[str, float]]) -> str:
    """A line a variant: the mean over seeds, the deviation, and the paired difference from the first."""
    rows = [f"{'':34}{'nats from pi*':>14}{'more than RLOO':>18}"]
    first = [of_seed["RLOO as it is"] for of_seed in found.values()]
    for name in VARIANTS:
        gaps = [of_seed[name] for of_seed in found.values()]
        more = [a - b for a, b in zip(gaps, first, strict=True)]
        error = stdev(more) / len(more) ** 0.5
        beside = f"{fmean(more):>10.3f} ({error:.3f})" if name != "RLOO as it is" else ""
        rows.append(f"{name:34}{fmean(gaps):>8.3f} ({stdev(gaps):.3f}){beside}")
    return "\n".join(rows)


if __name__ == "__main__":
    run_command(main)
