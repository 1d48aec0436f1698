"""The laboratory: comparisons are Bradley-Terry draws, pairs are what a loss expects, and optimizers find
minima.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.losses import LOSSES
from mini_dpo.theory.bradley_terry import preference_probability
from mini_dpo.theory.tabular import descend, draw_comparisons, expected_loss, minimise, pairs_of
from tests.strategies import seeds, worlds


def test_who_meets_whom_and_who_wins_is_as_often_as_it_should_be():
    logps = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    reward = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    n = 200_000
    winners, losers = draw_comparisons(logps, reward, n, seed=0)
    counts = torch.zeros(3, 3, dtype=torch.float64).index_put_(
        (winners, losers), torch.ones(n, dtype=torch.float64), accumulate=True
    )
    p = logps.exp()
    # a pair is drawn in two orders
    wins = 2 * p[:, None] * p[None, :] * preference_probability(reward[:, None], reward[None, :])
    assert ((counts / n - wins).abs() < 4 * (wins / n).sqrt()).all(), (counts / n, wins)


@given(worlds(), st.integers(1, 30), seeds)
def test_one_seed_one_draw_and_a_longer_reward_gap_never_hurts(world, n, seed):
    ref, reward, _ = world
    a, b = draw_comparisons(ref, reward, n, seed), draw_comparisons(ref, reward, n, seed)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[0].shape == a[1].shape == (n,)
    surely = draw_comparisons(ref, 1e6 * reward, n, seed)
    assert (reward[surely[0]] >= reward[surely[1]]).all()


@given(worlds())
def test_pairs_hold_the_table_s_own_numbers(world):
    ref, reward, _ = world
    policy = (ref + reward).log_softmax(-1)
    K = len(ref)
    winners, losers = torch.arange(K), torch.arange(K).flip(0)
    logps = pairs_of(policy, ref, winners, losers, lengths=torch.arange(1, K + 1))
    torch.testing.assert_close(logps.h, reward - reward.flip(0), rtol=1e-9, atol=1e-9)
    assert logps.chosen.lengths.tolist() == list(range(1, K + 1)) == logps.rejected.lengths.tolist()[::-1]
    assert pairs_of(policy, ref, winners, losers).chosen.lengths.tolist() == [1] * K


@given(st.floats(0.05, 0.95))
def test_the_minimum_is_found(p):
    ref = torch.zeros(2, dtype=torch.float64)
    a, b = torch.tensor([0]), torch.tensor([1])
    dpo = LOSSES["dpo"]

    def risk(z):
        return expected_loss(lambda logps: dpo(logps, beta=1.0), pairs_of(z, ref, a, b), p).sum()

    start = torch.zeros(2, dtype=torch.float64)
    found = minimise(risk, start)
    assert float(found[0] - found[1]) == pytest.approx(math.log(p / (1 - p)), abs=1e-6)
    assert not found.requires_grad and start.tolist() == [0, 0], "the start is left alone"


def test_descending_is_gradient_descent_and_keeps_its_way():
    """On a parabola each step shrinks the distance to the minimum by the same factor."""
    way = descend(
        lambda x: ((x - 3) ** 2).sum(), torch.tensor([1.0, 5.0], dtype=torch.float64), steps=5, lr=0.1
    )
    expected = torch.stack([3 + 0.8**t * torch.tensor([-2.0, 2.0], dtype=torch.float64) for t in range(6)])
    torch.testing.assert_close(way, expected)
    assert not way.requires_grad
