"""Checks of chapter 20."""

from __future__ import annotations

from tutorials.exercises.checking import Properties, called, close, expect, registrar, shown

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)

RETURNS = [3.0, -1.0, 0.5, 2.0, 10.0, 12.0, 11.0, 7.0]


@prop(
    "loo_advantages",
    says="where all returns of a group are equal, every advantage is 0",
    usually="the group's own mean is not taken off, or the mean of all groups is",
)
def nothing_to_learn(answer):
    found = answer([2.0, 2.0, 2.0, -5.0, -5.0, -5.0], 3)
    expect(close(found, [0.0] * 6), f"loo_advantages([2, 2, 2, -5, -5, -5], 3) is {shown(found)}")


@prop(
    "loo_advantages",
    says="the advantages of a group sum to 0, also where another group's returns change",
    usually="the groups are not kept apart",
)
def groups_apart(answer):
    found = answer(RETURNS, 4)
    expect(
        close(sum(found[:4]), 0) and close(sum(found[4:]), 0),
        f"{called(answer, RETURNS, 4)} is {shown(found)}",
    )
    again = answer([*RETURNS[:4], 0.0, 0.0, 0.0, 99.0], 4)
    expect(close(found[:4], again[:4]), "the first group's advantages change with the second group's returns")


@prop(
    "loo_advantages",
    says="a response whose return rises by 1 has an advantage that rises by 1, all else equal",
    usually="the response is in its own baseline: then the advantage rises by (k - 1) / k",
)
def own_return_left_out(answer):
    for k in (2, 4):
        rise = answer([RETURNS[0] + 1, *RETURNS[1:]], k)[0] - answer(RETURNS, k)[0]
        expect(close(rise, 1), f"for k = {k} the advantage rises by {shown(rise)}")


REWARDS, VALUES = [0.5, -1.0, 2.0, 1.5], [1.0, 0.0, 3.0, -0.5]


@prop(
    "gae",
    says="with lam = 1 it is the return from the token on, less the value",
    usually="the value after the last token is not 0, or the sum runs the wrong way",
)
def returns_less_values(answer):
    found = answer(REWARDS, VALUES, 1.0)
    wanted = [sum(REWARDS[t:]) - VALUES[t] for t in range(4)]
    expect(close(found, wanted), f"{called(answer, REWARDS, VALUES, 1.0)} is {shown(found)}")


@prop(
    "gae",
    says="with lam = 0 it is the surprise: the reward, plus the next value, less the value",
    usually="the next value is forgotten, or lam multiplies it",
)
def one_surprise(answer):
    found = answer(REWARDS, VALUES, 0.0)
    wanted = [0.5 + 0.0 - 1.0, -1.0 + 3.0 - 0.0, 2.0 - 0.5 - 3.0, 1.5 + 0.5]
    expect(close(found, wanted), f"{called(answer, REWARDS, VALUES, 0.0)} is {shown(found)}")


@prop(
    "gae",
    says="a surprise n tokens later counts lam^n",
    usually="lam is not a power, or it is applied to the token's own surprise",
)
def powers(answer):
    for n in range(4):
        rewards = [0.0] * 4
        rewards[n] = 1.0
        found = answer(rewards, [0.0] * 4, 0.5)[0]
        expect(
            close(found, 0.5**n), f"the first of {called(answer, rewards, [0.0] * 4, 0.5)} is {shown(found)}"
        )


@prop("clipped_gain", says="at ratio 1 it is the advantage", usually="the sign is that of a loss")
def at_one(answer):
    for advantage in (2.0, -3.0):
        found = answer(1.0, advantage, 0.2)
        expect(close(found, advantage), f"{called(answer, 1.0, advantage, 0.2)} is {shown(found)}")


@prop(
    "clipped_gain",
    says="once the ratio has gone far in the wanted direction, nothing more is gained",
    usually="it is not cut, or cut on one side only",
)
def nothing_more(answer):
    for far, advantage in ((1.5, 2.0), (0.5, -2.0)):
        found, farther = answer(far, advantage, 0.2), answer(far**3, advantage, 0.2)
        expect(
            close(found, farther),
            f"{called(answer, far, advantage, 0.2)} is {shown(found)}, and for a ratio of "
            f"{shown(far**3)} it is {shown(farther)}",
        )


@prop(
    "clipped_gain",
    says="where the ratio has gone the wrong way, all of it is felt",
    usually="the cut ratio alone is used, or the larger of the two",
)
def felt(answer):
    for wrong_way, advantage in ((0.5, 2.0), (1.5, -2.0)):
        found = answer(wrong_way, advantage, 0.2)
        expect(
            close(found, wrong_way * advantage),
            f"{called(answer, wrong_way, advantage, 0.2)} is {shown(found)}",
        )
