"""What every loss is held to: properties in words and as code, and the search for the smallest counterexample.

A property either must hold for all losses, or is a fact that a loss declares (registry.py, `loss`): then it must hold
where it is declared and be broken somewhere where it is denied, so that a false statement fails either way. Examples
are drawn by hypothesis from numbers that a person can reckon with (whole and half nats, beta 1 first), and whatever
breaks is shrunk to the smallest example that still does.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mini_dpo.data import EncodedPair, collate_feedback, collate_pairs, join, split_pairs
from mini_dpo.dpo import freeze, preference_objective
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.probe import along_margin, margin, one_by_one, pick, value, without_reference
from mini_dpo.registry import Loss, PairLogps, Responses, UnpairedLogps, shown
from mini_dpo.tabular import expected_loss, minimise

EXAMPLES = 60  # that hypothesis draws of each property, unless told otherwise


class Broken(AssertionError):
    """A property does not hold; the message is a counterexample in words."""


@dataclass(frozen=True)
class Property:
    """name: how it is called. says: the property in words. usually: what its failure usually means.
    check(loss, draw): raises Broken. fact: the declared fact that it tests, None if it must always hold.
    asked(loss): why it does not apply, "" if it does. examples: at most so many, where each takes long."""

    name: str
    says: str
    usually: str
    check: Callable[[Loss, Callable, dict], None]
    fact: str | None
    asked: Callable[[Loss], str]
    examples: int


PROPERTIES: dict[str, Property] = {}


def prop(name: str, *, says: str, usually: str, fact: str | None = None, asked: Callable[[Loss], str] = lambda loss: "", examples: int = 10**9):
    """Register the function below, check(loss, draw, hyperparameters), as a property."""

    def register(check: Callable[[Loss, Callable, dict], None]) -> Property:
        PROPERTIES[name] = Property(name, says, usually, check, fact, asked, examples)
        return PROPERTIES[name]

    return register


# ------------------------------------------------------------------------------------------------ what is drawn


@st.composite
def hyperparameters(draw, loss: Loss) -> dict:
    """Values of the hyperparameters: simple ones and the defaults first, then half and twice the default. What the loss
    itself refuses is not drawn (the defaults are, in its place)."""
    values = {}
    for name, default in loss.hyperparameters.items():
        if name in loss.choices:
            options = sorted(loss.choices[name], key=lambda word: word != default)
        else:
            options = [1.0, default, 0.5, 2.0] if name == "beta" else [default, 0.5 * default, 2 * default, 0.0] if default else [0.0, 0.5]
        values[name] = draw(st.sampled_from(options))
    try:
        value(loss, one_pair(), values)
    except ValueError:
        values = loss.hyperparameters
    return values


@st.composite
def pairs(draw, size: int | None = None, at_reference: bool = False) -> PairLogps:
    """Pairs of whole and half nats, in float64; lengths from one token on."""
    B = size or draw(st.integers(1, 4))
    nats, tokens = st.integers(1, 80).map(lambda n: -n / 2), st.integers(1, 20)

    def responses() -> Responses:
        policy, ref = (torch.tensor([draw(nats) for _ in range(B)], dtype=torch.float64) for _ in range(2))
        lengths = torch.tensor([draw(tokens) for _ in range(B)])
        return Responses(policy, lengths, policy if at_reference else ref)

    return PairLogps(responses(), responses())


def one_pair() -> PairLogps:
    """A pair of equally likely responses, at the reference."""
    return along_margin(torch.zeros(1, dtype=torch.float64))


# ------------------------------------------------------------------------------------ how examples are written down


def equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def pairs_shown(logps: PairLogps, hyper: dict) -> str:
    """Pairs as a person would write them down."""
    lines = []
    for i in range(len(logps)):
        w, l = logps.chosen[i : i + 1], logps.rejected[i : i + 1]
        ref = f", reference {w.ref.item():g} and {l.ref.item():g}" if w.ref is not None else ""
        lines.append(f"chosen and rejected: log-probs {w.policy.item():g} and {l.policy.item():g}{ref}, tokens {w.lengths.item():g} and {l.lengths.item():g}")
    return "\n".join(lines + [settings_shown(hyper)])


def settings_shown(hyper: dict) -> str:
    return ", ".join(f"{name} {shown(x)}" for name, x in hyper.items()) or "no hyperparameters"


def numbers(values: Tensor) -> str:
    return " ".join(f"{x:.6g}" for x in values.flatten().tolist())


# --------------------------------------------------------------------------------------------------- the properties


@prop(
    "one value an example",
    says="a batch of B examples gives B values, in the type of the log-probs",
    usually="it takes the mean or the sum itself (return one value an example, the trainer takes the mean), or changes the type",
)
def shape(loss, draw, hyper):
    logps = draw(pairs())
    try:
        value(loss, logps, hyper)
    except ValueError as error:
        raise Broken(f"{pairs_shown(logps, hyper)}\n{error}") from error


@prop(
    "finite at extremes",
    says="value and gradient are finite for log-ratios up to 10,000 nats and for certain responses, in every float type",
    usually="log(sigmoid(m)) or log(1 + exp(-m)) where F.logsigmoid is meant, an exp without a bound, or 0 times infinity",
)
def finite(loss, draw, hyper):
    ratios = torch.tensor([0.0, 1.0, -1.0, 30.0, -30.0, 100.0, -100.0, 1e4, -1e4], dtype=torch.float64)
    r_w, r_l, start = (grid.flatten() for grid in torch.meshgrid(ratios, ratios, torch.tensor([-1.0, 0.0]).double(), indexing="ij"))
    ask = value if loss.fact("decomposes", **hyper) else one_by_one

    def at(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Values (N,) and gradients (2, N): log-probs of at most `start`, with log-ratios r_w and r_l."""
        policies = torch.stack([start + r.clamp(max=0) for r in (r_w, r_l)]).to(dtype).requires_grad_()
        refs = torch.stack([start - r.clamp(min=0) for r in (r_w, r_l)]).to(dtype)
        one = torch.ones(len(r_w))
        values = ask(loss, PairLogps(*(Responses(policy, one, ref) for policy, ref in zip(policies, refs))), hyper)
        return values.detach(), torch.autograd.grad(values.sum(), policies)[0]

    exact, exact_gradient = at(torch.float64)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        values, gradient = at(dtype)
        largest = torch.finfo(dtype).max  # what the type cannot hold is excused, if float64 has it
        excused = (exact.abs() >= largest) | (exact_gradient.abs() >= largest).any(0) if dtype != torch.float64 else torch.zeros_like(exact).bool()
        broken = ~(values.isfinite() & gradient.isfinite().all(0)) & ~excused
        if broken.any():
            i = int(broken.nonzero()[0])
            raise Broken(f"log-ratios {r_w[i]:g} (chosen) and {r_l[i]:g} (rejected), log-probs {start[i] + min(r_w[i], 0):g} and {start[i] + min(r_l[i], 0):g}, one token each\n{settings_shown(hyper)}, in {dtype}: value {values[i]:g}, gradient {numbers(gradient[:, i])}")  # fmt: skip


@prop(
    "gradient is the derivative",
    says="what autograd gives is the slope that small steps of each log-prob measure",
    usually="a detach(), item() or no_grad() inside the formula, or a clamp that cuts the gradient but not the value",
)
def gradient(loss, draw, hyper):
    logps = draw(pairs())
    leaves = [y.policy.clone().requires_grad_() for y in (logps.chosen, logps.rejected)]

    def total(policies: list[Tensor]) -> Tensor:
        sides = zip(policies, (logps.chosen, logps.rejected))
        return value(loss, PairLogps(*(Responses(policy, y.lengths, y.ref) for policy, y in sides)), hyper).sum()

    here = total(leaves)
    if not here.requires_grad:
        raise Broken(f"{pairs_shown(logps, hyper)}\nthe value does not depend on the policy at all, as far as autograd knows")
    gradients = torch.autograd.grad(here, leaves, allow_unused=True)
    e = 1e-5
    for side, (name, found) in enumerate(zip(("chosen", "rejected"), gradients)):
        for i in range(len(logps)):
            slopes = []
            for step in (-e, e):
                moved = [leaf.detach().clone() for leaf in leaves]
                moved[side][i] += step
                slopes.append(float((total(moved) - here.detach()) / step))
            slope = 0.0 if found is None else float(found[i])
            slack = 1e-3 * max(map(abs, slopes)) + 1e-14 * abs(float(here.detach())) / e + 1e-7
            if not min(slopes) - slack <= slope <= max(slopes) + slack:  # at a kink, anything between the two sides
                raise Broken(f"{pairs_shown(logps, hyper)}\nby the {name} log-prob of pair {i + 1}: autograd says {slope:.6g}, steps of {e:g} say {slopes[0]:.6g} (down) and {slopes[1]:.6g} (up)")  # fmt: skip


@prop(
    "gradient reaches the policy alone",
    says="neither the reference nor an estimate made of the batch (KTO's z) gets a gradient",
    usually="a missing detach(): the policy would learn to move what it is measured from",
)
def policy_alone(loss, draw, hyper):
    logps = draw(pairs())
    ref = logps.chosen.ref.clone().requires_grad_()
    if loss.paired:
        leaf = Responses(logps.chosen.policy.clone().requires_grad_(), logps.chosen.lengths, ref if loss.reference else None)
        values = loss(PairLogps(leaf, logps.rejected if loss.reference else without_reference(logps).rejected), **hyper)
        others = [ref]
    else:
        leaf = Responses(logps.chosen.policy.clone().requires_grad_(), logps.chosen.lengths, ref)
        mismatched = (logps.rejected.logratio + 50).requires_grad_()  # large enough for max(0, mean) to let it through
        values = loss(UnpairedLogps(leaf, torch.ones(len(ref), dtype=torch.bool), mismatched), **hyper)
        others = [ref, mismatched]
    for name, found in zip(("the reference", "the mismatched log-ratios"), torch.autograd.grad(values.sum(), others, allow_unused=True)):
        if found is not None and found.abs().max() > 0:
            raise Broken(f"{pairs_shown(logps, hyper)}\na gradient of {numbers(found)} reaches {name}")


@prop(
    "value at the reference",
    says="where the policy is the reference, the value is the declared one",
    usually="a wrong sign or offset, a mean over tokens, or a false `at_reference`; here every run begins",
    asked=lambda loss: "" if loss.at_reference else "no at_reference is declared" + ("" if loss.reference else ": there is no reference"),
)
def at_reference(loss, draw, hyper):
    logps = draw(pairs(at_reference=True))
    values, declared = value(loss, logps, hyper), loss.at_reference(**hyper)
    if not equal(values, torch.full_like(values, declared)):
        raise Broken(f"{pairs_shown(logps, hyper)}\nthe loss gives {numbers(values)}, and declares {declared:.6g}")


@prop(
    "shift invariance",
    says="the same number added to both log-probs of a pair changes nothing: the partition function cancels",
    usually="the partition function no longer cancels; IPO averaged by length, SimPO and KTO behave so on purpose: then declare shift_invariant=False",
    fact="shift_invariant",
)
def shift_invariance(loss, draw, hyper):
    logps = draw(pairs())
    shift = torch.tensor([float(draw(st.integers(1, 20))) for _ in range(len(logps))], dtype=torch.float64)
    moved = PairLogps(*(Responses(y.policy - shift, y.lengths, y.ref) for y in (logps.chosen, logps.rejected)))
    before, after = value(loss, logps, hyper), value(loss, moved, hyper)
    if not equal(before, after):
        raise Broken(f"{pairs_shown(logps, hyper)}\nthe loss gives {numbers(before)}; with {numbers(shift)} less for both log-probs, {numbers(after)}")


GRID = torch.arange(-40.0, 41.0, dtype=torch.float64)


def on_grid(loss: Loss, hyper: dict) -> Tensor:
    """The loss at each place of the grid, each pair in a batch of its own."""
    return one_by_one(loss, along_margin(GRID), hyper)


def nearest(broken: Tensor) -> int:
    """Of the grid's places where something is broken, the index of the one nearest to h = 0."""
    places = broken.nonzero().flatten()
    return int(places[(places - len(GRID) // 2).abs().argmin()])


PATH = "y_w and y_l: 20 tokens, reference -60 each, log-probs -60 + h/2 and -60 - h/2"


@prop(
    "monotone",
    says="the loss never rises while the chosen response gains as many nats as the rejected one loses",
    usually="a wrong sign, or chosen and rejected swapped; a loss with a minimum at a finite margin (IPO, cDPO) declares monotone=False",
    fact="monotone",
)
def monotone(loss, draw, hyper):
    values = on_grid(loss, hyper)
    rises = values.diff() > 1e-9 * (1 + values[1:].abs())
    if rises.any():
        i = nearest(rises)
        raise Broken(f"{PATH}; {settings_shown(hyper)}\nh = {GRID[i]:g} gives {values[i]:.6g}, h = {GRID[i + 1]:g} gives {values[i + 1]:.6g}")


@prop(
    "convex",
    says="along the same path the loss never bends down",
    usually="a formula that flattens out (a bare sigmoid, a clip): such losses give up on very wrong pairs and declare convex=False",
    fact="convex",
)
def convex(loss, draw, hyper):
    values = on_grid(loss, hyper)
    bends = values.diff().diff() < -1e-9 * (1 + values[1:-1].abs())
    if bends.any():
        i = nearest(bends)
        middle = (values[i] + values[i + 2]) / 2
        raise Broken(f"{PATH}; {settings_shown(hyper)}\nh = {GRID[i]:g} and {GRID[i + 2]:g} give {values[i]:.6g} and {values[i + 2]:.6g}, on average {middle:.6g}; h = {GRID[i + 1]:g} gives more, {values[i + 1]:.6g}")  # fmt: skip


@prop(
    "antisymmetry",
    says="swapping chosen and rejected changes the loss by the declared multiple of the margin, for logistic losses -1",
    usually="a wrong sign, beta once too often or not at all, smoothing on the wrong side, a clipped margin, or softplus with its threshold",
    asked=lambda loss: "" if loss.swap_slope else "no swap_slope is declared",
)
def antisymmetry(loss, draw, hyper):
    logps = draw(pairs(size=1))
    change = value(loss, logps, hyper) - value(loss, logps.swapped, hyper)
    expected = loss.swap_slope(**hyper) * margin(loss, logps, hyper)
    if not equal(change, expected):
        raise Broken(f"{pairs_shown(logps, hyper)}\nloss less the swapped pair's loss is {change.item():.8g}; {loss.swap_slope(**hyper):g} times the margin is {expected.item():.8g}")


@prop(
    "batch order",
    says="the order of the pairs in a batch does not matter",
    usually="an index into the batch, a roll or a sort that is not undone",
)
def batch_order(loss, draw, hyper):
    logps = draw(pairs())
    order = draw(st.permutations(range(len(logps))))
    before, after = value(loss, logps, hyper), value(loss, pick(logps, order), hyper)
    by_rank = not loss.fact("decomposes", **hyper)  # only their sum has a meaning
    if not (equal(before.sum(), after.sum()) if by_rank else equal(before[torch.tensor(order)], after)):
        raise Broken(f"{pairs_shown(logps, hyper)}\nthe loss gives {numbers(before)}; the pairs in the order {[i + 1 for i in order]} give {numbers(after)}")


@prop(
    "decomposes",
    says="a pair's value does not depend on the others in its batch, so that accumulated batches make the gradient of one large batch",
    usually="a mean, sort or normalisation over the batch; losses that mean to (AOT, KTO) declare decomposes=False",
    fact="decomposes",
)
def decomposes(loss, draw, hyper):
    logps = draw(pairs())
    if loss.facts["mismatched"]:
        spread_out(loss, logps, hyper)
        return
    together, alone = value(loss, logps, hyper), one_by_one(loss, logps, hyper)
    if not equal(together, alone):
        raise Broken(f"{pairs_shown(logps, hyper)}\ntogether they give {numbers(together)}, each in a batch of its own {numbers(alone)}")


def spread_out(loss: Loss, logps: PairLogps, hyper: dict) -> None:
    """Decomposition of a loss that looks at mismatched responses: cut the batch together with them."""
    liked = torch.ones(len(logps), dtype=torch.bool)
    ratios = logps.rejected.logratio
    together = loss(UnpairedLogps(logps.chosen, liked, ratios), **hyper)
    cut = [loss(UnpairedLogps(logps.chosen[i : i + 1], liked[:1], ratios[i : i + 1]), **hyper) for i in range(len(logps))]
    if not equal(together, torch.cat(cut)):
        raise Broken(f"{pairs_shown(logps, hyper)}\nliked, with mismatched log-ratios {numbers(ratios)}: together {numbers(together)}, each alone {numbers(torch.cat(cut))}")


@prop(
    "reads the reference",
    says="the loss asks for the reference if it declares one, and can do without if it does not",
    usually="reference=False on a loss that uses log-ratios, or a reference that is run in every step for nothing",
)
def reads_reference(loss, draw, hyper):
    logps = draw(pairs(size=1))
    try:
        value(loss, without_reference(logps), hyper)
    except (ValueError, TypeError) as error:
        if not loss.reference:
            raise Broken(f"{pairs_shown(logps, hyper)}\nreference=False is declared, and the loss fails without one: {error}") from error
    else:
        if loss.reference:  # where it can be called without, it does not read it
            raise Broken("the loss can be called without a reference: declare reference=False, and none will be run")


@prop(
    "beta scales",
    says="twice the log-probs at half the beta give the same: beta is in units of reward a nat",
    usually="beta in the wrong place; a loss whose target depends on beta (IPO, SPPO) declares beta_scales=False",
    fact="beta_scales",
    asked=lambda loss: "" if "beta" in loss.hyperparameters else "it has no beta",
)
def beta_scales(loss, draw, hyper):
    logps = draw(pairs())
    doubled = PairLogps(*(Responses(2 * y.policy, y.lengths, 2 * y.ref) for y in (logps.chosen, logps.rejected)))
    before, after = value(loss, logps, hyper), value(loss, doubled, {**hyper, "beta": hyper["beta"] / 2})
    if not equal(before, after):
        raise Broken(f"{pairs_shown(logps, hyper)}\nthe loss gives {numbers(before)}; all log-probs doubled and beta halved, {numbers(after)}")


@prop(
    "keeps learning",
    says="a pair that is ranked wrongly by 40 nats still pulls, at least a hundredth of a pair at the reference",
    usually="a clip or a bare sigmoid; losses that give up on very wrong pairs on purpose (KTO, APO, EXO) declare keeps_learning=False",
    fact="keeps_learning",
)
def keeps_learning(loss, draw, hyper):
    h = torch.tensor([0.0, -40.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(one_by_one(loss, along_margin(h), hyper).sum(), h)
    if abs(slope[1]) < 0.01 * abs(slope[0]):
        raise Broken(f"{PATH}; {settings_shown(hyper)}\nthe slope by h is {slope[0]:.6g} at h = 0 and {slope[1]:.6g} at h = -40")


@prop(
    "population minimiser",
    says="trained on a world of three responses until it moves no more, the policy's margin is the declared one",
    usually="beta in the wrong place, a wrong sign, smoothing on the wrong side, a mean where a sum is meant, or a false `best_margin`",
    asked=lambda loss: "" if loss.best_margin else "no best_margin is declared",
    examples=12,
)
def population_minimiser(loss, draw, hyper):
    p = draw(st.sampled_from([0.8, 0.6, 0.3, 0.9]))
    if "beta" in hyper:  # a minimum that lies many nats away is not in this small world
        hyper = {**hyper, "beta": max(0.5, hyper["beta"])}
    declared = loss.best_margin(p, **hyper)
    if declared is None:
        return
    found = trained_margin(loss, hyper, p, declared)
    right = found * math.copysign(1, declared) > 3 if math.isinf(declared) else abs(found - declared) < 0.02 * max(1, abs(declared))
    if not right:
        raise Broken(f"people prefer a to b with probability {p:g}; {settings_shown(hyper)}\na has 3 tokens, b has 2; at the reference log P is -20 for a, -21 for b, and everything else has the rest\ntraining ends at a margin of {found:.4g}, and {declared:.4g} is declared")  # fmt: skip


REF = torch.tensor([-20.0, -21.0, 0.0], dtype=torch.float64).log_softmax(-1)  # a, b, and everything else
TOKENS = torch.tensor([3, 2])


def trained_margin(loss: Loss, hyper: dict, p: float, declared: float) -> float:
    """Where a tabular policy over (a, b, everything else) ends that is trained on the comparison of a and b, which a
    wins with probability p: its margin. L-BFGS; slow gradient steps towards infinity, and where the others
    did not end at the declared place, as at a kink."""

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


@prop(
    "refuses nonsense",
    says="a beta of zero, below it, or that is no number is a ValueError",
    usually="no `require(beta > 0, ...)` in the first line: a run would train for hours on nothing",
    asked=lambda loss: "" if "beta" in loss.hyperparameters else "it has no beta",
)
def refuses_nonsense(loss, draw, hyper):
    for beta in (0.0, -1.0, math.nan):
        try:
            value(loss, one_pair(), {**hyper, "beta": beta})
        except ValueError:
            continue
        raise Broken(f"beta {beta:g} is accepted")


@prop(
    "explains itself",
    says="the docstring has the formula on indented lines and a line `name: ...` for each hyperparameter; 30 lines are enough",
    usually="the command line and --list-losses have nothing to show",
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
    says="through the real objective every weight of a small GPT gets a finite gradient",
    usually="the loss works on the numbers above and not on a batch: look at shapes and types",
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


# ------------------------------------------------------------------------------------------------------- the verdict


@dataclass(frozen=True)
class Verdict:
    """held: True, False, or None if the property was not asked. text: the counterexample, or why it was not asked."""

    held: bool | None
    text: str = ""


def examine(loss: Loss, property: Property, examples: int = EXAMPLES) -> Verdict:
    """Look for the smallest counterexample. The same one every time: the draws are not random."""
    if reason := property.asked(loss):
        return Verdict(None, reason)
    denied, broken_where_denied = [], []
    if property.fact and loss.facts[property.fact] is not True:
        examples = max(examples, EXAMPLES)  # enough to come upon hyperparameters at which what is denied is broken
    phases = [Phase.generate, Phase.shrink] if property.examples > 1000 else [Phase.generate]  # each takes long: do not shrink

    @settings(max_examples=min(examples, property.examples), phases=phases, derandomize=True, database=None, deadline=None, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def search(data: st.DataObject) -> None:
        hyper = data.draw(hyperparameters(loss))
        declared = property.fact is None or loss.fact(property.fact, **hyper)
        try:
            property.check(loss, data.draw, hyper)
        except Broken:
            if declared:
                raise
            broken_where_denied.append(hyper)
        if not declared:
            denied.append(hyper)

    try:
        search()
    except Broken as broken:
        return Verdict(False, str(broken))
    except Exception as error:  # the loss itself failed on an example
        return Verdict(False, f"the loss raised {type(error).__name__}: {error}")
    if denied and not broken_where_denied:
        return Verdict(False, f"{property.fact}=False is declared, and no example breaks it ({settings_shown(denied[0])}): declare it True")
    on_purpose = property.fact and loss.facts[property.fact] is False
    return Verdict(True, "declared not to hold, and it does not" if on_purpose else "")
