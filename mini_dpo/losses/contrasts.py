"""Losses that ask whether a response was about its prompt: mDPO, and what it is given.

DPO compares two responses to one prompt, and a policy can do that without a look at the prompt, where the
worse response shows by itself. Then one response is compared under two prompts too. One symbol is added to
those of inputs.py:

    r_o     the log-ratio of the chosen response y_w to another prompt x_o
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from mini_dpo.losses.hyperparameters import Beta, NonNegative
from mini_dpo.losses.inputs import PairLogps, Responses
from mini_dpo.losses.registry import loss


@dataclass(frozen=True)
class ContrastLogps(PairLogps):
    """B preference pairs, and in the same order each chosen response once more, to another prompt."""

    other: Responses

    @property
    def r_o(self) -> Tensor:
        """The log-ratios of the chosen responses to the other prompts: (B,)."""
        return self.other.logratio


@loss(paper="Wang et al. 2024, arXiv:2406.11839", mismatched=True)
def mdpo(
    logps: ContrastLogps, *, beta: Beta = 0.1, anchor: float = 0.0, pair_weight: NonNegative = 1.0
) -> Tensor:
    """Multimodal DPO: the chosen response also against itself to another prompt, and against the reference.

        L = -omega log sigma(beta h) - log sigma(beta r_w - beta r_o) - log sigma(beta r_w - delta)

    anchor: delta, the reward that a chosen response shall have at least
    pair_weight: omega, weight of DPO's own term; without it nothing is learned of the rejected response
    Returns (B,), in nats. The paper has omega = 1, and its other prompt is its image with a part cut out.
    Here it is the one that the data name, or else another one of the batch.
    """
    return (
        -pair_weight * F.logsigmoid(beta * logps.h)
        - F.logsigmoid(beta * (logps.r_w - logps.r_o))
        - F.logsigmoid(beta * logps.r_w - anchor)
    )
