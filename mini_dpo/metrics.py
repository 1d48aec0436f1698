"""The numbers that get logged, under the names that TRL gives them."""

from __future__ import annotations

import torch
from torch import Tensor

from mini_dpo.registry import Loss, PairLogps, UnpairedLogps


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
