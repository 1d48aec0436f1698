"""What holds for every loss, whatever it declares."""

from __future__ import annotations

import inspect
import math
import re
from contextlib import nullcontext
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mini_dpo.check.examples import AnyLogps, accepts, ask, batches, changed, equal, example_shown, in_type, numbers, one_pair, options, picked, settings_shown, sides, with_policies
from mini_dpo.check.formula import Incomplete, Unreadable, holds_where, read, values_and_slopes
from mini_dpo.check.judge import Broken, NotAsked, prop
from mini_dpo.data import EncodedPair, collate_feedback, collate_pairs, join, split_pairs
from mini_dpo.dpo import freeze, preference_objective
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.probe import along_margin, each_alone, value
from mini_dpo.registry import Loss, PairLogps, Responses, UnpairedLogps


@prop(
    "remembers nothing",
    says="the same batch gives the same, however often, whatever came between",
    usually="a counter, a running mean or a random number outside the function, or an in-place operation on what was given",
    share=0.1,
)
def remembers_nothing(loss, draw, hyper):
    logps, other = draw(batches(loss, largest=8)), draw(batches(loss, largest=8))
    logps = with_policies(logps, [y.policy - 1 - side for side, y in enumerate(sides(logps))])  # off the reference
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
            raise Broken(f"{example_shown(logps, hyper)}\nthe loss gives {numbers(first)} at first and {numbers(again)} {call + 1} calls later" + " (within no_grad)" * (call % 3 == 1))
    if not all(same(x, before) for x, before in zip(tensors(logps), kept)):
        raise Broken(f"{example_shown(logps, hyper)}\nthe call has changed what it was given")
    if not torch.equal(torch.get_rng_state(), seeded) or torch.get_default_dtype() != torch.float32:
        torch.set_default_dtype(torch.float32)
        raise Broken(f"{example_shown(logps, hyper)}\nthe call draws from torch's random numbers or sets its default type: a seed would no longer give one run")


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
    usually="it takes the mean or the sum itself (return one value an example, the trainer takes the mean), or changes the type",
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
    usually="the code or the formula has a wrong sign, factor, symbol or bracket; or a clamp that the formula does not have",
    share=0.5,
)
def computes_its_formula(loss, draw, hyper):
    logps = draw(batches(loss, largest=16))
    of = draw(st.integers(0, len(logps) - 1))
    try:
        formula = read(loss)
        expected, slopes = values_and_slopes(loss, logps, hyper, formula, of)
        if not any(expected) and values_and_slopes(loss, picked(plain(loss), [0]), loss.hyperparameters, formula)[0] == [None]:
            raise Unreadable("it has no value where both responses are at their reference")
    except Incomplete as gap:
        raise Broken(f"{settings_shown(hyper)}\nthe formula does not cover this: {gap}") from gap
    except Unreadable as reason:
        raise NotAsked(f"the formula cannot be read: {reason}") from reason
    found, gradients = ask(loss, logps, hyper)
    for i, (exact, here) in enumerate(zip(expected, found.tolist())):
        if exact is not None and not abs(float(exact) - here) <= 1e-9 * (1 + abs(float(exact))):
            raise Broken(f"{example_shown(logps, hyper)}\nthe loss of example {i + 1} is {here:.9g}; its formula gives {float(exact):.9g}")
    names = ("chosen log-prob", "rejected log-prob") if loss.paired else ("log-prob",)
    for name, exact, gradient in zip(names, slopes, gradients):
        if None not in exact:
            low, high = sorted(map(float, exact))  # the two differ at a kink
            if not low - 1e-8 * (1 + abs(low)) <= gradient[of] <= high + 1e-8 * (1 + abs(high)):
                raise Broken(f"{example_shown(logps, hyper)}\nthe gradient by the {name} of example {of + 1} is {gradient[of]:.9g}; its formula gives {low:.9g}")


def plain(loss: Loss) -> AnyLogps:
    """A pair, or a liked and a disliked response, at the reference."""
    one = Responses(torch.tensor([-1.0, -1.0]).double(), torch.ones(2), torch.tensor([-1.0, -1.0]).double() if loss.reference else None)
    return PairLogps(one, one) if loss.paired else UnpairedLogps(one, torch.tensor([True, False]), torch.zeros(2).double())


@prop(
    "favours the chosen",
    says="a step down makes y_w likelier against y_l (a liked response likelier)",
    usually="a wrong sign, or chosen and rejected swapped; a loss with a minimum at a finite margin says where: reversed_where",
    exception=lambda loss: loss.reversed_where,
)
def favours_the_chosen(loss, draw, hyper):
    together = loss.fact("decomposes", **hyper) or not loss.reversed_where
    logps = draw(batches(loss) if together else batches(loss, size=1))
    _, gradients = ask(loss, logps, hyper)
    if loss.paired:
        fall, scale = gradients[0] - gradients[1], gradients[0].abs() + gradients[1].abs()  # (B,) each
    else:
        fall, scale = torch.where(logps.desirable, gradients[0], -gradients[0]), gradients[0].abs()
    h = torch.tensor([-1.0, -10.0, -40.0], dtype=torch.float64, requires_grad=True)
    if hyper == loss.hyperparameters and not (torch.autograd.grad(each_alone(loss, along_margin(h), hyper).sum(), h)[0] < 0).any():
        raise Broken(f"pairs that are ranked wrongly by 1, 10 and 40 nats; {settings_shown(hyper)}\na step down makes each of them worse, whatever reversed_where says")
    wrong = fall > 1e-9 * scale
    if wrong.any():
        try:
            excused = holds_where(loss, logps, hyper, loss.reversed_where) if loss.reversed_where else [False] * len(logps)
        except Unreadable as error:
            raise Broken(f"reversed_where={loss.reversed_where!r} cannot be read: {error}") from error
        unexcused = [i for i in wrong.nonzero().flatten().tolist() if not excused[i]]
        i = unexcused[0] if unexcused else int(wrong.nonzero()[0])
        slopes = ", ".join(f"{g[i]:.6g}" for g in gradients)
        raise Broken(f"{example_shown(picked(logps, [i]), hyper)}\nthe loss's slope by {'each of the two log-probs' if loss.paired else 'the log-prob'} is {slopes}: a step down goes the wrong way", excused=not unexcused)


@prop(
    "reward rises",
    says="the reward that is logged never falls while a response gets likelier",
    usually="`reward` has a wrong sign or is upside down: every logged accuracy would be that of the opposite",
)
def reward_rises(loss, draw, hyper):
    logps = draw(batches(loss))
    for y in sides(logps):
        leaf = y.policy.clone().requires_grad_()
        rewards = loss.rewards(Responses(leaf, y.lengths, y.ref), **hyper)
        if rewards.shape != leaf.shape:
            raise Broken(f"{example_shown(logps, hyper)}\nthe reward has shape {tuple(rewards.shape)}, not one value a response")
        (slope,) = torch.autograd.grad(rewards.sum(), leaf)
        low = loss.rewards(in_type(logps, torch.float32).chosen if loss.paired else in_type(logps, torch.float32).responses, **hyper)
        wrong = ~(slope >= 0) | ~rewards.isfinite()
        if wrong.any() or not low.isfinite().all():
            i = int(wrong.nonzero()[0]) if wrong.any() else int((~low.isfinite()).nonzero()[0])
            raise Broken(f"log-prob {y.policy[i]:g}, {y.lengths[i]:g} tokens; {settings_shown(hyper)}\nthe reward is {rewards[i]:.6g} (in float32 {low[i]:.6g}), and its slope by the log-prob {slope[i]:.6g}")
        agree_at_the_reference(loss, y, hyper)


def agree_at_the_reference(loss: Loss, y: Responses, hyper: dict) -> None:
    """Raise Broken if, where the policy is the reference, responses of one length have different rewards, or a reward
    does not rise; in float32 too."""
    for dtype in (torch.float64, torch.float32):
        leaf = y.policy.to(dtype).clamp(min=-50).requires_grad_()
        ten = torch.full_like(leaf, 10)
        rewards = loss.rewards(Responses(leaf, ten, leaf.detach() if loss.reference else None), **hyper)
        (slope,) = torch.autograd.grad(rewards.sum(), leaf)
        if not (slope > 0).all() or (loss.reference and (rewards - rewards[0]).abs().max() > 1e-4 * (1 + rewards[0].abs())):
            raise Broken(f"policy and reference {numbers(leaf.detach()[:4])}, 10 tokens each; {settings_shown(hyper)}, in {dtype}\nthe rewards are {numbers(rewards[:4])}, which rise by {numbers(slope[:4])} a nat")


@prop(
    "finite at extremes",
    says="value and gradient are finite up to 10,000 nats, in every float type",
    usually="log(sigmoid(m)) or log(1 + exp(-m)) where F.logsigmoid is meant, an exp without a bound, or 0 times infinity",
    share=0.2,
    wide=False,
)
def finite(loss, draw, hyper):
    ratios = torch.tensor([0.0, 1.0, -1.0, 30.0, -30.0, 100.0, -100.0, 1e4, -1e4], dtype=torch.float64)
    r_w, r_l, start = (grid.flatten() for grid in torch.meshgrid(ratios, ratios, torch.tensor([-1.0, 0.0]).double(), indexing="ij"))
    def at(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Values (N,) and gradients (2, N): log-probs of at most `start`, with log-ratios r_w and r_l."""
        policies = torch.stack([start + r.clamp(max=0) for r in (r_w, r_l)]).to(dtype).requires_grad_()
        refs = torch.stack([start - r.clamp(min=0) for r in (r_w, r_l)]).to(dtype)
        one = torch.ones(len(r_w))
        values = each_alone(loss, PairLogps(*(Responses(policy, one, ref) for policy, ref in zip(policies, refs))), hyper)
        return values.detach(), torch.autograd.grad(values.sum(), policies)[0]

    lost = Responses(torch.tensor([math.nan, -1.0]).double(), torch.ones(2), torch.tensor([-1.0, -1.0]).double())
    if not value(loss, PairLogps(lost, lost), hyper).isnan().any():
        raise Broken(f"{settings_shown(hyper)}\na log-prob that is no number gives a value that is one: a run that has diverged would go on unseen")
    exact, exact_gradient = at(torch.float64)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        values, gradient = at(dtype)
        largest = torch.finfo(dtype).max  # what the type cannot hold is excused, if float64 has it
        excused = (exact.abs() >= largest) | (exact_gradient.abs() >= largest).any(0) if dtype != torch.float64 else torch.zeros_like(exact).bool()
        if dtype == torch.float16:  # it ends at 65,504
            excused |= (r_w.abs() > 1000) | (r_l.abs() > 1000)
        broken = ~(values.isfinite() & gradient.isfinite().all(0)) & ~excused
        if broken.any():
            i = int(broken.nonzero()[0])
            raise Broken(f"log-ratios {r_w[i]:g} (chosen) and {r_l[i]:g} (rejected), log-probs {start[i] + min(r_w[i], 0):g} and {start[i] + min(r_l[i], 0):g}, one token each\n{settings_shown(hyper)}, in {dtype}: value {values[i]:g}, gradient {numbers(gradient[:, i])}")  # fmt: skip


@prop(
    "the same in every type",
    says="float32 and bfloat16 give float64's values and gradients, but for rounding",
    usually="a branch on the type, a handwritten backward that is wrong in one, or a bound that float64 never meets",
)
def same_in_every_type(loss, draw, hyper):
    together = loss.paired is False or loss.fact("decomposes", **hyper)  # rounding can change who is the i-th of a batch
    drawn = draw(batches(loss) if together else batches(loss, size=1))
    names = ("value", "gradient by the chosen log-prob", "gradient by the rejected log-prob") if loss.paired else ("value", "gradient by the log-prob")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rounded, eps = in_type(drawn, dtype), torch.finfo(dtype).eps
        exact = in_type(rounded, torch.float64)
        found = torch.stack(flat(loss, rounded, hyper)).double()  # (1 + sides, B): values, then gradients
        slope, shift = reward_slopes(loss, exact, hyper, eps)  # (B,) each
        expected, reach = torch.stack(flat(loss, exact, hyper)), what_rounding_does(loss, exact, hyper, eps, slope)
        reach[1:] += 16 * eps * slope
        excused = (expected.abs() > torch.finfo(dtype).max ** 0.75).any(0) | (shift > 0.5)  # (B,): no two types agree there
        wrong = ~((found - expected).abs() <= reach) & ~excused
        if wrong.any():
            row, i = wrong.nonzero()[0].tolist()
            raise Broken(f"{example_shown(picked(exact, [i]), hyper)}\nthe {names[row]} is {found[row, i]:.6g} in {dtype} and {expected[row, i]:.6g} in float64; rounding explains {reach[row, i]:.2g}")
    return "float32 to 2e-6, bfloat16 to 12 % of their size, beside what two roundings of the log-probs do"


def reward_slopes(loss: Loss, logps: AnyLogps, hyper: dict, eps: float) -> tuple[Tensor, Tensor]:
    """By how much an example's rewards rise a nat, and by how much one rounding of its log-probs moves them: (B,) each."""
    slope, shift = torch.zeros(len(logps)).double(), torch.zeros(len(logps)).double()
    for y in sides(logps):
        leaf = y.policy.clone().requires_grad_()
        (rise,) = torch.autograd.grad(loss.rewards(Responses(leaf, y.lengths, y.ref), **hyper).sum(), leaf)
        size = y.policy.abs() if y.ref is None else y.policy.abs() + y.ref.abs()
        slope, shift = torch.maximum(slope, rise.abs()), torch.maximum(shift, rise.abs() * eps * size)
    return slope, shift


def flat(loss: Loss, logps: AnyLogps, hyper: dict) -> list[Tensor]:
    values, gradients = ask(loss, logps, hyper)
    return [values, *gradients]


def what_rounding_does(loss: Loss, logps: AnyLogps, hyper: dict, eps: float, slope: Tensor) -> Tensor:
    """How far values and gradients, (1 + sides, B), may be from float64's in a type of this precision: as far as they
    move when each number of the batch moves by two roundings, and each reward, which rises by `slope` a nat, by two
    roundings of 1, twice over; and 16 roundings of their own size."""
    here = torch.stack(flat(loss, logps, hyper))
    generator = torch.Generator().manual_seed(0)

    def move(x: Tensor) -> Tensor:
        return x * (1 + 2 * eps * (torch.randint(0, 2, x.shape, generator=generator) * 2 - 1))

    def moved_once(y: Responses) -> Responses:
        one = torch.where(slope > 0, 1 / slope.clamp(min=1e-9), 0)  # nats for a reward of 1
        return Responses(move(y.policy) + move(one) - one, move(y.lengths), None if y.ref is None else move(y.ref))

    moved = [torch.stack(flat(loss, changed(logps, moved_once), hyper)) for _ in range(8)]
    reference = changed(logps, lambda y: Responses(y.policy, y.lengths, None if y.ref is None else y.policy))
    if isinstance(logps, UnpairedLogps) and logps.mismatched is not None:
        reference = replace(reference, mismatched=torch.zeros_like(logps.mismatched))
    at_reference = torch.stack(flat(loss, reference, hyper))
    size = torch.maximum(here.abs(), at_reference.abs()).amax(1, keepdim=True)  # (1 + sides, 1)
    size[0] += 1
    size[1:] = size[1:].max() + 1e-20
    return 2 * torch.stack([(m - here).abs() for m in moved]).amax(0) + 16 * eps * size


@prop(
    "gradient is the derivative",
    says="autograd gives the slope that small steps of each log-prob measure",
    usually="a detach(), item() or no_grad() inside the formula (a number made of the batch and detached on purpose is declared: estimate=True), or a clamp that cuts the gradient but not the value",
)
def gradient(loss, draw, hyper):
    logps = draw(batches(loss, size=draw(st.sampled_from([3, 4] if loss.facts["estimate"] else [2, 3, 4, 1])), nats=500))
    leaves = [y.policy.clone().requires_grad_() for y in sides(logps)]
    constants = Constants() if loss.facts["estimate"] else None

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
    if kept is not None and not 1 <= sum(x.numel() for x in kept) <= 2:
        found = f"{sum(x.numel() for x in kept)} numbers are detached" if kept else "nothing is detached"
        raise Broken(f"{example_shown(logps, hyper)}\nestimate=True is declared: one number of the whole batch, such as x.mean().detach(); {found}")
    if not here.requires_grad:
        raise Broken(f"{example_shown(logps, hyper)}\nthe value does not depend on the policy at all, as far as autograd knows")
    gradients = torch.autograd.grad(here, leaves, allow_unused=True)
    for side, found in enumerate(gradients):
        name = ("chosen ", "rejected ")[side] if loss.paired else ""
        for i in range(len(logps)):
            slope = 0.0 if found is None else float(found[i])
            low, high, step = measured_slopes(lambda moved: float(total(moved, kept).detach()), leaves, side, i, slope)
            if not low <= slope <= high:
                raise Broken(f"{example_shown(logps, hyper)}\nby the {name}log-prob of example {i + 1}: autograd says {slope:.6g}, steps of {step:g} say {low:.6g} to {high:.6g}")


def measured_slopes(total, leaves: list[Tensor], side: int, i: int, slope: float) -> tuple[float, float, float]:
    """Between what a slope that autograd says is `slope` must lie, and the step that measures it best: the one at which
    curvature and rounding leave the least doubt. At a kink it is anything between the two sides; where no step is
    sure, as on a slope so steep that a step leaves it, any step may be right."""
    here, s = total(leaves), abs(float(leaves[side].detach()[i]))
    found = []
    for step in (1e-3, 1e-5, 1e-7, 1e-9, min(1e-3, 1e-3 * (1 + abs(here)) / (1 + abs(slope)))):
        slopes = []
        for e in (-step, step):
            moved = [leaf.detach().clone().requires_grad_() for leaf in leaves]
            with torch.no_grad():
                moved[side][i] += e
            slopes.append((total(moved) - here) / e)
        size = 1e-9 + max(map(abs, slopes))
        noise = 1e-15 * (1 + abs(here) + s * max(size, abs(slope))) / step
        slack = 3 * noise + 1e-4 * size
        found.append(((abs(slopes[1] - slopes[0]) + noise) / size, min(slopes) - slack, max(slopes) + slack, step))
    doubt, _, _, step = min((f for f in found if math.isfinite(f[0])), default=(math.inf, 0, 0, 0))
    if math.isinf(doubt):  # a step from here is where floats end
        return -math.inf, math.inf, step
    good = [(low, high) for other, low, high, _ in found if other <= 2 * doubt or doubt > 0.5]
    return min(low for low, _ in good), max(high for _, high in good), step


class Constants(TorchFunctionMode):
    """Remembers what is detached in a call, and gives it back in later ones: the slope of a loss whose estimate of the
    batch is a constant is measured with that estimate held."""

    def begin(self, replay: list[Tensor] | None) -> None:
        self.seen, self.replay = [], replay

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
    asked=lambda loss: "" if loss.facts["mismatched"] else "no mismatched log-ratios are wanted, and references come without",
)
def policy_alone(loss, draw, hyper):
    logps = draw(batches(loss))
    far = draw(st.sampled_from([0.0, 20.0, -20.0, 300.0, -300.0]))  # whatever a max(0, .) lets through
    mismatched = (logps.mismatched + far).requires_grad_()
    values = loss(UnpairedLogps(logps.responses, logps.desirable, mismatched), **hyper)
    (found,) = torch.autograd.grad(values.sum(), [mismatched], allow_unused=True) if values.requires_grad else (None,)
    if found is not None and found.abs().max() > 0:
        raise Broken(f"{example_shown(logps, hyper)}\nwith {far:g} added to the mismatched log-ratios, a gradient of {numbers(found[:6])} reaches them")


@prop(
    "batch order",
    says="the order of the examples in a batch does not matter",
    usually="an index into the batch, a roll or a sort that is not undone",
)
def batch_order(loss, draw, hyper):
    logps = draw(batches(loss))
    order = draw(st.permutations(range(len(logps))))
    before, after = loss(logps, **hyper), loss(picked(logps, order), **hyper)
    by_rank = loss.paired and not loss.fact("decomposes", **hyper)  # only their sum has a meaning
    if not (equal(before.sum(), after.sum()) if by_rank else equal(before[torch.tensor(order)], after)):
        raise Broken(f"{example_shown(logps, hyper)}\nthe loss gives {numbers(before)}; the examples in the order {[i + 1 for i in order]} give {numbers(after)}")


@prop(
    "refuses nonsense",
    says="beta <= 0 is a ValueError; other values are taken, or refused with one",
    usually="no `require(beta > 0, ...)` in the first line: a run would train for hours on nothing",
    share=0.2,
)
def refuses_nonsense(loss, draw, hyper):
    for beta in (0.0, -1.0) if "beta" in hyper else ():
        if accepts(loss, {**hyper, "beta": beta}):
            raise Broken(f"beta {beta:g} is accepted")
    for name in hyper:
        for x in [x for x in options(loss, name) if not isinstance(x, str)]:
            allowed = within_its_range(loss.describe(name), x)
            try:
                found = value(loss, one_pair(), {**loss.hyperparameters, name: x})
            except ValueError as error:
                if allowed:
                    raise Broken(f"{name} {x:g} is refused ({error}), and the docstring allows it") from error
            except Exception as error:
                raise Broken(f"{name} {x:g}: {type(error).__name__}: {error}; where {name} may not be {x:g}, say so: require(...)") from error
            else:
                if found.isnan().any():
                    raise Broken(f"{name} {x:g} gives nan where the policy is the reference; say that it may not be: require(...)")
                if allowed is False:
                    raise Broken(f"{name} {x:g} is accepted, and the docstring does not allow it: require(...)")


RANGE = re.compile(r"\bin ([\[(])(-?[\d.e-]+), (-?[\d.e-]+)([\])])|\b(must be positive|above 0|at least (?:0|zero))\b")


def within_its_range(description: str, x: float) -> bool | None:
    """Whether a number is in the range that a hyperparameter's line gives: "in [0, 0.5)", "must be positive", "at least
    0"; None if it gives none."""
    match = RANGE.search(description)
    if not match:
        return None
    if match[5]:
        return x >= 0 if match[5].startswith("at least") else x > 0
    low, high = float(match[2]), float(match[3])
    return (low <= x if match[1] == "[" else low < x) and (x <= high if match[4] == "]" else x < high)


@prop(
    "explains itself",
    says="the docstring has the formula and a line for each hyperparameter",
    usually="the command line and --list-losses have nothing to show",
    share=0.01,
)
def explains_itself(loss, draw, hyper):
    if not loss.formula:
        raise Broken("the docstring has no indented line with the formula")
    for name in loss.hyperparameters:
        if not loss.describe(name):
            raise Broken(f"the docstring has no line `{name}: ...`")
    lines = len(inspect.getsource(loss.function).splitlines())
    if lines > 30:
        raise Broken(f"it takes {lines} lines to read")


@prop(
    "trains",
    says="every weight of a small GPT gets a finite gradient",
    usually="the loss works on the numbers above and not on a batch: look at shapes and types",
    share=0.05,
)
def trains(loss, draw, hyper):
    torch.manual_seed(0)
    reference = GPT(GPTConfig(vocab_size=5, context=8, n_layer=1, n_head=1, n_embd=4))
    policy = freeze(reference).requires_grad_(True)
    examples = [EncodedPair(join([0, 1], [2, 3, 4]), join([0, 1], [3, 4])), EncodedPair(join([1], [1, 4]), join([1], [2, 2, 4]))]
    batch = collate_pairs(examples) if loss.paired else collate_feedback(split_pairs(examples), context=8)
    objective = preference_objective(loss, hyper, freeze(reference) if loss.reference else None, sft_weight=1.0)
    objective(policy, batch).loss.backward()
    for name, weight in policy.named_parameters():
        if weight.grad is None or not weight.grad.isfinite().all():
            raise Broken(f"{settings_shown(hyper)}\nthe gradient of {name} is {'missing' if weight.grad is None else 'not finite'}")
