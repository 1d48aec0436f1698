"""Wrong versions of the losses, as people write them, and the property that must reject each.

WRONG: what is wrong -> (the right loss, whose facts and flags it claims, the wrong function, the property)."""

import math

import torch
from torch.nn import functional as F

from mini_dpo.losses import log_odds, require

nll = lambda m: -F.logsigmoid(m)  # noqa: E731


def shadow(w, l):
    """A mean over the tokens of each response."""
    return w.logratio / w.lengths - l.logratio / l.lengths


def kto(logps, beta, desirable_weight, undesirable_weight, detach=True, swap=False):
    z = logps.mismatched.mean().clamp(min=0)
    z = z.detach() if detach else z
    liked, disliked = desirable_weight * (beta * (z - logps.r)).sigmoid(), undesirable_weight * (beta * (logps.r - z)).sigmoid()
    return torch.where(~logps.desirable if swap else logps.desirable, liked, disliked)


WRONG = {
    # DPO
    "the sign of beta": ("dpo", lambda p, *, beta=0.1: nll(-beta * p.h), "monotone"),
    "chosen and rejected swapped": ("dpo", lambda p, *, beta=0.1: nll(beta * (p.r_l - p.r_w)), "monotone"),
    "the references swapped": ("dpo", lambda p, *, beta=0.1: nll(beta * (p.chosen.policy - p.rejected.ref - p.rejected.policy + p.chosen.ref)), "value at the reference"),
    "no beta": ("dpo", lambda p, *, beta=0.1: (require(beta > 0, ""), nll(p.h))[1], "beta scales"),
    "beta twice": ("dpo", lambda p, *, beta=0.1: nll(beta * beta * p.h), "antisymmetry"),
    "beta outside": ("dpo", lambda p, *, beta=0.1: nll(p.h) * beta, "value at the reference"),
    "the mean of the batch": ("dpo", lambda p, *, beta=0.1: nll(beta * p.h).mean(), "one value an example"),
    "the mean of the batch, as often as there are pairs": ("dpo", lambda p, *, beta=0.1: nll(beta * p.h).mean().expand(len(p)), "decomposes"),
    "margins less their batch mean": ("dpo", lambda p, *, beta=0.1: nll(beta * (p.h - p.h.mean().detach())), "decomposes"),
    "means over tokens": ("dpo", lambda p, *, beta=0.1: nll(beta * shadow(p.chosen, p.rejected)), "shift invariance"),
    "log of sigmoid": ("dpo", lambda p, *, beta=0.1: -(beta * p.h).sigmoid().log(), "finite at extremes"),
    "log of 1 + exp": ("dpo", lambda p, *, beta=0.1: (1 + (-beta * p.h).exp()).log(), "finite at extremes"),
    "a clipped margin": ("dpo", lambda p, *, beta=0.1: nll((beta * p.h).clamp(-10, 10)), "keeps learning"),
    "a clipped gradient": ("dpo", lambda p, *, beta=0.1: nll(beta * p.h.clamp(-5, 5).detach() + beta * (p.h - p.h.detach())), "antisymmetry"),
    "the rejected side detached": ("dpo", lambda p, *, beta=0.1: nll(beta * (p.r_w - p.r_l.detach())), "gradient is the derivative"),
    "everything detached": ("dpo", lambda p, *, beta=0.1: nll(beta * p.h.detach()), "gradient is the derivative"),
    "a probability, not its logarithm": ("dpo", lambda p, *, beta=0.1: 1 - (beta * p.h).sigmoid(), "convex"),
    "no reference": ("dpo", lambda p, *, beta=0.1: nll(beta * (p.chosen.policy - p.rejected.policy)), "reads the reference"),
    "a sum of log-ratios": ("dpo", lambda p, *, beta=0.1: nll(beta * (p.r_w + p.r_l)), "shift invariance"),
    "the size of the margin": ("dpo", lambda p, *, beta=0.1: nll(beta * p.h.abs()), "monotone"),
    "float32 inside": ("dpo", lambda p, *, beta=0.1: nll(beta * p.h.float()), "one value an example"),
    "no check of beta": ("dpo", lambda p, *, beta=0.1: nll(beta * p.h), "refuses nonsense"),
    "pairs compared with their neighbours": ("dpo", lambda p, *, beta=0.1: nll(beta * (p.r_w - p.r_l.roll(1))), "batch order"),
    # label noise
    "smoothing on the wrong side": ("cdpo", lambda p, *, beta=0.1, label_smoothing=0.1: (1 - label_smoothing) * nll(-beta * p.h) + label_smoothing * nll(beta * p.h), "antisymmetry"),
    "smoothing ignored": ("cdpo", lambda p, *, beta=0.1, label_smoothing=0.1: nll(beta * p.h), "population minimiser"),
    "half of the smoothing": ("cdpo", lambda p, *, beta=0.1, label_smoothing=0.1: (1 - label_smoothing) * nll(beta * p.h), "value at the reference"),
    "robust without its denominator": ("rdpo", lambda p, *, beta=0.1, label_smoothing=0.1: (1 - label_smoothing) * nll(beta * p.h) - label_smoothing * nll(-beta * p.h), "value at the reference"),
    "robust with a plus": ("rdpo", lambda p, *, beta=0.1, label_smoothing=0.1: ((1 - label_smoothing) * nll(beta * p.h) + label_smoothing * nll(-beta * p.h)) / (1 - 2 * label_smoothing), "value at the reference"),
    # other shapes
    "IPO's target without the 2": ("ipo", lambda p, *, beta=0.1, reduction="sum": (p.h - 1 / beta) ** 2, "value at the reference"),
    "IPO's target with the wrong sign": ("ipo", lambda p, *, beta=0.1, reduction="sum": (p.h + 1 / (2 * beta)) ** 2, "population minimiser"),
    "IPO of means, declared as sums": ("ipo", lambda p, *, beta=0.1, reduction="sum": (shadow(p.chosen, p.rejected) - 1 / (2 * beta)) ** 2, "shift invariance"),
    "IPO, not squared": ("ipo", lambda p, *, beta=0.1, reduction="sum": (p.h - 1 / (2 * beta)).abs(), "antisymmetry"),
    "a hinge without beta": ("hinge", lambda p, *, beta=0.1: F.relu(1 - p.h), "beta scales"),
    "a hinge that does not stop": ("hinge", lambda p, *, beta=0.1: 1 - beta * p.h, "population minimiser"),
    "EXO's epsilon on the wrong side": ("exo", lambda p, *, beta=0.1, label_smoothing=1e-3: exo(-beta * p.h, label_smoothing), "population minimiser"),
    "EXO with bare logarithms": ("exo", lambda p, *, beta=0.1, label_smoothing=1e-3: exo_unstable((beta * p.h).sigmoid(), label_smoothing), "finite at extremes"),
    "DiscoPOP, 0 times infinity": ("discopop", lambda p, *, beta=0.05, tau=0.05: discopop(beta * p.h, tau), "finite at extremes"),
    # each response on its own
    "NCA without the half": ("nca", lambda p, *, beta=0.1: nll(beta * p.r_w) + nll(-beta * p.r_w) + 0.5 * nll(-beta * p.r_l), "value at the reference"),
    "BCO's shift with the wrong sign": ("bco", lambda p, *, beta=0.1, shift=0.0: nll(beta * p.r_w + shift) + nll(shift - beta * p.r_l), "value at the reference"),
    "SPPO of the winner alone": ("sppo", lambda p, *, beta=0.001: (p.r_w - 1 / (2 * beta)) ** 2, "value at the reference"),
    "Cal-DPO with beta in the logistic term": ("cal_dpo", lambda p, *, beta=0.01: nll(beta * p.h) + (p.r_w - 0.5 / beta) ** 2 + (p.r_l + 0.5 / beta) ** 2, "antisymmetry"),
    "APO that raises the rejected one": ("apo_zero", lambda p, *, beta=0.1: 1 - (beta * p.r_w).sigmoid() + (-beta * p.r_l).sigmoid(), "population minimiser"),
    # DPO's relatives
    "DPOP's penalty outside beta": ("dpop", lambda p, *, beta=0.3, penalty=50.0: nll(beta * p.h - penalty * F.relu(-p.r_w)), "beta scales"),
    "DPOP's penalty outside the sigmoid": ("dpop", lambda p, *, beta=0.3, penalty=50.0: nll(beta * p.h) + penalty * F.relu(-p.r_w), "beta scales"),
    "R-DPO that rewards length": ("r_dpo", lambda p, *, beta=0.1, alpha=0.05: nll(beta * p.h - alpha * (p.chosen.lengths - p.rejected.lengths)), "antisymmetry"),
    "f-DPO with alpha's sign": ("f_dpo", lambda p, *, beta=0.1, divergence="jensen_shannon", alpha=0.5: nll(beta * (f_wrong(p.r_w, divergence, alpha) - f_wrong(p.r_l, divergence, alpha))), "antisymmetry"),
    "chi-PO without its logarithm": ("chipo", lambda p, *, beta=0.05, r_max=10.0: nll((beta * (p.r_w.clamp(max=70).exp() - p.r_l.clamp(max=70).exp())).clamp(-2 * r_max, 2 * r_max)), "population minimiser"),
    "each log-ratio divided by the other's length": ("dpo_norm", lambda p, *, beta=5.0: nll(beta * (p.r_w / p.rejected.lengths - p.r_l / p.chosen.lengths)), "antisymmetry"),
    # without a reference
    "SimPO's gamma with the wrong sign": ("simpo", lambda p, *, beta=2.0, gamma=1.0: nll(beta * (p.chosen.average - p.rejected.average) + gamma), "population minimiser"),
    "SimPO's gamma times beta": ("simpo", lambda p, *, beta=2.0, gamma=1.0: nll(beta * (p.chosen.average - p.rejected.average - gamma)), "beta scales"),
    "SimPO of sums": ("simpo", lambda p, *, beta=2.0, gamma=1.0: nll(beta * (p.chosen.policy - p.rejected.policy) - gamma), "shift invariance"),
    "SimPO with a reference": ("simpo", lambda p, *, beta=2.0, gamma=1.0: nll(beta * shadow(p.chosen, p.rejected) - gamma), "reads the reference"),
    "CPO's SFT on the rejected one": ("cpo", lambda p, *, beta=0.1, nll_weight=1.0: nll(beta * (p.chosen.policy - p.rejected.policy)) - nll_weight * p.rejected.policy, "antisymmetry"),
    "ORPO with log(1 - exp)": ("orpo", lambda p, *, odds_weight=0.1: -p.chosen.average + odds_weight * nll(odds_unstable(p.chosen.average) - odds_unstable(p.rejected.average)), "finite at extremes"),
    "ORPO's odds upside down": ("orpo", lambda p, *, odds_weight=0.1: odds_weight * nll(log_odds(p.rejected.average) - log_odds(p.chosen.average)), "monotone"),
    # single responses
    "KTO with z in the graph": ("kto", lambda p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0: kto(p, beta, desirable_weight, undesirable_weight, detach=False), "gradient reaches the policy alone"),
    "KTO with the labels swapped": ("kto", lambda p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0: kto(p, beta, desirable_weight, undesirable_weight, swap=True), "monotone"),
    "KTO without its weights": ("kto", lambda p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0: kto(p, beta, 1.0, 1.0), "value at the reference"),
    "AOT that sorts the policy alone": ("aot", lambda p, *, beta=0.1, label_smoothing=0.0: nll(beta * ((p.chosen.policy - p.rejected.policy).sort().values - (p.chosen.ref - p.rejected.ref))), "batch order"),
}  # fmt: skip


def exo(m, e):
    q = m.sigmoid()
    return q * (F.logsigmoid(m) - math.log1p(-e)) + (1 - q) * (F.logsigmoid(-m) - math.log(e))


def exo_unstable(q, e):
    return q * (q / (1 - e)).log() + (1 - q) * ((1 - q) / e).log()


def discopop(m, tau):
    w = (m / tau).sigmoid()
    return (1 - w) * nll(m) + w * (-m).exp()


def f_wrong(r, divergence, alpha):
    alpha = {"reverse_kl": 0.0, "forward_kl": 1.0}.get(divergence, alpha)
    return r if alpha == 0 else F.logsigmoid(r) if divergence == "jensen_shannon" else (alpha * r).clamp(max=60).exp() / alpha


def odds_unstable(average):
    return average - (1 - average.exp()).log()


# Facts that are false: (the loss, the fact or value, what it is made to say, the property that must notice)
FALSE_FACTS = [
    ("dpo", dict(shift_invariant=False), "shift invariance"),
    ("dpo", dict(monotone=False), "monotone"),
    ("dpo", dict(convex=False), "convex"),
    ("dpo", dict(decomposes=False), "decomposes"),
    ("dpo", dict(beta_scales=False), "beta scales"),
    ("dpo", dict(keeps_learning=False), "keeps learning"),
    ("dpo", dict(reference=False), "reads the reference"),
    ("simpo", dict(reference=True), "reads the reference"),
    ("simpo", dict(shift_invariant=True), "shift invariance"),
    ("ipo", dict(monotone=True), "monotone"),
    ("ipo", dict(shift_invariant=True), "shift invariance"),
    ("apo_zero", dict(convex=True), "convex"),
    ("kto", dict(keeps_learning=True), "keeps learning"),
    ("kto", dict(decomposes=True), "decomposes"),
    ("aot", dict(decomposes=True), "decomposes"),
    ("sppo", dict(beta_scales=True), "beta scales"),
]
