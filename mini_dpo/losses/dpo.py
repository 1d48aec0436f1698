"""DPO's loss, and how every loss here is written: a pure function from log-probabilities to a number per example.

sigma is the logistic function, and log sigma is always taken in its stable form, finite at any margin.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from mini_dpo.losses.closed_forms import logit
from mini_dpo.losses.inputs import PairLogps
from mini_dpo.losses.registry import loss, require


@loss(
    paper="Rafailov et al. 2023, arXiv:2305.18290, eq. 7",
    aliases=("sigmoid",),
    at_reference=lambda beta: math.log(2),
    best_margin=lambda p, beta: logit(p),
    swap_slope=lambda beta: -1,
)
def dpo(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """Direct Preference Optimization: the cross-entropy of a Bradley-Terry model whose reward is beta log(pi/ref).

        L = -log sigma(beta h)

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    Returns (B,), in nats. As in the paper.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return -F.logsigmoid(beta * logps.h)
