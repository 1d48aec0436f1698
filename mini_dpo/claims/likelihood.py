"""Claims about what becomes of the likelihood of the chosen, the rejected and all other responses."""

from __future__ import annotations

import torch
from torch import Tensor

from mini_dpo.claims.claim import Claim, above, below
from mini_dpo.claims.worlds import TeaHouse, World, log_linear, table, tea_house
from mini_dpo.losses import LOSSES
from mini_dpo.theory.bradley_terry import expected_reward, kl
from mini_dpo.theory.tabular import descend, draw_comparisons, pairs_of

STEPS = 100  # of the tea house's GPT
MARGIN = 2.0  # of pairs, where they are looked at


def one_pair(seed: int) -> dict[str, float]:
    """ "No" is preferred to "Never", and the model sees both as much alike. DPO trains this one pair.

    There is one feature, and "Yes" has most of it: where "No" is told from "Never", "Yes" gains more
    (arXiv:2410.08847, whose example this is).
    """
    names = ["Never", "No", "Yes", "Maybe"]
    ref = torch.tensor([0.48, 0.48, 0.02, 0.02], dtype=torch.float64).log()
    pair = torch.tensor([1]), torch.tensor([0])
    changes = {}
    for kind, features in (("shared", torch.tensor([[0.0], [1.0], [3.0], [0.5]])), ("table", torch.eye(4))):
        world = World(ref, torch.zeros_like(ref), features.double())
        way = descend(
            lambda theta: LOSSES["dpo"](pairs_of(world.policy(theta), ref, *pair), beta=1.0).sum(),
            world.zero,
            steps=400,
            lr=0.5,
        )
        changes[kind] = world.policy(way[-1]) - ref
    return {
        'nats that "No" gains': float(changes["shared"][1]),
        **{f'p("{name}")': float((ref + changes["shared"])[i].exp()) for i, name in enumerate(names)},
        'nats that "No" gains in a table': float(changes["table"][1]),
    }


def mean_of_pairs(seed: int) -> dict[str, float]:
    """The mean change of log-prob over responses of the reference is -KL(ref || pi), whatever is learned."""
    world = table(seed)
    policy = world.fit(lambda p: LOSSES["dpo"](p, beta=0.5), *world.every_pair())
    change = float(expected_reward(world.ref, policy - world.ref))
    return {
        "nats that a response of the data gains on average": change,
        "that is -KL(reference || policy)": -float(kl(world.ref, policy)),
    }


def dpo_on(house: TeaHouse, n: int, beta: float, seed: int, prompts: int = 2) -> tuple[Tensor, list]:
    """(Log-probs after DPO on n pairs of each of the first prompts, (2, K); the pairs of each.)"""
    drawn = [draw_comparisons(house.ref[i], house.reward[i], n, seed + 100 * i) for i in range(prompts)]

    def risk(logps: Tensor) -> Tensor:
        losses = [
            LOSSES["dpo"](pairs_of(logps[i], house.ref[i], *drawn[i]), beta=beta).mean()
            for i in range(prompts)
        ]
        return torch.stack(losses).mean()

    return house.train(risk, STEPS), drawn


def quadrants(seed: int) -> dict[str, float]:
    """Of the pairs that were trained on: whose log-probs rise, whose fall."""
    house = tea_house(seed)
    policy, drawn = dpo_on(house, n=40, beta=0.1, seed=seed)
    change = policy - house.ref
    w, l = (torch.cat([change[i][pairs[side]] for i, pairs in enumerate(drawn)]) for side in (0, 1))
    w, l = w[w != l], l[w != l]  # a response that met itself teaches nothing
    in_a_pair = [torch.cat(pairs).unique() for pairs in drawn]
    seen = sum(float(policy[i][told].exp().sum()) for i, told in enumerate(in_a_pair)) / 2
    before = sum(float(house.ref[i][told].exp().sum()) for i, told in enumerate(in_a_pair)) / 2
    return {
        **quarters(w, l),
        "mass of responses in no pair, before": 1 - before,
        "mass of responses in no pair, after": 1 - seen,
    }


def quarters(w: Tensor, l: Tensor) -> dict[str, float]:
    """Shares of pairs, from the changes of their chosen and rejected log-probs: (N,), (N,)."""
    share = {
        "chosen up, rejected down": (w > 0) & (l < 0),
        "both up": (w > 0) & (l >= 0),
        "both down": (w <= 0) & (l < 0),
        "chosen down, rejected up": (w <= 0) & (l >= 0),
    }
    return {name: float(which.double().mean()) for name, which in share.items()}


def alike(seed: int) -> dict[str, float]:
    """Twelve pairs whose two responses have the most alike features, and twelve of the least alike: what the
    chosen ones gain until the mean margin is 2.
    """
    world = log_linear(seed)
    chosen = torch.randperm(64, generator=torch.Generator().manual_seed(seed))[:12]
    apart = torch.cdist(world.features[chosen], world.features)  # (12, K)
    gains = {}
    for kind, rejected in (
        ("alike", apart.topk(2, largest=False).indices[:, 1]),
        ("different", apart.argmax(1)),
    ):
        way = descend(
            lambda theta: LOSSES["dpo"](
                pairs_of(world.policy(theta), world.ref, chosen, rejected), beta=1.0
            ).mean(),
            world.zero,
            steps=400,
            lr=0.3,
        )
        change = torch.stack([world.policy(theta) - world.ref for theta in way[::10]])  # (steps, K)
        margin = (change[:, chosen] - change[:, rejected]).mean(1)
        there = int((margin - MARGIN).abs().argmin())
        gains[kind] = float(change[there, chosen].mean())
    return {
        "nats that chosen gain, different - alike": gains["different"] - gains["alike"],
        "nats that chosen gain, alike pairs": gains["alike"],
        "nats that chosen gain, different pairs": gains["different"],
    }


def price(seed: int) -> dict[str, float]:
    """DPO on 300 pairs of the first prompt at three betas. The second prompt is text of another kind."""
    house = tea_house(seed)
    found: dict[str, float] = {}
    nats = []
    for beta in (0.1, 0.5, 2.5):
        policy, _ = dpo_on(house, n=300, beta=beta, seed=seed, prompts=1)
        nats.append(float(kl(policy, house.ref)[0]))
        found |= {
            f"nats from the reference, beta {beta}": nats[-1],
            f"reward gained, beta {beta}": float(
                (expected_reward(policy, house.reward) - expected_reward(house.ref, house.reward))[0]
            ),
            f"nats that a response loses, same prompt, beta {beta}": float(kl(house.ref, policy)[0]),
            f"nats that a response loses, other prompt, beta {beta}": float(kl(house.ref, policy)[1]),
        }
    return {
        "least fall of the KL divergence from one beta to the next": min(
            nats[0] - nats[1], nats[1] - nats[2]
        ),
        **found,
    }


PAIRS = "the tea house, 40 pairs per prompt, beta 0.1"
CLAIMS = [
    Claim(
        "chosen_one_pair",
        "DPO makes a chosen response likelier",
        one_pair,
        'nats that "No" gains',
        above(0),
        "one pair, four responses, one feature",
        chapter=9,
        exact=True,
        seeds=1,
    ),
    Claim(
        "chosen_average",
        "the responses of the data become likelier on average",
        mean_of_pairs,
        "nats that a response of the data gains on average",
        above(0),
        "tables of 8 responses, all labels",
        chapter=6,
        exact=True,
    ),
    Claim(
        "chosen_rejected",
        "of most pairs the chosen becomes likelier and the rejected less likely",
        quadrants,
        "chosen up, rejected down",
        above(0.5),
        PAIRS,
        chapter=9,
        seeds=6,
    ),
    Claim(
        "displacement",
        "pairs that are alike raise their chosen responses less",
        alike,
        "nats that chosen gain, different - alike",
        above(0),
        "log-linear policies, 12 pairs of each kind",
        chapter=9,
    ),
    Claim(
        "beta_price",
        "the larger beta is, the less the policy moves",
        price,
        "least fall of the KL divergence from one beta to the next",
        above(0),
        "the tea house, 300 pairs, beta 0.1, 0.5, 2.5",
        chapter=7,
        seeds=5,
    ),
    Claim(
        "other_text",
        "text of another kind is not touched",
        price,
        "nats that a response loses, other prompt, beta 0.1",
        below(0.1),
        "the tea house, trained on one of two prompts",
        chapter=7,
        seeds=5,
    ),
]
