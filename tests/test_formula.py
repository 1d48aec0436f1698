"""The docstring's formula is read as a reader of papers reads it, or not at all."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.check.decimals import holds_where, read, values_and_slopes
from mini_dpo.check.places import Unreadable
from mini_dpo.losses import LOSSES, PairLogps, Responses, UnpairedLogps

PAIR = PairLogps(
    Responses(torch.tensor([-3.0]).double(), torch.tensor([2]), torch.tensor([-5.0]).double()),
    Responses(torch.tensor([-7.0]).double(), torch.tensor([4]), torch.tensor([-6.0]).double()),
)
R_W, R_L, H = 2.0, -1.0, 3.0
sigma = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731


def loss_with(formula, names=("beta: price",), **hyper):
    """DPO with another docstring."""

    def function(logps, *, beta=0.5):
        return LOSSES["dpo"](logps, beta=beta)

    function.__doc__ = "One.\n\n    " + formula.replace("\n", "\n    ") + "\n\n" + "\n".join(names)
    return replace(LOSSES["dpo"], function=function)


def compute(formula, beta=0.5, names=("beta: price",)):
    loss = loss_with(formula, names)
    values, _ = values_and_slopes(loss, PAIR, {"beta": beta}, read(loss))
    return float(values[0])


@pytest.mark.parametrize(
    "formula, expected",
    [
        ("L = -log sigma(beta h)", -math.log(sigma(0.5 * H))),
        ("L = log(1 + exp(-beta h))", -math.log(sigma(0.5 * H))),
        ("L = log(1 + e^(-beta h))", -math.log(sigma(0.5 * H))),
        ("L = -log σ(β h)", -math.log(sigma(0.5 * H))),
        ("L = 1/2 (h - 1 / (2 beta))^2", 0.5 * (H - 1) ** 2),
        ("L = max(0, 1 - beta h)^2 + max(0, -r_w)", 0.0),
        ("L = beta h / 3 + 2 h", 0.5 + 6),
        ("L = h - beta r_w / |y_w|", H - 0.5),
        ("L = -h^2", -9),
        ("L = 2 h^2 - e^-h", 18 - math.exp(-3)),
        ("L = s(y_w) - s_ref(y_l) + r(y_w)", -3 + 6 + 2),
        ("L = m^2,   m = beta h", 2.25),
        ("L = m^2\nm = beta h", 2.25),
        ("L = beta u_w - u_l,   u = e^r", 0.5 * math.exp(2) - math.exp(-1)),
        ("L = f(r_w) - f(r_l),   f(x) = x^3 + h", 8 + 1),
        ("L = P_w,   P = exp(s(y) / |y|)", math.exp(-1.5)),
        ("L = [h - (1 - beta)] / [2 beta]", 2.5),
        ("L = clip(h, -1, 2) + abs(r_l) + sqrt(r_w + 2)", 2 + 1 + 2),
        ("L = -(h\n    - beta)", -2.5),
    ],
)
def test_a_formula_means_what_it_says(formula, expected):
    assert compute(formula) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "formula",
    [
        "L = h - 1 / 2 beta",  # half of beta, or one over twice beta?
        "L = beta h / 2 r_w",
        "L = log u / h,   u = e^r_w",  # the logarithm of which?
        "L = log r_w^2",
        "L = log sigma(h)^2",
        "L = -log sigma(beta h) - lambda h",  # nobody says what lambda is
        "L = -log sigma(m)",
        "L = |h|",
        "L = max(0, 1 - beta h",
        "L = E[-log sigma(beta h)]",
        "L = (1 - beta h)_+",
        "L = -\\log\\sigma(\\beta h)",
        "L = h   (where h is the margin)",
        "DPO with a twist",
        "",
    ],
)
def test_what_could_mean_two_things_is_not_read(formula):
    with pytest.raises(Unreadable):
        compute(formula)


LEAVES = [("h", H), ("r_w", R_W), ("beta", 0.5), ("2", 2.0), ("|y_l|", 4.0), ("0.25", 0.25)]


def grown(inner):
    both = st.tuples(inner, inner)
    return st.one_of(
        both.map(lambda p: (f"{p[0][0]} + ({p[1][0]})", p[0][1] + p[1][1])),
        both.map(lambda p: (f"({p[0][0]}) - ({p[1][0]})", p[0][1] - p[1][1])),
        both.map(lambda p: (f"({p[0][0]}) ({p[1][0]})", p[0][1] * p[1][1])),
        both.map(lambda p: (f"({p[0][0]}) / (1 + ({p[1][0]})^2)", p[0][1] / (1 + p[1][1] ** 2))),
        both.map(lambda p: (f"max({p[0][0]}, {p[1][0]})", max(p[0][1], p[1][1]))),
        inner.map(lambda p: (f"-({p[0]})", -p[1])),
        inner.map(
            lambda p: (
                f"log sigma(({p[0]}) / 100)",
                math.log(sigma(p[1] / 100)) if abs(p[1]) < 1e4 else math.nan,
            )
        ),
    )


@given(grown_formula=st.recursive(st.sampled_from(LEAVES), grown, max_leaves=8))
def test_a_formula_of_any_depth_is_what_python_makes_of_it(grown_formula):
    text, expected = grown_formula
    if math.isfinite(expected) and abs(expected) < 1e9:
        assert compute("L = " + text) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_every_loss_of_the_package_has_a_formula_that_is_read():
    for loss in LOSSES.values():
        assert next(iter(read(loss))) == "L"


def test_the_batch_s_means_and_ranks_and_the_liked():
    two = PairLogps(
        Responses(torch.tensor([-1.0, -2.0]).double(), torch.tensor([1, 1]), torch.zeros(2).double()),
        Responses(torch.tensor([-9.0, -4.0]).double(), torch.tensor([1, 1]), torch.zeros(2).double()),
    )
    loss = loss_with("L = sorted(h) - mean(r_w)")
    assert [float(v) for v in values_and_slopes(loss, two, {"beta": 1.0}, read(loss))[0]] == [
        2 + 1.5,
        8 + 1.5,
    ]
    single = UnpairedLogps(
        Responses(torch.tensor([-1.0, -1.0]).double(), torch.tensor([1, 1]), torch.zeros(2).double()),
        torch.tensor([True, False]),
        torch.tensor([1.0, 3.0]).double(),
    )
    loss = replace(loss_with("L = r if liked, 2 z if not,   z = max(0, mean(r'))"), paired=False)
    assert [float(v) for v in values_and_slopes(loss, single, {"beta": 1.0}, read(loss))[0]] == [-1.0, 4.0]


def test_a_symbol_is_the_hyperparameter_whose_line_begins_with_it():
    assert compute("L = epsilon h", names=("beta: epsilon, the share",)) == 1.5
    assert holds_where(loss_with("L = -log sigma(beta h)"), PAIR, {"beta": 0.5}, "beta h > 1 / (2 beta)") == [
        True
    ]


def test_the_slopes_are_the_formula_s_derivatives():
    loss = loss_with("L = max(0, h - 3) + r_w^2")
    _, ((below, above), (below_l, above_l)) = values_and_slopes(loss, PAIR, {"beta": 1.0}, read(loss))
    assert (float(below), float(above)) == pytest.approx((4.0, 5.0)) and (
        float(below_l),
        float(above_l),
    ) == pytest.approx((-1.0, 0.0))


@pytest.mark.parametrize(
    "formula",
    [
        "L = e^-beta h",
        "L = (1 + e^beta h)^-2",
        "L = max(0, h)^1/2",
        "L = [1 - h]+ - h",
        "L = h   (17)",
        "L = mean(h, 1)",
        "L = h\nbeta > 0",
        "L = 0 < beta",
        "L = h,   h = beta h",
        "L = clip(h, 0)",
        "L = (1 - h)²",
    ],
)
def test_notations_that_would_be_misread_are_not_read(formula):
    with pytest.raises(Unreadable):
        compute(formula)


def test_an_equation_knows_nothing_of_another_s_parameter_and_a_symbol_never_hides_h():
    assert compute("L = f(h),   f(x) = x + b,   b = beta r_w") == 4.0
    with pytest.raises(Unreadable):
        compute("L = f(h),   f(x) = x + b,   b = x")
    assert compute("L = beta h", names=("beta: h, that is aimed at",)) == 1.5


def test_the_formula_ends_where_the_words_begin_and_may_stand_last():
    assert loss_with("L = h", names=("beta: sets the aim, which is", "    1 / (2 beta)")).formula == "L = h"

    def last(logps, *, beta=0.5):
        """One.

        L = h
        """

    last.__doc__ = "One.\n\n        L = h\n    "
    assert replace(LOSSES["dpo"], function=last).formula == "L = h"
