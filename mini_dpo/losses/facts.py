"""What `python -m mini_dpo.check` holds each loss to. Training reads none of it.

A loss of this package has its facts in the table FACTS below. A loss in a file of your own gives them to the
decorator: `@loss(paper="...", facts=Facts(...))`. A fact that is false is found, and shown with an example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mini_dpo.losses.closed_forms import flipped, logit, majority, offset_logit

Switch = bool | Callable[..., bool]  # true or false, or a function of the hyperparameters that says which


@dataclass(frozen=True)
class Facts:
    """The facts of one loss. A fact that is None is not checked. The other defaults are those of DPO.

    A function takes the hyperparameters by their names: `lambda beta: ...`. Where none of them matters, it
    may be `lambda **_: ...`.

    at_reference(**hyperparameters): the value of the loss where the policy is the reference.
    best_margin(p, **hyperparameters): the margin m at which the loss is least on average, where people prefer
        y_w with probability p. Infinite if there is no finite one, None if no closed form is known.
    swap_slope(**hyperparameters): loss(y_w, y_l) - loss(y_l, y_w) is this number times m.
    reversed_where: where a step makes the chosen response less likely against the rejected one, as a formula
        in the docstring's symbols, such as "h > 1 / (2 beta)". Empty: nowhere.
    shift_invariant: one number added to both log-ratios of a pair changes nothing: the partition function
        cancels.
    monotone, convex: along the margin, where y_w gains as many nats as y_l loses, the loss never rises, and
        never bends down.
    beta_scales: the loss depends only on beta times the log-probs.
    keeps_learning: the gradient does not vanish for pairs that are ranked very wrongly.
    estimate: the loss makes one number of the whole batch, such as a mean, and detaches it. (Weights that are
        detached example by example cannot be declared: `check` says that the gradient is not the derivative.)
    """

    at_reference: Callable[..., float] | None = None
    best_margin: Callable[..., float | None] | None = None
    swap_slope: Callable[..., float] | None = None
    reversed_where: str = ""
    shift_invariant: Switch = True
    monotone: Switch = True
    convex: Switch = True
    beta_scales: Switch = True
    keeps_learning: Switch = True
    estimate: bool = False


# --- of the losses in this package


def log_2(**_: float | str) -> float:
    """The value of a logistic loss at a margin of 0."""
    return math.log(2)


def log_odds_of(p: float, **_: float | str) -> float:
    """The minimiser of a logistic loss: sigma(m) = p."""
    return logit(p)


def majority_of(p: float, **_: float | str) -> float:
    """The minimiser of a bounded loss: as far as possible on the side of the majority."""
    return majority(p)


def majority_of_equals(
    p: float, beta: float, desirable_weight: float, undesirable_weight: float
) -> float | None:
    """The same for single responses. With other weights there is no closed form."""
    return majority(p) if desirable_weight == undesirable_weight > 0 else None


def smoothed(p: float, beta: float, label_smoothing: float) -> float:
    """The minimiser where the loss believes that labels are flipped."""
    return logit(flipped(p, label_smoothing))


def smoothed_slope(beta: float, label_smoothing: float) -> float:
    """The swap slope where the loss believes that labels are flipped."""
    return -(1 - 2 * label_smoothing)


def never_smoothed(beta: float, label_smoothing: float) -> bool:
    return label_smoothing == 0


def reverse_kl(divergence: str, **_: float | str) -> bool:
    return divergence == "reverse_kl"


# of KTO, and of APO-zero cut in two, which is KTO with z = 0
OF_WEIGHTED_RESPONSES = Facts(
    at_reference=lambda beta, desirable_weight, undesirable_weight: (
        (desirable_weight + undesirable_weight) / 2
    ),
    best_margin=majority_of_equals,
    shift_invariant=False,
    convex=False,
    keeps_learning=False,
)
FACTS = {
    # dpo.py
    "dpo": Facts(at_reference=log_2, best_margin=log_odds_of, swap_slope=lambda beta: -1),
    # margins.py
    "cdpo": Facts(
        at_reference=log_2,
        best_margin=smoothed,
        swap_slope=smoothed_slope,
        reversed_where="sigma(beta h) > 1 - epsilon",
        monotone=never_smoothed,
    ),
    "rdpo": Facts(
        at_reference=log_2,
        best_margin=lambda p, beta, label_smoothing: logit((p - label_smoothing) / (1 - 2 * label_smoothing)),
        swap_slope=lambda beta, label_smoothing: -1 / (1 - 2 * label_smoothing),
    ),
    "dpo_norm": Facts(
        at_reference=log_2, best_margin=log_odds_of, swap_slope=lambda beta: -1, shift_invariant=False
    ),
    "r_dpo": Facts(best_margin=log_odds_of, swap_slope=lambda **_: -1),
    "dpop": Facts(
        at_reference=log_2, best_margin=log_odds_of, shift_invariant=lambda beta, penalty: penalty == 0
    ),
    "f_dpo": Facts(
        at_reference=log_2,
        best_margin=log_odds_of,
        swap_slope=lambda **_: -1,
        shift_invariant=reverse_kl,
        convex=lambda divergence, **_: divergence in ("reverse_kl", "jensen_shannon"),
        beta_scales=reverse_kl,
    ),
    "chipo": Facts(
        at_reference=log_2,
        best_margin=lambda p, beta, r_max: logit(p) if abs(logit(p)) < 2 * r_max else None,
        shift_invariant=False,
        convex=False,
        beta_scales=False,
        keeps_learning=False,
    ),
    "ipo": Facts(
        at_reference=lambda beta, reduction: 1 / (4 * beta**2),
        best_margin=lambda p, beta, reduction: p - 0.5,
        swap_slope=lambda beta, reduction: -2 / beta**2,
        reversed_where="h > 1 / (2 beta)",
        shift_invariant=lambda beta, reduction: reduction == "sum",
        monotone=False,
        beta_scales=False,
    ),
    "hinge": Facts(at_reference=lambda beta: 1.0, best_margin=lambda p, beta: math.copysign(1.0, p - 0.5)),
    "exo": Facts(
        at_reference=lambda beta, label_smoothing: (
            -math.log(2) - 0.5 * math.log(label_smoothing * (1 - label_smoothing))
        ),
        best_margin=lambda p, beta, label_smoothing: (2 * p - 1) * logit(1 - label_smoothing),
        reversed_where="sigma(beta h) > 1 - epsilon",
        monotone=False,
        convex=False,
        keeps_learning=False,
    ),
    "discopop": Facts(
        at_reference=lambda beta, tau: 0.5 * math.log(2) + 0.5,
        reversed_where="abs(m) < 8 tau",
        monotone=False,
        convex=False,
    ),
    # responses.py
    "nca": Facts(
        at_reference=lambda beta: 2 * math.log(2),
        best_margin=log_odds_of,
        reversed_where="3 sigma(beta r_w) - sigma(beta r_l) > 2",
        shift_invariant=False,
        monotone=False,
    ),
    "bco": Facts(
        at_reference=lambda beta, shift: math.log1p(math.exp(-shift)) + math.log1p(math.exp(shift)),
        best_margin=lambda p, beta, shift: 2 * logit(p),
        swap_slope=lambda beta, shift: -1,
        shift_invariant=False,
    ),
    "sppo": Facts(
        at_reference=lambda beta: 1 / (2 * beta**2),
        best_margin=lambda p, beta: 2 * p - 1,
        swap_slope=lambda beta: -2 / beta**2,
        reversed_where="h > 1 / beta",
        shift_invariant=False,
        monotone=False,
        beta_scales=False,
    ),
    "cal_dpo": Facts(
        at_reference=lambda beta: math.log(2) + 1 / (2 * beta**2),
        swap_slope=lambda beta: -1 / beta - 2 / beta**2,
        reversed_where="h > 1 / beta",
        shift_invariant=False,
        monotone=False,
        beta_scales=False,
    ),
    "apo_zero": Facts(
        at_reference=lambda beta: 1.0,
        best_margin=majority_of,
        shift_invariant=False,
        convex=False,
        keeps_learning=False,
    ),
    "apo_down": Facts(
        at_reference=lambda beta: 1.0,
        best_margin=majority_of,
        reversed_where="sigma(beta r_w) sigma(-beta r_w) > 2 sigma(beta h) sigma(-beta h)",
        shift_invariant=False,
        monotone=False,
        convex=False,
        keeps_learning=False,
    ),
    "aot": Facts(
        at_reference=log_2,
        best_margin=smoothed,
        swap_slope=smoothed_slope,
        reversed_where="sigma(m) > 1 - epsilon",
        monotone=never_smoothed,
    ),
    "aot_unpaired": Facts(
        at_reference=log_2,
        best_margin=smoothed,
        swap_slope=smoothed_slope,
        reversed_where="sigma(m) > 1 - epsilon",
        shift_invariant=False,
        monotone=never_smoothed,
    ),
    # others.py
    "cpo": Facts(
        best_margin=lambda p, beta, nll_weight: logit(p) if nll_weight == 0 else None,
        swap_slope=lambda beta, nll_weight: -1 - nll_weight / beta,
        shift_invariant=lambda beta, nll_weight: nll_weight == 0,
        beta_scales=lambda beta, nll_weight: nll_weight == 0,
    ),
    "simpo": Facts(best_margin=lambda p, beta, gamma: offset_logit(p, gamma), shift_invariant=False),
    "alphapo": Facts(
        best_margin=lambda p, beta, gamma, alpha: offset_logit(p, gamma),
        shift_invariant=False,
        convex=False,
        beta_scales=False,
    ),
    "orpo": Facts(shift_invariant=False),
    # contrasts.py
    "mdpo": Facts(
        at_reference=lambda beta, anchor, pair_weight: (
            (1 + pair_weight) * math.log(2) + math.log1p(math.exp(anchor))
        ),
        shift_invariant=False,
    ),
    "kto": OF_WEIGHTED_RESPONSES,
    "apo_zero_unpaired": OF_WEIGHTED_RESPONSES,
}
