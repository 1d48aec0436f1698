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

# (a batch of responses, the numbers of its prompts) -> a score for each response, (S,)
Score = Callable[[Batch, Sequence[int]], Tensor]


@dataclass(frozen=True)
class Rollout:
    """S = P k responses to P prompts, k for each, as one packed row: each prompt once.

    logps, ref_logps: (R,), of each response token, under the policy that wrote it and under the reference.
    scores: (S,), units of reward. finished: (S,) of bool, whether a response ends in end-of-text.
    """

    batch: Batch
    k: int
    logps: Tensor
    ref_logps: Tensor
    scores: Tensor
    finished: Tensor

    def per_response(self, values: Tensor) -> Tensor:
        """The sum over each response's tokens: (R,) -> (S,)."""
        return values.new_zeros(len(self.batch.lengths)).index_add(0, self.batch.index.owners, values)

    @property
    def log_ratios(self) -> Tensor:
        """log(policy / reference) of each token: (R,). Their sum over a response drawn from the policy is the
        estimator k1 of the KL divergence.
        """
        return self.logps - self.ref_logps

    def k3(self) -> Tensor:
        """The estimator k3 of the KL divergence of each token, r - 1 - log r with r = reference / policy:
        (R,). It is never negative. It is logged, and not trained on: as a loss its gradient is another
        (arXiv:2510.01555).
        """
        return self.log_ratios.neg().exp() - 1 + self.log_ratios


@torch.no_grad()
def roll_out(
    policy: GPT,
    reference: GPT,
    score: Score,
    prompts: Sequence[list[int]],
    numbers: Sequence[int],
    k: int,
    end_of_text: int,
    max_new_tokens: int,
    missing_end: float,
    seed: int,
) -> Rollout:
    """Draw k responses to each prompt from the policy, at temperature 1: then the log-probs that are scored
    are those that were drawn from.

    numbers: which prompts these are, for `score`. missing_end: the score of a response without end-of-text: a
    fixed low one, because the reward model has never seen a text that does not end (N+).
    """
    asked = [prompt for prompt in prompts for _ in range(k)]
    responses = generate(policy, asked, end_of_text=end_of_text, max_new_tokens=max_new_tokens, seed=seed)
    written = [Encoded(p, r) for p, r in zip(asked, responses, strict=True)]
    batch = pack([written[i : i + k] for i in range(0, len(written), k)])
    finished = torch.tensor([response[-1] == end_of_text for response in responses])  # (S,)
    policy.eval()  # dropout off, here and in every pass below
    scores = score(batch, [number for number in numbers for _ in range(k)])
    return Rollout(
        batch,
        k,
        token_logps(policy, batch),
        token_logps(reference, batch),
        torch.where(finished, scores, scores.new_tensor(missing_end)),
        finished,
    )
