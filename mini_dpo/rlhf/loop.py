"""The loop of policy optimisation: sample, score, learn. It looks like training.py's, and differs in where
the data
come from: each step's are written by the policy of that step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mini_dpo.logprobs import token_logps
from mini_dpo.model import GPT
from mini_dpo.optimizers import LoopConfig, learning_rate, step_where
from mini_dpo.progress import Progress, ask_before_stopping
from mini_dpo.rlhf.algorithms import (
    VALUE_WEIGHT,
    generalised_advantages,
    grpo_loss,
    leave_one_out,
    ppo_loss,
    reinforce_loss,
    returns_of,
    rloo_loss,
    standardised,
    token_rewards,
    value_loss,
    whitened,
)
from mini_dpo.rlhf.reward import ScalarModel
from mini_dpo.rlhf.rollout import Rollout, Score, roll_out
from mini_dpo.saving.stages import Stage, StageFiles
from mini_dpo.training import check_finite, fetch


@dataclass(frozen=True)
class Algorithm:
    """How to learn. loss: of a rollout, its advantages and the log-probs now. passes: over the responses of a
    step. k: responses to a prompt.
    """

    name: str
    loss: Callable[[Rollout, Tensor, Tensor], Tensor]
    passes: int
    k: int


ALGORITHMS = {
    "rloo": Algorithm("rloo", rloo_loss, passes=1, k=4),
    "ppo": Algorithm("ppo", ppo_loss, passes=4, k=1),
    "grpo": Algorithm("grpo", grpo_loss, passes=1, k=4),
    "reinforce": Algorithm("reinforce", reinforce_loss, passes=1, k=1),
}


class Learner(nn.Module):
    """What learns: the policy, and for PPO a value network beside it."""

    def __init__(self, policy: GPT, value: ScalarModel | None) -> None:
        super().__init__()
        self.policy, self.value = policy, value
        self.config = policy.config  # for the checkpoint


@dataclass(frozen=True)
class Task:
    """What is to be learned. prompts: token ids. score: of responses to the prompts of these numbers.
    beta: the price of a nat. n_prompts: prompts a step. missing_end: the score of an unfinished response.
    """

    reference: GPT
    score: Score
    prompts: Sequence[list[int]]
    end_of_text: int
    beta: float
    n_prompts: int
    max_new_tokens: int
    missing_end: float


def optimise(
    learner: Learner, task: Task, algorithm: Algorithm, config: LoopConfig, files: StageFiles
) -> None:
    """Train the policy for `config.steps` steps, in place; log, save, and go on where a checkpoint left off.

    The prompts and the responses of a step depend on the seed and the step alone. Raises TrainingFailed if a
    loss, a gradient or a weight is no finite number, KeyboardInterrupt after Ctrl-C (once a checkpoint is
    written).
    """
    parameters = list(learner.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    stage = Stage(files, files.stage, learner, optimizer, config.steps)  # type: ignore[arg-type]
    if stage.finished:
        return
    progress = Progress(stage.name, stage.step, config.steps)
    with ask_before_stopping() as stop_asked:
        for step in range(stage.step, config.steps):
            rollout = write(learner.policy, task, algorithm.k, config.seed, step)
            progress.tokens += rollout.batch.n_tokens
            record = learn(
                learner, optimizer, rollout, task, algorithm, learning_rate(step, config), config.grad_clip
            )
            done = step + 1
            numbers = fetch([record], stage.name, done)
            stage.write(numbers, done, [learning_rate(step, config)])
            if done % config.save_every == 0 or done == config.steps or stop_asked:
                check_finite(learner.policy, stage.name, done)
                stage.save(learner, optimizer, done, finished=done == config.steps)  # type: ignore[arg-type]
            if progress.due(done):
                progress.report(done, numbers[0])
            if stop_asked:
                raise KeyboardInterrupt


def write(policy: GPT, task: Task, k: int, seed: int, step: int) -> Rollout:
    """The responses of a step. Each pass over the prompts has an order of its own."""
    per_pass = max(1, len(task.prompts) // task.n_prompts)
    order = torch.Generator().manual_seed(seed * 1_000_003 + step // per_pass)
    first = step % per_pass * task.n_prompts
    numbers = torch.randperm(len(task.prompts), generator=order).tolist()[first : first + task.n_prompts]
    return roll_out(
        policy,
        task.reference,
        task.score,
        [task.prompts[i] for i in numbers],
        numbers,
        k,
        task.end_of_text,
        task.max_new_tokens,
        task.missing_end,
        seed=seed * 1_000_003 + step,
    )


def learn(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    task: Task,
    algorithm: Algorithm,
    rate: float,
    grad_clip: float,
) -> dict[str, Tensor]:
    """The passes over a step's responses; returns what to log, () each."""
    returns = returns_of(rollout, task.beta)  # (S,)
    advantages, targets, before = advantages_of(learner.value, rollout, returns, task.beta, algorithm)
    record: dict[str, Any] = {}
    for _ in range(algorithm.passes):
        optimizer.zero_grad()
        logps = token_logps(learner.policy, rollout.batch)  # (R,)
        loss = algorithm.loss(rollout, advantages, logps)
        if learner.value is not None:
            values = learner.value.at(rollout.batch, rollout.batch.index.rows)  # (R,)
            loss = loss + VALUE_WEIGHT * value_loss(values, before, targets)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(learner.parameters(), grad_clip)
        record = {"loss": loss.detach(), "grad_norm": norm}
        record["taken"] = loss.detach().isfinite() & norm.isfinite()
        if not record["taken"]:
            break
        step_where(record["taken"], optimizer, rate)
    k1, k3 = (rollout.per_response(tokens).mean() for tokens in (rollout.log_ratios, rollout.k3()))
    return record | {
        "rewards/score": rollout.scores.mean(),
        "rewards/objective": returns.mean(),
        "kl": k1,
        "kl_k3": k3,
        "unfinished": (~rollout.finished).float().mean(),
        "response_tokens": rollout.batch.lengths.float().mean(),
    }


@torch.no_grad()
def advantages_of(
    value: ScalarModel | None, rollout: Rollout, returns: Tensor, beta: float, algorithm: Algorithm
) -> tuple[Tensor, Tensor, Tensor]:
    """(advantages, what the value network should say, what it says now). The latter two are PPO's, (R,); the
    advantages are PPO's per token, (R,), and the others' per response, (S,).
    """
    if value is None:
        none = returns.new_zeros(0)
        if algorithm.name == "grpo":
            return standardised(returns, rollout.k), none, none
        return (
            leave_one_out(returns, len(returns) if algorithm.name == "reinforce" else rollout.k),
            none,
            none,
        )
    values = value.at(rollout.batch, rollout.batch.index.rows)  # (R,), before each token
    advantages = generalised_advantages(token_rewards(rollout, beta), values, rollout.batch.lengths)
    return whitened(advantages), advantages + values, values
