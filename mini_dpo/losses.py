"""The preference losses: one pure function each, from log-probabilities to a number per example.

The symbols (s, r, h, m, p) are explained in registry.py; sigma is the logistic function and log sigma is always taken
in its stable form, finite at any margin. To add a loss is to write one function under `@loss(...)`, here or in a file
of your own; `python -m mini_dpo.check` then judges it. In reading order: DPO and its relatives that take the margin to
a logistic loss; other functions of the margin; losses of each response on its own; losses that look at a whole batch;
losses without a reference; losses of single responses.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mini_dpo.errors import UserError, did_you_mean
from mini_dpo.loss_files import load_loss
from mini_dpo.registry import LOSSES, Loss, PairLogps, Responses, UnpairedLogps, loss, require

__all__ = ["LOSSES", "Loss", "PairLogps", "Responses", "UnpairedLogps", "loss", "require"]


# ------------------------------------------------------------------------------------------- what the facts need


def logit(p: float) -> float:
    """log(p / (1 - p)): the margin at which the Bradley-Terry probability is p; infinite for the certain."""
    return math.log(p) - math.log1p(-p) if 0 < p < 1 else majority(p)


def flipped(p: float, label_smoothing: float) -> float:
    """P(the label says so) if labels are flipped with probability epsilon."""
    return (1 - label_smoothing) * p + label_smoothing * (1 - p)


def majority(p: float) -> float:
    """The minimiser of a loss that only asks which side has more votes."""
    return math.copysign(math.inf, p - 0.5)


def offset_logit(p: float, gamma: float) -> float:
    """The m that minimises -p log sigma(m - gamma) - (1 - p) log sigma(-m - gamma): a quadratic equation in e^m."""
    odds, g = p / (1 - p), math.exp(-gamma)
    return math.log(((odds - 1) + math.sqrt((odds - 1) ** 2 + 4 * odds * g * g)) / (2 * g))


def bounded(x: Tensor) -> Tensor:
    """An exponent cut at four fifths of what the type can hold: 70 in float32, where TRL has 80."""
    return x.clamp(max=0.8 * math.log(torch.finfo(x.dtype).max))


def bounded_exp(x: Tensor) -> Tensor:
    """exp(x), with x cut as above."""
    return bounded(x).exp()


# --------------------------------------------------------------------------------------- DPO and its relatives


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


# -------------------------------------------------------------------------------- other functions of the margin


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


# ------------------------------------------------------------------------------ losses of each response on its own


@loss(
    paper="Chen et al. 2024, arXiv:2402.05369",
    aliases=("nca_pair",),
    at_reference=lambda beta: 2 * math.log(2),
    best_margin=lambda p, beta: logit(p),
    reversed_where="3 sigma(beta r_w) - sigma(beta r_l) > 2",
    shift_invariant=False,
    monotone=False,
)
def nca(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """Noise Contrastive Alignment: is this response from the better policy, or from the reference?

        L = -log sigma(beta r_w) - 1/2 log sigma(-beta r_w) - 1/2 log sigma(-beta r_l)

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    Returns (B,), in nats. r_w stands alone, so the chosen response is held near an absolute level. As in TRL.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    w, l = beta * logps.r_w, beta * logps.r_l  # (B,) each
    return -F.logsigmoid(w) - 0.5 * F.logsigmoid(-w) - 0.5 * F.logsigmoid(-l)


@loss(
    paper="Jung et al. 2024, arXiv:2404.04656",
    aliases=("bco_pair",),
    at_reference=lambda beta, shift: math.log1p(math.exp(-shift)) + math.log1p(math.exp(shift)),
    best_margin=lambda p, beta, shift: 2 * logit(p),
    swap_slope=lambda beta, shift: -1,
    shift_invariant=False,
)
def bco(logps: PairLogps, *, beta: float = 0.1, shift: float = 0.0) -> Tensor:
    """Binary Classifier Optimization: a classifier whose logit is the reward, chosen against rejected.

        L = -log sigma(beta r_w - delta) - log sigma(-(beta r_l - delta))

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    shift: delta, the reward of a response between good and bad
    Returns (B,), in nats. The paper moves delta along, as a running mean of (beta r_w + beta r_l) / 2; here it is a
    constant that you give. TRL 1.16 has none, as shift = 0.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return -F.logsigmoid(beta * logps.r_w - shift) - F.logsigmoid(shift - beta * logps.r_l)


@loss(
    paper="Wu et al. 2024, arXiv:2405.00675, eq. 4.7",
    aliases=("sppo_hard",),
    at_reference=lambda beta: 1 / (2 * beta**2),
    best_margin=lambda p, beta: 2 * p - 1,
    swap_slope=lambda beta: -2 / beta**2,
    reversed_where="h > 1 / beta",
    shift_invariant=False,
    monotone=False,
    beta_scales=False,
)
def sppo(logps: PairLogps, *, beta: float = 0.001) -> Tensor:
    """Self-Play PO: each log-ratio regressed on its win rate, which a label makes 1 or 0.

        L = (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2

    beta: 1 / eta of the paper; must be positive
    Returns (B,), in squared nats. The paper takes win rates that a model estimates; this is its hard form, as TRL's
    `sppo_hard` (default beta 0.1). The paper's code halves it.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return (logps.r_w - 1 / (2 * beta)) ** 2 + (logps.r_l + 1 / (2 * beta)) ** 2


@loss(
    paper="Xiao et al. 2024, arXiv:2412.14516",
    at_reference=lambda beta: math.log(2) + 1 / (2 * beta**2),
    swap_slope=lambda beta: -1 / beta - 2 / beta**2,
    reversed_where="h > 1 / beta",
    shift_invariant=False,
    monotone=False,
    beta_scales=False,
)
def cal_dpo(logps: PairLogps, *, beta: float = 0.01) -> Tensor:
    """Calibrated DPO: the log-ratios shall be the rewards +1/2 and -1/2 over beta, not only differ by enough.

        L = -log sigma(h) + (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2

    beta: sets the two targets; the logistic term has none; must be positive
    Returns (B,). As the paper's formula; its code halves the squares and takes the batch's mean first. Not in TRL 1.16.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return -F.logsigmoid(logps.h) + (logps.r_w - 1 / (2 * beta)) ** 2 + (logps.r_l + 1 / (2 * beta)) ** 2


@loss(
    paper="D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7",
    at_reference=lambda beta: 1.0,
    best_margin=lambda p, beta: majority(p),
    shift_invariant=False,
    convex=False,
    keeps_learning=False,
)
def apo_zero(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """Anchored PO, zero: push the chosen response above the reference and the rejected one below it.

        L = 1 - sigma(beta r_w) + sigma(beta r_l)

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    Returns (B,), in (0, 2). For chosen responses that are better than the model's own. As in TRL.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return 1 - (beta * logps.r_w).sigmoid() + (beta * logps.r_l).sigmoid()


@loss(
    paper="D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8",
    at_reference=lambda beta: 1.0,
    best_margin=lambda p, beta: majority(p),
    reversed_where="sigma(beta r_w) sigma(-beta r_w) > 2 sigma(beta h) sigma(-beta h)",
    shift_invariant=False,
    monotone=False,
    convex=False,
    keeps_learning=False,
)
def apo_down(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """Anchored PO, down: lower both responses, the rejected one further.

        L = sigma(beta r_w) + 1 - sigma(beta h)

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    Returns (B,), in (0, 2). For a model that is better than the chosen responses. As in TRL.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return (beta * logps.r_w).sigmoid() + 1 - (beta * logps.h).sigmoid()


# ------------------------------------------------------------------------------- losses that look at a whole batch


@loss(
    paper="Melnyk et al. 2024, arXiv:2406.05882",
    at_reference=lambda beta, label_smoothing: math.log(2),
    best_margin=lambda p, beta, label_smoothing: logit(flipped(p, label_smoothing)),
    swap_slope=lambda beta, label_smoothing: -(1 - 2 * label_smoothing),
    reversed_where="sigma(m) > 1 - epsilon",
    monotone=lambda beta, label_smoothing: label_smoothing == 0,
    decomposes=False,
)
def aot(logps: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """Alignment via Optimal Transport, paired: the policy's preference gaps, as a distribution, shall exceed the reference's.

        L = -(1 - epsilon) log sigma(m) - epsilon log sigma(-m)
        m = beta sorted(s(y_w) - s(y_l)) - beta sorted(s_ref(y_w) - s_ref(y_l))

    sorted: over the batch; the i-th smallest gap of the policy meets the i-th smallest of the reference.
    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    label_smoothing: epsilon, in [0, 0.5)
    Returns (B,), in nats, by rank and not by pair. A batch of one is cDPO. As in TRL.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(0 <= label_smoothing < 0.5, f"label_smoothing must be in [0, 0.5), not {label_smoothing}")
    w, l = logps.chosen, logps.rejected
    m = beta * ((w.policy - l.policy).sort().values - (w.ref - l.ref).sort().values)  # (B,)
    return -(1 - label_smoothing) * F.logsigmoid(m) - label_smoothing * F.logsigmoid(-m)


@loss(
    paper="Melnyk et al. 2024, arXiv:2406.05882",
    at_reference=lambda beta, label_smoothing: math.log(2),
    best_margin=lambda p, beta, label_smoothing: logit(flipped(p, label_smoothing)),
    swap_slope=lambda beta, label_smoothing: -(1 - 2 * label_smoothing),
    reversed_where="sigma(m) > 1 - epsilon",
    monotone=lambda beta, label_smoothing: label_smoothing == 0,
    shift_invariant=False,
    decomposes=False,
)
def aot_unpaired(logps: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """Alignment via Optimal Transport, unpaired: chosen rewards, as a distribution, shall exceed the rejected ones.

        L = -(1 - epsilon) log sigma(m) - epsilon log sigma(-m),   m = beta sorted(r_w) - beta sorted(r_l)

    sorted: over the batch; the i-th smallest chosen log-ratio meets the i-th smallest rejected one.
    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    label_smoothing: epsilon, in [0, 0.5)
    Returns (B,), in nats, by rank and not by pair. A batch of one is cDPO. As in TRL.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(0 <= label_smoothing < 0.5, f"label_smoothing must be in [0, 0.5), not {label_smoothing}")
    m = beta * (logps.r_w.sort().values - logps.r_l.sort().values)  # (B,)
    return -(1 - label_smoothing) * F.logsigmoid(m) - label_smoothing * F.logsigmoid(-m)


# ----------------------------------------------------------------------------------------- losses without a reference


@loss(
    paper="Xu et al. 2024, arXiv:2401.08417",
    best_margin=lambda p, beta, nll_weight: logit(p) if nll_weight == 0 else None,
    swap_slope=lambda beta, nll_weight: -1 - nll_weight / beta,
    reference=False,
    shift_invariant=lambda beta, nll_weight: nll_weight == 0,
    beta_scales=lambda beta, nll_weight: nll_weight == 0,
)
def cpo(logps: PairLogps, *, beta: float = 0.1, nll_weight: float = 1.0) -> Tensor:
    """Contrastive PO: DPO with a uniform reference, and SFT on the chosen response to stand in for the real one.

        L = -log sigma(beta s(y_w) - beta s(y_l)) - lambda s(y_w)

    beta: scale of the log-probs; must be positive
    nll_weight: lambda, weight of the chosen response's negative log-likelihood; at least 0
    Returns (B,), in nats. The paper's sum over tokens; TRL's second term is a mean over all chosen tokens of the batch.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(nll_weight >= 0, f"nll_weight must be at least 0, not {nll_weight}")
    w, l = logps.chosen.policy, logps.rejected.policy  # (B,) each
    return -F.logsigmoid(beta * (w - l)) - nll_weight * w


@loss(
    paper="Meng et al. 2024, arXiv:2405.14734",
    reward=lambda y, beta, gamma: beta * y.average,
    best_margin=lambda p, beta, gamma: offset_logit(p, gamma),
    reference=False,
    shift_invariant=False,
)
def simpo(logps: PairLogps, *, beta: float = 2.0, gamma: float = 1.0) -> Tensor:
    """Simple PO: the reward is the policy's log-prob of the average token, and has to win by gamma.

        L = -log sigma(beta s(y_w) / |y_w| - beta s(y_l) / |y_l| - gamma)

    beta: scale of the average log-prob; must be positive
    gamma: the margin that is asked for, in units of reward
    Returns (B,), in nats. As the paper. TRL has it in its CPO trainer, where it adds an SFT term unless cpo_alpha=0;
    other implementations call gamma / beta gamma.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return -F.logsigmoid(beta * (logps.chosen.average - logps.rejected.average) - gamma)


@loss(
    paper="Gupta et al. 2025, arXiv:2501.03884",
    reward=lambda y, beta, gamma, alpha: -beta * torch.expm1(bounded(-alpha * y.average)) / alpha,
    best_margin=lambda p, beta, gamma, alpha: offset_logit(p, gamma),
    reference=False,
    shift_invariant=False,
    convex=False,
    beta_scales=False,
)
def alphapo(logps: PairLogps, *, beta: float = 2.5, gamma: float = 0.1, alpha: float = 0.25) -> Tensor:
    """SimPO with a bent reward R, of the average token's probability P.

        L = -log sigma(beta R_w - beta R_l - gamma),   R = (1 - P^-alpha) / alpha,   P = exp(s(y) / |y|)

    beta: scale of the reward; must be positive
    gamma: the margin that is asked for, in units of reward
    alpha: how much the reward is bent, above 0; towards 0 it is SimPO's
    Returns (B,), in nats. As in TRL, whose default alpha is 0: SimPO. The exponent is cut at 70 in float32.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(alpha > 0, f"alpha must be positive, not {alpha}")
    w, l = (torch.expm1(bounded(-alpha * y.average)) for y in (logps.chosen, logps.rejected))  # P^-alpha - 1, (B,)
    return -F.logsigmoid(beta * (l - w) / alpha - gamma)


def log_odds(average: Tensor) -> Tensor:
    """log(P / (1 - P)) of P = exp(average), average <= 0: (B,). A P within 1e-6 of 1 counts as 1 - 1e-6."""
    average = average.clamp(max=-1e-6)
    return average - torch.log(-torch.expm1(average))


@loss(
    paper="Hong et al. 2024, arXiv:2403.07691",
    reward=lambda y, odds_weight: log_odds(y.average),
    reference=False,
    shift_invariant=False,
)
def orpo(logps: PairLogps, *, odds_weight: float = 0.1) -> Tensor:
    """Odds-ratio PO: SFT on the chosen response, and its odds against those of the rejected one. No reference.

        L = -s(y_w) / |y_w| - lambda log sigma(log odds_w - log odds_l),   odds = P / (1 - P),   P = exp(min(s(y) / |y|, -1e-6))

    odds_weight: lambda, weight of the odds ratio against SFT; at least 0 (TRL calls it beta)
    Returns (B,), in nats a token. The SFT term is over the response. TRL's and the authors' is over prompt and response,
    averaged over the tokens of the batch. The gradient grows like 1 / (1 - P) for near-certain responses; without the
    min(...) it would have no bound.
    """
    require(odds_weight >= 0, f"odds_weight must be at least 0, not {odds_weight}")
    margin = log_odds(logps.chosen.average) - log_odds(logps.rejected.average)  # (B,)
    return -logps.chosen.average - odds_weight * F.logsigmoid(margin)


# -------------------------------------------------------------------------------------------- losses of single responses


@loss(
    paper="Ethayarajh et al. 2024, arXiv:2402.01306",
    at_reference=lambda beta, desirable_weight, undesirable_weight: (desirable_weight + undesirable_weight) / 2,
    best_margin=lambda p, beta, desirable_weight, undesirable_weight: majority(p) if desirable_weight == undesirable_weight > 0 else None,
    mismatched=True,
    shift_invariant=False,
    convex=False,
    decomposes=False,
    keeps_learning=False,
)
def kto(logps: UnpairedLogps, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Tensor:
    """Kahneman-Tversky Optimization: gains and losses against a reference point, each flattening out.

        L = lambda_D (1 - sigma(beta (r - z))) if liked, lambda_U (1 - sigma(beta (z - r))) if not
        z = max(0, mean(r'))

    r': the log-ratios of the batch's prompts, each with another one's response. z has no gradient.
    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    desirable_weight: lambda_D, what a liked response counts; at least 0
    undesirable_weight: lambda_U, what a disliked one counts; at least 0
    Returns (B,). The paper's estimate of the KL divergence: biased, as the responses are not the policy's. As in TRL.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(desirable_weight >= 0 and undesirable_weight >= 0, "desirable_weight and undesirable_weight must be at least 0")
    z = logps.mismatched.mean().clamp(min=0).detach()  # ()
    liked = desirable_weight * (beta * (z - logps.r)).sigmoid()  # (B,)
    return torch.where(logps.desirable, liked, undesirable_weight * (beta * (logps.r - z)).sigmoid())


@loss(
    paper="D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7, cut in two",
    at_reference=lambda beta, desirable_weight, undesirable_weight: (desirable_weight + undesirable_weight) / 2,
    best_margin=lambda p, beta, desirable_weight, undesirable_weight: majority(p) if desirable_weight == undesirable_weight > 0 else None,
    shift_invariant=False,
    convex=False,
    keeps_learning=False,
)
def apo_zero_unpaired(logps: UnpairedLogps, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Tensor:
    """APO-zero of single responses: KTO with its reference point fixed at the reference.

        L = lambda_D (1 - sigma(beta r)) if liked, lambda_U sigma(beta r) if not

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    desirable_weight: lambda_D, what a liked response counts; at least 0
    undesirable_weight: lambda_U, what a disliked one counts; at least 0
    Returns (B,). As TRL's KTO trainer has it.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(desirable_weight >= 0 and undesirable_weight >= 0, "desirable_weight and undesirable_weight must be at least 0")
    liked = desirable_weight * (-beta * logps.r).sigmoid()  # (B,)
    return torch.where(logps.desirable, liked, undesirable_weight * (beta * logps.r).sigmoid())


# ------------------------------------------------------------------------------------------- where a loss is found


def find_loss(name: str) -> Loss:
    """The loss of that name or alias, or `function` of `file.py:function`. Raises UserError where there is none."""
    if ".py:" in name:
        return load_loss(*name.rsplit(":", 1))
    for found in LOSSES.values():
        if name == found.name or name in found.aliases:
            return found
    if name.endswith(".py"):
        raise UserError(f"{name}: name the function as well: {name}:my_loss")
    known = [word for found in LOSSES.values() for word in (found.name, *found.aliases)]
    raise UserError(f"there is no loss {name}{did_you_mean(name, known)}; `python -m mini_dpo.train --list-losses` shows what there is, and file.py:function takes one of your own")
