"""The numbers that get logged, under the names that TRL gives them."""

from __future__ import annotations

from torch import Tensor

from mini_dpo.losses import PairLogps


def preference_metrics(logps: PairLogps, beta: float) -> dict[str, Tensor]:
    """What to watch in preference training: each (B,), without gradient, one value a pair.

    A reward is beta log(pi / ref), the implicit reward up to a constant of the prompt. An accuracy is 1 where the
    chosen response's is the larger, and 0 where the two are equal, as they all are at the reference.
    """
    chosen, rejected = beta * logps.chosen_logratio.detach(), beta * logps.rejected_logratio.detach()
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
        "logps/chosen": logps.policy_chosen.detach(),
        "logps/rejected": logps.policy_rejected.detach(),
    }
