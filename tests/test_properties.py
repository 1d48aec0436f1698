"""The property suite: every registered loss keeps every property, every wrong version breaks the one that
names its mistake, and `python -m mini_dpo.check` says so in words.
"""

import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mini_dpo.check import PROPERTIES, examine
from mini_dpo.check import __main__ as check
from mini_dpo.losses import LOSSES, Responses, find_loss
from mini_dpo.losses.closed_forms import logit
from tests.commands import run
from tests.sly_losses import SLY
from tests.wrong_losses import FALSE_FACTS, WRONG

THOROUGH = os.environ.get("MINI_DPO_TESTS") == "thorough"
ALL_WRONG = {**WRONG, **SLY}
EXAMPLES = 60 if THOROUGH else 5  # of each property; `check` draws 60


@pytest.mark.parametrize("claim", PROPERTIES.values(), ids=PROPERTIES)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_loss_keeps_every_property(loss, claim):
    verdict = examine(loss, claim, EXAMPLES)
    assert verdict.held is not False, verdict.text


def changed(variant, changes):
    """A loss with some of its declarations changed, its facts among them."""
    facts = {name: value for name, value in changes.items() if name in vars(variant.facts)}
    others = {name: value for name, value in changes.items() if name not in facts}
    return replace(variant, facts=replace(variant.facts, **facts), **others)


@pytest.mark.parametrize("mistake", ALL_WRONG)
def test_a_wrong_version_breaks_the_property_that_names_its_mistake(mistake):
    name, function, claim, *changes = ALL_WRONG[mistake]
    verdict = examine(
        changed(LOSSES[name], {"function": function, **dict(*changes)}), PROPERTIES[claim], shrink=False
    )
    assert verdict.held is False and len(verdict.text) > 10, mistake


def test_wrong_versions_are_many_and_reach_every_property():
    reached = {claim for _, _, claim, *_ in WRONG.values()} | {claim for *_, claim in FALSE_FACTS}
    assert len(WRONG) >= 50
    assert set(PROPERTIES) - reached == {"explains itself", "trains"}, (
        "these two have tests of their own below"
    )


@pytest.mark.parametrize("name, lie, claim", FALSE_FACTS, ids=str)
def test_a_false_fact_is_found(name, lie, claim):
    assert examine(changed(LOSSES[name], lie), PROPERTIES[claim], shrink=False).held is False


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.facts.at_reference])
def test_a_false_value_at_the_reference_is_found(name):
    truth = LOSSES[name].facts.at_reference
    lie = changed(LOSSES[name], {"at_reference": lambda **hyper: truth(**hyper) + 1e-6})
    assert examine(lie, PROPERTIES["value at the reference"], shrink=False).held is (
        None if name in () else False
    )


@pytest.mark.parametrize(
    "name",
    [name for name, loss in LOSSES.items() if loss.facts.best_margin]
    if THOROUGH
    else ["dpo", "cdpo", "rdpo", "ipo", "hinge", "simpo", "kto"],
)
def test_a_false_minimiser_is_found(name):
    """A tenth too far, or finite where it is infinite."""
    truth = LOSSES[name].facts.best_margin

    def lie(p, **hyper):
        best = truth(p, **hyper)
        return None if best is None else 0.7 * logit(p) if math.isinf(best) else 1.1 * best

    if name == "rdpo":  # infinite for some p: there the lie is a finite margin
        assert math.isinf(truth(0.99, beta=1.0, label_smoothing=0.1))
    assert (
        examine(
            changed(LOSSES[name], {"best_margin": lie}), PROPERTIES["population minimiser"], shrink=False
        ).held
        is False
    )


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.facts.swap_slope])
def test_a_false_slope_is_found(name):
    truth = LOSSES[name].facts.swap_slope
    lie = changed(LOSSES[name], {"swap_slope": lambda **hyper: 1.01 * truth(**hyper)})
    assert examine(lie, PROPERTIES["antisymmetry"], shrink=False).held is False


def test_a_loss_without_words_is_found():
    def bare(logps, *, beta=0.1):
        return LOSSES["dpo"](logps, beta=beta)

    assert "formula" in examine(replace(LOSSES["dpo"], function=bare), PROPERTIES["explains itself"]).text
    bare.__doc__ = "One.\n\n    L = x\n\nTwo."
    assert "`beta: ...`" in examine(replace(LOSSES["dpo"], function=bare), PROPERTIES["explains itself"]).text


def test_a_loss_that_stops_the_gradient_does_not_train():
    def frozen(logps, *, beta=0.1):
        return LOSSES["dpo"](logps, beta=beta) * math.inf

    assert "not finite" in examine(replace(LOSSES["dpo"], function=frozen), PROPERTIES["trains"]).text


# --- right ones


RIGHT = Path(__file__).parent / "right_losses.py"


@pytest.mark.parametrize("name", re.findall(r"^def (\w+)\(logps", RIGHT.read_text(encoding="utf-8"), re.M))
def test_a_right_loss_of_somebody_s_own_keeps_every_property(name):
    known = dict(LOSSES)
    try:
        loss = find_loss(f"{RIGHT}:{name}")
        # what is denied takes many draws to be seen broken: those are left to the thorough run
        asked = [
            claim
            for claim in PROPERTIES.values()
            if THOROUGH or not claim.fact or loss.declared(claim.fact) is True
        ]
        broken = {
            claim.name: verdict.text
            for claim in asked
            if (verdict := examine(loss, claim, 60 if THOROUGH else 3)).held is False
        }
    finally:
        LOSSES.clear()
        LOSSES.update(known)
    assert not broken, broken


def test_right_losses_are_many():
    assert len(re.findall(r"^@loss", RIGHT.read_text(encoding="utf-8"), re.M)) >= 20 and len(SLY) >= 40


# What each loss takes for a response's reward, in plain floats: r is the log-ratio, s the log-prob, n the
# tokens.
odds = lambda a: a - math.log1p(-math.exp(a))  # noqa: E731
REWARDS = {
    **{name: lambda s, r, n, beta, **_: beta * r for name in LOSSES},
    "dpo_norm": lambda s, r, n, beta: beta * r / n,
    "r_dpo": lambda s, r, n, beta, alpha: beta * r + alpha * n,
    # Jensen-Shannon
    "f_dpo": lambda s, r, n, beta, divergence, alpha: beta * (math.log(math.exp(r) / (1 + math.exp(r)))),
    "chipo": lambda s, r, n, beta, r_max: beta * (math.exp(r) + r),
    "cpo": lambda s, r, n, beta, nll_weight: beta * s,
    "simpo": lambda s, r, n, beta, gamma: beta * s / n,
    "alphapo": lambda s, r, n, beta, gamma, alpha: beta * (1 - math.exp(s / n) ** -alpha) / alpha,
    "orpo": lambda s, r, n, odds_weight: odds(s / n),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_reward_that_is_logged_is_the_paper_s(name):
    """Up to a constant of the prompt, so differences are compared."""
    loss, (s, ref, n) = LOSSES[name], ([-3.0, -7.5, -1.25], [-4.0, -5.0, -1.0], [2, 5, 1])
    found = loss.rewards(
        Responses(
            torch.tensor(s).double(), torch.tensor(n), torch.tensor(ref).double() if loss.reference else None
        ),
        **loss.hyperparameters,
    )
    expected = [REWARDS[name](a, a - b, c, **loss.hyperparameters) for a, b, c in zip(s, ref, n, strict=True)]
    assert (found - found[0]).tolist() == pytest.approx(
        [x - expected[0] for x in expected], rel=1e-9, abs=1e-12
    )


# --- the command

MINE = '''
import math

import torch
from mini_dpo.losses import Facts, PairLogps, loss, require

@loss(
    paper="mine",
    facts=Facts(
        at_reference=lambda beta: 1.0,
        best_margin=lambda p, beta: 2 * p - 1,
        swap_slope=lambda beta: -4,
        monotone=False,
        reversed_where="beta h > 1",
    ),
)
def squared(logps: PairLogps, *, beta: float = 0.1) -> torch.Tensor:
    """The squared loss of the margin.

        L = (1 - beta h)^2

    beta: price of a nat
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return (1 - beta * logps.h) ** 2


@loss(
      paper="mine",
      facts=Facts(
          at_reference=lambda beta: 1.0,
          best_margin=lambda p, beta: 0.5 * math.log(p / (1 - p)),
          convex=False,
          keeps_learning=False,
      ),
  )
def exponential(logps: PairLogps, *, beta: float = 0.1) -> torch.Tensor:
    """The exponential loss of the margin, as in boosting; its exponent is cut at 70.

        L = exp(min(-beta h, 70))

    beta: price of a nat
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return (-beta * logps.h).clamp(max=70).exp()


@loss(
    paper="wrong on purpose",
    facts=Facts(at_reference=lambda beta: 0.6931471805599453, best_margin=lambda p, beta: 0.0),
)
def averaged(logps: PairLogps, *, beta: float = 0.1) -> torch.Tensor:
    """DPO that takes means.

        L = -log sigma(beta (r_w / |y_w| - r_l / |y_l|))

    beta: price of a nat
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    w, l = logps.chosen, logps.rejected
    return -torch.nn.functional.logsigmoid(beta * (w.logratio / w.lengths - l.logratio / l.lengths))
'''


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE, encoding="utf-8")
    known = dict(LOSSES)
    yield path
    LOSSES.clear()
    LOSSES.update(known)


def test_check_on_a_right_loss_of_one_s_own(monkeypatch, capsys, mine):
    status, out, err = run(monkeypatch, capsys, check, f"{mine}:squared", "--examples", 12)
    assert (status, err) == (0, "") and "L = (1 - beta h)^2" in out and " 0 broken, 1 not asked" in out
    assert all(name in out for name in PROPERTIES)


def test_check_finds_the_minimiser_of_the_exponential_loss(monkeypatch, capsys, mine):
    status, out, _ = run(monkeypatch, capsys, check, f"{mine}:exponential", "--examples", 12)
    assert status == 0 and " 0 broken" in out, "its minimiser is half the logit, found by training"


def test_check_on_a_wrong_loss_shows_a_counterexample(monkeypatch, capsys, mine):
    """DPO by means, declared invariant: y_w of one token and y_l of two, everything else equal, is enough to
    see it.
    """
    status, out, _ = run(monkeypatch, capsys, check, f"{mine}:averaged", "--examples", 20)
    assert status == 1 and "BROKEN  shift invariance" in out and "BROKEN  population minimiser" in out
    assert "the partition function no longer cancels" in out and "declare shift_invariant=False" in out
    assert "chosen and rejected: log-probs" in out and "less for both log-probs" in out


def test_check_refuses_what_is_no_loss(monkeypatch, capsys, mine):
    status, _, err = run(monkeypatch, capsys, check, "nonsense")
    assert status == 2 and "there is no loss nonsense" in err
    status, _, err = run(monkeypatch, capsys, check, mine)
    assert status == 2 and f"name the function as well: {mine}:my_loss" in err
    status, _, err = run(monkeypatch, capsys, check, f"{mine}:squared", "--examples", 0)
    assert status == 2 and "--examples must be at least 1" in err
    status, _, err = run(monkeypatch, capsys, check, f"{mine}:absent")
    assert status == 2 and "absent is not in it (losses there: squared, exponential, averaged)" in err


def test_check_says_once_that_a_loss_cannot_be_called(monkeypatch, capsys, mine):
    mine.write_text(MINE.replace("(1 - beta * logps.h) ** 2", "(1 - beta * logps.hh) ** 2"), encoding="utf-8")
    status, out, err = run(monkeypatch, capsys, check, f"{mine}:squared")
    assert (
        status == 2
        and out == ""
        and "fails on a batch of two" in err
        and "line 25: AttributeError" in err
        and err.count("\n") == 1
    )


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "at_reference=lambda beta: 1.0,\n        best",
            "at_reference=1.0,\n        best",
            "at_reference must be a function of (beta), not 1.0",
        ),
        (
            "swap_slope=lambda beta: -4",
            "swap_slope=lambda b: -4",
            "swap_slope must be a function of (beta), not of (b)",
        ),
        (
            "best_margin=lambda p, beta: 2 * p - 1",
            "best_margin=lambda p: 2 * p - 1",
            "best_margin must be a function of (p, beta), not of (p)",
        ),
        ("def exponential(", "def squared(", "'squared' is the name of a loss already"),
    ],
)
def test_a_declaration_that_cannot_be_asked_is_refused_with_its_line(
    monkeypatch, capsys, mine, old, new, message
):
    assert MINE.count(old) == 1
    mine.write_text(MINE.replace(old, new), encoding="utf-8")
    status, _, err = run(monkeypatch, capsys, check, f"{mine}:squared")
    assert status == 2 and message in err and f"{mine}, line " in err and err.count("\n") == 1


def test_check_takes_an_alias(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, check, "sigmoid", "--examples", 2)
    assert status == 0 and out.startswith("dpo: Rafailov")
