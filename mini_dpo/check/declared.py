"""The facts that a loss declares (losses/registry.py, `loss`): each must hold where it is declared, and not
where it is denied.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from mini_dpo.check.examples import batches, changed, equal, example_shown, numbers, pairs, settings_shown
from mini_dpo.check.judge import Broken, prop
from mini_dpo.losses import Loss, PairLogps, Responses
from mini_dpo.theory.probe import FAR, START, along_margin, each_alone, margin, pick, value, without_reference
from mini_dpo.theory.tabular import expected_loss, minimise

RUNAWAY = 3  # a margin beyond it, after training, is on its way to infinity


@prop(
    "value at the reference",
    says="where the policy is the reference, the value is the declared one",
    usually="a wrong sign or offset, a mean over tokens, or a false `at_reference`; here every run begins",
    asked=lambda loss: (
        ""
        if loss.facts.at_reference
        else "no at_reference is declared" + ("" if loss.reference else ": there is no reference")
    ),
)
def at_reference(loss, draw, hyper):
    logps = draw(pairs(at_reference=True))
    values, declared = value(loss, logps, hyper), loss.facts.at_reference(**hyper)
    if not equal(values, torch.full_like(values, declared)):
        raise Broken(
            f"{example_shown(logps, hyper)}\nthe loss gives {numbers(values)}, and declares {declared:.6g}"
        )


@prop(
    "shift invariance",
    says="a number added to both log-probs of a pair changes nothing: Z(x) cancels",
    usually="the partition function no longer cancels; IPO averaged by length, SimPO and KTO "
    "behave so on purpose: then declare shift_invariant=False",
    fact="shift_invariant",
)
def shift_invariance(loss, draw, hyper):
    logps = draw(pairs())
    shift = torch.tensor([float(draw(st.integers(1, 20))) for _ in range(len(logps))], dtype=torch.float64)
    moved = changed(logps, lambda y: Responses(y.policy - shift, y.lengths, y.ref))
    before, after = value(loss, logps, hyper), value(loss, moved, hyper)
    if not equal(before, after):
        raise Broken(
            f"{example_shown(logps, hyper)}\nthe loss gives {numbers(before)}; with "
            f"{numbers(shift)} less for both log-probs, {numbers(after)}"
        )


HUGE = 1e240  # where exponents are cut
NEAR, FAR_OUT = (
    torch.arange(-40.0, 41.0, dtype=torch.float64),
    torch.arange(-1000.0, 1001.0, 20.0, dtype=torch.float64),
)


def on_paths(loss: Loss, hyper: dict):
    """The margin's path near the reference, then far out, as far as floats reach: (places h, the loss at
    each, where it begins).
    """
    for h, start in ((NEAR, START), (FAR_OUT, FAR)):
        values = each_alone(loss, along_margin(h, start), hyper)
        reached = values.abs() < HUGE
        yield h[reached], values[reached], start


def nearest(broken: Tensor, h: Tensor) -> int:
    """Of the places h of a path where something is broken, the index of the one nearest to h = 0."""
    places = broken.nonzero().flatten()
    return int(places[h[places].abs().argmin()])


def path(start: float, hyper: dict) -> str:
    return (
        f"y_w and y_l: 20 tokens, reference {start:g} each, log-probs {start:g} + h/2 and "
        f"{start:g} - h/2; {settings_shown(hyper)}"
    )


@prop(
    "monotone",
    says="it never rises while y_w gains as many nats as y_l loses",
    usually="a wrong sign, or chosen and rejected swapped; a loss with a minimum at a finite "
    "margin (IPO, cDPO) declares monotone=False",
    fact="monotone",
    share=0.5,
)
def monotone(loss, draw, hyper):
    for h, values, start in on_paths(loss, hyper):
        rises = values.diff() > 1e-9 * (1 + values[1:].abs())
        if rises.any():
            i = nearest(rises, h)
            raise Broken(
                f"{path(start, hyper)}\nh = {h[i]:g} gives {values[i]:.6g}, h = {h[i + 1]:g} "
                f"gives {values[i + 1]:.6g}"
            )


@prop(
    "convex",
    says="along the same path it never bends down",
    usually="a formula that flattens out (a bare sigmoid, a clip): such losses give up on "
    "very wrong pairs and declare convex=False",
    fact="convex",
    share=0.5,
)
def convex(loss, draw, hyper):
    for h, values, start in on_paths(loss, hyper):
        bends = values.diff().diff() < -1e-9 * (1 + values[1:-1].abs())
        if bends.any():
            i = nearest(bends, h)
            middle = (values[i] + values[i + 2]) / 2
            raise Broken(
                f"{path(start, hyper)}\nh = {h[i]:g} and {h[i + 2]:g} give {values[i]:.6g} "
                f"and {values[i + 2]:.6g}, on average {middle:.6g}; h = {h[i + 1]:g} gives "
                f"more, {values[i + 1]:.6g}"
            )


@prop(
    "antisymmetry",
    says="swapping y_w and y_l changes it by the declared multiple of the margin",
    usually="a wrong sign, beta once too often or not at all, smoothing on the wrong side, a "
    "clipped margin, or softplus with its threshold",
    asked=lambda loss: "" if loss.facts.swap_slope else "no swap_slope is declared",
)
def antisymmetry(loss, draw, hyper):
    logps = draw(pairs(size=1))
    change = value(loss, logps, hyper) - value(loss, logps.swapped, hyper)
    expected = loss.facts.swap_slope(**hyper) * margin(loss, logps, hyper)
    if not equal(change, expected):
        slope = loss.facts.swap_slope(**hyper)
        raise Broken(
            f"{example_shown(logps, hyper)}\nloss less the swapped pair's loss is "
            f"{change.item():.8g}; {slope:g} times the margin is {expected.item():.8g}"
        )


@prop(
    "decomposes",
    says="an example's value does not depend on the others of its batch",
    usually="a mean, sort or normalisation over the batch; losses that mean to (AOT, KTO) "
    "declare decomposes=False",
    fact="decomposes",
)
def decomposes(loss, draw, hyper):
    logps = draw(batches(loss))
    together = loss(logps, **hyper)
    alone = torch.cat([loss(pick(logps, [i]), **hyper) for i in range(len(logps))])
    if not equal(together, alone):
        raise Broken(
            f"{example_shown(logps, hyper)}\ntogether they give {numbers(together)}, each in "
            f"a batch of its own {numbers(alone)}"
        )


@prop(
    "reads the reference",
    says="it reads a reference if it declares one, and needs none if it does not",
    usually="reference=False on a loss that uses log-ratios, or a reference that is run in "
    "every step for nothing",
)
def reads_reference(loss, draw, hyper):
    logps = draw(pairs(size=1))
    try:
        value(loss, without_reference(logps), hyper)
    except (ValueError, TypeError, AttributeError) as error:
        if not loss.reference:
            raise Broken(
                f"{example_shown(logps, hyper)}\nreference=False is declared, and the loss "
                f"fails without one: {error}"
            ) from error
    else:
        if loss.reference:  # where it can be called without, it does not read it
            raise Broken(
                "the loss can be called without a reference: declare reference=False, and none will be run"
            )


@prop(
    "beta scales",
    says="twice the log-probs at half the beta give the same",
    usually="beta in the wrong place; a loss whose target depends on beta (IPO, SPPO) "
    "declares beta_scales=False",
    fact="beta_scales",
    asked=lambda loss: "" if "beta" in loss.hyperparameters else "it has no beta",
)
def beta_scales(loss, draw, hyper):
    logps = draw(pairs())
    doubled = changed(logps, lambda y: Responses(2 * y.policy, y.lengths, 2 * y.ref))
    before, after = value(loss, logps, hyper), value(loss, doubled, {**hyper, "beta": hyper["beta"] / 2})
    if not equal(before, after):
        raise Broken(
            f"{example_shown(logps, hyper)}\nthe loss gives {numbers(before)}; all log-probs "
            f"doubled and beta halved, {numbers(after)}"
        )


@prop(
    "keeps learning",
    says="a pair that is wrong by 40 to 1,000 nats still pulls",
    usually="a clip or a bare sigmoid; losses that give up on very wrong pairs on purpose "
    "(KTO, APO, EXO) declare keeps_learning=False",
    fact="keeps_learning",
)
def keeps_learning(loss, draw, hyper):
    for start, places in ((START, [0.0, -40.0, -100.0]), (FAR, [0.0, -200.0, -400.0, -1000.0])):
        h = torch.tensor(places, dtype=torch.float64, requires_grad=True)
        values = each_alone(loss, along_margin(h, start), hyper)
        (slope,) = torch.autograd.grad(values.sum(), h)
        weak = (slope.abs() < 0.01 * slope[0].abs()) & (values.abs() < HUGE)
        if weak.any():
            i = int(weak.nonzero()[0])
            raise Broken(
                f"{path(start, hyper)}\nthe slope by h is {slope[0]:.6g} at h = 0 and "
                f"{slope[i]:.6g} at h = {places[i]:g}"
            )


@prop(
    "population minimiser",
    says="trained in a world of three responses, it rests at the declared margin",
    usually="beta in the wrong place, a wrong sign, smoothing on the wrong side, a mean where "
    "a sum is meant, or a false `best_margin`",
    asked=lambda loss: "" if loss.facts.best_margin else "no best_margin is declared",
    share=0.2,
    wide=False,
)
def population_minimiser(loss, draw, hyper):
    p = draw(st.sampled_from([0.8, 0.6, 0.3, 0.9]))
    if "beta" in hyper:  # a minimum that lies many nats away is not in this small world
        hyper = {**hyper, "beta": max(0.5, hyper["beta"])}
    declared = loss.facts.best_margin(p, **hyper)
    if declared is None:
        return
    found = trained_margin(loss, hyper, p, declared)
    right = (
        found * math.copysign(1, declared) > RUNAWAY
        if math.isinf(declared)
        else abs(found - declared) < 0.02 * max(1, abs(declared))
    )
    if not right:
        raise Broken(
            f"people prefer a to b with probability {p:g}; {settings_shown(hyper)}\na has 3 "
            "tokens, b has 2; at the reference log P is -20 for a, -21 for b, and everything else has "
            f"the rest\ntraining ends at a margin of {found:.4g}, and {declared:.4g} is declared"
        )


REF = torch.tensor([-20.0, -21.0, 0.0], dtype=torch.float64).log_softmax(-1)  # a, b, and everything else
TOKENS = torch.tensor([3, 2])


def trained_margin(loss: Loss, hyper: dict, p: float, declared: float) -> float:
    """The margin of a tabular policy over (a, b, everything else) that was trained on the comparison of a and
    b, which a wins with probability p. L-BFGS; slow gradient steps towards infinity, and where the others did
    not end at the declared margin, as at a kink.
    """

    def world(logits: Tensor) -> PairLogps:
        policy = logits.log_softmax(-1)
        return PairLogps(*(Responses(policy[i : i + 1], TOKENS[i : i + 1], REF[i : i + 1]) for i in range(2)))

    def risk(logits: Tensor) -> Tensor:
        return expected_loss(lambda logps: value(loss, logps, hyper), world(logits), p).sum()

    if math.isinf(declared):
        return margin(loss, world(slow_steps(risk, steps=600)), hyper).item()
    found = margin(loss, world(minimise(risk, REF)), hyper).item()
    if abs(found - declared) < 1e-3 * max(1, abs(declared)):
        return found
    return margin(loss, world(slow_steps(risk, steps=800)), hyper).item()


def slow_steps(risk: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """The logits (3,) after so many steps of Adam from the reference, each shorter than the one before."""
    logits = REF.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        risk(logits).backward()
        optimizer.step()
        schedule.step()
    return logits.detach()
