"""The two objectives of training, a batch in, a loss out: SFT, and preferences; and the numbers that are logged of them.

SFT makes demonstrated responses likely. Preference training makes what people chose likelier than what they rejected,
measured from a reference. The loop in training.py is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mini_dpo.batches import AnyBatch, Batch, FeedbackBatch, PairBatch
from mini_dpo.logprobs import response_logps
from mini_dpo.losses import Loss, PairLogps, Responses, UnpairedLogps
from mini_dpo.model import GPT


class Outcome(NamedTuple):
    """What an objective makes of one batch.

    loss: (), the sum of the losses over the batch. count: how many were summed (response tokens for SFT, pairs for
    DPO). metrics: name -> (n,) values without gradient, whose mean is logged.
    """

    loss: Tensor
    count: int
    metrics: dict[str, Tensor]


Objective = Callable[[GPT, AnyBatch], Outcome]


# ---------------------------------------------------------------------------------------------------------------- SFT


def sft_objective(policy: GPT, batch: Batch) -> Outcome:
    """-log pi(response | prompt), summed over the batch; its mean is per response token, in nats."""
    logps = response_logps(policy, batch)  # (B,)
    return Outcome(-logps.sum(), batch.n_targets, {})


# -------------------------------------------------------------------------------------------------------- preferences


def preference_objective(loss: Loss, hyperparameters: dict, reference: GPT | None, sft_weight: float = 0.0) -> Objective:
    """The objective of a preference loss. reference: None if the loss has none, or every batch brings its log-probs.

    sft_weight: what the negative log-likelihood of the chosen (or liked) response, in nats a token, counts beside the
    loss (arXiv:2404.19733, with weight 1).
    """

    def objective(policy: GPT, batch: PairBatch | FeedbackBatch) -> Outcome:
        policy.eval()  # dropout off: its noise would stand in the log-ratios, which are zero at the reference
        logps = pair_logps(policy, reference, batch) if isinstance(batch, PairBatch) else unpaired_logps(policy, reference, batch)
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


def unpaired_logps(policy: GPT, reference: GPT | None, batch: FeedbackBatch) -> UnpairedLogps:
    """Score a batch of single responses under both models, and the mismatched ones, if any, without gradient."""
    responses = score_responses(policy, reference, batch.sequences, batch.ref_logps)
    mismatched = None
    if batch.mismatched is not None:
        with torch.no_grad():
            mismatched = score_responses(policy, reference, batch.mismatched, None).logratio  # (M,)
    return UnpairedLogps(responses, batch.desirable, mismatched)


def score_responses(policy: GPT, reference: GPT | None, sequences: Batch, ref_logps: Tensor | None) -> Responses:
    """The log-probs of a batch's responses under the policy, and under the reference if there is one."""
    policy_logps = response_logps(policy, sequences)  # (B,)
    if ref_logps is None and reference is not None:
        ref_logps = score_reference(reference, sequences)
    return Responses(policy_logps, sequences.lengths, ref_logps)


@torch.no_grad()
def score_reference(reference: GPT, sequences: Batch) -> Tensor:
    """The reference's log-probs of a batch's responses: (B,)."""
    return response_logps(reference, sequences)


# ------------------------------------------------------------------ what is logged, under the names that TRL gives it


def wins(ours: Tensor | float, theirs: Tensor | float) -> Tensor:
    """1 where ours is the larger, 0 where theirs is; ties count half: elementwise, in float32."""
    return (ours > theirs) + 0.5 * (ours == theirs)


@torch.no_grad()
def preference_metrics(loss: Loss, logps: PairLogps | UnpairedLogps, hyperparameters: dict) -> dict[str, Tensor]:
    """What to watch in preference training: each (B,), without gradient, one value a pair or a response, or nan where
    a response has none. (Picking the others out would make a GPU wait for the count of them.)

    A reward is the one that the policy implies under this loss, for DPO beta log(pi / ref), up to a constant of the
    prompt. An accuracy is 1 where the chosen response's is the larger, and 0.5 where the two are equal, as DPO's all are
    at the reference; of a single response, 1 where its reward is above 0 and it is liked, or below and it is not, and 0.5
    where it is 0. For single responses, "chosen" are the liked ones.
    """
    if isinstance(logps, PairLogps):
        chosen, rejected = (loss.rewards(responses, **hyperparameters) for responses in (logps.chosen, logps.rejected))
        comparison = {"rewards/margins": chosen - rejected, "rewards/accuracies": wins(chosen, rejected)}
        s_w, s_l = logps.chosen.policy, logps.rejected.policy
    else:
        rewards, liked = loss.rewards(logps.responses, **hyperparameters), logps.desirable
        where = lambda values, mask: torch.where(mask, values, torch.nan)  # noqa: E731
        chosen, rejected = where(rewards, liked), where(rewards, ~liked)
        comparison = {"rewards/accuracies": torch.where(liked, wins(rewards, 0), wins(0, rewards))}
        if logps.mismatched is not None:
            comparison["kl"] = logps.mismatched.mean().clamp(min=0)[None]
        s_w, s_l = where(logps.responses.policy, liked), where(logps.responses.policy, ~liked)
    logged = {"rewards/chosen": chosen, "rewards/rejected": rejected, **comparison, "logps/chosen": s_w, "logps/rejected": s_l}
    return {name: values.detach() for name, values in logged.items()}
