"""The loop of policy optimisation: write, score, learn. It looks like training.py's, and differs in where the
data come from: each step's are written by the policy of that step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from mini_dpo.logprobs import token_logps
from mini_dpo.model import GPT
from mini_dpo.optimizers import LoopConfig, learning_rate, step_where
from mini_dpo.progress import Progress, ask_before_stopping
from mini_dpo.rlhf.algorithms import VALUE_WEIGHT, Algorithm, returns_of, value_loss, with_values
from mini_dpo.rlhf.reward import ScalarModel, per_response
from mini_dpo.rlhf.rollout import Rollout, Task, prompts_of, roll_out
from mini_dpo.saving.stages import Stage, StageFiles
from mini_dpo.training import check_finite, fetch

GRAD_CLIP = 1.0  # the largest norm of a gradient


class Learner(nn.Module):
    """What learns: the policy, and for PPO a value network beside it."""

    def __init__(self, policy: GPT, value: ScalarModel | None = None) -> None:
        super().__init__()
        self.policy, self.value = policy, value
        self.config = policy.config  # for the checkpoint


def optimise(
    learner: Learner, task: Task, algorithm: Algorithm, config: LoopConfig, files: StageFiles
) -> None:
    """Train the policy for `config.steps` steps, in place; log, save, and go on where a checkpoint left off.

    The prompts and the responses of a step depend on the seed and the step alone. Raises TrainingFailed if a
    loss, a gradient or a weight is no finite number, KeyboardInterrupt after Ctrl-C (once a checkpoint is
    written).
    """
    optimizer = AdamW(learner.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    model: Any = learner  # the checkpoint of a stage takes what has weights and a config
    stage = Stage(files, files.stage, model, optimizer, config.steps)
    if stage.finished:
        return
    progress = Progress(stage.name, stage.step, config.steps)
    with ask_before_stopping() as stop_asked:
        for step in range(stage.step, config.steps):
            done, rate = step + 1, learning_rate(step, config)
            prompts = prompts_of(task, config.seed, step)
            rollout = roll_out(learner.policy, task, prompts, config.seed * 1_000_003 + step)
            record = learn(learner, optimizer, rollout, task, algorithm, rate)
            numbers = fetch([record], stage.name, done)
            stage.write(numbers, done, [rate])
            if done % config.save_every == 0 or done == config.steps or stop_asked:
                check_finite(learner.policy, stage.name, done)
                stage.save(model, optimizer, done, finished=done == config.steps)
            progress.tokens += rollout.batch.n_tokens
            if progress.due(done):
                progress.report(done, numbers[0])
            if stop_asked:
                raise KeyboardInterrupt


def learn(
    learner: Learner, optimizer: Optimizer, rollout: Rollout, task: Task, algorithm: Algorithm, rate: float
) -> dict[str, Tensor]:
    """The passes over a step's responses; returns what to log, () each."""
    batch, value, returns = rollout.batch, learner.value, returns_of(rollout, task.beta)  # (S,)
    if algorithm.advantages:
        advantages = algorithm.advantages(returns, task.k)  # (S,)
    elif value:
        advantages, targets, before = with_values(value, rollout, task.beta)  # (R,) each
    taken = torch.tensor(True, device=returns.device)  # (), false from the first loss that is no number
    for _ in range(algorithm.passes):
        optimizer.zero_grad()
        loss = algorithm.loss(rollout, advantages, token_logps(learner.policy, batch))
        if value:
            values = value.values(batch, batch.index.rows)  # (R,)
            loss = loss + VALUE_WEIGHT * value_loss(values, before, targets)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(learner.parameters(), GRAD_CLIP)
        taken &= loss.isfinite() & norm.isfinite()
        step_where(taken, optimizer, rate)
    return {
        "loss": loss,
        "grad_norm": norm,
        "taken": taken,
        "rewards/score": rollout.scores.mean(),
        "rewards/objective": returns.mean(),
        "kl": per_response(batch, rollout.k1).mean(),
        "kl_k3": per_response(batch, rollout.k3).mean(),
        "unfinished": (~rollout.finished).float().mean(),
        "response_tokens": batch.lengths.float().mean(),
    }
