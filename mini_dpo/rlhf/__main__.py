"""Train a run's SFT model with a reward model and reinforcement learning, and set it beside DPO.

python -m mini_dpo.rlhf runs/1                                    a reward model, then RLOO
python -m mini_dpo.rlhf runs/1 --algorithm ppo --reward true      PPO on the judge's own reward
python -m mini_dpo.rlhf runs/1 --algorithm dpo --beta 0.3         online DPO, labelled by the reward model
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from mini_dpo.batches import Batch, Batches, Encoded, EncodedPair, collate, collate_pairs
from mini_dpo.cli import option, parser_for, run_command
from mini_dpo.corpus.parts import Corpus
from mini_dpo.data import Prompt
from mini_dpo.errors import UserError, flag
from mini_dpo.evaluation.measuring import answer_length, evaluate
from mini_dpo.evaluation.table import closing_rows, table_of
from mini_dpo.files import locked, read_json, write_json, write_jsonl
from mini_dpo.losses import find_loss
from mini_dpo.model import GPT
from mini_dpo.objectives import preference_objective
from mini_dpo.optimizers import LoopConfig
from mini_dpo.reference import freeze
from mini_dpo.rlhf.algorithms import ALGORITHMS
from mini_dpo.rlhf.loop import Learner, optimise
from mini_dpo.rlhf.reward import ScalarModel, calibration, reward_objective, score_all
from mini_dpo.rlhf.rollout import Task
from mini_dpo.saving.checkpoint import load_frozen, save_checkpoint
from mini_dpo.saving.stages import StageFiles
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.train.online import OnlineBatches, Rounds, judged
from mini_dpo.train.parsing import read_config, refuse_code
from mini_dpo.train.preparing import prepare
from mini_dpo.train.settings import Settings
from mini_dpo.train.stages import scoring
from mini_dpo.training import score, train

ROUNDS = 3  # of online DPO
REWARD = (
    "tokens: a reward model that sums over the response's tokens; last: the usual one, which reads the score "
    "at the last token; true: the judge's own, as a perfect reward model would give it"
)


@dataclass(frozen=True)
class RlhfSettings:
    """How to train."""

    algorithm: str = option(
        str,
        "how to learn from scores; dpo is online DPO, whose pairs the policy writes and the scores label",
        "rloo",
        (*ALGORITHMS, "dpo"),
    )
    reward: str = option(str, REWARD, "tokens", ("tokens", "last", "true"))
    beta: float = option(float, "price of a nat of KL divergence, in units of reward", 0.5)
    steps: int = option(int, "steps of policy optimisation", 60)
    lr: float = option(float, "peak learning rate of the policy", 3e-4)
    reward_lr: float = option(float, "peak learning rate of the reward model", 1e-3)
    reward_epochs: float = option(float, "passes over the preferences", 1.0)
    responses: int = option(int, "responses per step; rloo and grpo write 4 to a prompt", 128)
    seed: int = option(int, "of the heads, the order of the prompts and the responses", 0)
    run_code: bool = option(
        bool, "run the file of the world or the judge that RUN was made with; only if you know it", False
    )
    out: str | None = option(str, "the new folder (default: RUN/ALGORITHM-REWARD)", metavar="PATH")


class Setup(NamedTuple):
    """What every part needs. begun: the settings of the run whose SFT model this begins with."""

    settings: RlhfSettings
    begun: Settings
    folder: Path
    tokenizer: Tokenizer
    sft: GPT
    corpus: Corpus


def main() -> None:
    about = "Train a run's SFT model with a reward model and reinforcement learning, and set it beside DPO."
    parser = parser_for(RlhfSettings, "rlhf", about, arguments="RUN ")
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run")
    given = vars(parser.parse_args())
    run = Path(given.pop("run"))
    settings = RlhfSettings(**given)
    check(settings)
    begun = replace(read_config(run)[0], loss="dpo", loss_options=find_loss("dpo").hyperparameters)
    refuse_code(run, begun, settings.run_code)
    begun, tokenizer, _, corpus = prepare(begun)
    if settings.reward == "true":
        judged(corpus, tokenizer)  # raises UserError without a judge
    if not (corpus.preferences and corpus.held_out.pairs):
        raise UserError(f"{run}: a reward model is fitted to pairs and tried on held-out ones; here are none")
    folder = Path(settings.out) if settings.out else run / f"{settings.algorithm}-{settings.reward}"
    (folder / "reward").mkdir(parents=True, exist_ok=True)
    with locked(folder):
        asked = {**asdict(settings), "out": None, "run_code": None, "run": begun.id}
        config = folder / "config.json"
        if config.exists() and read_json(config) != asked:
            raise UserError(f"{folder} was made with other settings; choose another --out")
        write_json(config, asked)
        sft = load_frozen(run / "sft.pt", begun.device)
        setup = Setup(settings, begun, folder, tokenizer, sft, corpus)
        fit = fit_online if settings.algorithm == "dpo" else fit_policy
        policy = fit(setup, fit_reward(setup))
        compare(setup, policy, run / "summary.json")


def check(settings: RlhfSettings) -> None:
    """Raise UserError for a setting out of range."""
    k = 2 if settings.algorithm == "dpo" else ALGORITHMS[settings.algorithm].k
    for name in ("beta", "lr", "reward_lr", "reward_epochs", "steps"):
        if getattr(settings, name) <= 0:
            raise UserError(f"{flag(name)} must be positive, not {getattr(settings, name)}")
    if settings.responses <= 1 or settings.responses % k:
        raise UserError(f"--responses must be a multiple of {k}, 2 at least, not {settings.responses}")
    if not 0 <= settings.seed < 2**31:
        raise UserError(f"--seed must be in [0, 2^31), not {settings.seed}")


def fit_reward(setup: Setup) -> ScalarModel | None:
    """The reward model, fitted to the preferences. None where nothing asks for one."""
    settings, begun, folder, tokenizer, sft, corpus = setup
    if settings.reward == "true" and settings.algorithm != "ppo":
        return None
    torch.manual_seed(settings.seed)
    rows = tokenizer.vocab_size if settings.reward == "tokens" else 1
    model = ScalarModel(sft, rows).to(begun.device)
    pairs, held_out = cast(list[EncodedPair], corpus.preferences), corpus.held_out.pairs
    batches, unseen = (Batches(these, collate_pairs, 32, settings.seed) for these in (pairs, held_out))
    steps = batches.count(settings.reward_epochs)
    config = LoopConfig(steps, settings.reward_lr, steps // 10, seed=settings.seed)
    files = StageFiles("reward", folder / "reward", tokenizer.name, run=begun.id)
    train(model, reward_objective, batches, config, files)
    right = score(model.requires_grad_(False), reward_objective, unseen, "float32")["rewards/accuracies"]
    print(f"reward model: right about {right:.3f} of {len(held_out)} held-out pairs")
    for sure, hit in calibration(model, held_out):
        print(f"  sure to {sure:.2f}, right about {hit:.2f}", flush=True)
    if corpus.responses:  # then 0 is as good as the SFT data (N+)
        demonstrated = collate(corpus.responses[:256]).to(model.bias.device)
        model.bias.sub_(model.scores(demonstrated).mean())
    return model


def fit_policy(setup: Setup, model: ScalarModel | None) -> GPT:
    """The policy after policy optimisation. It is also kept as `policy.pt`."""
    settings, begun, folder, tokenizer, sft, corpus = setup
    algorithm = ALGORITHMS[settings.algorithm]
    prompts = {tuple(tokenizer.encode_prompt(prompt)): prompt for prompt in corpus.prompts}

    def judge(written: Sequence[Encoded], batch: Batch) -> Tensor:
        if settings.reward != "true":
            assert model
            return model.scores(batch)
        asked = [prompts[tuple(sequence.prompt)] for sequence in written]
        return torch.tensor(judged(corpus, tokenizer)(asked, [sequence.response for sequence in written]))

    learner = Learner(freeze(sft).requires_grad_(True))
    if settings.algorithm == "ppo":  # the value network begins as the reward model (N+)
        assert model
        learner.value = copy.deepcopy(model) if len(model.head) == 1 else ScalarModel(model, 1)
        learner.value.requires_grad_(True)
    longest = answer_length(corpus.held_out, sft.config.context)
    n_prompts = settings.responses // algorithm.k
    ids = list(map(list, prompts))
    task = Task(sft, judge, ids, tokenizer.end_of_text, settings.beta, n_prompts, algorithm.k, longest)
    config = LoopConfig(settings.steps, settings.lr, settings.steps // 10, seed=settings.seed, save_every=20)
    files = StageFiles(settings.algorithm, folder, tokenizer.name, run=begun.id)
    optimise(learner, task, algorithm, config, files)
    kept = dict(stage="dpo", step=settings.steps, finished=True)
    save_checkpoint(folder / "policy.pt", learner.policy, tokenizer.name, **kept)
    return learner.policy.eval()


def fit_online(setup: Setup, model: ScalarModel | None) -> GPT:
    """The policy after online DPO: in each round it writes pairs, and the Bradley-Terry model of the scores
    labels them. It is also kept as `dpo.pt`.
    """
    settings, begun, folder, tokenizer, sft, corpus = setup

    def learned(prompts: Sequence[Prompt], responses: Sequence[list[int]]) -> list[float]:
        assert model
        asked = map(tokenizer.encode_prompt, prompts)
        written = [Encoded(*pair) for pair in zip(asked, responses, strict=True)]
        return score_all(model, written).tolist()

    policy, size = freeze(sft).requires_grad_(True), settings.responses // 2  # pairs per step
    steps = max(1, settings.steps // ROUNDS)
    shape = Rounds(ROUNDS, steps * size, steps, size, settings.seed)
    by = judged(corpus, tokenizer) if settings.reward == "true" else learned
    batches: Any = OnlineBatches(policy, sft, tokenizer, corpus, by, folder, shape)
    objective = preference_objective(find_loss("dpo"), {**begun.loss_options, "beta": settings.beta}, None)
    config = LoopConfig(ROUNDS * steps, settings.lr, ROUNDS * steps // 10, seed=settings.seed, save_every=20)
    train(policy, objective, batches, config, StageFiles("dpo", folder, tokenizer.name, run=begun.id))
    return policy.eval()


def compare(setup: Setup, policy: GPT, theirs: Path) -> None:
    """Measure the policy on the run's held-out prompts and print its table, with the run's own beside it."""
    settings, begun, folder, tokenizer, sft, corpus = setup
    hyper = {**begun.loss_options, "beta": settings.beta}
    summary, samples = evaluate(
        sft, policy, find_loss("dpo"), hyper, tokenizer, corpus.held_out, begun.seed, scoring(begun)
    )
    summary["loss"] = settings.algorithm
    write_jsonl(folder / "samples.jsonl", samples)
    write_json(folder / "summary.json", summary)
    rows = closing_rows(summary)
    if theirs.exists() and "dpo" in (other := read_json(theirs)):
        column = {row[0]: row[-1] for row in closing_rows(other)}
        rows = [[*row, column.get(row[0], "")] for row in rows]
    print("\n" + table_of(rows))


if __name__ == "__main__":
    run_command(main)
