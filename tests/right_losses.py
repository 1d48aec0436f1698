"""Right losses that are not the package's: each must keep every property that it is asked."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mini_dpo.losses import Facts, PairLogps, UnpairedLogps, loss, require
from mini_dpo.losses.closed_forms import flipped, logit, majority, offset_logit


def power_margin(p: float, n: float) -> float:
    """The m that minimises p (1 - m)^n + (1 - p) (1 + m)^n."""
    if n == 1:
        return math.copysign(1.0, p - 0.5)
    t = (p / (1 - p)) ** (1 / (n - 1))
    return (t - 1) / (t + 1)


@loss(
    paper="Masnadi-Shirazi and Vasconcelos 2008",
    facts=Facts(
        at_reference=lambda beta: 0.25,
        best_margin=lambda p, beta: logit(p),
        convex=False,
        keeps_learning=False,
    ),
)
def savage(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """Savage's loss: robust to outliers.

        L = 1 / (1 + e^(beta h))^2

    beta: price of a nat
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return (-beta * logps.h).sigmoid() ** 2


@loss(
    paper="exponential loss, AdaBoost",
    facts=Facts(
        at_reference=lambda beta: 1.0,
        best_margin=lambda p, beta: 0.5 * logit(p),
        convex=False,
        keeps_learning=False,
    ),
)
def exponential(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """AdaBoost's loss, its exponent cut at 30.

        L = exp(min(-beta h, 30))

    beta: price of a nat
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return (-beta * logps.h).clamp(max=30).exp()


@loss(
    paper="made up",
    facts=Facts(
        at_reference=lambda beta, tau: tau * math.log1p(math.exp(1 / tau)),
        best_margin=lambda p, beta, tau: tau * offset_logit(p, 1 / tau),
    ),
)
def soft_hinge(logps: PairLogps, *, beta: float = 0.1, tau: float = 2.0) -> Tensor:
    """A hinge with a round corner.

        L = tau log(1 + exp((1 - beta h) / tau))

    beta: price of a nat
    tau: width of the corner
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(tau > 0, f"tau must be positive, not {tau}")
    return tau * F.softplus((1 - beta * logps.h) / tau)


@loss(
    paper="robust statistics",
    facts=Facts(
        at_reference=lambda beta, cap: min(cap, 1.0),
        best_margin=lambda p, beta, cap: 2 * p - 1 if cap >= 4 else None,
        convex=False,
        keeps_learning=False,
    ),
)
def truncated_quadratic(logps: PairLogps, *, beta: float = 0.1, cap: float = 4.0) -> Tensor:
    """Squared hinge that gives up on outliers.

        L = min(c, max(0, 1 - beta h)^2)

    beta: price of a nat
    cap: c, the largest loss
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(cap > 0, f"cap must be positive, not {cap}")
    return (1 - beta * logps.h).clamp(0, math.sqrt(cap)) ** 2


@loss(
    paper="made up",
    facts=Facts(at_reference=lambda beta, n: 1.0, best_margin=lambda p, beta, n: power_margin(p, n)),
)
def hinge_power(logps: PairLogps, *, beta: float = 0.1, n: int = 3) -> Tensor:
    """The n-th power of the hinge.

        L = max(0, 1 - beta h)^n

    beta: price of a nat
    n: the power, 1 or more
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(n >= 1, f"n must be at least 1, not {n}")
    return F.relu(1 - beta * logps.h) ** n


@loss(
    paper="modified Huber", facts=Facts(at_reference=lambda beta: 1.0, best_margin=lambda p, beta: 2 * p - 1)
)
def modified_huber(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """Squared hinge that goes on in a straight line.

        L = max(0, 1 - beta h)^2 - max(0, -1 - beta h)^2

    beta: price of a nat
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    m = beta * logps.h
    return torch.where(m >= -1, F.relu(1 - m) ** 2, -4 * m)


@loss(
    paper="Zhang and Sabuncu 2018, generalised cross-entropy",
    facts=Facts(
        at_reference=lambda beta, t: (1 - 2**-t) / t,
        best_margin=lambda p, beta, t: logit(p) / (1 - t) if t < 1 else majority(p),
        convex=False,
        keeps_learning=False,
    ),
)
def tempered(logps: PairLogps, *, beta: float = 0.1, t: float = 0.5) -> Tensor:
    """A tempered logarithm in place of the logarithm.

        L = (1 - sigma(beta h)^t) / t

    beta: price of a nat
    t: in (0, 1]; towards 0 it is DPO's
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(0 < t <= 1, f"t must be in (0, 1], not {t}")
    return -torch.expm1(t * F.logsigmoid(beta * logps.h)) / t


@loss(
    paper="Lin et al. 2017, focal loss",
    facts=Facts(
        at_reference=lambda beta, gamma: 2**-gamma * math.log(2),
        best_margin=lambda p, beta, gamma: logit(p) if gamma == 0 else None,
        convex=lambda beta, gamma: gamma == 0,
    ),
)
def focal(logps: PairLogps, *, beta: float = 0.1, gamma: float = 0.5) -> Tensor:
    """Focal DPO: pairs that are right already count less.

        L = -(1 - q)^gamma log q,   q = sigma(beta h)

    beta: price of a nat
    gamma: how much less; at least 0
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(gamma >= 0, f"gamma must be at least 0, not {gamma}")
    m = beta * logps.h
    return -(gamma * F.logsigmoid(-m)).exp() * F.logsigmoid(m)


@loss(
    paper="temperature",
    facts=Facts(
        at_reference=lambda beta, temperature: math.log(2),
        best_margin=lambda p, beta, temperature: temperature * logit(p),
        swap_slope=lambda beta, temperature: -1 / temperature,
    ),
)
def temperature_dpo(logps: PairLogps, *, beta: float = 0.1, temperature: float = 2.0) -> Tensor:
    """DPO at a temperature.

        L = -log sigma(beta h / T)

    beta: price of a nat
    temperature: T, must be positive
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(temperature > 0, f"temperature must be positive, not {temperature}")
    return -F.logsigmoid(beta * logps.h / temperature)


@loss(
    paper="cDPO with offset",
    facts=Facts(
        at_reference=lambda beta, epsilon, gamma: (
            (1 - epsilon) * math.log1p(math.exp(gamma)) + epsilon * math.log1p(math.exp(-gamma))
        ),
        best_margin=lambda p, beta, epsilon, gamma: (
            offset_logit(p, gamma) if epsilon == 0 else logit(flipped(p, epsilon)) if gamma == 0 else None
        ),
        monotone=lambda beta, epsilon, gamma: epsilon == 0,
        reversed_where="sigma(beta h - gamma) > 1 - epsilon",
    ),
)
def smooth_offset(logps: PairLogps, *, beta: float = 0.1, epsilon: float = 0.1, gamma: float = 0.5) -> Tensor:
    """Conservative DPO with an offset.

        L = -(1 - epsilon) log sigma(beta h - gamma) - epsilon log sigma(gamma - beta h)

    beta: price of a nat
    epsilon: share of flipped labels
    gamma: offset
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(0 <= epsilon < 0.5, f"epsilon must be in [0, 0.5), not {epsilon}")
    m = beta * logps.h - gamma
    return -(1 - epsilon) * F.logsigmoid(m) - epsilon * F.logsigmoid(-m)


@loss(
    paper="several",
    facts=Facts(
        at_reference=lambda beta, link: {"logistic": math.log(2), "hinge": 1.0, "square": 1.0}[link],
        best_margin=lambda p, beta, link: {
            "logistic": logit(p),
            "hinge": math.copysign(1.0, p - 0.5),
            "square": 2 * p - 1,
        }[link],
        monotone=lambda beta, link: link != "square",
        reversed_where="beta h > 1",
    ),
)
def choice(
    logps: PairLogps, *, beta: float = 0.1, link: Literal["logistic", "hinge", "square"] = "hinge"
) -> Tensor:
    """The general form GPO, with three links.

        L = f(beta h),   f(m) = -log sigma(m) if logistic, max(0, 1 - m) if hinge, (1 - m)^2 if square

    beta: price of a nat
    link: which f
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    m = beta * logps.h
    if link == "logistic":
        return -F.logsigmoid(m)
    return F.relu(1 - m) if link == "hinge" else (1 - m) ** 2


@loss(
    paper="IPO, generalised",
    reward=lambda y, tau, power: tau * y.logratio,
    facts=Facts(
        at_reference=lambda tau, power: (1 / (2 * tau)) ** power,
        best_margin=lambda p, tau, power: 0.5 * power_margin(p, power),
        reversed_where="h > 1 / (2 tau)",
        monotone=False,
    ),
)
def ipo_power(logps: PairLogps, *, tau: float = 0.1, power: float = 1.5) -> Tensor:
    """IPO with another power.

        L = abs(h - 1 / (2 tau))^power

    tau: half the inverse of the aim
    power: 2 is IPO's, above 1
    """
    require(tau > 0, f"tau must be positive, not {tau}")
    require(power > 1, f"power must be above 1, not {power}")
    return (logps.h - 1 / (2 * tau)).abs() ** power


@loss(paper="made up")
def length_penalty(logps: PairLogps, *, beta: float = 0.1, alpha: float = 0.02) -> Tensor:
    """DPO that believes less in a chosen response that is longer.

        L = -log sigma(beta h - alpha max(0, |y_l| - |y_w|))

    beta: price of a nat
    alpha: price of a token
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return -F.logsigmoid(beta * logps.h - alpha * F.relu(logps.rejected.lengths - logps.chosen.lengths))


@loss(
    paper="Yuan et al. 2023, arXiv:2304.05302",
    reward=lambda y, nll_weight: y.average,
    reference=False,
    facts=Facts(shift_invariant=False),
)
def rrhf(logps: PairLogps, *, nll_weight: float = 1.0) -> Tensor:
    """RRHF: rank by average log-prob, and SFT on the best.

        L = max(0, s(y_l) / |y_l| - s(y_w) / |y_w|) - lambda s(y_w)

    nll_weight: lambda, weight of SFT
    """
    require(nll_weight >= 0, f"nll_weight must be at least 0, not {nll_weight}")
    return F.relu(logps.rejected.average - logps.chosen.average) - nll_weight * logps.chosen.policy


@loss(
    paper="Zhao et al. 2023, arXiv:2305.10425",
    reference=False,
    facts=Facts(
        best_margin=lambda p, beta, delta, nll_weight: (
            math.copysign(delta, p - 0.5) if nll_weight == 0 else None
        ),
        shift_invariant=lambda beta, delta, nll_weight: nll_weight == 0,
        beta_scales=lambda beta, delta, nll_weight: nll_weight == 0,
    ),
)
def slic(logps: PairLogps, *, beta: float = 1.0, delta: float = 1.0, nll_weight: float = 0.1) -> Tensor:
    """SLiC-HF.

        L = max(0, delta - beta s(y_w) + beta s(y_l)) - lambda s(y_w)

    beta: scale
    delta: the margin
    nll_weight: lambda, weight of SFT
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(delta > 0, f"delta must be positive, not {delta}")
    require(nll_weight >= 0, f"nll_weight must be at least 0, not {nll_weight}")
    w, l = logps.chosen.policy, logps.rejected.policy
    return F.relu(delta - beta * (w - l)) - nll_weight * w


@loss(
    paper="Xiao et al. 2025 (SimPER), arXiv:2502.00883",
    reward=lambda y: y.average.exp(),
    reference=False,
    facts=Facts(swap_slope=lambda: -2, shift_invariant=False, convex=False),
)
def simper(logps: PairLogps) -> Tensor:
    """SimPER: inverse perplexities, no hyperparameters.

        L = -exp(s(y_w) / |y_w|) + exp(s(y_l) / |y_l|)

    Returns (B,), in (-1, 1).
    """
    return -logps.chosen.average.exp() + logps.rejected.average.exp()


@loss(
    paper="Jung et al. 2024, arXiv:2404.04656",
    decomposes=False,
    facts=Facts(
        at_reference=lambda beta: 2 * math.log(2),
        best_margin=lambda p, beta: 2 * logit(p),
        swap_slope=lambda beta: -1,
        shift_invariant=False,
        estimate=True,
    ),
)
def bco_batch(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """BCO with the batch's mean reward as shift.

        L = -log sigma(beta r_w - delta) - log sigma(delta - beta r_l),
        delta = mean(beta r_w + beta r_l) / 2

    beta: price of a nat
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    w, l = beta * logps.r_w, beta * logps.r_l
    delta = ((w + l) / 2).mean().detach()
    return -F.logsigmoid(w - delta) - F.logsigmoid(delta - l)


@loss(
    paper="Wu et al. 2024, arXiv:2407.08639",
    decomposes=False,
    facts=Facts(
        at_reference=lambda beta, alpha, m_0: math.log(2),
        estimate=True,
        monotone=False,
        convex=False,
        # b falls from beta (1 - alpha m_0) at h = 0 to 0.1 beta, and with it the pull
        keeps_learning=lambda beta, alpha, m_0: 1 - alpha * m_0 < 20,
    ),
)
def beta_dpo(logps: PairLogps, *, beta: float = 0.1, alpha: float = 0.3, m_0: float = 0.0) -> Tensor:
    """beta-DPO: a larger beta for batches that are easy.

        L = -log sigma(b h),   b = beta max(0.1, 1 + alpha (mean(beta h) - m_0))

    beta: price of a nat
    alpha: how much beta moves
    m_0: the margin at which it does not
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(alpha >= 0, f"alpha must be at least 0, not {alpha}")
    b = beta * (1 + alpha * ((beta * logps.h).mean().detach() - m_0)).clamp(min=0.1)
    return -F.logsigmoid(b * logps.h)


@loss(
    paper="Wu et al. 2024, arXiv:2407.07880",
    decomposes=False,
    facts=Facts(at_reference=lambda beta, beta_2: math.log(2), best_margin=lambda p, beta, beta_2: logit(p)),
)
def dr_dpo(logps: PairLogps, *, beta: float = 0.1, beta_2: float = 2.0) -> Tensor:
    """Dr. DPO as in the paper: the same number for each pair of the batch.

        L = -beta_2 log mean(exp(log sigma(beta h) / beta_2))

    beta: price of a nat
    beta_2: temperature of the weights
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(beta_2 > 0, f"beta_2 must be positive, not {beta_2}")
    values = -F.logsigmoid(beta * logps.h)
    whole = -beta_2 * (torch.logsumexp(-values / beta_2, 0) - math.log(len(values)))
    return whole.expand(len(values))


@loss(
    paper="trimmed",
    decomposes=False,
    facts=Facts(at_reference=lambda beta: math.log(2), best_margin=lambda p, beta: logit(p)),
)
def trimmed(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """DPO without the worst eighth of the batch. Of equal ones all are kept. Dropped pairs count 0.

        L = -log sigma(beta h), or 0 for the B // 8 worst of the batch

    beta: price of a nat
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    values = -F.logsigmoid(beta * logps.h)
    limit = values.sort().values[len(values) - 1 - len(values) // 8]
    return torch.where(values > limit, torch.zeros_like(values), values)  # what is no number is kept


@loss(
    paper="logistic regression",
    facts=Facts(
        at_reference=lambda beta: 2 * math.log(2),
        best_margin=lambda p, beta: 2 * logit(p),
        swap_slope=lambda beta: -1,
        shift_invariant=False,
    ),
)
def unpaired_logistic(logps: UnpairedLogps, *, beta: float = 0.1) -> Tensor:
    """A classifier of single responses.

        L = -log sigma(beta r) if liked, -log sigma(-beta r) if not

    beta: price of a nat
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    sign = logps.desirable.to(logps.r.dtype) * 2 - 1
    return -F.logsigmoid(sign * beta * logps.r)


@loss(
    paper="Ethayarajh et al. 2024, arXiv:2402.01306, without the clamp",
    mismatched=True,
    decomposes=False,
    facts=Facts(
        at_reference=lambda beta: 1.0,
        best_margin=lambda p, beta: majority(p),
        shift_invariant=False,
        convex=False,
        keeps_learning=False,
    ),
)
def kto_unclamped(logps: UnpairedLogps, *, beta: float = 0.1) -> Tensor:
    """KTO, with z not cut at 0: an estimate of a KL divergence that may be negative.

        L = 1 - sigma(beta (r - z)) if liked, 1 - sigma(beta (z - r)) if not
        z = mean(r')

    beta: price of a nat
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    z = logps.mismatched.mean().detach()
    return torch.where(logps.desirable, (beta * (z - logps.r)).sigmoid(), (beta * (logps.r - z)).sigmoid())
