"""Train a run's SFT model with a reward model and reinforcement learning, and set it beside DPO.

python -m mini_dpo.rlhf runs/1                                    a reward model, then RLOO
python -m mini_dpo.rlhf runs/1 --algorithm ppo --reward true      PPO on the judge's own reward
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from mini_dpo.batches import Batch, Batches, EncodedPair, collate_pairs
from mini_dpo.cli import option, parser_for, run_command
from mini_dpo.corpus.parts import Corpus
from mini_dpo.errors import UserError
from mini_dpo.evaluation.measuring import answer_length, evaluate
from mini_dpo.evaluation.table import closing_rows, table_of
from mini_dpo.files import locked, read_json, write_json, write_jsonl
from mini_dpo.losses import find_loss
from mini_dpo.model import GPT
from mini_dpo.optimizers import LoopConfig
from mini_dpo.reference import freeze
from mini_dpo.rlhf.loop import ALGORITHMS, Learner, Task, optimise
from mini_dpo.rlhf.reward import ScalarModel, calibration, mean_score, reward_objective, scores_of
from mini_dpo.saving.checkpoint import load_frozen, save_checkpoint
from mini_dpo.saving.stages import StageFiles
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.train.parsing import code_of, read_config
from mini_dpo.train.preparing import prepare
from mini_dpo.train.settings import Settings
from mini_dpo.train.stages import scoring
from mini_dpo.training import train
from mini_dpo.worlds.world import reward


@dataclass(frozen=True)
class RlhfSettings:
    """How to train."""

    algorithm: str = option(str, "how to learn from scores", "rloo", tuple(ALGORITHMS))
    reward: str = option(
        str,
        "learned: from the run's preferences; true: the judge's own, as a perfect reward model would give it",
        "learned",
        ("learned", "true"),
    )
    beta: float = option(float, "price of a nat of KL divergence, in units of reward", 0.3)
    steps: int = option(int, "steps of policy optimisation", 200)
    lr: float = option(float, "peak learning rate of the policy", 3e-4)
    reward_lr: float = option(float, "peak learning rate of the reward model", 1e-3)
    reward_epochs: float = option(float, "passes over the preferences", 1.0)
    responses: int = option(int, "responses a step; rloo and grpo write 4 to a prompt", 128)
    seed: int = option(int, "of the heads, the order of the prompts and the responses", 0)
    run_code: bool = option(
        bool, "run the file of the world or the judge that RUN was made with; only if you know it", False
    )
    out: str | None = option(str, "the new folder (default: RUN/ALGORITHM-REWARD)", metavar="PATH")


def main() -> None:
    parser = parser_for(
        RlhfSettings,
        "rlhf",
        "Train a run's SFT model with a reward model and reinforcement learning, and set it beside DPO.",
        arguments="RUN ",
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run")
    given = vars(parser.parse_args())
    run = Path(given.pop("run"))
    settings = RlhfSettings(**given)
    check(settings)
    begun, _ = read_config(run)
    dpo = find_loss("dpo")
    begun = replace(begun, loss="dpo", loss_options=dict(dpo.hyperparameters))
    if (code := code_of(begun)) and not settings.run_code:
        raise UserError(f"{run} runs code of a file ({', '.join(code.values())}); if you know it: --run-code")
    begun, tokenizer, _, corpus = prepare(begun)
    if settings.reward == "true" and corpus.held_out.judge is None:
        raise UserError("--reward true needs a world whose judge is known, such as the toy shop")
    if not corpus.preferences or not isinstance(corpus.preferences[0], EncodedPair):
        raise UserError(f"{run}: a reward model is fitted to pairs, and this run has none")
    folder = Path(settings.out) if settings.out else run / f"{settings.algorithm}-{settings.reward}"
    (folder / "reward").mkdir(parents=True, exist_ok=True)
    with locked(folder):
        keep_settings(folder, {**asdict(settings), "out": None, "run_code": None, "run": begun.id})
        sft = load_frozen(run / "sft.pt", begun.device)
        judge = fit_reward(settings, folder, tokenizer, sft, corpus, begun.id)
        policy = fit_policy(settings, folder, tokenizer, sft, judge, corpus, begun)
        compare(settings, run, folder, tokenizer, sft, policy, corpus, begun)


def keep_settings(folder: Path, settings: dict) -> None:
    """Write the settings into the folder, or find them there. Raises UserError if it has others."""
    path = folder / "config.json"
    if path.exists() and read_json(path) != settings:
        raise UserError(f"{folder} was made with other settings; choose another --out")
    write_json(path, settings)


def check(settings: RlhfSettings) -> None:
    """Raise UserError for a setting out of range."""
    for name in ("beta", "lr", "reward_lr", "reward_epochs", "steps"):
        if getattr(settings, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} must be positive, not {getattr(settings, name)}")
    k = ALGORITHMS[settings.algorithm].k
    if settings.responses <= 1 or settings.responses % k:
        raise UserError(f"--responses must be a multiple of {k}, 2 at least, not {settings.responses}")
    if not 0 <= settings.seed < 2**31:
        raise UserError(f"--seed must be in [0, 2^31), not {settings.seed}")


def fit_reward(
    settings: RlhfSettings, folder: Path, tokenizer: Tokenizer, sft: GPT, corpus: Corpus, run: str
) -> ScalarModel:
    """The reward model, fitted to the preferences, and what it is worth on held-out pairs."""
    torch.manual_seed(settings.seed)
    model = ScalarModel(freeze(sft).requires_grad_(True))
    pairs = cast(list[EncodedPair], corpus.preferences)
    batches = Batches(pairs, collate_pairs, 32, settings.seed)
    steps = batches.count(settings.reward_epochs)
    config = LoopConfig(steps=steps, lr=settings.reward_lr, warmup=steps // 10, seed=settings.seed)
    train(
        model,
        reward_objective,
        batches,
        config,
        StageFiles("reward", folder / "reward", tokenizer.name, run=run),
    )
    right, lines = calibration(model, corpus.held_out.pairs)
    print(f"reward model: right about {right:.3f} of {len(corpus.held_out.pairs)} held-out pairs")
    print("\n".join(f"  {line}" for line in lines), flush=True)
    return model.eval().requires_grad_(False)


def fit_policy(
    settings: RlhfSettings,
    folder: Path,
    tokenizer: Tokenizer,
    sft: GPT,
    judge: ScalarModel,
    corpus: Corpus,
    begun: Settings,
) -> GPT:
    """The policy after policy optimisation. It is also kept as `policy.pt`."""
    algorithm = ALGORITHMS[settings.algorithm]
    centre = mean_score(judge, corpus.responses[:512]) if settings.reward == "learned" else 0.0
    pairs = cast(list[EncodedPair], corpus.preferences)
    prompts = list(dict.fromkeys(tuple(pair.chosen.prompt) for pair in pairs))
    texts = [tokenizer.decode(prompt[1:-1]) for prompt in prompts]

    def learned(batch: Batch, numbers: Sequence[int]) -> Tensor:
        return scores_of(judge, batch) - centre

    def true(batch: Batch, numbers: Sequence[int]) -> Tensor:
        assert corpus.held_out.judge
        said = batch.index.targets.split(batch.lengths.tolist())
        answers = [tokenizer.decode_response(tokens.tolist()) for tokens in said]
        return torch.tensor(
            [
                reward(corpus.held_out.judge(texts[i], answer))
                for i, answer in zip(numbers, answers, strict=True)
            ]
        )

    learner = Learner(freeze(sft).requires_grad_(True), None)
    if settings.algorithm == "ppo":  # the value network begins as the reward model (N+)
        value = ScalarModel(freeze(sft).requires_grad_(True))
        value.load_state_dict(judge.state_dict())
        learner = Learner(learner.policy, value)
    task = Task(
        sft,
        learned if settings.reward == "learned" else true,
        [list(prompt) for prompt in prompts],
        tokenizer.end_of_text,
        settings.beta,
        settings.responses // algorithm.k,
        answer_length(corpus.held_out, sft.config.context),
        missing_end=-1.0 if settings.reward == "learned" else -10.0,
    )
    config = LoopConfig(
        settings.steps, settings.lr, warmup=settings.steps // 10, seed=settings.seed, save_every=20
    )
    files = StageFiles(settings.algorithm, folder, tokenizer.name, run=begun.id)
    optimise(learner, task, algorithm, config, files)
    save_checkpoint(
        folder / "policy.pt", learner.policy, tokenizer.name, stage="dpo", step=settings.steps, finished=True
    )
    return learner.policy.eval()


def compare(
    settings: RlhfSettings,
    run: Path,
    folder: Path,
    tokenizer: Tokenizer,
    sft: GPT,
    policy: GPT,
    corpus: Corpus,
    begun: Settings,
) -> None:
    """Measure the policy on the run's held-out prompts and print its table, with the run's own beside it."""
    dpo = find_loss("dpo")
    hyper = {**dpo.hyperparameters, "beta": settings.beta}
    summary, samples = evaluate(
        sft, policy, dpo, hyper, tokenizer, corpus.held_out, begun.seed, scoring(begun)
    )
    summary["loss"] = settings.algorithm
    write_jsonl(folder / "samples.jsonl", samples)
    write_json(folder / "summary.json", summary)
    rows = closing_rows(summary)
    path = run / "summary.json"
    if path.exists() and "dpo" in (other := read_json(path)):
        theirs = {row[0]: row[-1] for row in closing_rows(other)}
        rows = [[*row, theirs.get(row[0], "")] for row in rows]
    print("\n" + table_of(rows))


if __name__ == "__main__":
    run_command(main)
