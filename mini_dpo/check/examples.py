"""What the checks draw, how an example is written down, and asking a loss about one.

Numbers that a person can reckon with come first (whole and half nats, beta 1); then log-probs to -1,000,
responses of hundreds of tokens, batches of dozens, hyperparameters far from their defaults. What breaks is
shrunk to the smallest example that still does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from mini_dpo.losses import ContrastLogps, Loss, PairLogps, Responses, UnpairedLogps
from mini_dpo.losses.registry import shown
from mini_dpo.theory.probe import along_margin, value, without_reference

AnyLogps = PairLogps | UnpairedLogps
SHOWN = 6  # examples of a batch that are written down
ONE_BY_ONE = 4  # examples of a batch that are drawn number by number; a larger one comes from a seed

# --- hyperparameters


@st.composite
def hyperparameters(draw, loss: Loss, wide: bool = True) -> dict:
    """Values of the hyperparameters: simple ones and the defaults first, then half and twice the default,
    then far ones. A value that the loss refuses is not drawn (its default is, in its place).
    """
    values = dict(loss.hyperparameters)
    for name in values:
        drawn = {**values, name: draw(st.sampled_from(options(loss, name, wide)))}
        if accepts(loss, drawn):
            values = drawn
    return values


def options(loss: Loss, name: str, wide: bool = True) -> list:
    """What a hyperparameter may be drawn as, before the loss is asked."""
    default: Any = loss.hyperparameters[name]
    near: list
    far: list
    if name in loss.choices:
        return sorted(loss.choices[name], key=lambda word: word != default)
    if isinstance(default, int):
        near, far = [default, 1, 2], [2 * default, 3, 5, 0, 10]
    elif name == "beta":
        near, far = [1.0, default, 0.5, 2.0], [0.1, 20.0, 5.0, 0.01, 50.0, 0.7, 10.0]
    elif default:
        near, far = (
            [default, 0.5 * default, 2 * default, 0.0],
            [-default, 10 * default, 0.2 * default, 1.0, -3 * default, 0.3, 3.5 * default, 0.45],
        )
    else:
        near, far = [0.0, 0.5, 0.2], [1.0, 10.0, 0.1, -0.5, 0.4, -10.0, 30.0]
    return list(dict.fromkeys(near + far * wide))


def accepts(loss: Loss, hyper: dict) -> bool:
    """Whether a loss can be called with these hyperparameters."""
    try:
        if value(loss, one_pair(), hyper).isnan().any():
            return False
    except Exception:  # what it should have been is the affair of "refuses nonsense"
        return False
    return True


def one_pair() -> PairLogps:
    """A pair of equally likely responses, at the reference."""
    return along_margin(torch.zeros(1, dtype=torch.float64))


# --- batches

SIZES = [1, 2, 3, 4, 5, 8, 6, 7, 9, 12, 16, 23, 40]


@st.composite
def responses(draw, B: int, at_reference: bool, nats: int, tokens: int) -> Responses:
    """B responses in float64: log-probs from nearly 0 to -nats; small batches number by number, large ones
    from a seed.
    """
    if B > ONE_BY_ONE:
        generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
        uniform = lambda: torch.rand(B, generator=generator, dtype=torch.float64)  # noqa: E731
        policy = -((1000 * nats) ** uniform()) / 1000
        near = (policy + 40 * uniform() - 20).clamp(max=-0.01)
        ref = torch.where(2 * uniform() < 1, near, -((1000 * nats) ** uniform()) / 1000)
        return Responses(policy, (tokens ** uniform()).round(), policy if at_reference else ref)
    few, many = (st.integers(1, n).map(lambda halves: -halves / 2) for n in (80, 2 * nats))
    least = st.integers(1, 500).map(lambda thousandths: -thousandths / 1000)

    def logps():
        return torch.tensor([draw(few | many | least) for _ in range(B)], dtype=torch.float64)

    lengths = torch.tensor([draw(st.integers(1, 20) | st.integers(1, tokens)) for _ in range(B)])
    policy = logps()
    if at_reference or not draw(st.booleans()):
        return Responses(policy, lengths, policy if at_reference else logps())
    apart = torch.tensor([draw(st.integers(-40, 40)) / 2 for _ in range(B)])
    # near the reference, wherever that is
    return Responses(policy, lengths, (policy + apart).clamp(max=-0.01))


@st.composite
def pairs(
    draw,
    size: int | None = None,
    largest: int = 40,
    at_reference: bool = False,
    nats: int = 1000,
    tokens: int = 2000,
) -> PairLogps:
    """Pairs, with a reference."""
    B = size or draw(st.sampled_from([n for n in SIZES if n <= largest]))
    return PairLogps(*(draw(responses(B, at_reference, nats, tokens)) for _ in range(2)))


@st.composite
def batches(draw, loss: Loss, size: int | None = None, largest: int = 40, nats: int = 1000) -> AnyLogps:
    """What the loss takes: pairs, perhaps with the chosen responses to other prompts; or single responses of
    both kinds in any proportion and some mismatched log-ratios of either sign. With a reference if it has
    one.
    """
    if loss.paired:
        drawn = draw(pairs(size, largest, nats=nats))
        if loss.mismatched:
            other = draw(responses(len(drawn), False, nats, 2000))
            drawn = ContrastLogps(drawn.chosen, drawn.rejected, other)
        return drawn if loss.reference else without_reference(drawn)
    B = size or draw(st.sampled_from([n for n in SIZES if n <= largest]))
    drawn = draw(responses(B, False, nats, 2000))
    liked = torch.tensor(draw(st.lists(st.booleans(), min_size=B, max_size=B)))
    M = draw(st.sampled_from([B, (B + 1) // 2]))  # a prompt that fits with no other response has none
    level = draw(st.sampled_from([0.0, 30.0, -30.0, 100.0, 0.0]))  # where their mean, KTO's z, roughly is
    mismatched = torch.tensor(
        [level + draw(st.integers(-40, 40) | st.integers(-400, 400)) / 2 for _ in range(M)],
        dtype=torch.float64,
    )
    return UnpairedLogps(
        drawn if loss.reference else Responses(drawn.policy, drawn.lengths), liked, mismatched
    )


def sides(logps: AnyLogps) -> list[Responses]:
    """The chosen responses, the rejected ones and those to other prompts, or the single ones."""
    return list(vars(logps).values()) if isinstance(logps, PairLogps) else [logps.responses]


def changed(logps: AnyLogps, change: Callable[[Responses], Responses]) -> AnyLogps:
    """The batch with each of its sides changed."""
    return (
        type(logps)(*map(change, sides(logps)))
        if isinstance(logps, PairLogps)
        else replace(logps, responses=change(logps.responses))
    )


def with_policies(logps: AnyLogps, policies: list[Tensor]) -> AnyLogps:
    """The batch with other policy log-probs, one tensor a side."""
    new = iter(policies)
    return changed(logps, lambda y: Responses(next(new), y.lengths, y.ref))


def in_type(logps: AnyLogps, dtype: torch.dtype) -> AnyLogps:
    """The batch with its numbers rounded to another type."""
    rounded = changed(logps, lambda y: rounded_to(y, dtype))
    if isinstance(logps, PairLogps) or isinstance(rounded, PairLogps) or logps.mismatched is None:
        return rounded
    return replace(rounded, mismatched=logps.mismatched.to(dtype))


def rounded_to(y: Responses, dtype: torch.dtype) -> Responses:
    return Responses(y.policy.to(dtype), y.lengths.to(dtype), None if y.ref is None else y.ref.to(dtype))


def ask(loss: Loss, logps: AnyLogps, hyper: dict) -> tuple[Tensor, list[Tensor]]:
    """The values of a batch, (B,), and the gradient of their sum by each side's log-probs, (B,) each."""
    leaves = [y.policy.detach().clone().requires_grad_() for y in sides(logps)]
    values = loss(with_policies(logps, leaves), **hyper)
    if not values.requires_grad:
        return values, [torch.zeros_like(leaf) for leaf in leaves]
    # as in a mean: not with a weight of 1
    gradients = torch.autograd.grad(values.sum() / 4, leaves, allow_unused=True)
    return values.detach(), [
        torch.zeros_like(leaf) if g is None else 4 * g for leaf, g in zip(leaves, gradients, strict=True)
    ]


def rewards_and_slopes(loss: Loss, y: Responses, hyper: dict) -> tuple[Tensor, Tensor]:
    """The rewards of responses, and by how much each rises a nat of its log-prob: (B,) each."""
    leaf = y.policy.detach().clone().requires_grad_()
    rewards = loss.rewards(Responses(leaf, y.lengths, y.ref), **hyper)
    (slopes,) = torch.autograd.grad(rewards.sum(), leaf)
    return rewards.detach(), slopes


def nats_of(y: Responses) -> Tensor:
    """How large the numbers are that a log-ratio is made of, and rounded with: (B,)."""
    return y.policy.abs() if y.ref is None else y.policy.abs() + y.ref.abs()


def rewards_in_type(loss: Loss, logps: AnyLogps, hyper: dict, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """By how much an example's rewards rise a nat, how large they are, at least 1, and by how much one
    rounding of its log-probs or of the rewards moves these: (B,) each.
    """
    slope, shift, size = (
        torch.zeros(len(logps)).double(),
        torch.zeros(len(logps)).double(),
        torch.ones(len(logps)).double(),
    )
    for y in sides(logps):
        rewards, rise = (x.abs() for x in rewards_and_slopes(loss, y, hyper))
        slope, size = torch.maximum(slope, rise), torch.maximum(size, rewards)
        shift = torch.maximum(shift, eps * torch.maximum(rise * nats_of(y), rewards))
    return slope, size, shift


def equal(a: Tensor, b: Tensor) -> bool:
    """Equal but for float64's rounding."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-9)


# --- how examples are written down


def example_shown(logps: AnyLogps, hyper: dict) -> str:
    """A batch as a person would write it down."""
    lines = [
        pair_shown(logps, i) if isinstance(logps, PairLogps) else single_shown(logps, i)
        for i in range(min(len(logps), SHOWN))
    ]
    if len(logps) > SHOWN:
        lines.append(f"and {len(logps) - SHOWN} more")
    if isinstance(logps, UnpairedLogps) and logps.mismatched is not None:
        lines.append(f"mismatched log-ratios {numbers(logps.mismatched[:SHOWN])}")
    return "\n".join([*lines, settings_shown(hyper)])


def pair_shown(logps: PairLogps, i: int) -> str:
    w, l = logps.chosen[i : i + 1], logps.rejected[i : i + 1]
    ref = (
        f", reference {w.ref.item():g} and {l.ref.item():g}"
        if w.ref is not None and l.ref is not None
        else ""
    )
    apart = ""
    if isinstance(logps, ContrastLogps):
        y = logps.other[i : i + 1]
        apart = f"; to another prompt {y.policy.item():g}, reference {y.s_ref.item():g}"
    return (
        f"chosen and rejected: log-probs {w.policy.item():g} and {l.policy.item():g}{ref}, "
        f"tokens {w.lengths.item():g} and {l.lengths.item():g}{apart}"
    )


def single_shown(logps: UnpairedLogps, i: int) -> str:
    y = logps.responses[i : i + 1]
    ref = f", reference {y.ref.item():g}" if y.ref is not None else ""
    return (
        f"{'liked' if logps.desirable[i] else 'disliked'}: log-prob "
        f"{y.policy.item():g}{ref}, tokens {y.lengths.item():g}"
    )


def names_of_sides(loss: Loss) -> tuple[str, ...]:
    """What the sides of a batch are called."""
    if not loss.paired:
        return ("log-prob",)
    return "chosen log-prob", "rejected log-prob", *(["other prompt's log-prob"] * loss.mismatched)


def settings_shown(hyper: dict) -> str:
    return ", ".join(f"{name} {shown(x)}" for name, x in hyper.items()) or "no hyperparameters"


def numbers(values: Tensor) -> str:
    return " ".join(f"{x:.6g}" for x in values.flatten().tolist())
