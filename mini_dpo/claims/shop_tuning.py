"""Claims about how much a wrong setting costs on the toy shop: both sides with random settings."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

from mini_dpo.claims.claim import Claim, above
from mini_dpo.claims.rivals import drawn
from mini_dpo.claims.shop_runs import (
    BETA,
    RL,
    fit_dpo,
    fitted,
    measure,
    opponent,
    pairs_of,
    reward_model,
    run_of,
    setup_of,
    trained,
)
from mini_dpo.errors import TrainingFailed
from mini_dpo.model import GPT
from mini_dpo.rlhf.__main__ import Setup, fit_policy
from mini_dpo.train.parsing import default_lr

SFT_MODELS = 5  # the settings begin with these in turn
FACTORS = [0.5, 1, 2]  # of the numbers of passes and steps, and of the sizes of batches
Knobs = dict[str, Any]


def random_settings(seed: int) -> dict[str, float]:
    """One random setting of each side's knobs. In the middle of each range is the side's default. A policy
    that is worth less than the SFT model, or whose training fails, has collapsed: the SFT model is kept. The
    gain of a side is what its policy is worth more than the SFT model.
    """
    setup, chance = setup_of(seed % SFT_MODELS), Random(seed)
    start, best = beginning(seed % SFT_MODELS)
    knobs = {"DPO": dpo_knobs(setup, chance), "RLHF": rlhf_knobs(setup, chance)}
    found: dict[str, float] = {}
    lost: dict[str, float] = {}
    for side, fit in (("DPO", with_dpo), ("RLHF", with_rlhf)):
        try:
            policy = fit(setup, knobs[side], f"random-{seed}")
            gain = max(0.0, measure(setup, policy)[0].worth - start)
        except TrainingFailed:
            gain = 0.0
        lost[side] = best[side] - gain
        found |= {f"gain, {side}": gain, f"gain of the default, {side}": best[side]}
        found |= {f"collapsed, {side}": float(gain == 0)}
        found |= {f"{name}, {side}": value for name, value in knobs[side].items()}
    return {
        "worth lost to the default, RLHF - DPO": lost["RLHF"] - lost["DPO"],
        "collapsed, RLHF - DPO": found["collapsed, RLHF"] - found["collapsed, DPO"],
        **found,
    }


@cache
def beginning(seed: int) -> tuple[float, dict[str, float]]:
    """(What the SFT model of a seed is worth, what each side's default gains on it.)"""
    setup = setup_of(seed)
    start = measure(setup, setup.sft)[0].worth
    defaults = {"DPO": trained(run_of(seed, "dpo")[0]), "RLHF": opponent(setup, reward_model(setup)[0])[0]}
    return start, {side: measure(setup, policy)[0].worth - start for side, policy in defaults.items()}


def dpo_knobs(setup: Setup, chance: Random) -> Knobs:
    lr = default_lr("dpo on the toy shop", setup.sft.config.n_embd)
    return {
        "lr": drawn(chance, lr),
        "beta": BETA * 3 ** chance.uniform(-1, 1),
        "passes": chance.choice(FACTORS),
        "batch_size": int((setup.begun.batch_size or 1) * chance.choice(FACTORS)),
    }


def rlhf_knobs(setup: Setup, chance: Random) -> Knobs:
    """The reward model has knobs of its own."""
    usual = setup.settings
    return {
        "reward_lr": drawn(chance, usual.reward_lr),
        "reward_epochs": usual.reward_epochs * chance.choice(FACTORS),
        "lr": drawn(chance, usual.lr),
        "beta": usual.beta * 3 ** chance.uniform(-1, 1),
        "responses": int(usual.responses * chance.choice(FACTORS)),
        "steps": int(usual.steps * chance.choice(FACTORS)),
    }


def with_dpo(setup: Setup, knobs: Knobs, name: str) -> GPT:
    """The policy of DPO with these knobs. Raises TrainingFailed."""
    resized = setup._replace(begun=replace(setup.begun, batch_size=knobs["batch_size"]))
    hyper = {key: knobs[key] for key in ("passes", "lr", "beta")}
    return fitted(resized, f"{name}-dpo", lambda where: fit_dpo(where, pairs_of(setup), **hyper))[0]


def with_rlhf(setup: Setup, knobs: Knobs, name: str) -> GPT:
    """The policy of RLHF with these knobs. Raises TrainingFailed."""
    tuned = setup._replace(settings=replace(setup.settings, **{**knobs, **RL}))
    judge, _ = reward_model(tuned, f"{name}-reward")
    return fitted(tuned, f"{name}-rloo", lambda where: fit_policy(where, judge))[0]


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
