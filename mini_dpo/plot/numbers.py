"""The numbers of the pictures of losses: a loss along the margin. Only torch is needed. (The numbers of a run
are read by saving/metrics.py.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mini_dpo.errors import UserError
from mini_dpo.losses import Loss
from mini_dpo.theory.probe import along_margin, margin, one_by_one, value

FARTHEST = 118.0  # nats of h: the chosen response gains half of them, and its log-prob stays negative
LARGEST_MARGIN = 6.0  # the margin at which a curve ends


class Curve(NamedTuple):
    """A loss along the margin, (N,) each, in float64. margin: m, rising. value: L. slope: dL/dm."""

    margin: Tensor
    value: Tensor
    slope: Tensor


def curve(variant: Loss, points: int = 401) -> Curve:
    """A loss with its default hyperparameters, from the reference in both directions: the chosen response
    gains h/2 nats and the rejected response loses h/2 nats, until the margin is 6 or the chosen response
    is almost certain.

    The unit of the margin depends on the loss's beta, so slopes are per unit of margin: dL/dh divided by
    dm/dh. The slope is nan where the margin does not change. Raises UserError if a loss of the user's own
    fails.
    """
    hyper = variant.hyperparameters
    ask = value if variant.fact("decomposes", **hyper) else one_by_one
    try:
        h = torch.linspace(-FARTHEST, FARTHEST, 20_001, dtype=torch.float64)
        reach = h[margin(variant, along_margin(h), hyper).abs() <= LARGEST_MARGIN].abs().max()
        h = torch.linspace(-1, 1, points, dtype=torch.float64).mul(reach).requires_grad_()  # (N,)
        m, values = margin(variant, along_margin(h), hyper), ask(variant, along_margin(h), hyper)
        (dm,) = torch.autograd.grad(m.sum(), h)
        (dL,) = torch.autograd.grad(values.sum(), h)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UserError(
            f"--loss {variant.name}: no curve can be drawn ({type(error).__name__}: {error})"
        ) from error
    return Curve(m.detach(), values.detach(), dL / dm)


def in_units_of_the_start(found: Curve) -> Curve:
    """The same curve, shifted and scaled so that its value is 0 and its slope is -1 at the middle, at the
    reference. A curve without a slope there is only shifted.
    """
    middle = len(found.margin) // 2
    scale = float(found.slope[middle].abs())
    scale = scale if scale > 0 else 1.0
    return Curve(found.margin, (found.value - found.value[middle]) / scale, found.slope / scale)
