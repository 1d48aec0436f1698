"""Every registered loss is held to TRL's own numbers, and the family to its identities. The papers' formulas
are in test_papers.py, the properties that all losses share in test_properties.py.
"""

import ast
import inspect
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo import losses
from mini_dpo.check import PROPERTIES, examine
from mini_dpo.losses import LOSSES, Beta, PairLogps, Positive, Range, Responses, UnpairedLogps, find_loss
from mini_dpo.theory.probe import one_by_one
from tests import papers
from tests.strategies import betas, margins, pair_from_h, pair_logps, probabilities, smoothings

dpo, cdpo, rdpo = LOSSES["dpo"], LOSSES["cdpo"], LOSSES["rdpo"]
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
exact = dict(rtol=1e-12, atol=1e-12)


def test_formulas_come_before_what_is_declared():
    """Less than a third of the gallery's lines are decorators; the facts are in a table of their own."""
    lines = decorators = 0
    for file in losses.GALLERY:
        source = Path(file.__file__).read_text(encoding="utf-8")
        lines += source.count("\n")
        for node in ast.parse(source).body:
            for mark in getattr(node, "decorator_list", []):
                decorators += mark.end_lineno - mark.lineno + 1
    assert 3 * decorators < lines, (decorators, lines)


def test_the_whole_family_is_there():
    assert set(LOSSES) == set(papers.LOSSES) and len(LOSSES) == 27


@every_loss
def test_every_loss_says_what_it_is(loss):
    assert (
        loss.paper
        and loss.formula.startswith("L")
        and len(inspect.getsource(loss.function).splitlines()) <= 30
    )


# --- against TRL's own numbers

TRL = json.loads((Path(__file__).parent / "trl_1_16.json").read_text(encoding="utf-8"))
OURS = {  # TRL's loss_type -> (our loss, our hyperparameters from TRL's settings)
    "sigmoid": ("sigmoid", lambda s: dict(beta=s["beta"])),  # TRL ignores label_smoothing here
    "hinge": ("hinge", lambda s: dict(beta=s["beta"])),
    "ipo": ("ipo", lambda s: dict(beta=s["beta"], reduction="mean")),
    "exo_pair": ("exo_pair", lambda s: dict(beta=s["beta"], label_smoothing=s["label_smoothing"])),
    "nca_pair": ("nca_pair", lambda s: dict(beta=s["beta"])),
    "robust": ("robust", lambda s: dict(beta=s["beta"], label_smoothing=s["label_smoothing"])),
    "bco_pair": ("bco_pair", lambda s: dict(beta=s["beta"], shift=0.0)),
    "sppo_hard": ("sppo_hard", lambda s: dict(beta=s["beta"])),
    "aot": ("aot", lambda s: dict(beta=s["beta"], label_smoothing=s["label_smoothing"])),
    "aot_unpaired": ("aot_unpaired", lambda s: dict(beta=s["beta"], label_smoothing=s["label_smoothing"])),
    "apo_zero": ("apo_zero", lambda s: dict(beta=s["beta"])),
    "apo_down": ("apo_down", lambda s: dict(beta=s["beta"])),
    "discopop": ("discopop", lambda s: dict(beta=s["beta"], tau=s["discopop_tau"])),
    "sigmoid_norm": ("sigmoid_norm", lambda s: dict(beta=s["beta"])),
    "kto": ("kto", lambda s: {name: s[name] for name in ("beta", "desirable_weight", "undesirable_weight")}),
    "apo_zero_unpaired": (
        "apo_zero_unpaired",
        lambda s: {name: s[name] for name in ("beta", "desirable_weight", "undesirable_weight")},
    ),
    "simpo": ("simpo", lambda s: dict(beta=s["beta"], gamma=s["simpo_gamma"])),
    "alphapo": ("alphapo", lambda s: dict(beta=s["beta"], gamma=s["simpo_gamma"], alpha=s["alpha"])),
    "orpo": ("orpo", lambda s: dict(odds_weight=s["beta"])),
}
DIVERGENCES = {"forward_kl": "forward_kl", "js_divergence": "jensen_shannon", "alpha_divergence": "alpha"}


def leaves(record: dict, side: str = "") -> Responses:
    """A recorded batch of responses, its policy log-probs ready for a gradient."""
    names = [name + ("_" + side if side else "") for name in ("policy", "ref")]
    policy, ref = (
        torch.tensor(record[name], dtype=torch.float64) if name in record else None for name in names
    )
    return Responses(
        policy.requires_grad_(), torch.tensor(record[f"{side}_lengths" if side else "lengths"]), ref
    )


def token_mean(w: Responses) -> torch.Tensor:
    """TRL's SFT term: one mean over all chosen tokens of the batch."""
    return -w.policy.sum() / w.lengths.sum()


def ours(record: dict) -> tuple[torch.Tensor, list[torch.Tensor]] | None:
    """Our scalar for a recorded batch and the leaves to derive it by; None where TRL has a loss that we have
    not.
    """
    kind, s = record["loss_type"], record["settings"]
    if record["trainer"] == "KTOTrainer":
        y = leaves(record)
        mismatched = torch.tensor(record["mismatched_policy"], dtype=torch.float64) - torch.tensor(
            record["mismatched_ref"], dtype=torch.float64
        )
        name, translate = OURS[kind]
        return find_loss(name)(
            UnpairedLogps(y, torch.tensor(record["desirable"]), mismatched), **translate(s)
        ).mean(), [y.policy]
    w, l = leaves(record, "chosen"), leaves(record, "rejected")
    logps = PairLogps(w, l)
    if record["trainer"] == "CPOTrainer" and kind in ("sigmoid", "hinge", "ipo"):
        if kind != "sigmoid" or s["label_smoothing"]:
            return None
        loss = LOSSES["cpo"](logps, beta=s["beta"], nll_weight=0.0).mean() + s["cpo_alpha"] * token_mean(w)
    # TRL's SFT term is over prompt and response: ours is taken out, TRL's put in
    elif record["trainer"] == "ORPOTrainer":
        prompt, tokens = sum(record["prompt_logp_sums"]), sum(record["prompt_scored_tokens"])
        theirs = -(w.policy.sum() + prompt) / (w.lengths.sum() + tokens)
        loss = LOSSES["orpo"](logps, odds_weight=s["beta"]).mean() + w.average.mean() + theirs
    elif kind == "sft":
        loss = token_mean(w)
    elif kind == "simpo":
        if s["label_smoothing"]:
            return None
        loss = LOSSES["simpo"](logps, beta=s["beta"], gamma=s["simpo_gamma"]).mean() + s[
            "cpo_alpha"
        ] * token_mean(w)
    elif kind == "alphapo" and s["alpha"] <= 0:
        if s["alpha"] < 0:
            return None
        # with alpha 0 TRL's alphapo is SimPO
        loss = LOSSES["simpo"](logps, beta=s["beta"], gamma=s["simpo_gamma"]).mean()
    elif s.get("f_divergence_type", "reverse_kl") != "reverse_kl":
        if kind != "sigmoid":
            return None
        alpha = 1 - s["f_alpha_divergence_coef"]
        divergence = DIVERGENCES[s["f_divergence_type"]] if alpha else "reverse_kl"
        loss = LOSSES["f_dpo"](logps, beta=s["beta"], divergence=divergence, alpha=alpha or 0.5).mean()
    else:
        name, translate = OURS[kind]
        loss = find_loss(name)(logps, **translate(s)).mean()
    return loss, [w.policy, l.policy]


SHARED = [record for record in TRL if ours(record) is not None]


@pytest.mark.parametrize("record", SHARED, ids=lambda record: f"{record['trainer']}-{record['loss_type']}")
def test_value_and_gradient_are_trl_s_own(record):
    """TRL 1.16's own code in float64, recorded once: 89 batches. Where the definitions differ, and the
    docstring says so, the difference is put in here by hand.
    """
    loss, inputs = ours(record)
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    assert float(loss.detach()) == pytest.approx(record["loss"], abs=1e-9, rel=1e-12)
    names = ["grad"] if len(inputs) == 1 else ["grad_chosen", "grad_rejected"]
    for name, gradient in zip(names, gradients, strict=True):
        theirs = torch.tensor(record[name], dtype=torch.float64)
        torch.testing.assert_close(
            torch.zeros_like(theirs) if gradient is None else gradient, theirs, rtol=0, atol=1e-9
        )


def test_what_trl_alone_has():
    """Smoothing in its CPO trainer, its hinge and IPO there, a bent reward with negative alpha, and other
    divergences under IPO and the length-normalised loss.
    """
    alone = sorted((r["trainer"], r["loss_type"]) for r in TRL if ours(r) is None)
    expected = [
        ("CPOTrainer", kind)
        for kind in ("alphapo", "hinge", "hinge", "ipo", "ipo", "sigmoid", "sigmoid", "simpo")
    ] + [("DPOTrainer", "ipo"), ("DPOTrainer", "sigmoid_norm")]
    assert len(TRL) == 89 and alone == expected


# --- identities of the family


def at_margin(loss, m, **hyper):
    """The loss as a function of m = beta h, a tensor (B,)."""
    return loss(pair_from_h(m / hyper["beta"]), **hyper)


@given(m=margins)
def test_antisymmetry_slope_and_curvature(m):
    """l(m) - l(-m) = -m (softplus with its threshold breaks this by 2e-9); l' = -sigmoid(-m); 0 < l'' <=
    1/4.
    """
    m = torch.tensor([m], dtype=torch.float64, requires_grad=True)
    value, mirrored = dpo(pair_from_h(m), beta=1.0), dpo(pair_from_h(-m), beta=1.0)
    torch.testing.assert_close(value - mirrored, -m, rtol=1e-15, atol=1e-14)
    (slope,) = torch.autograd.grad(value, m, create_graph=True)
    torch.testing.assert_close(slope, -torch.sigmoid(-m), rtol=1e-12, atol=0)
    (curvature,) = torch.autograd.grad(slope, m)
    # at most 1/4
    torch.testing.assert_close(curvature, (m.sigmoid() * (-m).sigmoid()).detach(), rtol=1e-9, atol=1e-15)


@given(logps=pair_logps(), beta=betas, epsilon=smoothings)
def test_smoothed_losses_are_dpo_and_a_line(logps, beta, epsilon):
    """cDPO = DPO + epsilon m; rDPO = DPO - epsilon m / (1 - 2 epsilon)."""
    plain, m = dpo(logps, beta=beta), beta * logps.h
    torch.testing.assert_close(cdpo(logps, beta=beta, label_smoothing=epsilon), plain + epsilon * m, **exact)
    torch.testing.assert_close(
        rdpo(logps, beta=beta, label_smoothing=epsilon),
        plain - epsilon * m / (1 - 2 * epsilon),
        rtol=1e-9,
        atol=1e-9,
    )


@given(logps=pair_logps(), beta=betas, epsilon=smoothings)
def test_flipping_labels_undoes_the_robust_loss(logps, beta, epsilon):
    """(1 - epsilon) rDPO(pair) + epsilon rDPO(swapped pair) = DPO(pair): it is unbiased."""
    swapped = logps.swapped
    mean = sum(
        share * rdpo(pair, beta=beta, label_smoothing=epsilon)
        for share, pair in ((1 - epsilon, logps), (epsilon, swapped))
    )
    torch.testing.assert_close(mean, dpo(logps, beta=beta), rtol=1e-8, atol=1e-8)


@given(logps=pair_logps(), beta=betas)
def test_each_loss_with_its_extra_switched_off_is_dpo(logps, beta):
    plain = dpo(logps, beta=beta)
    one_token = PairLogps(
        *(Responses(y.policy, torch.ones(len(y)), y.ref) for y in (logps.chosen, logps.rejected))
    )
    for name, options in {
        "cdpo": dict(label_smoothing=0.0),
        "rdpo": dict(label_smoothing=0.0),
        "r_dpo": dict(alpha=0.0),
        "dpop": dict(penalty=0.0),
        "f_dpo": dict(divergence="reverse_kl"),
    }.items():
        torch.testing.assert_close(LOSSES[name](logps, beta=beta, **options), plain, **exact)
    torch.testing.assert_close(LOSSES["dpo_norm"](one_token, beta=beta), plain, **exact)
    for name in ("aot", "aot_unpaired"):
        torch.testing.assert_close(one_by_one(LOSSES[name], logps, dict(beta=beta)), plain, **exact)


@given(logps=pair_logps(), beta=st.floats(0.02, 1.0))
def test_relations_between_the_losses(logps, beta):
    def ask(name, **options):
        return LOSSES[name](logps, **options)

    uniform = PairLogps(
        *(Responses(y.policy, y.lengths, -2.0 * y.lengths) for y in (logps.chosen, logps.rejected))
    )
    # a uniform reference
    torch.testing.assert_close(
        ask("simpo", beta=beta, gamma=0.0), LOSSES["dpo_norm"](uniform, beta=beta), **exact
    )
    short = PairLogps(*(Responses(y.policy / 100, y.lengths, y.ref) for y in (logps.chosen, logps.rejected)))
    bent = LOSSES["alphapo"](short, beta=beta, gamma=0.5, alpha=1e-7)
    # alpha -> 0
    torch.testing.assert_close(bent, LOSSES["simpo"](short, beta=beta, gamma=0.5), rtol=1e-6, atol=1e-6)
    half = 0.5 * torch.nn.functional.logsigmoid(beta * logps.r_l * -1) - 0.5 * torch.nn.functional.logsigmoid(
        -beta * logps.r_w
    )
    torch.testing.assert_close(
        ask("nca", beta=beta), ask("bco", beta=beta, shift=0.0) + half, rtol=1e-9, atol=1e-9
    )
    both = Responses(
        *(
            torch.cat([getattr(y, name) for y in (logps.chosen, logps.rejected)])
            for name in ("policy", "lengths", "ref")
        )
    )
    liked = torch.arange(len(both)) < len(logps)
    single = UnpairedLogps(both, liked, torch.zeros(1, dtype=torch.float64))
    for name in ("kto", "apo_zero_unpaired"):  # KTO with z = 0 is apo_zero cut in two
        torch.testing.assert_close(
            LOSSES[name](single, beta=beta).view(2, -1).sum(0), ask("apo_zero", beta=beta), **exact
        )
    squares = (logps.r_w - 0.5 / beta) ** 2 + (logps.r_l + 0.5 / beta) ** 2
    torch.testing.assert_close(
        ask("cal_dpo", beta=beta), dpo(logps, beta=1.0) + ask("sppo", beta=beta), **exact
    )
    torch.testing.assert_close(ask("sppo", beta=beta), squares, **exact)


@given(p=probabilities, epsilon=st.floats(0.01, 0.45), beta=betas)
def test_cdpo_s_best_margin_is_finite_even_for_certain_labels(p, epsilon, beta):
    best = math.log((1 - epsilon) / epsilon)
    values = at_margin(
        cdpo,
        torch.tensor([best, best - 0.01, best + 0.01], dtype=torch.float64),
        beta=beta,
        label_smoothing=epsilon,
    )
    assert values[0] < values[1] and values[0] < values[2]
    entropy = -epsilon * math.log(epsilon) - (1 - epsilon) * math.log1p(-epsilon)
    assert float(values[0]) == pytest.approx(entropy, abs=1e-12)


# --- what is refused


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("cdpo", dict(label_smoothing=0.5), "label_smoothing must be in"),
        ("cdpo", dict(label_smoothing=-0.1), "label_smoothing must be in"),
        ("rdpo", dict(label_smoothing=0.5), "label_smoothing must be in"),
        ("exo", dict(label_smoothing=0.0), "label_smoothing must be in"),
        ("dpop", dict(penalty=-1.0), "penalty must be at least 0"),
        ("f_dpo", dict(alpha=0.0), "alpha must be in"),
        ("chipo", dict(r_max=0.0), "r_max must be positive"),
        ("discopop", dict(tau=1.0), "tau must be in"),
        ("cpo", dict(nll_weight=-1.0), "nll_weight must be at least 0"),
        ("alphapo", dict(alpha=0.0), "alpha must be positive"),
        ("orpo", dict(odds_weight=-1.0), "odds_weight must be at least 0"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(name, options, message):
    one = Responses(-torch.ones(1), torch.ones(1), -torch.ones(1))
    with pytest.raises(ValueError, match=message):
        LOSSES[name](PairLogps(one, one), **options)


def typed(
    logps: PairLogps, *, beta: Beta = 0.1, share: Annotated[float, Range(0, 1)] = 0.5, n: Positive = 1.0
):
    """One.

        L = -log sigma(beta h)

    share: tau, the share
    """
    return dpo.function(logps, beta=beta)


def test_a_type_says_what_a_hyperparameter_is_and_may_be():
    variant = replace(dpo, function=typed)
    assert variant.describe("beta").endswith("in units of reward; must be positive")
    assert variant.describe("share") == "tau, the share, in [0, 1)"
    assert variant.describe("n") == "", "a range alone is no description"
    assert variant.hyperparameters == {"beta": 0.1, "share": 0.5, "n": 1.0}
    one = Responses(-torch.ones(1), torch.ones(1), -torch.ones(1))
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match=rf"^share must be in \[0, 1\), not {share}$"):
            variant(PairLogps(one, one), share=share)
    variant(PairLogps(one, one), share=0.0)
    assert examine(variant, PROPERTIES["refuses nonsense"]).held
    assert "`n: ...`" in examine(variant, PROPERTIES["explains itself"]).text


@pytest.mark.parametrize("line", ["share: in [0, 2)", "share: in [0, 0.4)"])
def test_a_description_with_another_range_than_the_type_is_found(line):
    def wrong(logps: PairLogps, *, beta: Beta = 0.1, share: Annotated[float, Range(0, 1)] = 0.5):
        return dpo.function(logps, beta=beta)

    wrong.__doc__ = f"One.\n\n    L = h\n\n{line}"
    assert examine(replace(dpo, function=wrong), PROPERTIES["refuses nonsense"]).held is False


def test_mismatched_shapes_are_refused():
    one, two = torch.zeros(1), torch.zeros(2)
    with pytest.raises(ValueError, match="one shape"):
        Responses(two, one)
    with pytest.raises(ValueError, match="one shape"):
        Responses(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="each chosen response needs"):
        PairLogps(Responses(two, two), Responses(one, one))
    with pytest.raises(ValueError, match="as many labels"):
        UnpairedLogps(Responses(two, two), one.bool())
