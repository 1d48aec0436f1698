"""Every registered loss against the papers' formulas (papers.py): values and gradients, in float32 and in
float64, out to log-ratios of 10,000 nats, whatever the hyperparameters.
"""

import math
import random
from decimal import Decimal

import pytest
import torch
from torch.nn import functional as F

from mini_dpo.losses import LOSSES, ContrastLogps, PairLogps, Responses, UnpairedLogps
from mini_dpo.losses.others import log_odds
from tests import papers

DRAWS = 160
# so many of a loss's draws may differ from the paper where its exponent is cut, as the docstring says
EXCUSED = 48

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
every_type = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])

STRATA = [  # (s, s_ref) of a response
    lambda rng: (-(10 ** rng.uniform(-4, 1)), -(10 ** rng.uniform(-4, 1))),
    lambda rng: (rng.uniform(-1e3, 0), rng.uniform(-1e3, 0)),
    lambda rng: (rng.uniform(-1e4, 0), rng.uniform(-1e4, 0)),
    # moved away from the reference a little, below
    lambda rng: (-1e4 * rng.random() - rng.uniform(0, 10),) * 2,
    lambda rng: (-rng.randint(1, 20) / 2, -rng.randint(1, 20) / 2),  # ties, margins of 0, kinks
]
RANGES = {
    "beta": (1e-3, 5.0),
    "label_smoothing": (1e-4, 0.49),
    "alpha": (0.02, 1.0),
    "penalty": (0.0, 500.0),
    "r_max": (0.1, 100.0),
    "tau": (0.02, 0.98),
    "anchor": (-3, 3),
    "pair_weight": (0.0, 10.0),
    "shift": (-5.0, 5.0),
    "gamma": (-2.0, 10.0),
    "nll_weight": (0.0, 10.0),
    "odds_weight": (0.0, 10.0),
    "desirable_weight": (0.0, 30.0),
    "undesirable_weight": (0.0, 30.0),
    ("r_dpo", "alpha"): (-2.0, 2.0),
}


def draw_hyperparameters(rng, loss):
    """Log-uniform in the range if that is positive, else uniform; 1/4 (at which kinks are hit), the default
    and the edges as well.
    """
    values = {}
    for name in loss.hyperparameters:
        if name in loss.choices:
            values[name] = rng.choice(loss.choices[name])
            continue
        low, high = RANGES.get((loss.name, name)) or RANGES[name]
        spread = low * (high / low) ** rng.random() if low > 0 else rng.uniform(low, high)
        values[name] = rng.choice([spread, spread, spread, 0.25, loss.hyperparameters[name], low, high])
    return values


def draw(rng, loss, stratum, dtype):
    """(logps, hyperparameters): a batch of one or two, or of up to twelve for a loss that looks at the whole
    batch.
    """
    B = rng.randint(1, 2 if loss.fact("decomposes") else 12)

    def responses():
        sums = [STRATA[stratum](rng) for _ in range(B)]
        if stratum == 3:
            sums = [(min(s + rng.gauss(0, 3), -1e-3), ref) for s, ref in sums]
        policy, ref = (torch.tensor(column, dtype=dtype) for column in zip(*sums, strict=True))
        return Responses(
            policy.requires_grad_(), torch.tensor([int(500 ** rng.random()) for _ in range(B)]), ref
        )

    hyper = draw_hyperparameters(rng, loss)
    if loss.paired:
        sides = [responses() for _ in range(3 if loss.mismatched else 2)]
        return (ContrastLogps if loss.mismatched else PairLogps)(*sides), hyper
    sign = rng.choice([abs, lambda r: -abs(r), lambda r: r])
    mismatched = [sign(s - ref) for s, ref in (STRATA[stratum](rng) for _ in range(rng.randint(1, 12)))]
    share = rng.random()  # of liked ones: all of them, none of them and everything between
    liked = torch.tensor([rng.random() < share for _ in range(B)])
    return UnpairedLogps(responses(), liked, torch.tensor(mismatched, dtype=dtype)), hyper


def draws(loss, dtype):
    rng = random.Random(loss.name)
    return (draw(rng, loss, i % len(STRATA), dtype) for i in range(DRAWS))


def sides(logps):
    return list(vars(logps).values()) if isinstance(logps, PairLogps) else [logps.responses]


def ours(function, logps, hyper):
    """The values, and the gradient of their sum with respect to each policy log-prob."""
    values = function(logps, **hyper)
    gradients = torch.autograd.grad(values.sum(), [y.policy for y in sides(logps)])
    return [number for part in (values, *gradients) for number in part.tolist()]


def theirs(name, logps, hyper, **documented):
    """The same from the paper's formula, of the very numbers that ours was given."""
    rows = [
        row
        for y in sides(logps)
        for row in zip(y.policy.tolist(), y.ref.tolist(), y.lengths.tolist(), strict=True)
    ]
    liked, mismatched = (
        ([], []) if isinstance(logps, PairLogps) else (logps.desirable.tolist(), logps.mismatched.tolist())
    )
    return papers.answer(
        name, rows, liked, mismatched, hyper, torch.finfo(sides(logps)[0].policy.dtype).eps, **documented
    )


def far(found, paper, dtype):
    """Which numbers are farther from the paper's than the type explains."""
    least = Decimal(torch.finfo(dtype).tiny)
    return [
        i
        for i, (a, b) in enumerate(zip(found, paper, strict=True))
        if not math.isfinite(a) or abs(Decimal(a) - b.value) > b.error + least
    ]


def limits(dtype):
    """What the docstrings say that the package does not follow, as logarithms: powers are cut at four fifths
    of what the type can hold, and ORPO's P at that of an average of -1e-6 nats.
    """
    return dict(power=Decimal(0.8 * math.log(torch.finfo(dtype).max)), probability=Decimal(-1e-6))


def compare(function, name, logps, hyper):
    """(the paper's numbers, whether the documented limits had to be taken into account). Fails if they do not
    explain the difference.
    """
    dtype, found = sides(logps)[0].policy.dtype, ours(function, logps, hyper)
    paper = theirs(name, logps, hyper)
    excused = bool(far(found, paper, dtype))
    if excused:
        paper = theirs(name, logps, hyper, **limits(dtype))
    for i in far(found, paper, dtype):
        raise AssertionError(
            f"{name}, {hyper}, {logps}: number {i} is {found[i]!r}; the paper's is "
            f"{paper[i].value:.17g}, give or take {paper[i].error:.2g}"
        )
    return paper, excused


# --- what has to be found

nll = lambda m: -F.logsigmoid(m)  # noqa: E731


def kto(p, beta, desirable_weight, undesirable_weight, z=None, outside=0.0):
    z = p.mismatched.mean().clamp(min=0) if z is None else z
    liked, disliked = (
        desirable_weight * (beta * (z - p.r) + outside).sigmoid(),
        undesirable_weight * (beta * (p.r - z) - outside).sigmoid(),
    )
    return torch.where(p.desirable, liked, disliked)


DRIFTS = {
    "ORPO with the ratio of probabilities": (
        "orpo",
        lambda p, *, odds_weight: (
            -p.chosen.average + odds_weight * nll(p.chosen.average - p.rejected.average)
        ),
    ),
    "ORPO with a summed SFT term": (
        "orpo",
        lambda p, *, odds_weight: (
            -p.chosen.policy + odds_weight * nll(log_odds(p.chosen.average) - log_odds(p.rejected.average))
        ),
    ),
    "DiscoPOP with 2 tau": (
        "discopop",
        lambda p, *, beta, tau: (
            LOSSES["discopop"].function(p, beta=beta, tau=2 * tau)
            if tau < 0.5
            else LOSSES["discopop"](p, beta=beta, tau=tau)
        ),
    ),
    "KTO: z may be negative": ("kto", lambda p, **hyper: kto(p, **hyper, z=p.mismatched.mean())),
    "KTO: z negated": ("kto", lambda p, **hyper: kto(p, **hyper, z=-p.mismatched.mean().clamp(min=0))),
    "KTO: z outside beta": (
        "kto",
        lambda p, **hyper: kto(p, **hyper, z=0.0, outside=p.mismatched.mean().clamp(min=0)),
    ),
    "KTO: the weights exchanged": (
        "kto",
        lambda p, *, beta, desirable_weight, undesirable_weight: kto(
            p, beta, undesirable_weight, desirable_weight
        ),
    ),
    "APO-zero: the weights exchanged": (
        "apo_zero_unpaired",
        lambda p, *, beta, desirable_weight, undesirable_weight: kto(
            p, beta, undesirable_weight, desirable_weight, z=0.0
        ),
    ),
    "IPO's target 1 / beta": (
        "ipo",
        lambda p, *, beta, reduction: LOSSES["ipo"](p, beta=beta / 2, reduction=reduction),
    ),
    "DPOP's penalty outside beta": (
        "dpop",
        lambda p, *, beta, penalty: nll(beta * p.h - penalty * F.relu(-p.r_w)),
    ),
    "R-DPO that rewards length": (
        "r_dpo",
        lambda p, *, beta, alpha: LOSSES["r_dpo"](p, beta=beta, alpha=-alpha),
    ),
    "AlphaPO bent the other way": (
        "alphapo",
        lambda p, *, beta, gamma, alpha: nll(
            beta * ((alpha * p.chosen.average).exp() - (alpha * p.rejected.average).exp()) / alpha - gamma
        ),
    ),
    "f-DPO with TRL's alpha": (
        "f_dpo",
        lambda p, *, beta, divergence, alpha: LOSSES["f_dpo"](
            p, beta=beta, divergence=divergence, alpha=1 - alpha if alpha < 1 else alpha
        ),
    ),
    "chi-PO clipped at r_max": (
        "chipo",
        lambda p, *, beta, r_max: LOSSES["chipo"](p, beta=beta, r_max=r_max / 2),
    ),
    "SPPO's target 1 / beta": ("sppo", lambda p, *, beta: LOSSES["sppo"](p, beta=beta / 2)),
    "AOT unsorted": (
        "aot",
        lambda p, *, beta, label_smoothing: LOSSES["cdpo"](p, beta=beta, label_smoothing=label_smoothing),
    ),
    "AOT: each pair's log-ratio sorted": (
        "aot",
        lambda p, *, beta, label_smoothing: LOSSES["aot_unpaired"](
            p, beta=beta, label_smoothing=label_smoothing
        ),
    ),
    "SimPO dividing by 20 tokens at most": (
        "simpo",
        lambda p, *, beta, gamma: nll(
            beta
            * (
                p.chosen.policy / p.chosen.lengths.clamp(max=20)
                - p.rejected.policy / p.rejected.lengths.clamp(max=20)
            )
            - gamma
        ),
    ),
    "beta above 2 ignored": ("dpo", lambda p, *, beta: nll(min(beta, 2.0) * p.h)),
    "the log of a clamped sigmoid": (
        "dpo",
        lambda p, *, beta: -(beta * p.h).sigmoid().clamp(min=1e-30).log(),
    ),
    "the sign reversed in float32 only": (
        "dpo",
        lambda p, *, beta: nll((-beta if p.h.dtype == torch.float32 else beta) * p.h),
    ),
    "the rejected side without gradient": (
        "dpo",
        lambda p, *, beta: nll(beta * (p.r_w - p.r_l.detach() + 0 * p.r_l)),
    ),
}


@every_type
@every_loss
def test_values_and_gradients_are_the_papers(loss, dtype):
    """Catches: a wrong sign, beta twice or not at all, chosen and rejected swapped, smoothing on the wrong
    side.
    """
    compared = [compare(loss, loss.name, *example) for example in draws(loss, dtype)]
    assert sum(excused for _, excused in compared) <= EXCUSED
    if dtype == torch.float64:  # the others are at ties and kinks
        granted = [
            n.error / max(1, abs(n.value)) for paper, excused in compared if not excused for n in paper
        ]
        assert sum(error < 1e-9 for error in granted) > 0.95 * len(granted)


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_drift_is_found(drift):
    """In float32, whose tolerance is the wider one."""
    name, wrong = DRIFTS[drift]
    with pytest.raises(AssertionError, match="the paper's is"):
        for example in draws(LOSSES[name], torch.float32):
            compare(wrong, name, *example)
