"""The two objectives of training, a batch in, a loss out: SFT, and preferences; and what is logged of them.

SFT makes demonstrated responses likely. Preference training makes what people chose likelier than what they
rejected, measured from a reference. The loop in training.py is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mini_dpo.batches import B, Batch, PairBatch
from mini_dpo.feedback import ContrastBatch, FeedbackBatch, contrast_logps, unpaired_logps, unpaired_metrics
from mini_dpo.logprobs import response_logps, score_responses
from mini_dpo.losses import Loss, PairLogps, UnpairedLogps
from mini_dpo.model import GPT
from mini_dpo.theory.bradley_terry import wins


class Outcome(NamedTuple):
    """What an objective makes of one batch.

    loss: (), the sum of the losses over the batch. count: how many were summed (response tokens for SFT,
    pairs for DPO). metrics: name -> (n,) values without gradient, whose mean is logged.
    """

    loss: Tensor
    count: int  # type: ignore[assignment]  # (a tuple has a method of this name)
    metrics: dict[str, Tensor]


Objective = Callable[[GPT, B], Outcome]


# --- SFT


def sft_objective(policy: GPT, batch: Batch) -> Outcome:
    """-log pi(response | prompt), summed over the batch; its mean is per response token, in nats."""
    logps = response_logps(policy, batch)  # (B,)
    return Outcome(-logps.sum(), batch.n_targets, {})


# --- preferences


def preference_objective(
    loss: Loss, hyperparameters: dict, reference: GPT | None, sft_weight: float = 0.0
) -> Objective[PairBatch | FeedbackBatch]:
    """The objective of a preference loss. reference: None if it has none, or each batch brings its log-probs.

    sft_weight: what the negative log-likelihood of the chosen (or liked) response, in nats per token, counts
    beside the loss (arXiv:2404.19733, with weight 1).
    """

    def objective(policy: GPT, batch: PairBatch | FeedbackBatch) -> Outcome:
        policy.eval()  # dropout off: its noise would be in the log-ratios, which are zero at the reference
        score: Any = unpaired_logps if isinstance(batch, FeedbackBatch) else pair_logps
        score = contrast_logps if isinstance(batch, ContrastBatch) else score
        logps = score(policy, reference, batch)
        losses = loss(logps, **hyperparameters)  # (B,)
        if sft_weight:
            losses = losses + sft_weight * sft_term(logps)
        return Outcome(losses.sum(), len(losses), preference_metrics(loss, logps, hyperparameters))

    return objective


def sft_term(logps: PairLogps | UnpairedLogps) -> Tensor:
    """-s(y) / |y| of the chosen responses; of single ones where they are liked, else 0: (B,)."""
    if isinstance(logps, PairLogps):
        return -logps.chosen.average
    return -logps.responses.average * logps.desirable


def pair_logps(policy: GPT, reference: GPT | None, batch: PairBatch) -> PairLogps:
    """Score a batch of pairs under both models; no gradient reaches the reference."""
    both = score_responses(policy, reference, batch.sequences, batch.ref_logps)  # 2B responses
    return PairLogps(chosen=both[0::2], rejected=both[1::2])


# --- what is logged, under the names that TRL gives it


@torch.no_grad()
def preference_metrics(
    loss: Loss, logps: PairLogps | UnpairedLogps, hyperparameters: dict
) -> dict[str, Tensor]:
    """What to watch in preference training: each (B,), without gradient, one value a pair or a response.

    A reward is the one that the policy implies under this loss, for DPO beta log(pi / ref), up to a constant
    of the prompt. An accuracy is 1 where the chosen response's is the larger, and 0.5 where the two are
    equal, as DPO's all are at the reference.
    """
    if isinstance(logps, UnpairedLogps):
        return unpaired_metrics(logps, loss.rewards(logps.responses, **hyperparameters).detach())
    chosen, rejected = (loss.rewards(y, **hyperparameters).detach() for y in (logps.chosen, logps.rejected))
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": wins(chosen, rejected),
        "logps/chosen": logps.chosen.policy.detach(),
        "logps/rejected": logps.rejected.policy.detach(),
    }
