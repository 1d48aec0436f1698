"""The training runs behind claims about the toy shop and the world of programs. Each has a folder of its own
below RUNS; what is there is loaded, and what is missing is trained.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar, cast

from mini_dpo.batches import Batches, Encoded, EncodedPair, collate_pairs
from mini_dpo.compare import PRICE, train_once
from mini_dpo.evaluation.measuring import answer_length, answer_prompts, estimate_kl
from mini_dpo.files import read_json, write_json
from mini_dpo.losses import find_loss
from mini_dpo.model import GPT
from mini_dpo.objectives import preference_objective
from mini_dpo.optimizers import LoopConfig
from mini_dpo.reference import freeze, precompute_reference
from mini_dpo.rlhf.__main__ import RlhfSettings, Setup, fit_policy, fit_reward
from mini_dpo.rlhf.reward import ScalarModel
from mini_dpo.saving.checkpoint import load_frozen
from mini_dpo.saving.stages import StageFiles
from mini_dpo.train.online import judged
from mini_dpo.train.parsing import TOY_DEFAULTS, default_lr, read_config
from mini_dpo.train.preparing import prepare
from mini_dpo.train.stages import scoring
from mini_dpo.training import train

RUNS = Path("runs/claims")
FLAGS: dict[str, list[str]] = {"sft": [], "dpo": [], "online": []}  # besides the defaults, of each stage
RL: dict[str, Any] = {}  # likewise, of RLHF
BETAS = ["0.1", "0.2", "0.3", "1.0", "3.0"]
BETA = TOY_DEFAULTS["dpo"]["beta"]  # DPO's default
AS_GOOD = -0.1  # true reward that a policy may lack and be called as good; DPO gains about 7 on SFT

Model = TypeVar("Model", bound=GPT)


class Point(NamedTuple):
    """A policy on held-out prompts: KL(policy || SFT model) nats per response, and the mean true reward."""

    kl: float
    reward: float

    @property
    def worth(self) -> float:
        """The true reward less the price of the KL divergence, which is J."""
        return self.reward - PRICE * self.kl


# --- runs of `python -m mini_dpo.train`


def place(seed: int, world: str) -> Path:
    """The folder of all runs from the SFT model of a seed."""
    return RUNS / (str(seed) if world == "shop" else f"{world}-{seed}")


def sft_of(seed: int, world: str = "shop") -> Path:
    """The folder of the SFT run of a seed, trained if it is not there."""
    folder = place(seed, world) / "sft"
    train_once(folder, ["--stage", "sft", "--seed", str(seed), "--world", world, *FLAGS["sft"]])
    return folder


def run_of(seed: int, loss: str, *flags: str, world: str = "shop", stage: str = "dpo") -> tuple[Path, dict]:
    """(The folder of a preference run from the SFT model of a seed, its summary.)"""
    sft = sft_of(seed, world)
    name = "-".join([loss if stage == "dpo" else stage, *flags]).replace("--", "")
    start = ["--stage", stage, "--init-from", str(sft), "--loss", loss, "--seed", str(seed), "--world", world]
    train_once(place(seed, world) / name, [*start, *flags, *FLAGS[stage]])
    return place(seed, world) / name, read_json(place(seed, world) / name / "summary.json")


def dpo_at(seed: int, beta: str, world: str = "shop") -> tuple[Path, dict]:
    """The run of DPO at a beta. The default's run has no flag for it."""
    flags = [] if float(beta) == BETA else ["--beta", beta]
    return run_of(seed, "dpo", *flags, world=world)


def worth_of(seed: int, loss: str, stage: str = "dpo") -> float:
    """What the policy of a run is worth on the held-out prompts, as the run has measured it."""
    found = run_of(seed, loss, stage=stage)[1]["dpo"]
    return Point(found["kl"], found["reward"]).worth


def trained(folder: Path) -> GPT:
    """The policy of a run."""
    return load_frozen(folder / "dpo.pt", "cpu")


# --- what is trained beside them


def setup_of(seed: int, world: str = "shop") -> Setup:
    """The SFT model of a seed and the data, as RLHF takes them, with RLHF's own defaults."""
    folder, _ = run_of(seed, "dpo", world=world)
    begun, tokenizer, _, corpus = prepare(read_config(folder)[0])
    sft = load_frozen(folder / "sft.pt", begun.device)
    return Setup(RlhfSettings(seed=seed, **RL), begun, place(seed, world), tokenizer, sft, corpus)


def pairs_of(setup: Setup) -> list[EncodedPair]:
    """The preferences of the data. They are pairs, because the run of `setup_of` is DPO's."""
    return cast(list[EncodedPair], setup.corpus.preferences)


def fitted(setup: Setup, name: str, fit: Callable[[Setup], Model]) -> tuple[Model, float]:
    """(What `fit` trains in the folder of this name, the CPU seconds of that.) One that was stopped begins
    anew, so that its seconds are those of one go.
    """
    setup = setup._replace(folder=setup.folder / name)
    kept = setup.folder / "seconds.json"
    if kept.exists():
        return fit(setup), read_json(kept)["seconds"]  # loads it
    shutil.rmtree(setup.folder, ignore_errors=True)
    (setup.folder / "reward").mkdir(parents=True)
    started = time.process_time()
    model = fit(setup)
    write_json(kept, {"seconds": time.process_time() - started})
    return model, read_json(kept)["seconds"]


def fit_dpo(
    setup: Setup,
    pairs: list[EncodedPair],
    passes: float,
    loss: str = "dpo",
    lr: float | None = None,
    **hyper: Any,
) -> GPT:
    """The SFT model after a loss on these pairs, as `python -m mini_dpo.train` trains it. The reference is
    scored first, if the pairs do not know it. lr: None is the default.
    """
    _, begun, folder, tokenizer, sft, _ = setup
    if not pairs[0].ref_logps:
        pairs = precompute_reference(sft, pairs, *scoring(begun))
    policy, variant = freeze(sft).requires_grad_(True), find_loss(loss)
    batches = Batches(pairs, collate_pairs, begun.batch_size, setup.settings.seed)
    steps = batches.count(passes)
    objective = preference_objective(variant, {**variant.hyperparameters, **hyper}, None)
    lr = lr or default_lr("dpo on the toy shop", sft.config.n_embd)
    config = LoopConfig(steps, lr, steps // 10, seed=setup.settings.seed)
    train(policy, objective, batches, config, StageFiles("dpo", folder, tokenizer.name, run=begun.id))
    return policy.eval()


def reward_model(setup: Setup, name: str = "reward") -> tuple[ScalarModel, float]:
    """(The opponent's reward model, the CPU seconds of fitting it.)"""
    return fitted(setup, name, lambda where: cast(ScalarModel, fit_reward(where)))


def opponent(setup: Setup, judge: ScalarModel, **settings: Any) -> tuple[GPT, float]:
    """(The policy of RLHF with these settings besides the defaults, the CPU seconds of training it.)"""
    setup = setup._replace(settings=replace(setup.settings, **{**settings, **RL}))
    return fitted(setup, name_of(setup), lambda where: fit_policy(where, judge))


def name_of(setup: Setup) -> str:
    """The folder of RLHF with these settings."""
    asked = setup.settings
    return f"{asked.algorithm}-{asked.reward}-beta-{asked.beta:g}-{asked.steps}"


def measure(setup: Setup, policy: GPT, draw: int = 0) -> tuple[Point, list[Encoded]]:
    """(Where a policy is, its answers), as `python -m mini_dpo.train` measures it. draw: another one has
    other random numbers.
    """
    _, begun, _, tokenizer, sft, corpus = setup
    prompts = list(dict.fromkeys(corpus.held_out.prompts))
    longest = answer_length(corpus.held_out, sft.config.context)
    seed = 2 * begun.seed + 1 + 1_000 * draw
    ids = answer_prompts(policy, tokenizer, prompts, longest, seed, scoring(begun))
    said = [Encoded(tokenizer.encode_prompt(p), response) for p, response in zip(prompts, ids, strict=True)]
    kl, _ = estimate_kl(policy, sft, tokenizer, prompts, ids, scoring(begun))
    return Point(kl, fmean(rewards(setup, said))), said


def rewards(setup: Setup, said: list[Encoded]) -> list[float]:
    """The true reward of each answer."""
    tokenizer, corpus = setup.tokenizer, setup.corpus
    prompts = {tuple(tokenizer.encode_prompt(prompt)): prompt for prompt in corpus.held_out.prompts}
    asked = [prompts[tuple(answer.prompt)] for answer in said]
    return judged(corpus, tokenizer)(asked, [answer.response for answer in said])
