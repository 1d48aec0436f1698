"""Wrong versions of the losses, as people write them, and the property that must reject each.

WRONG: what is wrong -> (the right loss, whose formula, facts and flags it claims, the wrong function, the
property, and which of the facts it changes).
"""

import math

import torch
from torch.nn import functional as F

from mini_dpo.losses import LOSSES, require
from mini_dpo.losses.others import log_odds

nll = lambda m: -F.logsigmoid(m)  # noqa: E731


def shadow(w, l):
    """A mean over the tokens of each response."""
    return w.logratio / w.lengths - l.logratio / l.lengths


def words_of(name):
    """A loss's docstring, in which each hyperparameter has a line: its own, or what its type says."""
    variant = LOSSES[name]
    lines = variant.docstring.splitlines()
    words = [line for line in lines if line.split(":")[0] not in variant.hyperparameters]
    return "\n".join([*words, *(f"{h}: {variant.describe(h)}" for h in variant.hyperparameters)])


def kto(logps, beta, desirable_weight, undesirable_weight, detach=True, swap=False):
    z = logps.mismatched.mean().clamp(min=0)
    z = z.detach() if detach else z
    liked, disliked = (
        desirable_weight * (beta * (z - logps.r)).sigmoid(),
        undesirable_weight * (beta * (logps.r - z)).sigmoid(),
    )
    return torch.where(~logps.desirable if swap else logps.desirable, liked, disliked)


WRONG = {
    # DPO
    "the sign of beta": ("dpo", lambda p, *, beta=0.1: nll(-beta * p.h), "monotone"),
    "chosen and rejected swapped": ("dpo", lambda p, *, beta=0.1: nll(beta * (p.r_l - p.r_w)), "monotone"),
    "the references swapped": (
        "dpo",
        lambda p, *, beta=0.1: nll(
            beta * (p.chosen.policy - p.rejected.ref - p.rejected.policy + p.chosen.ref)
        ),
        "value at the reference",
    ),
    "no beta": ("dpo", lambda p, *, beta=0.1: (require(beta > 0, ""), nll(p.h))[1], "beta scales"),
    "beta twice": ("dpo", lambda p, *, beta=0.1: nll(beta * beta * p.h), "antisymmetry"),
    "beta outside": ("dpo", lambda p, *, beta=0.1: nll(p.h) * beta, "value at the reference"),
    "the mean of the batch": ("dpo", lambda p, *, beta=0.1: nll(beta * p.h).mean(), "one value an example"),
    "the mean of the batch, as often as there are pairs": (
        "dpo",
        lambda p, *, beta=0.1: nll(beta * p.h).mean().expand(len(p)),
        "decomposes",
    ),
    "margins less their batch mean": (
        "dpo",
        lambda p, *, beta=0.1: nll(beta * (p.h - p.h.mean().detach())),
        "decomposes",
    ),
    "means over tokens": (
        "dpo",
        lambda p, *, beta=0.1: nll(beta * shadow(p.chosen, p.rejected)),
        "shift invariance",
    ),
    "log of sigmoid": ("dpo", lambda p, *, beta=0.1: -(beta * p.h).sigmoid().log(), "finite at extremes"),
    "log of 1 + exp": ("dpo", lambda p, *, beta=0.1: (1 + (-beta * p.h).exp()).log(), "finite at extremes"),
    "a clipped margin": ("dpo", lambda p, *, beta=0.1: nll((beta * p.h).clamp(-10, 10)), "keeps learning"),
    "a clipped gradient": (
        "dpo",
        lambda p, *, beta=0.1: nll(beta * p.h.clamp(-5, 5).detach() + beta * (p.h - p.h.detach())),
        "antisymmetry",
    ),
    "the rejected side detached": (
        "dpo",
        lambda p, *, beta=0.1: nll(beta * (p.r_w - p.r_l.detach())),
        "gradient is the derivative",
    ),
    "everything detached": (
        "dpo",
        lambda p, *, beta=0.1: nll(beta * p.h.detach()),
        "gradient is the derivative",
    ),
    "a probability, not its logarithm": ("dpo", lambda p, *, beta=0.1: 1 - (beta * p.h).sigmoid(), "convex"),
    "no reference": (
        "dpo",
        lambda p, *, beta=0.1: nll(beta * (p.chosen.policy - p.rejected.policy)),
        "reads the reference",
    ),
    "a sum of log-ratios": ("dpo", lambda p, *, beta=0.1: nll(beta * (p.r_w + p.r_l)), "shift invariance"),
    "the size of the margin": ("dpo", lambda p, *, beta=0.1: nll(beta * p.h.abs()), "monotone"),
    "float32 inside": ("dpo", lambda p, *, beta=0.1: nll(beta * p.h.float()), "one value an example"),
    "no check of beta": ("dpo", lambda p, *, beta=0.1: nll(beta * p.h), "refuses nonsense"),
    "pairs compared with their neighbours": (
        "dpo",
        lambda p, *, beta=0.1: nll(beta * (p.r_w - p.r_l.roll(1))),
        "batch order",
    ),
    # label noise
    "smoothing on the wrong side": (
        "cdpo",
        lambda p, *, beta=0.1, label_smoothing=0.1: (
            (1 - label_smoothing) * nll(-beta * p.h) + label_smoothing * nll(beta * p.h)
        ),
        "antisymmetry",
    ),
    "smoothing ignored": (
        "cdpo",
        lambda p, *, beta=0.1, label_smoothing=0.1: nll(beta * p.h),
        "population minimiser",
    ),
    "half of the smoothing": (
        "cdpo",
        lambda p, *, beta=0.1, label_smoothing=0.1: (1 - label_smoothing) * nll(beta * p.h),
        "value at the reference",
    ),
    "robust without its denominator": (
        "rdpo",
        lambda p, *, beta=0.1, label_smoothing=0.1: (
            (1 - label_smoothing) * nll(beta * p.h) - label_smoothing * nll(-beta * p.h)
        ),
        "value at the reference",
    ),
    "robust with a plus": (
        "rdpo",
        lambda p, *, beta=0.1, label_smoothing=0.1: (
            ((1 - label_smoothing) * nll(beta * p.h) + label_smoothing * nll(-beta * p.h))
            / (1 - 2 * label_smoothing)
        ),
        "value at the reference",
    ),
    # other shapes
    "IPO's target without the 2": (
        "ipo",
        lambda p, *, beta=0.1, reduction="sum": (p.h - 1 / beta) ** 2,
        "value at the reference",
    ),
    "IPO's target with the wrong sign": (
        "ipo",
        lambda p, *, beta=0.1, reduction="sum": (p.h + 1 / (2 * beta)) ** 2,
        "population minimiser",
    ),
    "IPO of means, declared as sums": (
        "ipo",
        lambda p, *, beta=0.1, reduction="sum": (shadow(p.chosen, p.rejected) - 1 / (2 * beta)) ** 2,
        "shift invariance",
    ),
    "IPO, not squared": (
        "ipo",
        lambda p, *, beta=0.1, reduction="sum": (p.h - 1 / (2 * beta)).abs(),
        "antisymmetry",
    ),
    "a hinge without beta": ("hinge", lambda p, *, beta=0.1: F.relu(1 - p.h), "beta scales"),
    "a hinge that does not stop": ("hinge", lambda p, *, beta=0.1: 1 - beta * p.h, "population minimiser"),
    "EXO's epsilon on the wrong side": (
        "exo",
        lambda p, *, beta=0.1, label_smoothing=1e-3: exo(-beta * p.h, label_smoothing),
        "population minimiser",
    ),
    "EXO with bare logarithms": (
        "exo",
        lambda p, *, beta=0.1, label_smoothing=1e-3: exo_unstable((beta * p.h).sigmoid(), label_smoothing),
        "finite at extremes",
    ),
    "DiscoPOP, 0 times infinity": (
        "discopop",
        lambda p, *, beta=0.05, tau=0.05: discopop(beta * p.h, tau),
        "finite at extremes",
    ),
    # each response on its own
    "NCA without the half": (
        "nca",
        lambda p, *, beta=0.1: nll(beta * p.r_w) + nll(-beta * p.r_w) + 0.5 * nll(-beta * p.r_l),
        "value at the reference",
    ),
    "BCO's shift with the wrong sign": (
        "bco",
        lambda p, *, beta=0.1, shift=0.0: nll(beta * p.r_w + shift) + nll(shift - beta * p.r_l),
        "value at the reference",
    ),
    "SPPO of the winner alone": (
        "sppo",
        lambda p, *, beta=0.001: (p.r_w - 1 / (2 * beta)) ** 2,
        "value at the reference",
    ),
    "Cal-DPO with beta in the logistic term": (
        "cal_dpo",
        lambda p, *, beta=0.01: nll(beta * p.h) + (p.r_w - 0.5 / beta) ** 2 + (p.r_l + 0.5 / beta) ** 2,
        "antisymmetry",
    ),
    "APO that raises the rejected one": (
        "apo_zero",
        lambda p, *, beta=0.1: 1 - (beta * p.r_w).sigmoid() + (-beta * p.r_l).sigmoid(),
        "population minimiser",
    ),
    "mDPO that likes the other prompt": (
        "mdpo",
        lambda p, *, beta=0.1, anchor=0.0, pair_weight=1.0: (
            pair_weight * nll(beta * p.h) + nll(beta * (p.r_o - p.r_w)) + nll(beta * p.r_w - anchor)
        ),
        "computes its formula",
    ),
    "mDPO without its anchor": (
        "mdpo",
        lambda p, *, beta=0.1, anchor=0.0, pair_weight=1.0: (
            pair_weight * nll(beta * p.h) + nll(beta * (p.r_w - p.r_o))
        ),
        "value at the reference",
    ),
    "mDPO that learns of the chosen response alone": (
        "mdpo",
        lambda p, *, beta=0.1, anchor=0.0, pair_weight=1.0: (
            pair_weight * nll(beta * p.h) + nll(beta * (p.r_w - p.r_o.detach())) + nll(beta * p.r_w - anchor)
        ),
        "gradient is the derivative",
    ),
    # DPO's relatives
    "DPOP's penalty outside beta": (
        "dpop",
        lambda p, *, beta=0.3, penalty=50.0: nll(beta * p.h - penalty * F.relu(-p.r_w)),
        "beta scales",
    ),
    "DPOP's penalty outside the sigmoid": (
        "dpop",
        lambda p, *, beta=0.3, penalty=50.0: nll(beta * p.h) + penalty * F.relu(-p.r_w),
        "beta scales",
    ),
    "R-DPO that rewards length": (
        "r_dpo",
        lambda p, *, beta=0.1, alpha=0.05: nll(beta * p.h - alpha * (p.chosen.lengths - p.rejected.lengths)),
        "antisymmetry",
    ),
    "f-DPO with alpha's sign": (
        "f_dpo",
        lambda p, *, beta=0.1, divergence="jensen_shannon", alpha=0.5: nll(
            beta * (f_wrong(p.r_w, divergence, alpha) - f_wrong(p.r_l, divergence, alpha))
        ),
        "antisymmetry",
    ),
    "chi-PO without its logarithm": (
        "chipo",
        lambda p, *, beta=0.05, r_max=10.0: nll(
            (beta * (p.r_w.clamp(max=70).exp() - p.r_l.clamp(max=70).exp())).clamp(-2 * r_max, 2 * r_max)
        ),
        "population minimiser",
    ),
    "each log-ratio divided by the other's length": (
        "dpo_norm",
        lambda p, *, beta=5.0: nll(beta * (p.r_w / p.rejected.lengths - p.r_l / p.chosen.lengths)),
        "antisymmetry",
    ),
    # without a reference
    "SimPO's gamma with the wrong sign": (
        "simpo",
        lambda p, *, beta=2.0, gamma=1.0: nll(beta * (p.chosen.average - p.rejected.average) + gamma),
        "population minimiser",
    ),
    "SimPO's gamma times beta": (
        "simpo",
        lambda p, *, beta=2.0, gamma=1.0: nll(beta * (p.chosen.average - p.rejected.average - gamma)),
        "beta scales",
    ),
    "SimPO of sums": (
        "simpo",
        lambda p, *, beta=2.0, gamma=1.0: nll(beta * (p.chosen.policy - p.rejected.policy) - gamma),
        "shift invariance",
    ),
    "SimPO with a reference": (
        "simpo",
        lambda p, *, beta=2.0, gamma=1.0: nll(beta * shadow(p.chosen, p.rejected) - gamma),
        "reads the reference",
    ),
    "CPO's SFT on the rejected one": (
        "cpo",
        lambda p, *, beta=0.1, nll_weight=1.0: (
            nll(beta * (p.chosen.policy - p.rejected.policy)) - nll_weight * p.rejected.policy
        ),
        "antisymmetry",
    ),
    "ORPO with log(1 - exp)": (
        "orpo",
        lambda p, *, odds_weight=0.1: (
            -p.chosen.average
            + odds_weight * nll(odds_unstable(p.chosen.average) - odds_unstable(p.rejected.average))
        ),
        "finite at extremes",
    ),
    "ORPO's odds upside down": (
        "orpo",
        lambda p, *, odds_weight=0.1: (
            odds_weight * nll(log_odds(p.rejected.average) - log_odds(p.chosen.average))
        ),
        "monotone",
    ),
    # single responses
    "KTO with z in the graph": (
        "kto",
        lambda p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0: kto(
            p, beta, desirable_weight, undesirable_weight, detach=False
        ),
        "no gradient elsewhere",
    ),
    "KTO with the labels swapped": (
        "kto",
        lambda p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0: kto(
            p, beta, desirable_weight, undesirable_weight, swap=True
        ),
        "monotone",
    ),
    "KTO without its weights": (
        "kto",
        lambda p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0: kto(p, beta, 1.0, 1.0),
        "value at the reference",
    ),
    "AOT that sorts the policy alone": (
        "aot",
        lambda p, *, beta=0.1, label_smoothing=0.0: nll(
            beta * ((p.chosen.policy - p.rejected.policy).sort().values - (p.chosen.ref - p.rejected.ref))
        ),
        "batch order",
    ),
}


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
    return (
        r
        if alpha == 0
        else F.logsigmoid(r)
        if divergence == "jensen_shannon"
        else (alpha * r).clamp(max=60).exp() / alpha
    )


def odds_unstable(average):
    return average - (1 - average.exp()).log()


# --- wrong in hidden places


def kto_with(p, beta, weight_w, weight_l, z_w, z_l=None):
    """KTO with these weights and this z, or one for each kind of response."""
    z_l = z_w if z_l is None else z_l
    return torch.where(
        p.desirable, weight_w * (beta * (z_w - p.r)).sigmoid(), weight_l * (beta * (p.r - z_l)).sigmoid()
    )


def kto_z(z, lam=lambda d, u: (d, u), detach=(True, True)):
    """KTO with another z, (mismatched mean, r, beta) -> z; with weights exchanged; with z detached in one
    branch only.
    """

    def wrong(p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
        require(beta > 0, "")
        z_w, z_l = (
            x.detach() if stop else x
            for x, stop in zip((z(p.mismatched.mean(), beta),) * 2, detach, strict=True)
        )
        return kto_with(p, beta, *lam(desirable_weight, undesirable_weight), z_w, z_l)

    return wrong


def kto_outside(p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    z = p.mismatched.mean().clamp(min=0).detach()
    return torch.where(
        p.desirable,
        desirable_weight * (z - beta * p.r).sigmoid(),
        undesirable_weight * (beta * p.r - z).sigmoid(),
    )


def dpo_where(where, otherwise=lambda m: nll(-m)):
    """DPO that does something else where(p, m) says so, the wrong sign if not told otherwise."""

    def wrong(p, *, beta=0.1):
        require(beta > 0, "")
        m = beta * p.h
        condition = where(p, m)
        return torch.where(
            condition if isinstance(condition, torch.Tensor) else torch.tensor(condition),
            otherwise(m),
            nll(m),
        )

    return wrong


def handwritten(backward):
    """-log sigma(m) with a handwritten gradient, backward(m, what comes from above)."""

    class Handwritten(torch.autograd.Function):
        @staticmethod
        def forward(ctx, m):
            ctx.save_for_backward(m)
            return nll(m)

        @staticmethod
        def backward(ctx, gradient):
            return backward(*ctx.saved_tensors, gradient)

    return Handwritten.apply


reversed_in_float32 = handwritten(
    lambda m, gradient: gradient * (-m).sigmoid() * (1 if m.dtype == torch.float32 else -1)
)


def counting(after, otherwise=lambda m: nll(-m)):
    """DPO for so many calls."""
    calls = []

    def wrong(p, *, beta=0.1):
        require(beta > 0, "")
        calls.append(1)
        return nll(beta * p.h) if len(calls) <= after else otherwise(beta * p.h)

    return wrong


def remembering():
    """Margins less the mean of the last batch's."""
    last = [0.0]

    def wrong(p, *, beta=0.1):
        require(beta > 0, "")
        m = beta * p.h
        values = nll(m - last[0])
        last[0] = m.detach().mean().item()
        return values

    return wrong


def in_place(p, *, beta=0.1):
    require(beta > 0, "")
    p.chosen.lengths.add_(1)
    return nll(beta * p.h)


def centred(p, *, beta=0.1):
    require(beta > 0, "")
    h = p.h
    return nll(beta * (h - h.mean() if len(h) >= 5 else h))


def worst_of_eight(p, *, beta=0.1):
    require(beta > 0, "")
    losses = nll(beta * p.h)
    keep = torch.ones(len(losses), dtype=losses.dtype)
    keep[losses.argsort(descending=True)[: len(losses) // 8]] = 0
    return losses * keep


def simpo_short(p, *, beta=2.0, gamma=1.0):
    require(beta > 0, "")
    return nll(
        beta
        * (
            p.chosen.policy / p.chosen.lengths.clamp(max=20)
            - p.rejected.policy / p.rejected.lengths.clamp(max=20)
        )
        - gamma
    )


def ratio_of_probabilities(p, *, odds_weight=0.1):
    return -p.chosen.average + odds_weight * nll(p.chosen.average - p.rejected.average)


def orpo(p, *, odds_weight=0.1):
    return -p.chosen.average + odds_weight * nll(log_odds(p.chosen.average) - log_odds(p.rejected.average))


def orpo_summed(p, *, odds_weight=0.1):
    return -p.chosen.policy + odds_weight * nll(log_odds(p.chosen.average) - log_odds(p.rejected.average))


def discopop_twice(p, *, beta=0.05, tau=0.05):
    require(beta > 0 and tau > 0, "")
    m = beta * p.h
    return (-m / (2 * tau)).sigmoid() * nll(m) + (F.logsigmoid(m / (2 * tau)) - m).exp()


def exchanged(p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    return torch.where(
        p.desirable, undesirable_weight * (-beta * p.r).sigmoid(), desirable_weight * (beta * p.r).sigmoid()
    )


def longer(p, *, beta=0.1, alpha=0.05):
    return nll(beta * p.h - alpha * (p.chosen.lengths - p.rejected.lengths))


lengths = lambda p: p.chosen.lengths > 20  # noqa: E731

WRONG |= {
    # KTO's own business
    "KTO's z without max(0, .)": ("kto", kto_z(lambda mean, beta: mean), "computes its formula"),
    "KTO's z negated": ("kto", kto_z(lambda mean, beta: (-mean).clamp(min=0)), "computes its formula"),
    "KTO's z outside beta": ("kto", kto_outside, "computes its formula"),
    "KTO's z in the graph of the disliked": (
        "kto",
        kto_z(lambda mean, beta: mean.clamp(min=0), detach=(True, False)),
        "no gradient elsewhere",
    ),
    "KTO's z in the graph of the liked": (
        "kto",
        kto_z(lambda mean, beta: mean.clamp(min=0), detach=(False, True)),
        "no gradient elsewhere",
    ),
    "KTO's weights exchanged": (
        "kto",
        kto_z(lambda mean, beta: mean.clamp(min=0), lam=lambda d, u: (u, d)),
        "computes its formula",
    ),
    "KTO without z": ("kto", kto_z(lambda mean, beta: 0 * mean), "computes its formula"),
    "APO's weights exchanged": ("apo_zero_unpaired", exchanged, "computes its formula"),
    # wrong outside float64
    "the sign reversed in float32": (
        "dpo",
        dpo_where(lambda p, m: m.dtype == torch.float32),
        "the same in every type",
    ),
    "the sign reversed in bfloat16": (
        "dpo",
        dpo_where(lambda p, m: m.dtype == torch.bfloat16),
        "the same in every type",
    ),
    "a backward that is reversed in float32": (
        "dpo",
        lambda p, *, beta=0.1: reversed_in_float32(beta * p.h),
        "the same in every type",
    ),
    "a sigmoid bounded by the type's smallest": (
        "dpo",
        lambda p, *, beta=0.1: -(beta * p.h).sigmoid().clamp(min=torch.finfo(p.h.dtype).tiny).log(),
        "the same in every type",
    ),
    # wrong where people seldom look
    "the sign reversed for more than 20 tokens": (
        "dpo",
        dpo_where(lambda p, m: lengths(p)),
        "favours the chosen",
    ),
    "SimPO that divides by at most 20": ("simpo", simpo_short, "computes its formula"),
    "no reference below -100 nats": (
        "dpo",
        lambda p, *, beta=0.1: nll(beta * (p.h + torch.where(p.chosen.ref < -100, p.chosen.ref, 0))),
        "value at the reference",
    ),
    "a margin clipped at 88": (
        "dpo",
        lambda p, *, beta=0.1: nll((beta * p.h).clamp(-88, 88)),
        "keeps learning",
    ),
    "beta above 2 ignored": ("dpo", lambda p, *, beta=0.1: nll(min(beta, 2.0) * p.h), "beta scales"),
    "margins centred from 5 pairs on": ("dpo", centred, "decomposes"),
    "the worst of 8 pairs dropped": ("dpo", worst_of_eight, "decomposes"),
    # memory
    "another loss after a thousand calls": ("dpo", counting(1000), "remembers nothing"),
    "a random number": (
        "dpo",
        lambda p, *, beta=0.1: nll(beta * p.h + 1e-3 * torch.randn(len(p))),
        "remembers nothing",
    ),
    "the last batch's mean": ("dpo", remembering(), "remembers nothing"),
    "lengths changed in place": ("dpo", in_place, "remembers nothing"),
    "another value while gradients are off": (
        "dpo",
        lambda p, *, beta=0.1: nll(beta * p.h) * (1 if p.h.requires_grad else 2),
        "remembers nothing",
    ),
    # wrong, and declared in the same way
    "the sign of beta, and a reward to match": (
        "dpo",
        lambda p, *, beta=0.1: nll(-beta * p.h),
        "favours the chosen",
        dict(reward=lambda y, beta: -beta * y.logratio, monotone=False),
    ),
    "a right loss with the reward's sign reversed": (
        "ipo",
        LOSSES["ipo"].function,
        "reward rises",
        dict(reward=lambda y, beta, reduction: -beta * y.logratio),
    ),
    "R-DPO that rewards length, and says so": (
        "r_dpo",
        longer,
        "computes its formula",
        dict(reward=lambda y, beta, alpha: beta * y.logratio - alpha * y.lengths),
    ),
    "ORPO's reward upside down": (
        "orpo",
        orpo,
        "reward rises",
        dict(reward=lambda y, odds_weight: -log_odds(y.average)),
    ),
    "ORPO with the ratio of probabilities": ("orpo", ratio_of_probabilities, "computes its formula"),
    "ORPO with a summed SFT term": ("orpo", orpo_summed, "computes its formula"),
    "DiscoPOP with 2 tau": ("discopop", discopop_twice, "computes its formula"),
}
for name, function, *_ in WRONG.values():  # they claim the right loss's formula
    function.__doc__ = function.__doc__ or words_of(name)


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
