"""Claims about labels: wrong ones, few of them, and ones that like long answers."""

from __future__ import annotations

import torch
from torch import Tensor

from mini_dpo.claims.claim import Claim, above, below
from mini_dpo.claims.worlds import Pairs, World, log_linear, normal, table
from mini_dpo.losses import LOSSES
from mini_dpo.theory.bradley_terry import expected_reward, implicit_reward, kl, objective, optimal_policy

BETA = 1.0
BETAS = [0.25, 0.5, 1.0, 2.0, 4.0]
A_WORD = 0.1  # what labels pay for a word, in units of reward


def flip(pairs: Pairs, share: float, seed: int) -> Pairs:
    """The comparisons, each turned round with this probability."""
    w, l = pairs
    turned = torch.rand(len(w), generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(turned, l, w), torch.where(turned, w, l)


def lost(world: World, policy: Tensor) -> float:
    """J(pi*) - J(policy): what training has left on the table, in units of reward."""
    best = optimal_policy(world.ref, world.reward, BETA)
    return float(
        objective(best, world.ref, world.reward, BETA) - objective(policy, world.ref, world.reward, BETA)
    )


def fits(
    world: World, pairs: Pairs, share: float, beta: float = BETA, steps: int | None = None
) -> dict[str, float]:
    """J lost by DPO, by the losses that are told how many labels are flipped, and by IPO."""
    told = {"cdpo": {"label_smoothing": share}, "rdpo": {"label_smoothing": share}}
    return {
        name: lost(
            world, world.fit(lambda p: LOSSES[name](p, beta=beta, **told.get(name, {})), pairs, steps=steps)
        )
        for name in ("dpo", "cdpo", "rdpo", "ipo")
    }


def noise(seed: int) -> dict[str, float]:
    """Many comparisons, a fifth of them flipped; each loss at beta 1, and at the best of five betas."""
    world = log_linear(seed)
    pairs = world.pairs(3_000, seed)
    flipped = flip(pairs, 0.2, seed)
    clean = lost(world, world.fit(lambda p: LOSSES["dpo"](p, beta=BETA), pairs))
    at_one = fits(world, flipped, 0.2)
    tuned = [at_one if beta == BETA else fits(world, flipped, 0.2, beta) for beta in BETAS]
    best = {name: min(losses[name] for losses in tuned) for name in at_one}
    return {
        "J lost to the flips by DPO": at_one["dpo"] - clean,
        "J that cDPO gains on DPO": at_one["dpo"] - at_one["cdpo"],
        "J that rDPO gains on DPO": at_one["dpo"] - at_one["rdpo"],
        "J that rDPO gains on DPO, each at its best beta": best["dpo"] - best["rdpo"],
        **{f"J lost by {name}": at_one[name] for name in at_one},
        **{f"J lost by {name}, at its best beta": best[name] for name in best},
    }


def noise_few(seed: int) -> dict[str, float]:
    """The same with 200 comparisons and 30 % of flips. rDPO may have no minimum then: each loss is descended
    for 300 steps.
    """
    world = log_linear(seed)
    losses = fits(world, flip(world.pairs(200, seed), 0.3, seed), 0.3, steps=300)
    return {
        "J that rDPO gains on DPO": losses["dpo"] - losses["rdpo"],
        **{f"J lost by {name}": losses[name] for name in losses},
    }


def length(seed: int) -> dict[str, float]:
    """Labels follow quality and 0.1 a word; the true reward is quality. All labels there are, beta 0.5.

    The averages of dpo_norm and simpo are at the beta at which each loses least.
    """
    quality = table(seed, K=20)
    words = torch.arange(1.0, 21.0, dtype=torch.float64)
    seen = World(quality.ref, quality.reward + A_WORD * words, quality.features)
    pairs, shares = seen.every_pair()
    best = optimal_policy(quality.ref, quality.reward, 0.5)

    def left(policy: Tensor) -> float:
        """J lost, with the true reward."""
        return 0.5 * float(kl(policy, best))

    def fit(name: str, **hyper: float) -> Tensor:
        return seen.fit(lambda p: LOSSES[name](p, **hyper), pairs, shares, lengths=words)

    biased, corrected = fit("dpo", beta=0.5), fit("r_dpo", beta=0.5, alpha=A_WORD)
    taken = {
        "dpo_norm": min((fit("dpo_norm", beta=b) for b in (2.5, 5.0, 10.0, 20.0)), key=left),
        "simpo": min((fit("simpo", beta=b, gamma=0.0) for b in (2.5, 5.0, 10.0, 20.0)), key=left),
    }
    longer = {name: expected_reward(policy, words) for name, policy in (("best", best), ("dpo", biased))}
    return {
        "words that DPO adds to the best policy": float(longer["dpo"] - longer["best"]),
        "J lost by r_dpo": left(corrected),
        "J lost by averages, the better of two": min(map(left, taken.values())),
        "J lost by DPO": left(biased),
        **{f"J lost by {name}": left(policy) for name, policy in taken.items()},
        "words, best policy": float(longer["best"]),
    }


def overshoot(seed: int) -> dict[str, float]:
    """The true reward as beta falls: its peak less its end, where the policy has gone farthest.

    The true reward is linear in 16 features but for a part that no feature shows. DPO's policy has all
    features, the opponent's reward model half of them and the best policy for it is computed exactly. Few
    labels are 150, many 3,000.
    """
    plain = log_linear(seed, d=16)
    world = World(plain.ref, plain.reward + 0.5 * normal(64, seed=seed + 500), plain.features)
    drops = {}
    for few, n in (("few", 150), ("many", 3_000)):
        pairs = world.pairs(n, seed)
        ours = implicit_reward(world.fit(lambda p: LOSSES["dpo"](p, beta=BETA), pairs), world.ref, BETA)
        theirs = world.fit_reward(pairs, world.features[:, :8])
        for side, proxy in (("DPO", ours), ("RLHF", theirs)):
            way = [optimal_policy(world.ref, proxy, beta) for beta in (4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06)]
            gold = [float(expected_reward(policy, world.reward)) for policy in way]
            drops[f"reward lost after the peak, {few} labels, {side}"] = max(gold) - gold[-1]
    return drops


NOISY = "log-linear policies, 3,000 pairs, 20 % flipped"
LONG = "tables of 20 responses, 1 to 20 words, all labels"
CLAIMS = [
    Claim(
        "noise_hurts",
        "wrong labels make DPO worse",
        noise,
        "J lost to the flips by DPO",
        above(0),
        NOISY,
        chapter=9,
    ),
    Claim(
        "noise_cdpo",
        "label smoothing (cDPO) helps against them",
        noise,
        "J that cDPO gains on DPO",
        above(0),
        NOISY,
        chapter=9,
    ),
    Claim(
        "noise_rdpo",
        "robust DPO helps against them",
        noise,
        "J that rDPO gains on DPO",
        above(0),
        NOISY,
        chapter=9,
    ),
    Claim(
        "noise_rdpo_tuned",
        "robust DPO helps also where both have their best beta",
        noise,
        "J that rDPO gains on DPO, each at its best beta",
        above(0),
        NOISY,
        chapter=9,
    ),
    Claim(
        "noise_rdpo_few",
        "robust DPO helps where labels are few",
        noise_few,
        "J that rDPO gains on DPO",
        above(0),
        "log-linear policies, 200 pairs, 30 % flipped",
        chapter=9,
    ),
    Claim(
        "length_exploited",
        "a taste for length in the labels becomes length",
        length,
        "words that DPO adds to the best policy",
        above(0.1),
        LONG,
        chapter=9,
        exact=True,
        seeds=5,
    ),
    Claim(
        "length_r_dpo",
        "R-DPO takes it out, if its price is known",
        length,
        "J lost by r_dpo",
        below(1e-6),
        LONG,
        chapter=9,
        exact=True,
        seeds=5,
    ),
    Claim(
        "length_averages",
        "averages over tokens (dpo_norm, SimPO) take it out",
        length,
        "J lost by averages, the better of two",
        below(0.01),
        LONG,
        chapter=9,
        exact=True,
        seeds=5,
    ),
    Claim(
        "no_hacking_few",
        "without a reward model there is nothing to over-optimise",
        overshoot,
        "reward lost after the peak, few labels, DPO",
        below(0.05),
        "log-linear policies, 150 pairs",
        chapter=7,
    ),
    Claim(
        "no_hacking_many",
        "with many labels there is nothing to over-optimise",
        overshoot,
        "reward lost after the peak, many labels, DPO",
        below(0.05),
        "log-linear policies, 3,000 pairs",
        chapter=7,
    ),
]
