"""Claims about what DPO's minimum is. All are exact: nothing is drawn, or the draw does not matter."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mini_dpo.claims.claim import Claim, above, below
from mini_dpo.claims.worlds import Pairs, World, normal, table, tea_house
from mini_dpo.losses import LOSSES, PairLogps
from mini_dpo.theory.bradley_terry import (
    expected_reward,
    kl,
    objective,
    optimal_policy,
    preference_probability,
)
from mini_dpo.theory.tabular import pairs_of

BETA = 0.5


def dpo(logps: PairLogps) -> Tensor:
    return LOSSES["dpo"](logps, beta=BETA)


def no_reward_model(seed: int) -> dict[str, float]:
    """Two steps and one step from the same comparisons: a reward model and its optimum, and DPO.

    Each two responses are compared once with either result besides, so that both fits exist (Ford 1957).
    """
    world = table(seed)
    both_ways, _ = world.every_pair()
    w, l = (torch.cat(side) for side in zip(world.pairs(1_000, seed), both_ways, strict=True))
    two_steps = optimal_policy(world.ref, world.fit_reward((w, l), world.features), BETA)
    one_step = world.fit(dpo, (w, l))
    optimum = optimal_policy(world.ref, world.reward, BETA)
    return {
        "KL(reward model, then optimum || DPO)": float(kl(two_steps, one_step)),
        "KL(true optimum || DPO)": float(kl(optimum, one_step)),
    }


def reference_needed(seed: int) -> dict[str, float]:
    """The loss that some code has, -log sigma(beta (log pi(w) - log pi(l))), on all labels there are."""
    world = table(seed)
    pairs, weights = world.every_pair()
    flat = torch.zeros_like(world.ref)
    without = world.fit(dpo, pairs, weights, ref=flat)
    with_it = world.fit(dpo, pairs, weights)
    best, optimum_without = (optimal_policy(ref, world.reward, BETA) for ref in (world.ref, flat))

    def short(policy: Tensor) -> float:
        return float(
            objective(best, world.ref, world.reward, BETA) - objective(policy, world.ref, world.reward, BETA)
        )

    return {
        "J lost without the reference": short(without),
        "J lost with it": short(with_it),
        "KL(softmax(r / beta) || without)": float(kl(optimum_without, without)),
        "nats from the reference, without it": float(kl(without, world.ref)),
        "nats from the reference, with it": float(kl(with_it, world.ref)),
    }


def one_weight(seed: int) -> dict[str, float]:
    """A policy with one weight, which cannot be pi*: features 0, 1, 3 and rewards 1, 0, 2, beta 1
    (arXiv:2510.20413). RLHF weighs its errors by what the policy says, DPO by what was compared.
    """
    reward = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    features = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    world = World(torch.zeros(3, dtype=torch.float64).log_softmax(-1), reward, features)
    (w, l), shares = world.every_pair()
    uneven = torch.where((w + l) == 1, 0.98, 0.01) * shares  # nearly all pairs are of responses 0 and 1
    rlhf = world.best(reward, beta=1.0)
    balanced, lopsided = (
        world.fit(lambda logps: LOSSES["dpo"](logps, beta=1.0), (w, l), weights)
        for weights in (shares, uneven)
    )
    reference, ours, theirs, worst = (
        float(expected_reward(policy, reward)) for policy in (world.ref, balanced, rlhf, lopsided)
    )
    return {
        "reward of RLHF - of DPO": theirs - ours,
        "reward of RLHF": theirs,
        "reward of DPO": ours,
        "reward of DPO, 98 % of the pairs alike": worst,
        "reward of the reference": reference,
    }


def unseen(seed: int) -> dict[str, float]:
    """A response in no pair, which the reference says once in a million times. DPO's loss has no opinion on
    it: a policy that says it nine times in ten has the least loss as well (arXiv:2404.10719, theorem 4.1).
    """
    r = normal(2, seed=seed)
    reward = torch.cat([r, r.min()[None] - 1])  # the response in no pair is the worst
    ref = torch.tensor([0.5, 0.5, 1e-6], dtype=torch.float64).log().log_softmax(-1)
    pairs: Pairs = (torch.tensor([0, 1]), torch.tensor([1, 0]))
    shares = preference_probability(reward[pairs[0]], reward[pairs[1]])
    best = optimal_policy(ref, reward, BETA)
    rival = torch.cat(
        [best[:2] + math.log(0.1 / float(best[:2].exp().sum())), best.new_tensor([math.log(0.9)])]
    )

    def loss(policy: Tensor) -> Tensor:
        return (shares * dpo(pairs_of(policy, ref, *pairs))).sum()

    return {
        "J lost by a policy of the least loss": float(
            objective(best, ref, reward, BETA) - objective(rival, ref, reward, BETA)
        ),
        "its loss less the least": float(loss(rival) - loss(best)),
        "its share of the response in no pair": float(rival[2].exp()),
        "RLHF's": float(best[2].exp()),
    }


def ranking(seed: int) -> dict[str, float]:
    """How often the likelier response of a pair is the preferred one, for the best policy there is.

    Pairs are drawn from the reference, labels from Bradley-Terry. pi* ranks a pair as its reward does unless
    the reference's own ranking outweighs h (arXiv:2405.19534).
    """
    house = tea_house(seed)
    best = optimal_policy(house.ref, house.reward, BETA)

    p = preference_probability(house.reward[:, :, None], house.reward[:, None, :])  # (2, K, K)
    drawn = house.ref.exp()[:, :, None] * house.ref.exp()[:, None, :]  # (2, K, K)
    drawn = drawn * ~torch.eye(house.ref.shape[1], dtype=torch.bool)
    drawn = drawn / drawn.sum()

    def above_other(score: Tensor) -> Tensor:
        """Whether response i has a larger score than response j: (2, K) -> (2, K, K)."""
        return score[:, :, None] > score[:, None, :]

    by_reward, by_likelihood, by_reference = (
        2 * (above_other(score) * p * drawn).sum() for score in (house.reward, best, house.ref)
    )
    turned = above_other(best) != above_other(house.reward)
    return {
        "share of pairs that it ranks against their reward": float((turned * drawn).sum()),
        "accuracy of the reward": float(by_reward),
        "accuracy of the best policy's likelihood": float(by_likelihood),
        "accuracy of the reference's likelihood": float(by_reference),
    }


def leash(seed: int) -> dict[str, float]:
    """The KL divergence of pi* at one beta, for rewards of two sizes."""
    world = table(seed)
    near, far = (float(kl(optimal_policy(world.ref, s * world.reward, BETA), world.ref)) for s in (1, 4))
    return {
        "nats with rewards times 4 - times 1": far - near,
        "rewards times 1": near,
        "rewards times 4": far,
    }


def diversity(seed: int) -> dict[str, float]:
    """The entropy of pi* and of the reference; how many answers both would have, if equally likely."""
    house = tea_house(seed)
    before, after = (
        float(-(p.exp() * p).sum(-1).mean())
        for p in (house.ref, optimal_policy(house.ref, house.reward, BETA))
    )
    return {
        "entropy of the best policy / of the reference": after / before,
        "answers, reference": math.exp(before),
        "answers, best policy": math.exp(after),
    }


TABLES, HOUSE = "tables of 8 responses", "the tea house, its best policy"
CLAIMS = [
    Claim(
        "no_reward_model",
        "no reward model is needed: the policy is one",
        no_reward_model,
        "KL(reward model, then optimum || DPO)",
        below(1e-6),
        f"{TABLES}, 1,056 comparisons",
        chapter=5,
        exact=True,
    ),
    Claim(
        "reference_needed",
        "the reference is needed in the loss",
        reference_needed,
        "J lost without the reference",
        above(0.01),
        f"{TABLES}, all labels",
        chapter=5,
        exact=True,
    ),
    Claim(
        "as_good_one_weight",
        "DPO is as good as RLHF, whatever the policy can be",
        one_weight,
        "reward of RLHF - of DPO",
        below(1e-6),
        "three responses, a policy of one weight",
        chapter=5,
        exact=True,
        seeds=1,
    ),
    Claim(
        "as_good_unseen",
        "DPO is as good as RLHF, whatever was compared",
        unseen,
        "J lost by a policy of the least loss",
        below(0.01),
        "three responses, one of them in no pair",
        chapter=9,
        exact=True,
    ),
    Claim(
        "ranks_pairs",
        "a well tuned model finds the preferred response the likelier one",
        ranking,
        "share of pairs that it ranks against their reward",
        below(0.01),
        HOUSE,
        chapter=6,
        exact=True,
    ),
    Claim(
        "beta_bounds",
        "beta bounds how far the policy goes",
        leash,
        "nats with rewards times 4 - times 1",
        below(1e-6),
        f"{TABLES}, their best policy",
        chapter=4,
        exact=True,
    ),
    Claim(
        "diversity",
        "diversity is kept",
        diversity,
        "entropy of the best policy / of the reference",
        above(0.95),
        HOUSE,
        chapter=4,
        exact=True,
    ),
]
