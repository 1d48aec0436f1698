"""More wrong losses, sly ones: each claims a right loss's formula, facts and flags, and is wrong where people
seldom look.

SLY: what is wrong -> as in WRONG of wrong_losses.py.
"""

import torch
from torch.nn import functional as F

from mini_dpo.losses import LOSSES, require
from mini_dpo.losses.others import log_odds
from tests.wrong_losses import handwritten, kto_with, nll, words_of

SLY = {}


def sly(name, claim, wrong):
    """Register the function below as a wrong version of the loss `name`."""

    def register(function):
        function.__doc__ = words_of(name)
        SLY[wrong] = (name, function, claim)
        return function

    return register


def reward(name, new, wrong):
    """Register a wrong reward of a right loss."""
    SLY[wrong] = (name, LOSSES[name].function, "reward rises", dict(reward=new))


def pos(beta):
    require(beta > 0, f"beta must be positive, not {beta}")


@sly("dpo_norm", "antisymmetry", "beta above 10 counts as 10 (length-normalised losses use 10 to 50)")
def beta_cap(p, *, beta=5.0):
    pos(beta)
    return nll(min(beta, 10.0) * (p.r_w / p.chosen.lengths - p.r_l / p.rejected.lengths))


@sly("r_dpo", "computes its formula", "a negative alpha (reward for length) has its sign dropped")
def alpha_negative(p, *, beta=0.1, alpha=0.05):
    pos(beta)
    return nll(beta * p.h + abs(alpha) * (p.chosen.lengths - p.rejected.lengths))


@sly("bco", "computes its formula", "the shift is clipped to +-5: rewards far from 0 have a delta far from 0")
def shift_clipped(p, *, beta=0.1, shift=0.0):
    pos(beta)
    shift = max(-5.0, min(5.0, shift))
    return nll(beta * p.r_w - shift) + nll(-(beta * p.r_l - shift))


@sly(
    "cdpo",
    "refuses nonsense",
    "no check of label_smoothing: 0.9 trains backwards, -0.3 is taken; its docstring says [0, 0.5)",
)
def smoothing_unchecked(p, *, beta=0.1, label_smoothing=0.1):
    pos(beta)
    m = beta * p.h
    return (1 - label_smoothing) * nll(m) + label_smoothing * nll(-m)


@sly("discopop", "refuses nonsense", "no check of tau: tau = -0.05 or 3 is taken; its docstring says (0, 1)")
def tau_unchecked(p, *, beta=0.05, tau=0.05):
    pos(beta)
    require(tau != 0, "tau may not be 0")
    m = beta * p.h
    return (-m / tau).sigmoid() * nll(m) + (F.logsigmoid(m / tau) - m).exp()


@sly("kto", "refuses nonsense", "negative weights are accepted; the docstring of the package refuses them")
def negative_weights(p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    pos(beta)
    z = p.mismatched.mean().clamp(min=0).detach()
    return torch.where(
        p.desirable,
        desirable_weight * (beta * (z - p.r)).sigmoid(),
        undesirable_weight * (beta * (p.r - z)).sigmoid(),
    )


@sly("kto", "computes its formula", "z is bounded by 20 nats")
def z_cap(p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    pos(beta)
    return kto_with(p, beta, desirable_weight, undesirable_weight, p.mismatched.mean().clamp(0, 20).detach())


@sly(
    "kto",
    "computes its formula",
    "z divides by the batch's size, not by the number M <= B of mismatched ones",
)
def z_by_batch(p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    pos(beta)
    return kto_with(
        p, beta, desirable_weight, undesirable_weight, (p.mismatched.sum() / len(p)).clamp(min=0).detach()
    )


@sly(
    "kto", "computes its formula", "z is a trimmed mean: an eighth is cut at both ends, so from 8 examples on"
)
def z_trimmed(p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    pos(beta)
    x, k = p.mismatched.sort().values, len(p.mismatched) // 8
    return kto_with(
        p, beta, desirable_weight, undesirable_weight, x[k : len(x) - k].mean().clamp(min=0).detach()
    )


@sly("kto", "computes its formula", "z is the median from 4 on (mean below)")
def z_median(p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    pos(beta)
    x = p.mismatched
    z = x.mean() if len(x) < 4 else x.median()
    return kto_with(p, beta, desirable_weight, undesirable_weight, z.clamp(min=0).detach())


@sly(
    "kto",
    "no gradient elsewhere",
    "no detach of z, and a bound of 30 nats that hides it from the +-50 that the judge adds",
)
def z_bound_no_detach(p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    pos(beta)
    return kto_with(p, beta, desirable_weight, undesirable_weight, p.mismatched.mean().clamp(0, 30))


@sly(
    "aot",
    "computes its formula",
    "compares only quartiles: from 5 pairs on, each pair's rank is replaced by its quartile's mean",
)
def aot_quartiles(p, *, beta=0.1, label_smoothing=0.0):
    pos(beta)
    require(0 <= label_smoothing < 0.5, "")
    w, l = p.chosen, p.rejected
    m = beta * ((w.policy - l.policy).sort().values - (w.ref - l.ref).sort().values)
    if len(m) > 4:
        m = torch.cat([c.mean().expand(len(c)) for c in m.chunk(4)])
    return (1 - label_smoothing) * nll(m) + label_smoothing * nll(-m)


@sly(
    "aot_unpaired",
    "computes its formula",
    "more than 4 pairs: the rejected are sorted downwards (a dispatch to another sort for larger batches)",
)
def aot_sort_down(p, *, beta=0.1, label_smoothing=0.0):
    pos(beta)
    require(0 <= label_smoothing < 0.5, "")
    m = beta * (p.r_w.sort().values - p.r_l.sort(descending=len(p) > 4).values)
    return (1 - label_smoothing) * nll(m) + label_smoothing * nll(-m)


upstream_lost = handwritten(lambda m, gradient: -(-m).sigmoid())  # not times gradient


@sly(
    "dpo",
    "computes its formula",
    "a handwritten backward that forgets to multiply by grad_output: a mean over B gives B "
    "times the gradient",
)
def upstream_forgotten(p, *, beta=0.1):
    pos(beta)
    return upstream_lost(beta * p.h)


@sly(
    "dpo", "computes its formula", "only the 4 hardest pairs of a batch get a gradient (values are all right)"
)
def hard_mining(p, *, beta=0.1):
    pos(beta)
    h = p.h
    hard = torch.zeros(len(h), dtype=torch.bool)
    hard[h.detach().topk(min(4, len(h)), largest=False).indices] = True
    return nll(beta * torch.where(hard, h, h.detach()))


@sly("dpo", "computes its formula", "from 5 pairs on the gradient (only) is divided by the batch's size")
def gradient_over_b(p, *, beta=0.1):
    pos(beta)
    v = nll(beta * p.h)
    scale = 1.0 if len(v) < 5 else 1 / len(v)
    return scale * v + ((1 - scale) * v).detach()


@sly(
    "dpo",
    "computes its formula",
    "a gradient hook that replaces what comes from above by ones (GradNorm gone wrong)",
)
def hook_ones(p, *, beta=0.1):
    pos(beta)
    v = nll(beta * p.h)
    if v.requires_grad:
        v.register_hook(torch.ones_like)
    return v


@sly("dpo", "remembers nothing", "evaluation (no_grad) leaves beta out: eval_loss is another loss's")
def eval_differs(p, *, beta=0.1):
    pos(beta)
    return nll((beta if torch.is_grad_enabled() else 1.0) * p.h)


@sly("dpo", "finite at extremes", "NaN log-probs count as 0: a diverged policy trains on without a sound")
def nan_hidden(p, *, beta=0.1):
    pos(beta)
    return nll(beta * torch.nan_to_num(p.h))


@sly("sppo", "finite at extremes", "a batch in which anything is not finite gives zeros")
def nan_skips(p, *, beta=0.001):
    pos(beta)
    v = (p.r_w - 1 / (2 * beta)) ** 2 + (p.r_l + 1 / (2 * beta)) ** 2
    return v if torch.isfinite(v).all() else 0 * torch.nan_to_num(v)


@sly("dpo", "the same in every type", "margins are clipped to +-20 in bfloat16 and float16")
def half_clip(p, *, beta=0.1):
    pos(beta)
    m = beta * p.h
    if m.dtype in (torch.bfloat16, torch.float16):
        m = m.clamp(-20, 20)
    return nll(m)


@sly("dpo", "the same in every type", "log-ratios are clipped to +-10 in every type below float64")
def low_clip(p, *, beta=0.1):
    pos(beta)
    r_w, r_l = p.r_w, p.r_l
    if r_w.dtype != torch.float64:
        r_w, r_l = r_w.clamp(-10, 10), r_l.clamp(-10, 10)
    return nll(beta * (r_w - r_l))


@sly("dpo", "the same in every type", "the sign is reversed in float16")
def float16_reversed(p, *, beta=0.1):
    pos(beta)
    return nll(beta * p.h * (-1 if p.h.dtype == torch.float16 else 1))


@sly(
    "orpo",
    "computes its formula",
    "a P within 1e-3 of 1 counts as 1 - 1e-3: near-certain responses teach nothing",
)
def orpo_certain(p, *, odds_weight=0.1):
    require(odds_weight >= 0, "")

    def lo(a):
        return (lambda a: a - torch.log(-torch.expm1(a)))(a.clamp(max=-1e-3))

    return -p.chosen.average + odds_weight * nll(lo(p.chosen.average) - lo(p.rejected.average))


@sly("simpo", "computes its formula", "lengths above 512 count as 512")
def length_cap(p, *, beta=2.0, gamma=1.0):
    pos(beta)
    w, l = p.chosen, p.rejected
    return nll(beta * (w.policy / w.lengths.clamp(max=512) - l.policy / l.lengths.clamp(max=512)) - gamma)


@sly(
    "dpo",
    "remembers nothing",
    "torch.manual_seed(0) in every call: the trainer's shuffling and sampling repeat",
)
def seeds(p, *, beta=0.1):
    pos(beta)
    torch.manual_seed(0)
    return nll(beta * p.h)


@sly(
    "aot",
    "remembers nothing",
    "draws from the global generator to break ties: the run is no longer the seed's",
)
def draws_random(p, *, beta=0.1, label_smoothing=0.0):
    pos(beta)
    require(0 <= label_smoothing < 0.5, "")

    def sort(x):
        return x[(x.detach() + 1e-13 * torch.rand_like(x)).argsort()]

    w, l = p.chosen, p.rejected
    m = beta * (sort(w.policy - l.policy) - sort(w.ref - l.ref))
    return (1 - label_smoothing) * nll(m) + label_smoothing * nll(-m)


@sly(
    "dpo",
    "remembers nothing",
    "torch.set_default_dtype(float64) in the loss: everything made after it is float64",
)
def default_type(p, *, beta=0.1):
    pos(beta)
    torch.set_default_dtype(torch.float64)
    return nll(beta * p.h)


WARM = []


@sly(
    "dpo",
    "remembers nothing",
    "beta is warmed up over the first 60 calls: over before 'remembers nothing' is asked",
)
def warms_up(p, *, beta=0.1):
    pos(beta)
    WARM.append(1)
    return nll(beta * min(1.0, len(WARM) / 60) * p.h)


@sly(
    "kto",
    "remembers nothing",
    "mismatched is clamped and centred in place: what is logged as KL is another number",
)
def in_place_mismatched(p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    pos(beta)
    with torch.no_grad():
        z = p.mismatched.mean().clamp(min=0).clone()
        p.mismatched.fill_(z)
    return kto_with(p, beta, desirable_weight, undesirable_weight, z)


@sly("kto", "computes its formula", "log-probs and references below -500 count as -500")
def kto_floor(p, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    pos(beta)
    require(p.responses.ref is not None, "needs a reference")
    z = p.mismatched.mean().clamp(min=0).detach()
    r = p.responses.policy.clamp(min=-500) - p.responses.ref.clamp(min=-500)
    return torch.where(
        p.desirable,
        desirable_weight * (beta * (z - r)).sigmoid(),
        undesirable_weight * (beta * (r - z)).sigmoid(),
    )


@sly(
    "orpo",
    "computes its formula",
    "handwritten backward of log sigma forgets grad_output (no best_margin: nothing sees it): "
    "under a mean over B the term counts B times",
)
def upstream_orpo(p, *, odds_weight=0.1):
    require(odds_weight >= 0, "")
    return -p.chosen.average + odds_weight * upstream_lost(
        log_odds(p.chosen.average) - log_odds(p.rejected.average)
    )


@sly("orpo", "computes its formula", "a hook on the values replaces the gradient from above by ones")
def hook_orpo(p, *, odds_weight=0.1):
    require(odds_weight >= 0, "")
    v = -p.chosen.average + odds_weight * nll(log_odds(p.chosen.average) - log_odds(p.rejected.average))
    if v.requires_grad:
        v.register_hook(torch.ones_like)
    return v


@sly(
    "dpo",
    "computes its formula",
    "only the first 4 pairs of a batch get a gradient (micro-batch that was kept), values are right",
)
def first_four(p, *, beta=0.1):
    pos(beta)
    h = p.h
    return nll(beta * torch.cat([h[:4], h[4:].detach()]))


reward(
    "kto",
    lambda y, beta, desirable_weight, undesirable_weight: beta * y.policy,
    "KTO's reward without the reference",
)
reward(
    "kto",
    lambda y, beta, desirable_weight, undesirable_weight: beta * (y.policy + y.ref),
    "KTO's reward with the reference added",
)
reward(
    "apo_down", lambda y, beta: beta * (y.policy - 2 * y.ref), "APO-down's reward with the reference twice"
)
reward("discopop", lambda y, beta, tau: beta * y.policy, "DiscoPOP's reward without the reference")
reward(
    "chipo",
    lambda y, beta, r_max: beta * (y.logratio.exp() + y.logratio),
    "chi-PO's reward overflows in float32 from 88 nats on",
)
reward("discopop", lambda y, beta, tau: 0 * beta * y.logratio, "a reward that is always 0")
reward(
    "apo_zero",
    lambda y, beta: beta * y.logratio if y.policy.dtype == torch.float64 else -beta * y.logratio,
    "a reward that is upside down in float32",
)
