"""Muon: its step is what the singular value decomposition says, and AdamW has the rest."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.batches import collate
from mini_dpo.objectives import sft_objective
from mini_dpo.optimizers import MOMENTUM, LoopConfig, make_optimizer, orthogonalise
from mini_dpo.training import train_step
from tests.strategies import seeds, tiny_gpt
from tests.test_training import some_sequences

sides = st.integers(1, 24)


def polynomial(s, steps=5):
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


@given(sides, sides, seeds, st.floats(-6, 6))
def test_orthogonalise_turns_every_singular_value_into_about_one(m, n, seed, exponent):
    """Whatever the shape and the size of the matrix; the singular vectors stay as they are."""
    matrix = 10**exponent * torch.randn(
        m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    relative = s / s.norm()
    torch.testing.assert_close(
        orthogonalise(matrix), u @ polynomial(relative).diag() @ vt, rtol=1e-7, atol=1e-7
    )
    assert all(0.68 < value < 1.21 for value in polynomial(relative[relative > 0.002]).tolist())


def test_zero_stays_zero():
    assert torch.equal(orthogonalise(torch.zeros(3, 5)), torch.zeros(3, 5))


def stepped(kind, steps, **settings):
    """A tiny GPT after a few steps of SFT, its gradients at each of them, and its optimizer."""
    policy, batch = tiny_gpt(), collate(some_sequences())
    config = LoopConfig(steps=9, lr=1e-2, optimizer=kind, grad_clip=math.inf, **settings)
    optimizer, gradients = make_optimizer(policy, config), []
    for step in range(steps):
        outcome = sft_objective(policy, batch)
        gradients.append(
            dict(
                zip(
                    dict(policy.named_parameters()),
                    torch.autograd.grad(outcome.loss / outcome.count, list(policy.parameters())),
                    strict=True,
                )
            )
        )
        train_step(policy, optimizer, sft_objective, [batch], config, 0)
    return dict(policy.named_parameters()), gradients, optimizer


def inside(name, parameter):
    return name.startswith("h.") and parameter.dim() == 2


def test_a_step_is_the_formula_s():
    """Of arXiv:2502.16982, in plain sums: W <- (1 - lr decay) W - 0.2 lr sqrt(max(m, n)) O, for the matrices
    inside the blocks.
    """
    before = dict(tiny_gpt().named_parameters())
    after, (first, second), _ = stepped("muon", 2, weight_decay=0.5)
    for name, weight in before.items():
        if inside(name, weight):
            average = 0
            for gradient in (first[name], second[name]):
                average = MOMENTUM * average + (1 - MOMENTUM) * gradient
                direction = orthogonalise((1 - MOMENTUM) * gradient + MOMENTUM * average)
                weight = (1 - 1e-2 * 0.5) * weight - 0.2 * 1e-2 * max(weight.shape) ** 0.5 * direction
            torch.testing.assert_close(after[name], weight, rtol=1e-6, atol=1e-8)


def test_what_is_no_matrix_inside_a_block_is_adamw_s():
    muon, _, optimizer = stepped("muon", 1, weight_decay=0.5)
    adamw, _, _ = stepped("adamw", 1, weight_decay=0.5)
    assert {name for name in muon if not torch.equal(muon[name], adamw[name])} == {
        name for name, p in muon.items() if inside(name, p)
    }
    assert [len(group["params"]) for group in optimizer.param_groups] == [8, 2, 18] and len(muon) == 28


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_step_is_about_as_long_as_adamw_s(kind):
    """0.2 to 1 of the learning rate a weight: one learning rate does for both."""
    before = dict(tiny_gpt().named_parameters())
    after, _, _ = stepped(kind, 1)
    for name, weight in before.items():
        if inside(name, weight):
            assert 0.1 * 1e-2 < (after[name] - weight).pow(2).mean().sqrt().item() <= 1.01e-2, name
