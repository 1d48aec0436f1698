"""The closed forms against each other, and DPO against them: what it is trained towards is the optimum they
name.
"""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mini_dpo.batches import collate_pairs
from mini_dpo.losses import LOSSES, PairLogps, Responses
from mini_dpo.objectives import pair_logps
from mini_dpo.reference import freeze
from mini_dpo.theory.bradley_terry import (
    dpo_gradient,
    expected_reward,
    implicit_reward,
    kl,
    log_partition,
    objective,
    optimal_policy,
    preference_probability,
)
from mini_dpo.theory.tabular import descend, expected_loss, minimise, pairs_of
from tests.strategies import betas, encoded_pairs, seeds, tiny_gpt, worlds

close = dict(rtol=1e-9, atol=1e-9)


def random_policy(K: int, seed: int) -> torch.Tensor:
    return (
        2 * torch.randn(K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ).log_softmax(-1)


@given(worlds(), seeds)
def test_the_objective_of_any_policy_falls_short_by_its_distance_to_the_optimum(world, seed):
    """J(pi) = beta log Z - beta KL(pi || pi*), for every pi: so pi* is the one maximiser."""
    ref, reward, beta = world
    policy = random_policy(len(ref), seed)
    optimum = optimal_policy(ref, reward, beta)
    expected = beta * log_partition(ref, reward, beta) - beta * kl(policy, optimum)
    torch.testing.assert_close(objective(policy, ref, reward, beta), expected, **close)
    assert float(optimum.exp().sum()) == pytest.approx(1, abs=1e-12)


@given(worlds(), st.floats(-50, 50), st.floats(0.1, 10))
def test_only_differences_of_reward_and_only_its_ratio_to_beta_matter(world, c, factor):
    ref, reward, beta = world
    optimum = optimal_policy(ref, reward, beta)
    torch.testing.assert_close(optimal_policy(ref, reward + c, beta), optimum, **close)
    torch.testing.assert_close(optimal_policy(ref, factor * reward, factor * beta), optimum, **close)
    torch.testing.assert_close(
        preference_probability(reward[0] + c, reward[1] + c),
        preference_probability(reward[0], reward[1]),
        **close,
    )


@given(worlds())
def test_the_reward_is_hidden_in_its_optimum_and_the_partition_function_cancels(world):
    ref, reward, beta = world
    optimum = optimal_policy(ref, reward, beta)
    hidden = implicit_reward(optimum, ref, beta)
    torch.testing.assert_close(hidden + beta * log_partition(ref, reward, beta), reward, **close)
    ours = preference_probability(hidden[0], hidden[1])
    torch.testing.assert_close(ours, preference_probability(reward[0], reward[1]), **close)
    odds = reward[0].exp() / (reward[0].exp() + reward[1].exp())
    torch.testing.assert_close(ours, odds, **close)


@given(worlds())
def test_along_the_frontier_a_nat_costs_beta(world):
    """dE[r]/dKL = beta and dE[r]/d(1/beta) = Var[r] on the family of optima."""
    ref, reward, beta = world
    price = torch.tensor(1 / beta, dtype=torch.float64, requires_grad=True)
    optimum = optimal_policy(ref, reward, 1 / price)
    value, distance = expected_reward(optimum, reward), kl(optimum, ref)
    (dvalue,) = torch.autograd.grad(value, price, retain_graph=True)
    (ddistance,) = torch.autograd.grad(distance, price)
    variance = (optimum.exp() * (reward - value) ** 2).sum()
    torch.testing.assert_close(dvalue, variance.detach(), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(dvalue, beta * ddistance, rtol=1e-7, atol=1e-9)


@given(worlds(), seeds)
def test_log_ratios_of_reference_samples_fall_by_the_kl(world, seed):
    """E_ref[log pi/ref] = -KL(ref || pi): why, over pairs drawn from the reference, log-probs fall on
    average.
    """
    ref, _, _ = world
    policy = random_policy(len(ref), seed)
    mean = (ref.exp() * (policy - ref)).sum()
    torch.testing.assert_close(mean, -kl(ref, policy), **close)
    assert mean <= 1e-12


@given(worlds(), seeds)
def test_kl_is_zero_only_at_home(world, seed):
    ref, _, _ = world
    policy = random_policy(len(ref), seed)
    assume(not torch.equal(policy, ref))
    assert float(kl(ref, ref)) == 0 and float(kl(policy, ref)) > 0


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 5]), st.sampled_from([0, 1, 3])), min_size=2, max_size=6))
def test_kl_with_zeros(weights):
    """0 log 0 is 0, whatever the other says there; what p says and q never does costs infinitely much.
    Nothing is nan.
    """
    assume(all(map(any, zip(*weights, strict=True))))
    p, q = (torch.tensor(w, dtype=torch.float64) / sum(w) for w in zip(*weights, strict=True))
    expected = sum(
        math.inf if b == 0 else a * math.log(a / b)
        for a, b in zip(p.tolist(), q.tolist(), strict=True)
        if a > 0
    )
    assert float(kl(p.log(), q.log())) == pytest.approx(expected, abs=1e-12)
    (gradient,) = torch.autograd.grad(kl(x := p.log().requires_grad_(), q.log().clamp(min=-9)), x)
    assert not gradient.isnan().any()


def test_a_probability_too_small_for_its_type_is_not_zero():
    assert float(kl(torch.tensor([-1e4, 0.0]), torch.tensor([-math.inf, 0.0]))) == math.inf
    assert float(kl(torch.tensor([-1e4, 0.0]), torch.tensor([-1.0, 0.0]))) == pytest.approx(0, abs=1e-30)


# --- DPO's gradient, exactly


@settings(max_examples=10)
@given(encoded_pairs(), st.floats(0.05, 2), seeds)
def test_gradient_through_a_real_network_is_the_paper_s(pairs, beta, seed):
    """grad L = -beta sigmoid(r_l - r_w) [grad log pi(y_w) - grad log pi(y_l)], in every parameter of the
    GPT.
    """
    policy, reference = tiny_gpt(seed % 4), freeze(tiny_gpt(99))
    batch, parameters = collate_pairs(pairs), list(policy.parameters())
    ours = torch.autograd.grad(
        LOSSES["dpo"](pair_logps(policy, reference, batch), beta=beta).sum(), parameters
    )
    logps = pair_logps(policy, reference, batch)  # again: going back through it uses it up
    weight_w, weight_l = dpo_gradient(
        PairLogps(*(Responses(y.policy.detach(), y.lengths, y.ref) for y in (logps.chosen, logps.rejected))),
        beta,
    )
    papers = torch.autograd.grad(
        [logps.chosen.policy, logps.rejected.policy], parameters, [weight_w, weight_l]
    )
    for name_of, a, b in zip(dict(policy.named_parameters()), ours, papers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10, msg=lambda text: f"{name_of}: {text}")
    assert (weight_w < 0).all() and (weight_l > 0).all()


@given(worlds())
def test_gradient_at_the_reference_weighs_every_pair_beta_half(world):
    ref, _, beta = world
    logps = PairLogps(*[Responses(ref, torch.ones_like(ref), ref)] * 2)
    down, up = dpo_gradient(logps, beta)
    torch.testing.assert_close(up, torch.full_like(ref, beta / 2), **close)
    torch.testing.assert_close(down, -up, **close)


# --- what training on people's labels finds


def population_risk(loss, logits, ref, reward, pairs, weights, **hyper):
    """The expected loss over Bradley-Terry labels on pairs (a, b), for a policy with one logit a response."""
    policy = logits.log_softmax(-1)
    a, b = pairs.T
    p = preference_probability(reward[a], reward[b])
    return (weights * expected_loss(lambda logps: loss(logps, **hyper), pairs_of(policy, ref, a, b), p)).sum()


@st.composite
def connected_graphs(draw, K: int):
    """Which pairs people compare: a random tree over all responses and some more edges, each with a random
    weight.
    """
    tree = [(i, draw(st.integers(0, i - 1))) for i in range(1, K)]
    everything = [(i, j) for i in range(K) for j in range(i)]
    pairs = sorted(set(tree) | set(draw(st.lists(st.sampled_from(everything)))))
    weights = [draw(st.floats(0.1, 2.0)) for _ in pairs]
    return torch.tensor(pairs), torch.tensor(weights, dtype=torch.float64)


@given(worlds(largest=6), st.data())
def test_the_optimum_is_a_stationary_point_of_dpo_whatever_is_compared(world, data):
    ref, reward, beta = world
    pairs, weights = data.draw(connected_graphs(len(ref)))
    logits = optimal_policy(ref, reward, beta).clone().requires_grad_()
    risk = population_risk(LOSSES["dpo"], logits, ref, reward, pairs, weights, beta=beta)
    (gradient,) = torch.autograd.grad(risk, logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-10)


@settings(max_examples=10)
@given(worlds(largest=5), st.data(), seeds)
def test_training_from_anywhere_finds_the_optimum(world, data, seed):
    """The population minimiser is pi*, from any start: the loss is convex in the logits."""
    ref, reward, beta = world
    beta = max(beta, 0.2)
    pairs, weights = data.draw(connected_graphs(len(ref)))

    def risk(logits):
        return population_risk(LOSSES["dpo"], logits, ref, reward, pairs, weights, beta=beta)

    found = minimise(risk, random_policy(len(ref), seed)).log_softmax(-1)
    assert float(kl(optimal_policy(ref, reward, beta), found)) < 1e-8


@given(worlds(largest=5), st.data(), seeds)
def test_the_risk_is_convex_in_tabular_logits(world, data, seed):
    """The normaliser cancels in every difference, so there is one valley only. (In a network's weights this
    is lost.)
    """
    ref, reward, beta = world
    pairs, weights = data.draw(connected_graphs(len(ref)))

    def risk(logits):
        return population_risk(LOSSES["dpo"], logits, ref, reward, pairs, weights, beta=beta)

    hessian = torch.autograd.functional.hessian(risk, random_policy(len(ref), seed))
    assert float(torch.linalg.eigvalsh(hessian).min()) > -1e-10


@given(worlds(smallest=3), seeds)
def test_on_a_single_tabular_pair_the_chosen_response_always_gains(world, seed):
    """d log pi(y_w) / dt = beta sigmoid(-m) (1 - pi(y_w) + pi(y_l)) > 0 along the gradient flow of one pair's
    loss: a falling chosen log-prob needs shared parameters, or more than one pair.
    """
    ref, _, beta = world
    logits = random_policy(len(ref), seed).requires_grad_()
    policy = logits.log_softmax(-1)
    one = torch.ones(1)
    loss = LOSSES["dpo"](
        PairLogps(Responses(policy[:1], one, ref[:1]), Responses(policy[1:2], one, ref[1:2])), beta=beta
    )
    (velocity,) = torch.autograd.grad(-loss.sum(), logits, retain_graph=True)
    (along,) = torch.autograd.grad(policy[0], logits)
    m = beta * (policy[0] - ref[0] - policy[1] + ref[1])
    expected = beta * torch.sigmoid(-m) * (1 - policy[0].exp() + policy[1].exp())
    torch.testing.assert_close(along @ velocity, expected.detach(), **close)
    assert expected > 0


def test_the_margin_of_a_certain_pair_grows_without_bound_as_a_logarithm():
    """Gradient descent on one deterministic pair with two logits: m is about log(2 beta^2 eta t), at any
    t.
    """
    zero, a, b, eta = torch.zeros(2, dtype=torch.float64), torch.tensor([0]), torch.tensor([1]), 1.0
    way = descend(
        lambda logits: LOSSES["dpo"](pairs_of(logits.log_softmax(-1), zero, a, b), beta=1.0).sum(),
        zero,
        steps=2000,
        lr=eta,
    )
    for t in (500, 2000):
        assert float(way[t, 0] - way[t, 1]) == pytest.approx(math.log(2 * eta * t), abs=0.01)


@given(st.floats(0.05, 0.95), st.floats(0.01, 0.45), betas)
def test_cdpo_on_flipped_labels_shrinks_the_margin_twice(p, epsilon, beta):
    """Told of noise that is really there, it smooths what the noise has already smoothed; DPO stops at once
    shrunk.
    """
    q = (1 - epsilon) * p + epsilon * (1 - p)  # what people seem to prefer once labels are flipped
    dpo, cdpo = LOSSES["dpo"].facts.best_margin, LOSSES["cdpo"].facts.best_margin
    assert cdpo(p, beta=beta, label_smoothing=epsilon) == pytest.approx(dpo(q, beta=beta), abs=1e-9)
    twice = (1 - epsilon) * q + epsilon * (1 - q)
    assert cdpo(q, beta=beta, label_smoothing=epsilon) == pytest.approx(
        math.log(twice / (1 - twice)), abs=1e-9
    )
    assert (
        abs(cdpo(q, beta=beta, label_smoothing=epsilon)) <= abs(dpo(q, beta=beta)) <= abs(dpo(p, beta=beta))
    )


@given(worlds(smallest=4, largest=4), st.floats(-5, 5))
def test_what_is_never_compared_is_not_learned(world, c):
    """Two islands, {0, 1} and {2, 3}, each compared only within: the risk cannot tell how much of one there
    is.
    """
    ref, reward, beta = world
    pairs, weights = torch.tensor([[0, 1], [2, 3]]), torch.ones(2, dtype=torch.float64)
    logits = optimal_policy(ref, reward, beta)
    moved = logits + torch.tensor([c, c, 0.0, 0.0], dtype=torch.float64)
    risks = [
        population_risk(LOSSES["dpo"], x, ref, reward, pairs, weights, beta=beta) for x in (logits, moved)
    ]
    torch.testing.assert_close(*risks, **close)


@given(worlds(smallest=2, largest=2), st.floats(0.01, 0.4))
def test_dpo_on_flipped_labels_is_cdpo_on_clean_ones(world, epsilon):
    """Mean over labels flipped with probability epsilon, for any policy."""
    ref, reward, beta = world
    h = reward - ref
    one = torch.ones_like(h)
    zero = torch.zeros_like(h)
    ours, theirs = Responses(h, one, zero), Responses(zero, one, zero)
    clean, flipped = PairLogps(ours, theirs), PairLogps(theirs, ours)
    mean = (1 - epsilon) * LOSSES["dpo"](clean, beta=beta) + epsilon * LOSSES["dpo"](flipped, beta=beta)
    torch.testing.assert_close(LOSSES["cdpo"](clean, beta=beta, label_smoothing=epsilon), mean, **close)
