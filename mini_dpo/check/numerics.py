"""What holds for every loss of its numbers: they are finite, the same in every type, and the gradient is the
derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mini_dpo.check.examples import (
    AnyLogps,
    ask,
    batches,
    changed,
    example_shown,
    in_type,
    names_of_sides,
    nats_of,
    numbers,
    rewards_in_type,
    settings_shown,
    sides,
    with_policies,
)
from mini_dpo.check.judge import Broken, prop
from mini_dpo.losses import Loss, PairLogps, Responses, UnpairedLogps
from mini_dpo.theory.probe import each_alone, pick, value

FAR_IN_FLOAT16 = 1000  # nats


@prop(
    "finite at extremes",
    says="value and gradient are finite up to 10,000 nats, in every float type",
    usually="log(sigmoid(m)) or log(1 + exp(-m)) where F.logsigmoid is meant, an exp without "
    "a bound, or 0 times infinity",
    share=0.2,
    wide=False,
)
def finite(loss, draw, hyper):
    ratios = torch.tensor([0.0, 1.0, -1.0, 30.0, -30.0, 100.0, -100.0, 1e4, -1e4], dtype=torch.float64)
    r_w, r_l, start = (
        grid.flatten()
        for grid in torch.meshgrid(ratios, ratios, torch.tensor([-1.0, 0.0]).double(), indexing="ij")
    )

    def at(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Values (N,) and gradients (2, N): log-probs of at most `start`, with log-ratios r_w and r_l."""
        policies = torch.stack([start + r.clamp(max=0) for r in (r_w, r_l)]).to(dtype).requires_grad_()
        refs = torch.stack([start - r.clamp(min=0) for r in (r_w, r_l)]).to(dtype)
        one = torch.ones(len(r_w))
        values = each_alone(
            loss,
            PairLogps(*(Responses(policy, one, ref) for policy, ref in zip(policies, refs, strict=True))),
            hyper,
        )
        return values.detach(), torch.autograd.grad(values.sum(), policies)[0]

    lost = Responses(
        torch.tensor([math.nan, -1.0]).double(), torch.ones(2), torch.tensor([-1.0, -1.0]).double()
    )
    if not value(loss, PairLogps(lost, lost), hyper).isnan().any():
        raise Broken(
            f"{settings_shown(hyper)}\na log-prob that is no number gives a value that is "
            "one: a run that has diverged would go on unseen"
        )
    exact, exact_gradient = at(torch.float64)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        values, gradient = at(dtype)
        largest = torch.finfo(dtype).max  # what the type cannot hold is excused, if float64 has it
        excused = (
            (exact.abs() >= largest) | (exact_gradient.abs() >= largest).any(0)
            if dtype != torch.float64
            else torch.zeros_like(exact).bool()
        )
        if dtype == torch.float16:  # it ends at 65,504
            excused |= (r_w.abs() > FAR_IN_FLOAT16) | (r_l.abs() > FAR_IN_FLOAT16)
        broken = ~(values.isfinite() & gradient.isfinite().all(0)) & ~excused
        if broken.any():
            i = int(broken.nonzero()[0])
            raise Broken(
                f"log-ratios {r_w[i]:g} (chosen) and {r_l[i]:g} (rejected), log-probs "
                f"{start[i] + min(r_w[i], 0):g} and {start[i] + min(r_l[i], 0):g}, one token "
                f"each\n{settings_shown(hyper)}, in {dtype}: value {values[i]:g}, gradient "
                f"{numbers(gradient[:, i])}"
            )


@prop(
    "the same in every type",
    says="float32 and bfloat16 give float64's values and gradients, but for rounding",
    usually="a branch on the type, a handwritten backward that is wrong in one, or a bound "
    "that float64 never meets",
)
def same_in_every_type(loss, draw, hyper):
    # rounding can change who is the i-th of a batch
    together = not loss.paired or loss.fact("decomposes", **hyper)
    drawn = draw(batches(loss) if together else batches(loss, size=1))
    names = ("value", *(f"gradient by the {side}" for side in names_of_sides(loss)))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rounded, eps = in_type(drawn, dtype), torch.finfo(dtype).eps
        exact = in_type(rounded, torch.float64)
        found = flat(loss, rounded, hyper).double()  # (1 + sides, B): values, then gradients
        slope, size, shift = rewards_in_type(loss, exact, hyper, eps)  # (B,) each
        expected = flat(loss, exact, hyper)
        reach = what_rounding_does(loss, exact, hyper, eps, slope, size, expected)
        reach[1:] += 16 * eps * slope
        # (B,): no two types agree there
        excused = (expected.abs() > torch.finfo(dtype).max ** 0.75).any(0) | (2 * shift > 1)
        if dtype == torch.float16:  # which ends at 65,504: "finite at extremes" looks at that
            excused |= ~found.isfinite().all(0)
        wrong = ~((found - expected).abs() <= reach) & ~excused
        if wrong.any():
            row, i = wrong.nonzero()[0].tolist()
            raise Broken(
                f"{example_shown(pick(exact, [i]), hyper)}\nthe {names[row]} is "
                f"{found[row, i]:.6g} in {dtype} and {expected[row, i]:.6g} in float64; "
                f"rounding explains {reach[row, i]:.2g}"
            )
    return "float32 to 2e-6, bfloat16 to 12 % of their size, beside what two roundings of the log-probs do"


def flat(loss: Loss, logps: AnyLogps, hyper: dict) -> Tensor:
    """Values, then the gradients of each side: (1 + sides, B)."""
    values, gradients = ask(loss, logps, hyper)
    return torch.stack([values, *gradients])


def what_rounding_does(
    loss: Loss, logps: AnyLogps, hyper: dict, eps: float, slope: Tensor, size: Tensor, here: Tensor
) -> Tensor:
    """How far values and gradients, (1 + sides, B), may be from float64's in a type of this precision: as far
    as they move when each number of the batch moves by two roundings, and each reward, which rises by `slope`
    a nat and is as large as `size`, by two of its own, twice over; and 16 roundings of their own size. here:
    float64's, as they are.
    """
    generator = torch.Generator().manual_seed(0)

    def move(x: Tensor) -> Tensor:
        return x * (1 + 2 * eps * (torch.randint(0, 2, x.shape, generator=generator) * 2 - 1))

    def moved_once(y: Responses) -> Responses:
        one = torch.where(slope > 0, size / slope.clamp(min=1e-9), 0)  # nats for a reward of that size
        return Responses(
            move(y.policy) + move(one) - one, move(y.lengths), None if y.ref is None else move(y.ref)
        )

    moved = [flat(loss, changed(logps, moved_once), hyper) for _ in range(8)]
    reference = changed(logps, lambda y: Responses(y.policy, y.lengths, None if y.ref is None else y.policy))
    if isinstance(reference, UnpairedLogps) and reference.mismatched is not None:
        reference = replace(reference, mismatched=torch.zeros_like(reference.mismatched))
    at_reference = flat(loss, reference, hyper)
    own = torch.maximum(here.abs(), at_reference.abs()).amax(1, keepdim=True)  # (1 + sides, 1)
    own[0] += 1
    own[1:] = own[1:].max() + 1e-20
    # inf - inf: where a move leaves what floats reach, it may be of any size
    moves = torch.stack([(m - here).abs() for m in moved]).nan_to_num(nan=math.inf, posinf=math.inf)
    return 2 * moves.amax(0) + 16 * eps * own


@prop(
    "gradient is the derivative",
    says="autograd gives the slope that small steps of each log-prob measure",
    usually="a detach(), item() or no_grad() inside the formula (a number made of the batch "
    "and detached on purpose is declared: estimate=True), or a clamp that cuts the gradient "
    "but not the value",
)
def gradient(loss, draw, hyper):
    logps = draw(
        batches(loss, size=draw(st.sampled_from([3, 4] if loss.facts.estimate else [2, 3, 4, 1])), nats=500)
    )
    leaves = [y.policy.clone().requires_grad_() for y in sides(logps)]
    constants = Constants() if loss.facts.estimate else None

    def total(policies: list[Tensor], replay: list[Tensor] | None = None) -> Tensor:
        if constants is None:
            return loss(with_policies(logps, policies), **hyper).sum()
        constants.begin(replay)
        with constants:
            return loss(with_policies(logps, policies), **hyper).sum()

    here = total(leaves)
    if not here.isfinite():
        return  # that is the affair of "finite at extremes"
    kept = constants.seen if constants else None
    if kept is not None and sum(x.numel() for x in kept) not in (1, 2):
        found = f"{sum(x.numel() for x in kept)} numbers are detached" if kept else "nothing is detached"
        raise Broken(
            f"{example_shown(logps, hyper)}\nestimate=True is declared: one number of the "
            f"whole batch, such as x.mean().detach(); {found}"
        )
    if not here.requires_grad:
        raise Broken(
            f"{example_shown(logps, hyper)}\nthe value does not depend on the policy at all, "
            "as far as autograd knows"
        )
    gradients = torch.autograd.grad(here, leaves, allow_unused=True)
    for side, (name, found) in enumerate(zip(names_of_sides(loss), gradients, strict=True)):
        nats = nats_of(sides(logps)[side])  # (B,)
        for i in range(len(logps)):
            slope = 0.0 if found is None else float(found[i])
            low, high, step = measured_slopes(
                lambda moved: float(total(moved, kept).detach()),
                float(here.detach()),
                leaves,
                side,
                i,
                slope,
                float(nats[i]),
            )
            if not low <= slope <= high:
                raise Broken(
                    f"{example_shown(logps, hyper)}\nby the {name} of example {i + 1}: "
                    f"autograd says {slope:.6g}, steps of {step:g} say {low:.6g} to {high:.6g}"
                )


def measured_slopes(
    total: Callable, here: float, leaves: list[Tensor], side: int, i: int, slope: float, nats: float
) -> tuple[float, float, float]:
    """Between what a slope that autograd says is `slope` must lie, and the step that measures it best: the
    one at which both sides, a smaller step and rounding leave the least doubt. At a kink it is anything
    between the two sides; where no step is sure, as on a slope so steep that a step leaves it, any step may
    be right. nats: the size of what the log-prob is rounded with, its own and its reference's.
    """
    found: list[tuple[float, float, float, float]] = []
    middle = math.nan  # middle: the slope over both sides of the step before
    for step in sorted([1e-3, 1e-5, 1e-7, 1e-9, min(1e-3, 1e-3 * (1 + abs(here)) / (1 + abs(slope)))]):
        slopes = []
        for e in (-step, step):
            moved = [leaf.detach().clone().requires_grad_() for leaf in leaves]
            with torch.no_grad():
                moved[side][i] += e
            slopes.append((total(moved) - here) / e)
        size = 1e-9 + max(map(abs, slopes))
        noise = 1e-15 * (1 + abs(here) + nats * max(size, abs(slope))) / step
        slack = 3 * noise + 1e-4 * size
        smaller, middle = middle, sum(slopes) / 2
        doubt = abs(slopes[1] - slopes[0]) + noise + (abs(middle - smaller) if found else 0)
        found.append((doubt / size, min(slopes) - slack, max(slopes) + slack, step))
    doubt, _, _, step = min((f for f in found if math.isfinite(f[0])), default=(math.inf, 0, 0, 0))
    if math.isinf(doubt):  # a step from here is where floats end
        return -math.inf, math.inf, step
    good = [(low, high) for other, low, high, _ in found if other <= 2 * doubt or 2 * doubt > 1]
    return min(low for low, _ in good), max(high for _, high in good), step


class Constants(TorchFunctionMode):
    """Remembers what is detached in a call, and gives it back in later ones: the slope of a loss whose
    estimate of the batch is a constant is measured with that estimate held.
    """

    def begin(self, replay: list[Tensor] | None) -> None:
        self.seen: list[Tensor] = []
        self.replay = replay

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is Tensor.detach and args[0].requires_grad:
            result = result if self.replay is None else self.replay[len(self.seen)]
            self.seen.append(result)
        return result


@prop(
    "no gradient elsewhere",
    says="the mismatched log-ratios (KTO's z) get no gradient",
    usually="a missing detach(): the policy would learn to move what it is measured from",
    asked=lambda loss: (
        ""
        if loss.mismatched and not loss.paired
        else "no mismatched log-ratios are wanted, and references come without"
    ),
)
def policy_alone(loss, draw, hyper):
    logps = draw(batches(loss))
    far = draw(st.sampled_from([0.0, 20.0, -20.0, 300.0, -300.0]))  # whatever a max(0, .) lets through
    mismatched = (logps.mismatched + far).requires_grad_()
    values = loss(UnpairedLogps(logps.responses, logps.desirable, mismatched), **hyper)
    (found,) = (
        torch.autograd.grad(values.sum(), [mismatched], allow_unused=True)
        if values.requires_grad
        else (None,)
    )
    if found is not None and found.abs().max() > 0:
        raise Broken(
            f"{example_shown(logps, hyper)}\nwith {far:g} added to the mismatched log-ratios, "
            f"a gradient of {numbers(found[:6])} reaches them"
        )
