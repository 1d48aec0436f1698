"""Losses of each response of a pair on its own, and losses that look at a whole batch of pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mini_dpo.losses.hyperparameters import Beta, LabelSmoothing, Positive
from mini_dpo.losses.inputs import PairLogps
from mini_dpo.losses.registry import loss


@loss(paper="Chen et al. 2024, arXiv:2402.05369", aliases=("nca_pair",))
def nca(logps: PairLogps, *, beta: Beta = 0.1) -> Tensor:
    """Noise Contrastive Alignment: is this response from the better policy, or from the reference?

        L = -log sigma(beta r_w) - 1/2 log sigma(-beta r_w) - 1/2 log sigma(-beta r_l)

    Returns (B,), in nats. The terms in r_w alone hold the chosen response near an absolute level. As in TRL.
    """
    w, l = beta * logps.r_w, beta * logps.r_l  # (B,) each
    return -F.logsigmoid(w) - 0.5 * F.logsigmoid(-w) - 0.5 * F.logsigmoid(-l)


@loss(paper="Jung et al. 2024, arXiv:2404.04656", aliases=("bco_pair",))
def bco(logps: PairLogps, *, beta: Beta = 0.1, shift: float = 0.0) -> Tensor:
    """Binary Classifier Optimization: a classifier whose logit is the reward, chosen against rejected.

        L = -log sigma(beta r_w - delta) - log sigma(-(beta r_l - delta))

    shift: delta, the reward of a response between good and bad
    Returns (B,), in nats. In the paper delta is a running mean of (beta r_w + beta r_l) / 2. Here delta is a
    constant that you give. TRL 1.16 has none, as shift = 0.
    """
    return -F.logsigmoid(beta * logps.r_w - shift) - F.logsigmoid(shift - beta * logps.r_l)


@loss(paper="Wu et al. 2024, arXiv:2405.00675, eq. 4.7", aliases=("sppo_hard",))
def sppo(logps: PairLogps, *, beta: Positive = 0.001) -> Tensor:
    """Self-Play PO: each log-ratio regressed on its win rate, which a label makes 1 or 0.

        L = (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2

    beta: 1 / eta of the paper
    Returns (B,), in squared nats. The paper takes win rates that a model estimates. This is its hard form, as
    TRL's `sppo_hard` (default beta 0.1). The paper's code has half of this loss.
    """
    return (logps.r_w - 1 / (2 * beta)) ** 2 + (logps.r_l + 1 / (2 * beta)) ** 2


@loss(paper="Xiao et al. 2024, arXiv:2412.14516")
def cal_dpo(logps: PairLogps, *, beta: Positive = 0.01) -> Tensor:
    """Calibrated DPO: the log-ratios shall be the rewards +1/2 and -1/2 over beta, not only differ by enough.

        L = -log sigma(h) + (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2

    beta: sets the two targets; the logistic term has none
    Returns (B,). As the paper's formula. The paper's code halves the squares, and takes the mean of the batch
    before it squares. Not in TRL 1.16.
    """
    return -F.logsigmoid(logps.h) + (logps.r_w - 1 / (2 * beta)) ** 2 + (logps.r_l + 1 / (2 * beta)) ** 2


@loss(paper="D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7")
def apo_zero(logps: PairLogps, *, beta: Beta = 0.1) -> Tensor:
    """Anchored PO, zero: push the chosen response above the reference and the rejected one below it.

        L = 1 - sigma(beta r_w) + sigma(beta r_l)

    Returns (B,), in (0, 2). For chosen responses that are better than the model's own. As in TRL.
    """
    return 1 - (beta * logps.r_w).sigmoid() + (beta * logps.r_l).sigmoid()


@loss(paper="D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8")
def apo_down(logps: PairLogps, *, beta: Beta = 0.1) -> Tensor:
    """Anchored PO, down: lower both responses, the rejected one further.

        L = sigma(beta r_w) + 1 - sigma(beta h)

    Returns (B,), in (0, 2). For a model that is better than the chosen responses. As in TRL.
    """
    return (beta * logps.r_w).sigmoid() + 1 - (beta * logps.h).sigmoid()


@loss(paper="Melnyk et al. 2024, arXiv:2406.05882", decomposes=False)
def aot(logps: PairLogps, *, beta: Beta = 0.1, label_smoothing: LabelSmoothing = 0.0) -> Tensor:
    """Alignment via Optimal Transport, paired: as a distribution, the policy's preference gaps shall exceed
    the reference's.

        L = -(1 - epsilon) log sigma(m) - epsilon log sigma(-m)
        m = beta sorted(s(y_w) - s(y_l)) - beta sorted(s_ref(y_w) - s_ref(y_l))

    sorted: over the batch. The i-th smallest gap of the policy meets the i-th smallest of the reference.
    label_smoothing: epsilon, in [0, 0.5)
    Returns (B,), in nats, by rank and not by pair. With a batch of one this is cDPO. As in TRL.
    """
    w, l = logps.chosen, logps.rejected
    m = beta * ((w.policy - l.policy).sort().values - (w.s_ref - l.s_ref).sort().values)  # (B,)
    return -(1 - label_smoothing) * F.logsigmoid(m) - label_smoothing * F.logsigmoid(-m)


@loss(paper="Melnyk et al. 2024, arXiv:2406.05882", decomposes=False)
def aot_unpaired(logps: PairLogps, *, beta: Beta = 0.1, label_smoothing: LabelSmoothing = 0.0) -> Tensor:
    """Alignment via Optimal Transport, unpaired: as a distribution, the chosen rewards shall exceed the
    rejected ones.

        L = -(1 - epsilon) log sigma(m) - epsilon log sigma(-m),   m = beta sorted(r_w) - beta sorted(r_l)

    sorted: over the batch. The i-th smallest chosen log-ratio meets the i-th smallest rejected one.
    label_smoothing: epsilon, in [0, 0.5)
    Returns (B,), in nats, by rank and not by pair. With a batch of one this is cDPO. As in TRL.
    """
    m = beta * (logps.r_w.sort().values - logps.r_l.sort().values)  # (B,)
    return -(1 - label_smoothing) * F.logsigmoid(m) - label_smoothing * F.logsigmoid(-m)
