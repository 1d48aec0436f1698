"""The numbers that get logged, under the names that TRL gives them."""

from __future__ import annotations

import torch
from torch import Tensor

from mini_dpo.registry import Loss, PairLogps, UnpairedLogps


@torch.no_grad()
def preference_metrics(loss: Loss, logps: PairLogps | UnpairedLogps, hyperparameters: dict) -> dict[str, Tensor]:
    """What to watch in preference training: each (B,), without gradient, one value a pair or a response, or nan where
    a response has none. (Picking the others out would make a GPU wait for the count of them.)

    A reward is the one that the policy implies under this loss, for DPO beta log(pi / ref), up to a constant of the
    prompt. An accuracy is 1 where the chosen response's is the larger, and 0 where the two are equal, as they all are
    at the reference; of a single response, 1 where its reward is above 0 and it is liked, or below and it is not. For
    single responses, "chosen" are the liked ones.
    """
    if isinstance(logps, PairLogps):
        chosen, rejected = (loss.rewards(responses, **hyperparameters) for responses in (logps.chosen, logps.rejected))
        comparison = {"rewards/margins": chosen - rejected, "rewards/accuracies": (chosen > rejected).to(chosen.dtype)}
        s_w, s_l = logps.chosen.policy, logps.rejected.policy
    else:
        rewards, liked = loss.rewards(logps.responses, **hyperparameters), logps.desirable
        where = lambda values, mask: torch.where(mask, values, torch.nan)  # noqa: E731
        chosen, rejected = where(rewards, liked), where(rewards, ~liked)
        comparison = {"rewards/accuracies": torch.where(liked, rewards > 0, rewards < 0).to(rewards.dtype)}
        if logps.mismatched is not None:
            comparison["kl"] = logps.mismatched.mean().clamp(min=0)[None]
        s_w, s_l = where(logps.responses.policy, liked), where(logps.responses.policy, ~liked)
    logged = {"rewards/chosen": chosen, "rewards/rejected": rejected, **comparison, "logps/chosen": s_w, "logps/rejected": s_l}
    return {name: values.detach() for name, values in logged.items()}
