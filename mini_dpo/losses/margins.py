"""Losses of the margin: DPO's relatives, which take it to a logistic loss, and other functions of it."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from mini_dpo.losses.closed_forms import bounded_exp, flipped, logit
from mini_dpo.losses.inputs import PairLogps
from mini_dpo.losses.registry import loss, require


@loss(
    paper="Mitchell 2023, 'A note on DPO with noisy preferences & relationship to IPO', ericmitchell.ai/cdpo.pdf",
    at_reference=lambda beta, label_smoothing: math.log(2),
    best_margin=lambda p, beta, label_smoothing: logit(flipped(p, label_smoothing)),
    swap_slope=lambda beta, label_smoothing: -(1 - 2 * label_smoothing),
    reversed_where="sigma(beta h) > 1 - epsilon",
    monotone=lambda beta, label_smoothing: label_smoothing == 0,
)
def cdpo(logps: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
    """Conservative DPO: the expected DPO loss when each label may be flipped with probability epsilon.

        L = -(1 - epsilon) log sigma(beta h) - epsilon log sigma(-beta h)

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    label_smoothing: epsilon, the share of labels believed to be flipped, in [0, 0.5)
    Returns (B,), in nats. Least at the finite margin log((1 - epsilon) / epsilon); DPO's own for epsilon = 0.
    TRL 1.16 takes `label_smoothing` with its sigmoid loss and ignores it.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(0 <= label_smoothing < 0.5, f"label_smoothing must be in [0, 0.5), not {label_smoothing}")
    m = beta * logps.h  # (B,)
    return -(1 - label_smoothing) * F.logsigmoid(m) - label_smoothing * F.logsigmoid(-m)


@loss(
    paper="Chowdhury et al. 2024, arXiv:2403.00409",
    aliases=("robust",),
    at_reference=lambda beta, label_smoothing: math.log(2),
    best_margin=lambda p, beta, label_smoothing: logit((p - label_smoothing) / (1 - 2 * label_smoothing)),
    swap_slope=lambda beta, label_smoothing: -1 / (1 - 2 * label_smoothing),
)
def rdpo(logps: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
    """Robust DPO: over labels that are flipped with probability epsilon, its mean is DPO's loss on the clean ones.

        L = [-(1 - epsilon) log sigma(beta h) + epsilon log sigma(-beta h)] / (1 - 2 epsilon)

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    label_smoothing: epsilon, the share of labels believed to be flipped, in [0, 0.5)
    Returns (B,), in nats, below zero and without bound for large margins; DPO's own for epsilon = 0. As in the paper
    and in TRL.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(0 <= label_smoothing < 0.5, f"label_smoothing must be in [0, 0.5), not {label_smoothing}")
    m = beta * logps.h  # (B,)
    return (-(1 - label_smoothing) * F.logsigmoid(m) + label_smoothing * F.logsigmoid(-m)) / (1 - 2 * label_smoothing)


@loss(
    paper="Lambert et al. 2024 (Tulu 3), arXiv:2411.15124, length-normalized DPO",
    aliases=("sigmoid_norm",),
    reward=lambda y, beta: beta * y.logratio / y.lengths,
    at_reference=lambda beta: math.log(2),
    best_margin=lambda p, beta: logit(p),
    swap_slope=lambda beta: -1,
    shift_invariant=False,
)
def dpo_norm(logps: PairLogps, *, beta: float = 5.0) -> Tensor:
    """DPO on log-ratios of the average token. Its optimum is no longer ref exp(reward / beta), and Z does not cancel.

        L = -log sigma(beta r_w / |y_w| - beta r_l / |y_l|)

    beta: price of a nat a token; the paper's 5 is to DPO's 0.1 as 1 is to a response of 50 tokens; must be positive
    Returns (B,), in nats. As TRL's `sigmoid_norm`, whose default beta stays 0.1.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return -F.logsigmoid(beta * (logps.r_w / logps.chosen.lengths - logps.r_l / logps.rejected.lengths))


@loss(
    paper="Park et al. 2024, arXiv:2403.19159",
    reward=lambda y, beta, alpha: beta * y.logratio + alpha * y.lengths,
    best_margin=lambda p, beta, alpha: logit(p),
    swap_slope=lambda beta, alpha: -1,
)
def r_dpo(logps: PairLogps, *, beta: float = 0.1, alpha: float = 0.05) -> Tensor:
    """Length-regularised DPO: the reward that people seem to have, less alpha for each token.

        L = -log sigma(beta h + alpha |y_w| - alpha |y_l|)

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    alpha: price of a token of length, in units of reward
    Returns (B,), in nats. The sign follows from putting reward - alpha |y| into the optimum: a pair whose chosen
    response is the longer one teaches less. (Some repositories subtract, and reward length.) Not in TRL 1.16.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return -F.logsigmoid(beta * logps.h + alpha * (logps.chosen.lengths - logps.rejected.lengths))


@loss(
    paper="Pal et al. 2024 (Smaug), arXiv:2402.13228, v3",
    at_reference=lambda beta, penalty: math.log(2),
    best_margin=lambda p, beta, penalty: logit(p),
    shift_invariant=lambda beta, penalty: penalty == 0,
)
def dpop(logps: PairLogps, *, beta: float = 0.3, penalty: float = 50.0) -> Tensor:
    """DPO-Positive: a chosen response may not become less likely than it was; if it does, it costs lambda times over.

        L = -log sigma(beta (h - lambda max(0, -r_w)))

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    penalty: lambda, how much a nat lost by the chosen response weighs against a nat of h; at least 0
    Returns (B,), in nats. The penalty stands inside the sigmoid and inside beta, as in the paper's third version.
    Not in TRL 1.16.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(penalty >= 0, f"penalty must be at least 0, not {penalty}")
    return -F.logsigmoid(beta * (logps.h - penalty * F.relu(-logps.r_w)))


def f_prime(r: Tensor, divergence: str, alpha: float) -> Tensor:
    """f'(u) at u = pi/ref = e^r, without its constant, for the divergence E_ref[f(u)]: (B,) -> (B,)."""
    if divergence == "reverse_kl":
        return r
    if divergence == "jensen_shannon":
        return F.logsigmoid(r)
    alpha = 1.0 if divergence == "forward_kl" else alpha
    return -bounded_exp(-alpha * r) / alpha


@loss(
    paper="Wang et al. 2023, arXiv:2309.16240",
    reward=lambda y, beta, divergence, alpha: beta * f_prime(y.logratio, divergence, alpha),
    at_reference=lambda beta, divergence, alpha: math.log(2),
    best_margin=lambda p, beta, divergence, alpha: logit(p),
    swap_slope=lambda beta, divergence, alpha: -1,
    shift_invariant=lambda beta, divergence, alpha: divergence == "reverse_kl",
    convex=lambda beta, divergence, alpha: divergence in ("reverse_kl", "jensen_shannon"),
    beta_scales=lambda beta, divergence, alpha: divergence == "reverse_kl",
)
def f_dpo(logps: PairLogps, *, beta: float = 0.1, divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"] = "jensen_shannon", alpha: float = 0.5) -> Tensor:  # fmt: skip
    """DPO under another divergence from the reference, E_ref[f(u)] with u = pi/ref = e^r: its reward is beta f'(u).

        L = -log sigma(beta f'(u_w) - beta f'(u_l)),   u = e^r
        f'(u) = log u if reverse_kl, -1/u if forward_kl, log(u / (1 + u)) if jensen_shannon, -(u^-alpha) / alpha if alpha

    beta: price of one unit of the divergence, in units of reward; must be positive
    divergence: which f, see the formula
    alpha: of divergence "alpha" alone, in (0, 1]; towards 0 it is reverse_kl, at 1 forward_kl
    Returns (B,), in nats. Constants of f' cancel. TRL's `f_alpha_divergence_coef` is 1 - alpha. Exponents are cut
    at 70 in float32; TRL cuts them at 80, for alpha only, and computes that one in float32.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(0 < alpha <= 1, f"alpha must be in (0, 1], not {alpha}")
    return -F.logsigmoid(beta * (f_prime(logps.r_w, divergence, alpha) - f_prime(logps.r_l, divergence, alpha)))


@loss(
    paper="Huang et al. 2024, arXiv:2407.13399",
    reward=lambda y, beta, r_max: beta * (bounded_exp(y.logratio) + y.logratio),
    at_reference=lambda beta, r_max: math.log(2),
    best_margin=lambda p, beta, r_max: logit(p) if abs(logit(p)) < 2 * r_max else None,
    shift_invariant=False,
    convex=False,
    beta_scales=False,
    keeps_learning=False,
)
def chipo(logps: PairLogps, *, beta: float = 0.05, r_max: float = 10.0) -> Tensor:
    """Chi-squared PO: KL plus chi-squared divergence, which forbids much mass where the reference has little.

        L = -log sigma(clip(beta phi(u_w) - beta phi(u_l), -2 r_max, 2 r_max)),   phi(u) = u + log u,   u = e^r

    beta: price of one unit of the divergence, in units of reward; must be positive
    r_max: half the largest margin that is believed, in units of reward; must be positive
    Returns (B,), in nats. A pair outside the clip teaches nothing. The exponent is cut at 70 in float32. Not in TRL 1.16.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(r_max > 0, f"r_max must be positive, not {r_max}")
    w, l = bounded_exp(logps.r_w) + logps.r_w, bounded_exp(logps.r_l) + logps.r_l  # (B,) each
    return -F.logsigmoid((beta * (w - l)).clamp(-2 * r_max, 2 * r_max))


@loss(
    paper="Azar et al. 2023, arXiv:2310.12036, eq. 17",
    reward=lambda y, beta, reduction: beta * (y.logratio if reduction == "sum" else y.logratio / y.lengths),
    at_reference=lambda beta, reduction: 1 / (4 * beta**2),
    best_margin=lambda p, beta, reduction: p - 0.5,
    swap_slope=lambda beta, reduction: -2 / beta**2,
    reversed_where="h > 1 / (2 beta)",
    shift_invariant=lambda beta, reduction: reduction == "sum",
    monotone=False,
    beta_scales=False,
)
def ipo(logps: PairLogps, *, beta: float = 0.1, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
    """Identity PO: a parabola, whose minimum stays finite even where everybody agrees.

        L = (h - 1 / (2 beta))^2,   h = r_w - r_l if sum, r_w / |y_w| - r_l / |y_l| if mean

    beta: the paper's tau; the margin aimed at is 1 / (2 beta) nats; must be positive
    reduction: "sum" is the paper's h; "mean" divides each log-ratio by its response's length
    Returns (B,), in squared nats. TRL's `ipo` is reduction="mean": its target is in nats a token, so that the two
    betas are not comparable, and the partition function no longer cancels where lengths differ.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    h = logps.h if reduction == "sum" else logps.r_w / logps.chosen.lengths - logps.r_l / logps.rejected.lengths  # (B,)
    return (h - 1 / (2 * beta)) ** 2


@loss(
    paper="Liu et al. 2023 (RSO), arXiv:2309.06657; Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425",
    at_reference=lambda beta: 1.0,
    best_margin=lambda p, beta: math.copysign(1.0, p - 0.5),
)
def hinge(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """A support vector machine's loss: no interest in pairs whose margin has reached 1.

        L = max(0, 1 - beta h)

    beta: 1 / beta nats of h are enough; must be positive
    Returns (B,). As RSO and TRL have it, with reference; SLiC-HF's own has none. At the kink the gradient is 0.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return F.relu(1 - beta * logps.h)


@loss(
    paper="Ji et al. 2024, arXiv:2402.00856, eq. 16",
    aliases=("exo_pair",),
    at_reference=lambda beta, label_smoothing: -math.log(2) - 0.5 * math.log(label_smoothing * (1 - label_smoothing)),
    best_margin=lambda p, beta, label_smoothing: (2 * p - 1) * logit(1 - label_smoothing),
    reversed_where="sigma(beta h) > 1 - epsilon",
    monotone=False,
    convex=False,
    keeps_learning=False,
)
def exo(logps: PairLogps, *, beta: float = 0.1, label_smoothing: float = 1e-3) -> Tensor:
    """Efficient Exact Optimization: DPO's cross-entropy turned round, KL(model || labels) for KL(labels || model).

        L = q log(q / (1 - epsilon)) + (1 - q) log((1 - q) / epsilon),   q = sigma(beta h)

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    label_smoothing: epsilon, what the label leaves to the rejected response, in (0, 0.5); the loss is infinite at 0
    Returns (B,), in nats. The direction that seeks a mode: very wrong pairs are given up. As in TRL.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(0 < label_smoothing < 0.5, f"label_smoothing must be in (0, 0.5), not {label_smoothing}")
    m = beta * logps.h  # (B,)
    chosen = m.sigmoid() * (F.logsigmoid(m) - math.log1p(-label_smoothing))
    return chosen + (-m).sigmoid() * (F.logsigmoid(-m) - math.log(label_smoothing))


@loss(
    paper="Lu et al. 2024, arXiv:2406.08414, eq. 5",
    at_reference=lambda beta, tau: 0.5 * math.log(2) + 0.5,
    reversed_where="abs(m) < 8 tau",
    monotone=False,
    convex=False,
)
def discopop(logps: PairLogps, *, beta: float = 0.05, tau: float = 0.05) -> Tensor:
    """Log-ratio modulated loss, found by a language model's search: logistic for wrong pairs, exponential for right ones.

        L = (1 - w) (-log sigma(m)) + w e^-m,   w = sigma(m / tau),   m = beta h

    beta: scale of the margin; must be positive
    tau: width of the passage from one to the other, in (0, 1)
    Returns (B,). It *rises* with the margin around the reference. As the paper and TRL, but w e^-m is one exponential
    here: apart, they are 0 times infinity for very wrong pairs.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(0 < tau < 1, f"tau must be in (0, 1), not {tau}")
    m = beta * logps.h  # (B,)
    return (-m / tau).sigmoid() * -F.logsigmoid(m) + (F.logsigmoid(m / tau) - m).exp()
