"""Checks of chapter 5."""

from __future__ import annotations

import torch

from mini_dpo.theory.bradley_terry import optimal_policy, preference_probability
from tutorials.exercises.checking import (
    Properties,
    close,
    expect,
    finite,
    log_tensor,
    registrar,
    shown,
    tensor,
)

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)

REF = log_tensor(0.5, 0.3, 0.2)
REWARD = tensor(0.0, 1.0, 3.0)


@prop(
    "preferred",
    says="the reference itself implies no preference: every entry is one half",
    usually="the reference is missing: log-probs alone are not rewards",
)
def reference_is_neutral(answer):
    found = answer(REF, REF, 0.5)
    expect(tuple(found.shape) == (3, 3), f"with K = 3 the answer has the shape {tuple(found.shape)}")
    expect(
        close(found, torch.full((3, 3), 0.5)), f"policy and reference both [0.5, 0.3, 0.2]: {shown(found)}"
    )


@prop(
    "preferred",
    says="the best policy for a reward implies the comparisons of that reward",
    usually="beta divides instead of multiplying, or row and column are swapped",
)
def recovers_the_reward(answer):
    wanted = preference_probability(REWARD[:, None], REWARD[None, :])
    for beta in (0.5, 2.0):
        found = answer(optimal_policy(REF, REWARD, beta), REF, beta)
        expect(
            close(found, wanted),
            f"ref = [0.5, 0.3, 0.2], reward = [0, 1, 3], beta {beta}, the optimum for it: "
            f"that the third is preferred to the first has probability {shown(float(found[2, 0]))}, and "
            f"the other way round {shown(float(found[0, 2]))}",
        )


def pairs(policy_w=(-10.0,), policy_l=(-12.0,), ref_w=(-10.0,), ref_l=(-12.0,)):
    return tensor(*policy_w), tensor(*policy_l), tensor(*ref_w), tensor(*ref_l)


def said(logps, beta):
    return (
        f"policy_w, policy_l = {shown(logps[0])}, {shown(logps[1])}, ref_w, ref_l = "
        f"{shown(logps[2])}, {shown(logps[3])}, beta {beta}"
    )


@prop(
    "dpo_loss",
    says="one value a pair, and no pair's value depends on the others",
    usually="a mean over the batch; the trainer divides, not the loss",
)
def one_a_pair(answer):
    logps = pairs((-10.0, -8.0), (-12.0, -12.0), (-10.0, -10.0), (-12.0, -12.0))
    found = answer(*logps, 0.5)
    expect(tuple(found.shape) == (2,), f"two pairs give the shape {tuple(found.shape)}")
    alone = torch.cat([answer(*(x[i : i + 1] for x in logps), 0.5) for i in range(2)])
    expect(close(found, alone), f"{said(logps, 0.5)}: {shown(found)} together, {shown(alone)} one by one")


@prop(
    "dpo_loss",
    says="at the reference it is log 2, for any beta and any log-probs",
    usually="the reference is not subtracted, or only for one of the two; or a sign",
)
def log_two(answer):
    for logps in (pairs(), pairs((-30.0,), (-5.0,), (-30.0,), (-5.0,))):
        for beta in (0.1, 1.0):
            expect(
                close(answer(*logps, beta), tensor(0.6931471805599453)),
                f"{said(logps, beta)}: {shown(answer(*logps, beta))}",
            )


@prop(
    "dpo_loss",
    says="a winner that has gained makes it smaller",
    usually="winner and loser are swapped, or the sign is wrong",
)
def right_way(answer):
    better, worse = answer(*pairs((-8.0,)), 0.5).item(), answer(*pairs((-12.0,)), 0.5).item()
    expect(
        better < 0.6931 < worse,
        f"with the winner 2 nats up it is {shown(better)}, 2 nats down {shown(worse)}",
    )


@prop(
    "dpo_loss",
    says="the loss of a pair less that of the swapped pair is minus the margin beta h",
    usually="beta twice, or not at all; or a logarithm of something else than the sigmoid",
)
def antisymmetry(answer):
    for beta in (0.1, 0.5, 2.0):
        w, l, ref_w, ref_l = pairs((-7.0,), (-14.0,))
        found = (answer(w, l, ref_w, ref_l, beta) - answer(l, w, ref_l, ref_w, beta)).item()
        expect(
            close(found, -5 * beta),
            f"{said((w, l, ref_w, ref_l), beta)}: here h = 5, and the loss less the swapped "
            f"pair's is {shown(found)}",
        )


@prop(
    "dpo_loss",
    says="it is finite, with a finite gradient, for margins of 1000",
    usually="log(sigmoid(x)) or log(1 + exp(-x)); torch.nn.functional has both steps in one",
)
def any_margin(answer):
    for gain in (1000.0, -1000.0):
        w, l, ref_w, ref_l = pairs((-10.0 + gain,))
        w.requires_grad_()
        loss = answer(w, l, ref_w, ref_l, 1.0)
        loss.sum().backward()
        expect(
            finite(loss.detach()) and finite(w.grad),
            f"margin {gain:g}: loss {shown(loss.detach())}, gradient {shown(w.grad)}",
        )


@prop(
    "dpo_slopes",
    says="at the reference every pair pulls with beta / 2: the winner up, the loser down",
    usually="the sign (a derivative is positive where the loss rises), or beta missing in front",
)
def at_the_reference(answer):
    for beta in (0.1, 1.0):
        found = answer(*pairs(), beta)
        expect(
            close(found[0], tensor(-beta / 2)) and close(found[1], tensor(beta / 2)),
            f"{said(pairs(), beta)}: {shown(tuple(found))}",
        )


@prop(
    "dpo_slopes",
    says="a pair that is ranked wrongly pulls more than one that is ranked rightly",
    usually="sigmoid(m) where sigmoid(-m) is meant",
)
def wrong_pulls_more(answer):
    right, wrong = (abs(answer(*pairs((w,)), 0.5)[0].item()) for w in (-6.0, -14.0))
    expect(
        wrong > right,
        f"ranked rightly by 4 nats it pulls with {shown(right)}, wrongly by 4 with {shown(wrong)}",
    )


@prop(
    "dpo_slopes",
    says="they are what small steps of the two log-probs measure",
    usually="beta outside the sigmoid but not inside, or the other way round",
)
def derivative(answer):
    for beta in (0.3, 2.0):
        w, l, ref_w, ref_l = pairs((-9.0, -13.0), (-12.5, -12.0), (-10.0, -10.0), (-12.0, -11.0))
        found = answer(w, l, ref_w, ref_l, beta)
        w.requires_grad_(), l.requires_grad_()
        torch.nn.functional.softplus(-beta * (w - ref_w - l + ref_l)).sum().backward()
        expect(
            close(found[0], w.grad) and close(found[1], l.grad),
            f"{said((w.detach(), l.detach(), ref_w, ref_l), beta)}: {shown(tuple(found))}",
        )
