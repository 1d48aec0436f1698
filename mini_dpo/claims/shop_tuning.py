"""Claims about how much a wrong setting costs on the toy shop: both sides with random settings."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any, cast

from mini_dpo.batches import EncodedPair
from mini_dpo.claims.claim import Claim, above
from mini_dpo.claims.rivals import drawn
from mini_dpo.claims.shop_runs import (
    RL,
    fit_dpo,
    fitted,
    measure,
    opponent,
    reward_model,
    run_of,
    setup_of,
    trained,
)
from mini_dpo.errors import TrainingFailed
from mini_dpo.model import GPT
from mini_dpo.rlhf.__main__ import Setup, fit_policy
from mini_dpo.train.parsing import TOY_DEFAULTS, default_lr

SFT_MODELS = 5  # the settings begin with these in turn
FACTORS = [0.5, 1, 2]  # of the numbers of passes and steps, and of the sizes of batches


def random_settings(seed: int) -> dict[str, float]:
    """One random setting of each side's knobs. In the middle of each range is the side's default. A policy
    that is worth less than the SFT model, or whose training fails, has collapsed: the SFT model is kept. The
    gain of a side is what its policy is worth more than the SFT model.
    """
    setup, chance = setup_of(seed % SFT_MODELS), Random(seed)
    start = measure(setup, setup.sft)[0].worth
    defaults = {
        "DPO": trained(run_of(seed % SFT_MODELS, "dpo")[0]),
        "RLHF": opponent(setup, reward_model(setup)[0])[0],
    }
    found: dict[str, float] = {}
    lost: dict[str, float] = {}
    for side, fit in (("DPO", random_dpo), ("RLHF", random_rlhf)):
        policy, knobs = fit(setup, chance, f"random-{seed}")
        gain = max(0.0, measure(setup, policy)[0].worth - start) if policy else 0.0
        best = measure(setup, defaults[side])[0].worth - start
        lost[side] = best - gain
        found |= {f"gain, {side}": gain, f"gain of the default, {side}": best}
        found |= {f"collapsed, {side}": float(gain == 0)}
        found |= {f"{name}, {side}": value for name, value in knobs.items()}
    return {
        "worth lost to the default, RLHF - DPO": lost["RLHF"] - lost["DPO"],
        "collapsed, RLHF - DPO": found["collapsed, RLHF"] - found["collapsed, DPO"],
        **found,
    }


def random_dpo(setup: Setup, chance: Random, name: str) -> tuple[GPT | None, dict[str, float]]:
    """(The policy, or None if its training failed, the knobs.)"""
    lr, beta = default_lr("dpo on the toy shop", setup.sft.config.n_embd), TOY_DEFAULTS["dpo"]["beta"]
    knobs = {"lr": drawn(chance, lr), "beta": beta * 3 ** chance.uniform(-1, 1)}
    passes, batch_size = chance.choice(FACTORS), int((setup.begun.batch_size or 1) * chance.choice(FACTORS))
    resized = setup._replace(begun=replace(setup.begun, batch_size=batch_size))
    pairs = cast(list[EncodedPair], setup.corpus.preferences)
    try:
        policy, _ = fitted(resized, f"{name}-dpo", lambda where: fit_dpo(where, pairs, passes, **knobs))
    except TrainingFailed:
        policy = None
    return policy, {**knobs, "passes": passes, "batch_size": batch_size}


def random_rlhf(setup: Setup, chance: Random, name: str) -> tuple[GPT | None, dict[str, float]]:
    """(The policy, or None if its training failed, the knobs.) The reward model has knobs of its own."""
    usual = setup.settings
    knobs: dict[str, Any] = {
        "reward_lr": drawn(chance, usual.reward_lr),
        "reward_epochs": usual.reward_epochs * chance.choice(FACTORS),
        "lr": drawn(chance, usual.lr),
        "beta": usual.beta * 3 ** chance.uniform(-1, 1),
        "responses": int(usual.responses * chance.choice(FACTORS)),
        "steps": int(usual.steps * chance.choice(FACTORS)),
    }
    tuned = setup._replace(settings=replace(usual, **{**knobs, **RL}))
    try:
        judge, _ = reward_model(tuned, f"{name}-reward")
        policy, _ = fitted(tuned, f"{name}-rloo", lambda where: fit_policy(where, judge))
    except TrainingFailed:
        policy = None
    return policy, knobs


AT_RANDOM = "the toy shop, a random setting each, beginning with 5 SFT models in turn"
CLAIMS = [
    Claim(
        "shop_easy_to_tune",
        "DPO needs less tuning than RLHF: networks",
        random_settings,
        "worth lost to the default, RLHF - DPO",
        above(0),
        AT_RANDOM,
        chapter=20,
        seeds=20,
    ),
    Claim(
        "shop_more_stable",
        "DPO is more stable than RLHF: networks",
        random_settings,
        "collapsed, RLHF - DPO",
        above(0),
        AT_RANDOM,
        chapter=20,
        seeds=20,
    ),
]
