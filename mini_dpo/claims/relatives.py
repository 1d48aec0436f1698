"""Claims about DPO's relatives: IPO, KTO, ORPO, and all losses of pairs against DPO."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mini_dpo.claims.claim import Claim, above, below
from mini_dpo.claims.rivals import FAR, reward_at
from mini_dpo.claims.worlds import Pairs, World, log_linear
from mini_dpo.losses import LOSSES, Responses, UnpairedLogps
from mini_dpo.theory.tabular import descend, pairs_of

N, STEPS, FIRST_STEP = 400, 150, 0.1
TEN = 10  # disliked responses to a liked one
BETA = 0.1
DPO_BETAS = [0.1, 0.3, 0.5]


def certain(seed: int) -> dict[str, float]:
    """Two responses, and everybody prefers the first: h along plain gradient descent."""
    ref = torch.full((2,), 0.5, dtype=torch.float64).log()
    pair: Pairs = (torch.tensor([0]), torch.tensor([1]))

    def gaps(name: str, steps: int, **hyper: float) -> Tensor:
        way = descend(
            lambda z: LOSSES[name](pairs_of(z.log_softmax(-1), ref, *pair), **hyper).sum(), ref, steps, lr=0.1
        )
        return (way[:, 0] - way[:, 1]).double()  # h of each step

    ours, theirs = gaps("dpo", 1_000, beta=1.0), gaps("ipo", 100, beta=0.5)
    return {
        "|IPO's h - 1 / (2 beta)|": abs(float(theirs[-1]) - 1.0),
        "DPO's h after 500 steps": float(ours[500]),
        "DPO's h after 1,000 steps": float(ours[1_000]),
        "log(2 eta t) after 1,000": math.log(2 * 0.1 * 1_000),
    }


def way_of(world: World, risk: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The policies along plain gradient descent of a risk: a family from the reference outwards. The first
    step is equally long for each risk, so that no loss has a rate of its own.
    """
    start = world.zero.requires_grad_()
    (slope,) = torch.autograd.grad(risk(start), start)
    way = descend(risk, world.zero, STEPS, FIRST_STEP / float(slope.norm()))
    return [world.policy(theta) for theta in way]


def by_pairs(world: World, pairs: Pairs, name: str, **hyper: float | str) -> list[Tensor]:
    """The way of a loss of pairs, whose responses have ten tokens each."""
    tokens = torch.full_like(world.ref, 10.0)

    def risk(theta: Tensor) -> Tensor:
        return LOSSES[name](pairs_of(world.policy(theta), world.ref, *pairs, tokens), **hyper).mean()

    return way_of(world, risk)


def by_singles(world: World, liked: Tensor, disliked: Tensor, weight: float) -> list[Tensor]:
    """The way of KTO on single responses; weight: of the liked ones. Its estimate of the KL divergence is 0,
    as it nearly always is when it is made from responses of the data.
    """
    which = torch.cat([liked, disliked])
    desirable = torch.arange(len(which)) < len(liked)

    def risk(theta: Tensor) -> Tensor:
        policy = world.policy(theta)[which]
        responses = Responses(policy, torch.ones_like(policy), world.ref[which])
        logps = UnpairedLogps(responses, desirable, torch.zeros(1, dtype=torch.float64))
        return LOSSES["kto"](logps, beta=BETA, desirable_weight=weight).mean()

    return way_of(world, risk)


def kto(seed: int) -> dict[str, float]:
    """The true reward at one nat: DPO on pairs, KTO on the same responses one by one, and KTO where nine of
    ten liked ones are lost, with the liked ones' weight 1 and 10.
    """
    world = log_linear(seed)
    w, l = world.pairs(N, seed)
    found = {
        "DPO": by_pairs(world, (w, l), "dpo", beta=BETA),
        "KTO": by_singles(world, w, l, 1.0),
        "KTO, 1:10": by_singles(world, w[::TEN], l, 1.0),
        "KTO, 1:10, liked weigh 10": by_singles(world, w[::TEN], l, float(TEN)),
    }
    at = {name: reward_at(FAR, world, way) for name, way in found.items()}
    return {
        "reward of KTO - of DPO at 1 nat": at["KTO"] - at["DPO"],
        "reward at 1 nat that the weight brings": at["KTO, 1:10, liked weigh 10"] - at["KTO, 1:10"],
        **{f"reward at 1 nat, {name}": value for name, value in at.items()},
    }


def orpo(seed: int) -> dict[str, float]:
    """What is gained at one nat by ORPO and by SFT on the chosen responses, which is ORPO with weight 0."""
    world = log_linear(seed)
    pairs = world.pairs(N, seed)
    at = {
        f"ORPO, weight {weight:g}": reward_at(FAR, world, by_pairs(world, pairs, "orpo", odds_weight=weight))
        for weight in (0.0, 0.1, 1.0, 10.0)
    }
    at["DPO"] = reward_at(FAR, world, by_pairs(world, pairs, "dpo", beta=BETA))
    return {
        "reward of ORPO - of DPO at 1 nat": at["ORPO, weight 0.1"] - at["DPO"],
        "reward of ORPO - of SFT at 1 nat": at["ORPO, weight 0.1"] - at["ORPO, weight 0"],
        **{f"reward at 1 nat, {name}": value for name, value in at.items()},
    }


# losses of pairs whose way starts at the reference, and the settings of each
RIVALS: dict[str, dict[str, float | str]] = {
    "cdpo": {"beta": 0.1},
    "rdpo": {"beta": 0.1},
    "f_dpo": {"beta": 0.1},
    "chipo": {"beta": 0.1},
    "dpop": {"beta": 0.3, "penalty": 0.05},
    "ipo": {"beta": 0.1},
    "hinge": {"beta": 0.1},
    "exo": {"beta": 0.1},
    "nca": {"beta": 0.1},
    "bco": {"beta": 0.1},
    "sppo": {"beta": 0.1},
    "apo_zero": {"beta": 0.1},
    "aot": {"beta": 0.1},
    "simpo": {"beta": 1.0, "gamma": 0.5},
    "cpo": {"beta": 0.1},
}


def variants(seed: int) -> dict[str, float]:
    """The best of 15 relatives at one nat on one set of pairs, and how it does on another; DPO's beta is
    chosen in the same way, so that neither side gains from the choice.
    """

    def at(pairs: Pairs) -> tuple[dict[str, float], dict[str, float]]:
        ours = {
            f"dpo, beta {beta}": reward_at(FAR, world, by_pairs(world, pairs, "dpo", beta=beta))
            for beta in DPO_BETAS
        }
        return ours, {
            name: reward_at(FAR, world, by_pairs(world, pairs, name, **hyper))
            for name, hyper in RIVALS.items()
        }

    world = log_linear(seed)
    tried, found = (at(world.pairs(N, draw)) for draw in (seed + 1_000, seed))
    dpo, rival = (there[max(here, key=here.__getitem__)] for here, there in zip(tried, found, strict=True))
    return {
        "reward of the best relative - of DPO at 1 nat": rival - dpo,
        **{f"{name} - DPO": value - dpo for side in found for name, value in side.items()},
    }


SINGLES = f"log-linear policies, {N} pairs, beta {BETA}"
CLAIMS = [
    Claim(
        "ipo_certain",
        "IPO's margin stays finite where everybody agrees",
        certain,
        "|IPO's h - 1 / (2 beta)|",
        below(1e-6),
        "two responses, one always preferred",
        chapter=8,
        exact=True,
        seeds=1,
    ),
    Claim(
        "kto_singles",
        "KTO learns as much from single responses as DPO from pairs",
        kto,
        "reward of KTO - of DPO at 1 nat",
        above(-0.02),
        SINGLES,
        chapter=8,
    ),
    Claim(
        "kto_weights",
        "with one liked response to ten, KTO needs its weights",
        kto,
        "reward at 1 nat that the weight brings",
        above(0),
        SINGLES,
        chapter=8,
    ),
    Claim(
        "orpo_one_stage",
        "ORPO does in one stage, without a reference, what DPO does",
        orpo,
        "reward of ORPO - of DPO at 1 nat",
        above(-0.02),
        f"log-linear policies, {N} pairs, weight 0.1",
        chapter=8,
    ),
    Claim(
        "variants",
        "a better loss than DPO can be found among its relatives",
        variants,
        "reward of the best relative - of DPO at 1 nat",
        above(0),
        f"log-linear policies, {len(RIVALS)} relatives, {N} pairs",
        chapter=8,
    ),
]
