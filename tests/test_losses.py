"""Every registered loss is held to what it declares, and DPO's family to its identities."""

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.losses import LOSSES, PairLogps, dpo
from tests import oracles
from tests.strategies import betas, margins, pair_from_h, pair_logps, probabilities, smoothings

cdpo = LOSSES["cdpo"]
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
RANGES = {"beta": betas, "label_smoothing": smoothings}  # any other hyperparameter stays at its default
GRID = torch.linspace(-40, 40, 401, dtype=torch.float64)


@st.composite
def hyperparameters(draw, loss):
    return {name: draw(RANGES.get(name, st.just(default))) for name, default in loss.hyperparameters.items()}


def at_margin(loss, m, hyper):
    """The loss as a function of the margin m = beta h, a tensor (B,)."""
    return loss(pair_from_h(m / hyper["beta"]), **hyper)


@pytest.mark.parametrize("loss", [LOSSES[name] for name in oracles.LOSSES], ids=oracles.LOSSES)
@given(data=st.data(), logps=pair_logps())
def test_equals_the_formula_in_plain_python(loss, data, logps):
    """Catches: a wrong sign, beta twice or not at all, chosen and rejected swapped, smoothing on the wrong side."""
    hyper = data.draw(hyperparameters(loss))
    fields = (logps.policy_chosen, logps.policy_rejected, logps.ref_chosen, logps.ref_rejected)
    expected = [oracles.LOSSES[loss.name](*row, **hyper) for row in zip(*(f.tolist() for f in fields))]
    torch.testing.assert_close(loss(logps, **hyper).tolist(), expected, rtol=1e-12, atol=1e-12)


@every_loss
@given(data=st.data(), logps=pair_logps())
def test_one_value_a_pair_and_each_pair_on_its_own(loss, data, logps):
    hyper = data.draw(hyperparameters(loss))
    together = loss(logps, **hyper)
    assert together.shape == logps.policy_chosen.shape
    for i in range(len(together)):
        alone = loss(PairLogps(*(f[i : i + 1] for f in vars(logps).values())), **hyper)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-14, atol=1e-14)


@every_loss
@given(data=st.data(), logps=pair_logps())
def test_value_at_the_reference_is_as_declared(loss, data, logps):
    hyper = data.draw(hyperparameters(loss))
    at_reference = PairLogps(logps.ref_chosen, logps.ref_rejected, logps.ref_chosen, logps.ref_rejected, logps.chosen_lengths, logps.rejected_lengths)  # fmt: skip
    expected = torch.full_like(logps.ref_chosen, loss.at_reference(**hyper))
    torch.testing.assert_close(loss(at_reference, **hyper), expected, rtol=1e-14, atol=1e-14)


@every_loss
@given(data=st.data())
def test_monotone_and_convex_as_declared(loss, data):
    """A fact that is denied must be false as well: somewhere on the grid the loss must rise, or bend down."""
    hyper = data.draw(hyperparameters(loss))
    if "label_smoothing" in hyper:
        hyper["label_smoothing"] = max(hyper["label_smoothing"], 0.01)  # at 0 it is another loss
    values = at_margin(loss, GRID, hyper)
    assert bool((values.diff() <= 1e-12).all()) == loss.monotone
    assert bool((values.diff().diff() >= -1e-12).all()) == loss.convex


@every_loss
@given(data=st.data(), shift=st.floats(0.5, 100))
def test_shift_of_both_log_ratios_as_declared(loss, data, shift):
    """The partition function of a prompt shifts both log-ratios of its pair: a loss that is invariant never needs it."""
    hyper = data.draw(hyperparameters(loss))
    values, shifted = (loss(pair_from_h(GRID, s), **hyper) for s in (0.0, shift))
    assert torch.allclose(values, shifted, rtol=1e-9, atol=1e-9) == loss.shift_invariant


@every_loss
@given(data=st.data(), p=probabilities)
def test_population_minimiser_is_as_declared(loss, data, p):
    hyper = data.draw(hyperparameters(loss))
    best = loss.best_margin(p, **hyper)
    m = torch.tensor([best, best - 0.1, best + 0.1], dtype=torch.float64, requires_grad=True)
    risk = p * at_margin(loss, m, hyper) + (1 - p) * at_margin(loss, -m, hyper)
    (gradient,) = torch.autograd.grad(risk.sum(), m)
    assert abs(float(gradient[0])) < 1e-10
    assert risk[0] < risk[1] and risk[0] < risk[2]


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_value_and_gradient_are_finite_to_a_margin_of_ten_thousand(loss, dtype):
    """Catches: log(sigmoid(m)), which is -inf from m = -89 in float32, and log(1 + exp(-m)). A value is excused only
    if the type cannot hold it (float16 ends at 65,504)."""
    h = torch.tensor([-1e4, -100, -1, 0, 1, 100, 1e4], dtype=dtype, requires_grad=True)
    hyper = {**loss.hyperparameters, "beta": 1.0}
    values, exact = loss(pair_from_h(h), **hyper), loss(pair_from_h(h.detach().double()), **hyper)
    (gradient,) = torch.autograd.grad(values.sum(), h)
    assert (values.isfinite() | (exact.abs() > torch.finfo(dtype).max)).all() and gradient.isfinite().all()
    assert gradient[0] != 0, "the most wrongly ranked pair must still be learned from"


@every_loss
@given(data=st.data(), logps=pair_logps(size=3))
def test_gradient_equals_finite_differences(loss, data, logps):
    hyper = data.draw(hyperparameters(loss))
    h = ((logps.policy_chosen - logps.policy_rejected) / 50).requires_grad_()
    assert torch.autograd.gradcheck(lambda h: loss(pair_from_h(h), **hyper), h)


@every_loss
@given(data=st.data(), m=margins, factor=st.floats(0.1, 10))
def test_beta_only_scales_h(loss, data, m, factor):
    hyper = data.draw(hyperparameters(loss))
    h = torch.tensor([m], dtype=torch.float64)
    scaled = loss(pair_from_h(h * factor), **{**hyper, "beta": hyper["beta"] / factor})
    torch.testing.assert_close(scaled, loss(pair_from_h(h), **hyper), rtol=1e-9, atol=1e-9)


@every_loss
def test_hyperparameters_out_of_range_are_refused(loss):
    with pytest.raises(ValueError, match="beta must be positive"):
        loss(pair_from_h(torch.zeros(1)), **{**loss.hyperparameters, "beta": 0.0})
    if "label_smoothing" in loss.hyperparameters:
        for wrong in (-0.1, 0.5):
            with pytest.raises(ValueError, match="label_smoothing"):
                loss(pair_from_h(torch.zeros(1)), label_smoothing=wrong)


@every_loss
def test_every_loss_says_what_it_is(loss):
    assert loss.paper
    assert len(inspect.getsource(loss.function).splitlines()) <= 30
    for name in loss.hyperparameters:
        assert loss.describe(name), f"the docstring has no line 'name: ...' for {name}"


# ------------------------------------------------------------------------------------- identities of DPO and cDPO


@given(m=margins)
def test_antisymmetry_slope_and_curvature(m):
    """l(m) - l(-m) = -m (softplus with its threshold breaks this by 2e-9); l' = -sigmoid(-m); 0 < l'' <= 1/4."""
    m = torch.tensor([m], dtype=torch.float64, requires_grad=True)
    value, mirrored = dpo(pair_from_h(m), beta=1.0), dpo(pair_from_h(-m), beta=1.0)
    torch.testing.assert_close(value - mirrored, -m, rtol=1e-15, atol=1e-14)
    (slope,) = torch.autograd.grad(value, m, create_graph=True)
    torch.testing.assert_close(slope, -torch.sigmoid(-m), rtol=1e-12, atol=0)
    (curvature,) = torch.autograd.grad(slope, m)
    torch.testing.assert_close(curvature, (m.sigmoid() * (-m).sigmoid()).detach(), rtol=1e-9, atol=1e-15)  # at most 1/4


@given(logps=pair_logps(), beta=betas)
def test_swapping_chosen_and_rejected_mirrors_the_margin(logps, beta):
    swapped = PairLogps(logps.policy_rejected, logps.policy_chosen, logps.ref_rejected, logps.ref_chosen, logps.rejected_lengths, logps.chosen_lengths)  # fmt: skip
    torch.testing.assert_close(swapped.h, -logps.h)
    torch.testing.assert_close(dpo(logps, beta=beta) - dpo(swapped, beta=beta), -beta * logps.h, rtol=1e-12, atol=1e-12)


@given(logps=pair_logps(), beta=betas, epsilon=smoothings)
def test_cdpo_is_dpo_plus_a_line(logps, beta, epsilon):
    expected = dpo(logps, beta=beta) + epsilon * beta * logps.h
    torch.testing.assert_close(cdpo(logps, beta=beta, label_smoothing=epsilon), expected, rtol=1e-12, atol=1e-12)


@given(logps=pair_logps(), beta=betas)
def test_cdpo_without_smoothing_is_dpo(logps, beta):
    assert torch.equal(cdpo(logps, beta=beta, label_smoothing=0.0), dpo(logps, beta=beta))


@given(beta=betas, epsilon=st.floats(0.01, 0.45))
def test_cdpo_s_best_margin_on_certain_labels_is_finite(beta, epsilon):
    best = math.log((1 - epsilon) / epsilon)
    values = at_margin(cdpo, torch.tensor([best, best - 0.01, best + 0.01], dtype=torch.float64), {"beta": beta, "label_smoothing": epsilon})
    assert values[0] < values[1] and values[0] < values[2]
    entropy = -epsilon * math.log(epsilon) - (1 - epsilon) * math.log1p(-epsilon)
    assert float(values[0]) == pytest.approx(entropy, abs=1e-12)


def test_mismatched_shapes_are_refused():
    one, two = torch.zeros(1), torch.zeros(2)
    with pytest.raises(ValueError, match="one shape"):
        PairLogps(two, one, two, two, two, two)
    with pytest.raises(ValueError, match="one shape"):
        PairLogps(*[torch.zeros(2, 1)] * 6)
