"""Losses of each response of a pair on its own, and losses that look at a whole batch of pairs."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from mini_dpo.losses.closed_forms import flipped, logit, majority
from mini_dpo.losses.inputs import PairLogps
from mini_dpo.losses.registry import loss, require


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
