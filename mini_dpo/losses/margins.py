"""Losses of the margin: DPO's relatives, which put it into a logistic loss, and other functions of it."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from mini_dpo.losses.closed_forms import bounded_exp
from mini_dpo.losses.hyperparameters import (
    Beta,
    LabelSmoothing,
    NonNegative,
    OpenHalf,
    OpenUnit,
    Positive,
    UpToOne,
)
from mini_dpo.losses.inputs import PairLogps
from mini_dpo.losses.registry import loss


@loss(
    paper="Mitchell 2023, 'A note on DPO with noisy preferences & relationship to IPO', "
    "ericmitchell.ai/cdpo.pdf"
)
def cdpo(logps: PairLogps, *, beta: Beta = 0.1, label_smoothing: LabelSmoothing = 0.1) -> Tensor:
    """Conservative DPO: the expected DPO loss when each label may be flipped with probability epsilon.

        L = -(1 - epsilon) log sigma(beta h) - epsilon log sigma(-beta h)

    Returns (B,), in nats. The minimum is at the finite margin log((1 - epsilon) / epsilon). With epsilon = 0
    this is DPO. TRL 1.16 takes `label_smoothing` with its sigmoid loss and ignores it.
    """
    m = beta * logps.h  # (B,)
    return -(1 - label_smoothing) * F.logsigmoid(m) - label_smoothing * F.logsigmoid(-m)


@loss(paper="Chowdhury et al. 2024, arXiv:2403.00409", aliases=("robust",))
def rdpo(logps: PairLogps, *, beta: Beta = 0.1, label_smoothing: LabelSmoothing = 0.1) -> Tensor:
    """Robust DPO: averaged over labels that flip with probability epsilon, it is DPO's loss on clean labels.

        L = [-(1 - epsilon) log sigma(beta h) + epsilon log sigma(-beta h)] / (1 - 2 epsilon)

    Returns (B,), in nats. The loss is negative for large margins and has no lower bound. With epsilon = 0
    this is DPO. As in the paper and in TRL.
    """
    m = beta * logps.h  # (B,)
    both = -(1 - label_smoothing) * F.logsigmoid(m) + label_smoothing * F.logsigmoid(-m)
    return both / (1 - 2 * label_smoothing)


@loss(
    paper="Lambert et al. 2024 (Tulu 3), arXiv:2411.15124, length-normalized DPO",
    aliases=("sigmoid_norm",),
    reward=lambda y, beta: beta * y.logratio / y.lengths,
)
def dpo_norm(logps: PairLogps, *, beta: Positive = 5.0) -> Tensor:
    """DPO on log-ratios of the average token. The optimum is no longer ref exp(reward / beta), and Z does not
    cancel.

        L = -log sigma(beta r_w / |y_w| - beta r_l / |y_l|)

    beta: price of a nat a token; the paper's 5 is to DPO's 0.1 as 1 is to a response of 50 tokens
    Returns (B,), in nats. As TRL's `sigmoid_norm`, whose default beta is 0.1.
    """
    return -F.logsigmoid(beta * (logps.r_w / logps.chosen.lengths - logps.r_l / logps.rejected.lengths))


@loss(
    paper="Park et al. 2024, arXiv:2403.19159",
    reward=lambda y, beta, alpha: beta * y.logratio + alpha * y.lengths,
)
def r_dpo(logps: PairLogps, *, beta: Beta = 0.1, alpha: float = 0.05) -> Tensor:
    """Length-regularised DPO: the reward that people seem to have, less alpha for each token.

        L = -log sigma(beta h + alpha |y_w| - alpha |y_l|)

    alpha: price of a token of length, in units of reward
    Returns (B,), in nats. The sign follows from putting reward - alpha |y| into the optimum: a pair teaches
    less if its chosen response is the longer one. (Some repositories subtract, and so reward length.) Not in
    TRL 1.16.
    """
    return -F.logsigmoid(beta * logps.h + alpha * (logps.chosen.lengths - logps.rejected.lengths))


@loss(paper="Pal et al. 2024 (Smaug), arXiv:2402.13228, v3")
def dpop(logps: PairLogps, *, beta: Beta = 0.3, penalty: NonNegative = 50.0) -> Tensor:
    """DPO-Positive: a chosen response may not become less likely than it was. Each nat that it loses costs
    lambda nats of h.

        L = -log sigma(beta (h - lambda max(0, -r_w)))

    penalty: lambda, how much a nat lost by the chosen response weighs against a nat of h
    Returns (B,), in nats. The penalty is inside the sigmoid and is multiplied by beta, as in the paper's
    third version. Not in TRL 1.16.
    """
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
)
def f_dpo(
    logps: PairLogps,
    *,
    beta: Positive = 0.1,
    divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"] = "jensen_shannon",
    alpha: UpToOne = 0.5,
) -> Tensor:
    """DPO under another divergence from the reference, E_ref[f(u)], u = pi/ref = e^r. Its reward: beta f'(u).

        L = -log sigma(beta f'(u_w) - beta f'(u_l)),   u = e^r
        f'(u) = log u if reverse_kl, -1/u if forward_kl, log(u / (1 + u)) if jensen_shannon,
        -(u^-alpha) / alpha if alpha

    beta: price of one unit of the divergence, in units of reward
    divergence: which f, see the formula
    alpha: of divergence "alpha" alone, in (0, 1]; towards 0 it is reverse_kl, at 1 forward_kl
    Returns (B,), in nats. Constants of f' cancel. TRL's `f_alpha_divergence_coef` is 1 - alpha. Exponents are
    cut at 70 in float32. TRL cuts them at 80, for alpha only, and computes that one in float32.
    """
    return -F.logsigmoid(
        beta * (f_prime(logps.r_w, divergence, alpha) - f_prime(logps.r_l, divergence, alpha))
    )


@loss(
    paper="Huang et al. 2024, arXiv:2407.13399",
    reward=lambda y, beta, r_max: beta * (bounded_exp(y.logratio) + y.logratio),
)
def chipo(logps: PairLogps, *, beta: Positive = 0.05, r_max: Positive = 10.0) -> Tensor:
    """Chi-squared PO: KL plus chi-squared divergence, which is large where the policy gives much probability
    to what the reference finds unlikely.

        L = -log sigma(clip(beta phi(u_w) - beta phi(u_l), -2 r_max, 2 r_max)),
        phi(u) = u + log u,   u = e^r

    beta: price of one unit of the divergence, in units of reward
    r_max: half the largest margin that is believed, in units of reward
    Returns (B,), in nats. A pair outside the clip has no gradient. The exponent is cut at 70 in float32. Not
    in TRL 1.16.
    """
    w, l = bounded_exp(logps.r_w) + logps.r_w, bounded_exp(logps.r_l) + logps.r_l  # (B,) each
    return -F.logsigmoid((beta * (w - l)).clamp(-2 * r_max, 2 * r_max))


@loss(
    paper="Azar et al. 2023, arXiv:2310.12036, eq. 17",
    reward=lambda y, beta, reduction: beta * (y.logratio if reduction == "sum" else y.logratio / y.lengths),
)
def ipo(logps: PairLogps, *, beta: Positive = 0.1, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
    """Identity PO: a parabola, whose minimum is finite even where everybody agrees.

        L = (h - 1 / (2 beta))^2,   h = r_w - r_l if sum, r_w / |y_w| - r_l / |y_l| if mean

    beta: the paper's tau; the margin aimed at is 1 / (2 beta) nats
    reduction: "sum" is the paper's h; "mean" divides each log-ratio by its response's length
    Returns (B,), in squared nats. TRL's `ipo` is reduction="mean". Its target is in nats per token, so the
    two betas are not comparable, and the partition function does not cancel where lengths differ.
    """
    if reduction == "sum":
        h = logps.h  # (B,)
    else:
        h = logps.r_w / logps.chosen.lengths - logps.r_l / logps.rejected.lengths
    return (h - 1 / (2 * beta)) ** 2


@loss(paper="Liu et al. 2023 (RSO), arXiv:2309.06657; Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425")
def hinge(logps: PairLogps, *, beta: Positive = 0.1) -> Tensor:
    """The loss of a support vector machine: pairs whose margin has reached 1 count nothing.

        L = max(0, 1 - beta h)

    beta: 1 / beta nats of h are enough
    Returns (B,). With a reference, as in RSO and TRL. SLiC-HF has none. At the kink the gradient is 0.
    """
    return F.relu(1 - beta * logps.h)


@loss(paper="Ji et al. 2024, arXiv:2402.00856, eq. 16", aliases=("exo_pair",))
def exo(logps: PairLogps, *, beta: Beta = 0.1, label_smoothing: OpenHalf = 1e-3) -> Tensor:
    """Efficient Exact Optimization: KL(model || labels), where DPO's cross-entropy is KL(labels || model).

        L = q log(q / (1 - epsilon)) + (1 - q) log((1 - q) / epsilon),   q = sigma(beta h)

    label_smoothing: epsilon, what the label leaves to the rejected response, in (0, 0.5); at 0 L is infinite
    Returns (B,), in nats. This direction of the KL divergence seeks a mode: the gradient of very wrong pairs
    vanishes. As in TRL.
    """
    m = beta * logps.h  # (B,)
    chosen = m.sigmoid() * (F.logsigmoid(m) - math.log1p(-label_smoothing))
    return chosen + (-m).sigmoid() * (F.logsigmoid(-m) - math.log(label_smoothing))


@loss(paper="Lu et al. 2024, arXiv:2406.08414, eq. 5")
def discopop(logps: PairLogps, *, beta: Positive = 0.05, tau: OpenUnit = 0.05) -> Tensor:
    """Log-ratio modulated loss, found by a language model's search: logistic for wrong pairs, exponential for
    right ones.

        L = (1 - w) (-log sigma(m)) + w e^-m,   w = sigma(m / tau),   m = beta h

    beta: scale of the margin
    tau: width of the passage from one to the other
    Returns (B,). Around the reference the loss *rises* with the margin. As in the paper and in TRL, except
    that w e^-m is computed as one exponential: two factors would be 0 times infinity for very wrong pairs.
    """
    m = beta * logps.h  # (B,)
    return (-m / tau).sigmoid() * -F.logsigmoid(m) + (F.logsigmoid(m / tau) - m).exp()
