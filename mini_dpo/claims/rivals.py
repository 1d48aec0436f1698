"""Claims about DPO against RLHF: reward at equal KL divergence, random settings, traces."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from statistics import median, pstdev

import torch
from torch import Tensor

from mini_dpo.claims.claim import Claim, above
from mini_dpo.claims.worlds import World, log_linear
from mini_dpo.losses import LOSSES
from mini_dpo.rlhf.algorithms import leave_one_out
from mini_dpo.theory.bradley_terry import expected_reward, implicit_reward, kl, objective, optimal_policy
from mini_dpo.trace.laboratory import left_out

BETAS = [2.0, 1.0, 0.7, 0.5, 0.3, 0.12]
FAR = 1.0  # nats, at which policies are compared
BETA, N = 0.5, 1_000  # of the random settings: price of a nat, pairs
TRIES = 20


def reward_at(far: float, world: World, way: list[Tensor]) -> float:
    """The true reward of a family of policies at a KL divergence: between two of them it is linear, as it is
    for the mixture that says one or the other.
    """
    return line_at(
        far, [(float(kl(p, world.ref)), float(expected_reward(p, world.reward))) for p in [world.ref, *way]]
    )


def line_at(far: float, points: Sequence[tuple[float, float]]) -> float:
    """The height of the line through points (x, y) at x = far; where none is so far, of the last one."""
    points = sorted(points)
    for (near, low), (next_far, high) in itertools.pairwise(points):
        if near <= far <= next_far:
            return low + (high - low) * (far - near) / (next_far - near)
    return points[-1][1]


def frontier(seed: int, policy: int, judge: int) -> dict[str, float]:
    """DPO, RLHF and pi* at one nat. The reward is linear in 16 features, of which the policy has the first
    few and the reward model the first few. RLHF's policy is the best one for its reward model, computed
    exactly: no reinforcement learning can do better.
    """
    full = log_linear(seed, d=16)
    world = World(full.ref, full.reward, full.features[:, :policy])
    pairs = world.pairs(N, seed)
    proxy = world.fit_reward(pairs, full.features[:, :judge])
    implicit = implicit_reward(world.fit(lambda p: LOSSES["dpo"](p, beta=1.0), pairs), world.ref, beta=1.0)
    at = {
        "DPO": [optimal_policy(world.ref, implicit, beta) for beta in BETAS],  # its weights are ~ 1 / beta
        "RLHF": [world.best(proxy, beta) for beta in BETAS],
        "RLHF with the true reward": [world.best(world.reward, beta) for beta in BETAS],
        "best of n": [best_of(n, world.ref, proxy) for n in (2, 3, 4, 5, 6, 8)],
        "pi*": [optimal_policy(world.ref, world.reward, beta) for beta in BETAS],
    }
    found = {name: reward_at(FAR, world, way) for name, way in at.items()}
    return {
        "reward of DPO - of RLHF at 1 nat": found["DPO"] - found["RLHF"],
        **{f"reward at 1 nat, {name}": value for name, value in found.items()},
    }


def best_of(n: int, ref: Tensor, score: Tensor) -> Tensor:
    """log-probs of the best of n responses by a score without ties: P(all n score as much at most) less
    P(all n score less), (K,), (K,) -> (K,).
    """
    order = score.argsort()
    at_most = ref.exp()[order].cumsum(0).clamp(max=1) ** n  # (K,)
    share = torch.diff(at_most, prepend=at_most.new_zeros(1)).clamp(min=1e-300)
    return torch.empty_like(ref).index_copy(0, order, share.log())


def weak_judge(seed: int) -> dict[str, float]:
    return frontier(seed, policy=16, judge=8)


def weak_policy(seed: int) -> dict[str, float]:
    return frontier(seed, policy=8, judge=16)


# --- random settings


def logistic(gaps: Tensor, beta: float, steps: int, rate: float, batch: int, rng: torch.Generator) -> Tensor:
    """Stochastic gradient descent on -log sigmoid(beta theta . gap): DPO's, or with beta 1 a reward model's:
    (n, d) -> (d,).
    """
    theta = gaps.new_zeros(gaps.shape[1])
    for _ in range(steps):
        some = gaps[torch.randint(len(gaps), (batch,), generator=rng)]
        theta = theta + rate * beta * (torch.sigmoid(-beta * some @ theta)[:, None] * some).mean(0)
    return theta


def rloo(world: World, reward: Tensor, steps: int, rate: float, batch: int, rng: torch.Generator) -> Tensor:
    """Policy optimisation from samples, with the mean of the other samples as a baseline: (K,) -> (d,)."""
    theta = world.zero
    for _ in range(steps):
        logps = world.policy(theta)
        y = torch.multinomial(logps.exp(), batch, replacement=True, generator=rng)
        better = leave_one_out((reward - BETA * (logps - world.ref))[y], batch)  # (batch,)
        slopes = world.features[y] - logps.exp() @ world.features  # (batch, d)
        theta = theta + rate * (better[:, None] * slopes).mean(0)
    return theta


def drawn(rng: random.Random, best: float) -> float:
    """A learning rate up to ten times smaller or larger than the best one."""
    return best * 10 ** rng.uniform(-1, 1)


def settings(seed: int) -> dict[str, float]:
    """20 random settings of each side's knobs: DPO's rate, steps and batch; the reward model's rate and
    steps, and RLOO's rate, steps and batch. The middle of each range is what is best for its side alone.
    """
    world = log_linear(seed)
    w, l = world.pairs(N, seed)
    gaps = world.features[w] - world.features[l]
    chance, rng = random.Random(seed), torch.Generator().manual_seed(seed)
    best, start = (
        float(objective(p, world.ref, world.reward, BETA))
        for p in (optimal_policy(world.ref, world.reward, BETA), world.ref)
    )
    gained: dict[str, list[float]] = {"DPO": [], "RLHF": []}
    for _ in range(TRIES):
        steps, batch = (chance.choice([40, 80, 160]) for _ in range(2))
        ours = logistic(gaps, BETA, steps, drawn(chance, 2.0), batch, rng)
        judge = logistic(gaps, 1.0, chance.choice([40, 80, 160]), drawn(chance, 0.5), batch, rng)
        theirs = rloo(world, world.features @ judge, steps, drawn(chance, 0.2), batch, rng)
        for side, theta in (("DPO", ours), ("RLHF", theirs)):
            J = float(objective(world.policy(theta), world.ref, world.reward, BETA))
            gained[side].append((J - start) / (best - start))
    spread = {side: pstdev(values) for side, values in gained.items()}
    middle = {side: median(values) for side, values in gained.items()}
    return {
        "spread of the share of J gained, RLHF - DPO": spread["RLHF"] - spread["DPO"],
        "median share of J gained, DPO - RLHF": middle["DPO"] - middle["RLHF"],
        **{f"spread, {side}": value for side, value in spread.items()},
        **{f"median, {side}": value for side, value in middle.items()},
        **{f"best, {side}": max(values) for side, values in gained.items()},
        **{f"collapsed, {side}": sum(v < 0 for v in values) / TRIES for side, values in gained.items()},
    }


def traces(seed: int) -> dict[str, float]:
    """How well the parts of single pairs, guessed from the trained model, are those that leaving each pair
    out shows: DPO's, and RLOO's from a reward model.
    """
    found = left_out(seed)
    return {"correlation, DPO - RLOO": found["dpo gradients"] - found["rloo gradients"], **found}


AT_RANDOM = "log-linear policies, 20 random settings each, 1,000 pairs"
CLAIMS = [
    Claim(
        "as_good_weak_judge",
        "DPO is as good as RLHF at equal KL: a policy richer than the reward model",
        weak_judge,
        "reward of DPO - of RLHF at 1 nat",
        above(0),
        "log-linear policies, 16 features against 8",
        chapter=20,
    ),
    Claim(
        "as_good_weak_policy",
        "DPO is as good as RLHF at equal KL: a policy poorer than the reward model",
        weak_policy,
        "reward of DPO - of RLHF at 1 nat",
        above(0),
        "log-linear policies, 8 features against 16",
        chapter=20,
    ),
    Claim(
        "more_stable",
        "DPO is more stable than RLHF",
        settings,
        "spread of the share of J gained, RLHF - DPO",
        above(0),
        AT_RANDOM,
        chapter=20,
        seeds=6,
    ),
    Claim(
        "easy_to_tune",
        "DPO needs less tuning than RLHF",
        settings,
        "median share of J gained, DPO - RLHF",
        above(0),
        AT_RANDOM,
        chapter=20,
        seeds=6,
    ),
    Claim(
        "transparent",
        "what a pair has done is easier to trace in DPO than in RLHF",
        traces,
        "correlation, DPO - RLOO",
        above(0),
        "log-linear policies, each of 150 pairs left out",
        chapter=20,
        seeds=5,
    ),
]
