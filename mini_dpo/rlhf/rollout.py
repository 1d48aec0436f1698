"""What the policy writes, and what that is worth: the data of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mini_dpo.batches import Batch, Encoded, pack
from mini_dpo.generate import generate
from mini_dpo.logprobs import token_logps
from mini_dpo.model import GPT

# (S responses, the same as a batch) -> the score of each, (S,)
Score = Callable[[Sequence[Encoded], Batch], Tensor]


@dataclass(frozen=True)
class Task:
    """What is to be learned. prompts: token ids. beta: the price of a nat. n_prompts: prompts per step, with
    k responses each. missing_end: the score of a response without end-of-text: a fixed low one, because the
    reward model has never seen a text that does not end (N+).
    """

    reference: GPT
    score: Score
    prompts: Sequence[list[int]]
    end_of_text: int
    beta: float
    n_prompts: int
    k: int
    max_new_tokens: int
    missing_end: float = -10.0


@dataclass(frozen=True)
class Rollout:
    """S = P k responses to P prompts, k for each, as one packed row: each prompt once.

    logps, ref_logps: (R,), of each response token, under the policy that wrote it and under the reference.
    scores: (S,), units of reward. finished: (S,) of bool, whether a response ends in end-of-text.
    """

    batch: Batch
    logps: Tensor
    ref_logps: Tensor
    scores: Tensor
    finished: Tensor

    @property
    def k1(self) -> Tensor:
        """log(policy / reference) of each token: (R,). Its sum over a response drawn from the policy is an
        estimate of the KL divergence.
        """
        return self.logps - self.ref_logps

    @property
    def k3(self) -> Tensor:
        """r - 1 - log r of each token, with r = reference / policy: (R,). Its sum is an estimate too, and is
        never negative. It is logged, and not trained on: its gradient is another (arXiv:2510.01555).
        """
        return self.k1.neg().exp() - 1 + self.k1


def prompts_of(task: Task, seed: int, step: int) -> list[list[int]]:
    """The prompts of a step. Each pass over all prompts has an order of its own."""
    per_pass = max(1, len(task.prompts) // task.n_prompts)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step // per_pass)
    order = torch.randperm(len(task.prompts), generator=generator).tolist()
    return [task.prompts[i] for i in order[step % per_pass * task.n_prompts :][: task.n_prompts]]


@torch.no_grad()
def roll_out(policy: GPT, task: Task, prompts: Sequence[list[int]], seed: int) -> Rollout:
    """k responses to each prompt, drawn at temperature 1: then the log-probs that are scored are those that
    were drawn from.
    """
    asked, end = [prompt for prompt in prompts for _ in range(task.k)], task.end_of_text
    said = generate(policy, asked, end_of_text=end, max_new_tokens=task.max_new_tokens, seed=seed)
    written = [Encoded(prompt, response) for prompt, response in zip(asked, said, strict=True)]
    device = policy.wte.weight.device
    batch = pack([written[i : i + task.k] for i in range(0, len(written), task.k)]).to(device)
    policy.eval()  # dropout off, here and in every pass below
    scores = task.score(written, batch).to(device)  # (S,)
    finished = torch.tensor([response[-1] == end for response in said], device=device)  # (S,)
    scores = torch.where(finished, scores, task.missing_end)
    return Rollout(batch, token_logps(policy, batch), token_logps(task.reference, batch), scores, finished)
