"""A claim about the memory that DPO and RLHF need on the toy shop, in bytes."""

from __future__ import annotations

import multiprocessing
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

from mini_dpo.claims.claim import Claim, above
from mini_dpo.claims.shop_runs import fit_dpo, pairs_of, setup_of
from mini_dpo.corpus.parts import at_most
from mini_dpo.devices import resident_peak
from mini_dpo.rlhf.__main__ import Setup, fit_policy, fit_reward

PAIRS = 192  # after a few steps, memory does not grow any more
STEPS = 3  # of policy optimisation


def memory(seed: int) -> dict[str, float]:
    """The peak of each side's memory while it trains, on top of what the process has before. Each training is
    a process of its own: what one frees, another would use again. It is given few data: what reading many has
    taken and freed, training would use again.
    """
    setup = setup_of(seed)
    corpus = setup.corpus
    few = {name: getattr(corpus, name)[:PAIRS] for name in ("responses", "preferences", "prompts")}
    setup = setup._replace(corpus=at_most(replace(corpus, **few), n=32))
    found = {name: alone(setup, name) for name in TRAININGS}
    rlhf = max(found["reward model"], found["RLOO"])
    return {
        "megabytes of RLHF / of DPO": rlhf / found["DPO"],
        **{f"megabytes, {name}": megabytes for name, megabytes in found.items()},
    }


def alone(setup: Setup, name: str) -> float:
    """What `taken` says in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(taken, (setup, name))


def taken(setup: Setup, name: str) -> float:
    """The megabytes that a training takes on top of those that this process has had."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        (Path(folder) / "reward").mkdir()
        few = replace(setup.settings, reward_epochs=1.0, steps=STEPS)
        before = resident_peak(setup.begun.device)
        TRAININGS[name](setup._replace(folder=Path(folder), settings=few))
        return (resident_peak(setup.begun.device) - before) / 1e6


def dpo(setup: Setup) -> None:
    fit_dpo(setup, pairs_of(setup), 1)


def rloo(setup: Setup) -> None:
    fit_policy(setup, fit_reward(setup))


def ppo(setup: Setup) -> None:
    rloo(setup._replace(settings=replace(setup.settings, algorithm="ppo")))


TRAININGS = {"DPO": dpo, "reward model": fit_reward, "RLOO": rloo, "PPO": ppo}
CLAIMS = [
    Claim(
        "shop_memory",
        "DPO needs less memory than RLHF",
        memory,
        "megabytes of RLHF / of DPO",
        above(1.1),
        "the toy shop, the peak of a process on top of model and data, defaults of both",
        chapter=20,
        seeds=5,
    )
]
