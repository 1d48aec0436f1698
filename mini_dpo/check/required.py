"""What holds for every loss, whatever it declares: what it gives, and in which direction it pulls."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from hypothesis import strategies as st
from torch import Tensor

from mini_dpo.check.decimals import holds_where, read, values_and_slopes
from mini_dpo.check.examples import (
    AnyLogps,
    ask,
    batches,
    example_shown,
    names_of_sides,
    numbers,
    rewards_and_slopes,
    rewards_in_type,
    rounded_to,
    settings_shown,
    sides,
    with_policies,
)
from mini_dpo.check.judge import Broken, NotAsked, prop
from mini_dpo.check.places import Incomplete, Unreadable
from mini_dpo.losses import Loss, Responses
from mini_dpo.theory.probe import along_margin, at_the_reference, each_alone, pick


@prop(
    "remembers nothing",
    says="the same batch gives the same, however often, whatever came between",
    usually="a counter, a running mean or a random number outside the function, or an "
    "in-place operation on what was given",
    share=0.1,
)
def remembers_nothing(loss, draw, hyper):
    logps, other = draw(batches(loss, largest=8)), draw(batches(loss, largest=8))
    # off the reference
    logps = with_policies(logps, [y.policy - 1 - side for side, y in enumerate(sides(logps))])
    kept = [x.clone() for x in tensors(logps)]
    torch.manual_seed(12345)
    seeded = torch.get_rng_state()
    first = loss(logps, **hyper).clone()
    for call in range(300):
        if call == 1:
            loss(other, **hyper)
        with torch.no_grad() if call % 3 == 1 else nullcontext():
            again = loss(logps, **hyper) if call % 3 else ask(loss, logps, hyper)[0]
        if not same(first, again):
            raise Broken(
                f"{example_shown(logps, hyper)}\nthe loss gives {numbers(first)} at first and "
                f"{numbers(again)} {call + 1} calls later" + " (within no_grad)" * (call % 3 == 1)
            )
    if not all(same(x, before) for x, before in zip(tensors(logps), kept, strict=True)):
        raise Broken(f"{example_shown(logps, hyper)}\nthe call has changed what it was given")
    if not torch.equal(torch.get_rng_state(), seeded) or torch.get_default_dtype() != torch.float32:
        torch.set_default_dtype(torch.float32)
        raise Broken(
            f"{example_shown(logps, hyper)}\nthe call draws from torch's random numbers or "
            "sets its default type: a seed would no longer give one run"
        )


def tensors(logps: AnyLogps) -> list[Tensor]:
    """All that a batch holds."""
    held = [x for y in sides(logps) for x in (y.policy, y.lengths, y.ref)]
    return [x for x in (*held, getattr(logps, "mismatched", None)) if x is not None]


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit."""
    return torch.equal(a.detach().nan_to_num(), b.detach().nan_to_num())


@prop(
    "one value an example",
    says="B examples give B values, in the type of the log-probs",
    usually="it takes the mean or the sum itself (return one value an example, the trainer "
    "takes the mean), or changes the type",
)
def shape(loss, draw, hyper):
    logps = draw(batches(loss))
    try:
        loss(logps, **hyper)
    except ValueError as error:
        raise Broken(f"{example_shown(logps, hyper)}\n{error}") from error


@prop(
    "computes its formula",
    says="value and gradient are the docstring's formula's, at 60 digits or more",
    usually="the code or the formula has a wrong sign, factor, symbol or bracket; or a clamp "
    "that the formula does not have",
)
def computes_its_formula(loss, draw, hyper):
    logps = draw(batches(loss, largest=16))
    of = draw(st.integers(0, len(logps) - 1))
    try:
        formula = read(loss)
        expected, slopes = values_and_slopes(loss, logps, hyper, formula, of)
        if not any(expected) and values_and_slopes(
            loss, at_the_reference(loss, torch.tensor([-1.0]).double()), loss.hyperparameters, formula
        )[0] == [None]:
            raise Unreadable("it has no value where the policy is the reference")
    except Incomplete as gap:
        raise Broken(f"{settings_shown(hyper)}\nthe formula does not cover this: {gap}") from gap
    except Unreadable as reason:
        raise NotAsked(f"the formula cannot be read: {reason}") from reason
    found, gradients = ask(loss, logps, hyper)
    # (B,): the formula is free of float64's rounding, the loss is not
    steep, _, shift = rewards_in_type(loss, logps, hyper, eps=1e-15)
    for i, (exact, here) in enumerate(zip(expected, found.tolist(), strict=True)):
        if exact is not None and not abs(float(exact) - here) <= 1e-9 * (1 + abs(float(exact))) + shift.max():
            raise Broken(
                f"{example_shown(logps, hyper)}\nthe loss of example {i + 1} is {here:.9g}; "
                f"its formula gives {float(exact):.9g}"
            )
    rounding = (steep * shift).max()
    for name, exact, gradient in zip(names_of_sides(loss), slopes, gradients, strict=True):
        if None not in exact:
            low, high = sorted(map(float, exact))  # the two differ at a kink
            if (
                not low - 1e-8 * (1 + abs(low)) - rounding
                <= gradient[of]
                <= high + 1e-8 * (1 + abs(high)) + rounding
            ):
                raise Broken(
                    f"{example_shown(logps, hyper)}\nthe gradient by the {name} of example "
                    f"{of + 1} is {gradient[of]:.9g}; its formula gives {low:.9g}"
                )


@prop(
    "favours the chosen",
    says="a step down makes y_w likelier against y_l (a liked response likelier)",
    usually="a wrong sign, or chosen and rejected swapped; a loss with a minimum at a finite "
    "margin says where: reversed_where",
    exception=lambda loss: loss.facts.reversed_where,
)
def favours_the_chosen(loss, draw, hyper):
    h = torch.tensor([-1.0, -10.0, -40.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(each_alone(loss, along_margin(h), loss.hyperparameters).sum(), h)
    if not (slope < 0).any():
        raise Broken(
            "pairs that are ranked wrongly by 1, 10 and 40 nats; "
            f"{settings_shown(loss.hyperparameters)}\na step down makes each of them worse, "
            "whatever reversed_where says"
        )
    together = loss.fact("decomposes", **hyper) or not loss.facts.reversed_where
    logps = draw(batches(loss) if together else batches(loss, size=1))
    _, gradients = ask(loss, logps, hyper)
    if loss.paired:
        fall, scale = gradients[0] - gradients[1], gradients[0].abs() + gradients[1].abs()  # (B,) each
    else:
        fall, scale = torch.where(logps.desirable, gradients[0], -gradients[0]), gradients[0].abs()
    wrong = fall > 1e-9 * scale + 1e-15  # by more than 1 - sigma(h) is rounded by
    if wrong.any():
        try:
            excused = (
                holds_where(loss, logps, hyper, loss.facts.reversed_where)
                if loss.facts.reversed_where
                else [False] * len(logps)
            )
        except Unreadable as error:
            raise Broken(f"reversed_where={loss.facts.reversed_where!r} cannot be read: {error}") from error
        unexcused = [i for i in wrong.nonzero().flatten().tolist() if not excused[i]]
        i = unexcused[0] if unexcused else int(wrong.nonzero()[0])
        slopes = ", ".join(f"{g[i]:.6g}" for g in gradients)
        raise Broken(
            f"{example_shown(pick(logps, [i]), hyper)}\nthe loss's slope by "
            f"{'each of the two log-probs' if loss.paired else 'the log-prob'} is {slopes}: a step down "
            "goes the wrong way",
            excused=not unexcused,
        )


@prop(
    "reward rises",
    says="the reward that is logged never falls while a response gets likelier",
    usually="`reward` has a wrong sign or is upside down: every logged accuracy would be that "
    "of the opposite",
)
def reward_rises(loss, draw, hyper):
    logps = draw(batches(loss))
    for y in sides(logps):
        rewards, slope = rewards_and_slopes(loss, y, hyper)
        if rewards.shape != y.policy.shape:
            raise Broken(
                f"{example_shown(logps, hyper)}\nthe reward has shape {tuple(rewards.shape)}, "
                "not one value a response"
            )
        low = loss.rewards(rounded_to(y, torch.float32), **hyper)
        wrong = ~(slope >= 0) | ~rewards.isfinite() | ~low.isfinite()
        if wrong.any():
            i = int(wrong.nonzero()[0])
            raise Broken(
                f"log-prob {y.policy[i]:g}, {y.lengths[i]:g} tokens; "
                f"{settings_shown(hyper)}\nthe reward is {rewards[i]:.6g} (in float32 {low[i]:.6g}), and its "
                f"slope by the log-prob {slope[i]:.6g}"
            )
        agree_at_the_reference(loss, y, hyper)


def agree_at_the_reference(loss: Loss, y: Responses, hyper: dict) -> None:
    """Raise Broken if, where the policy is the reference, responses of one length have different rewards, or
    a reward does not rise; in float32 too.
    """
    for dtype in (torch.float64, torch.float32):
        policy = y.policy.to(dtype).clamp(min=-50)
        rewards, slope = rewards_and_slopes(
            loss, Responses(policy, torch.full_like(policy, 10), policy if loss.reference else None), hyper
        )
        if not (slope > 0).all() or (
            loss.reference and (rewards - rewards[0]).abs().max() > 1e-4 * (1 + rewards[0].abs())
        ):
            raise Broken(
                f"policy and reference {numbers(policy[:4])}, 10 tokens each; "
                f"{settings_shown(hyper)}, in {dtype}\nthe rewards are {numbers(rewards[:4])}, which rise by "
                f"{numbers(slope[:4])} a nat"
            )
