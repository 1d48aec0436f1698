"""The proof in small, and that it can fail."""

import re

import pytest
import torch

from mini_dpo import exact
from mini_dpo.exact import (
    ExactSettings,
    list_responses,
    make_reference,
    make_reward,
    score_all,
    train_on_every_pair,
)
from mini_dpo.theory.bradley_terry import kl, optimal_policy
from tests.commands import run


def distance(seed=0, beta=0.5, steps=300):
    """KL(optimum || learned) in nats, the worse prompt's, and the same from the reference."""
    responses = list_responses()
    reference = make_reference(responses, seed)
    reward = make_reward(responses, seed)
    policy = train_on_every_pair(
        reference, responses, reward, ExactSettings(seed=seed, beta=beta, steps=steps)
    )
    ref_logps, learned = score_all(reference, responses), score_all(policy, responses)
    optimum = optimal_policy(ref_logps, reward, beta)
    return float(kl(optimum, learned).max()), float(kl(optimum, ref_logps).max())


def test_the_gpt_lands_on_the_optimum(seed=0):
    landed, before = distance(seed)
    assert landed < 1e-6 and before > 0.1


def test_a_few_steps_go_towards_the_optimum():
    landed, before = distance(steps=25)
    assert landed < 0.9 * before


def test_all_responses_are_listed(gpt):
    responses = list_responses()
    assert len(responses) == 15 == len(set(map(tuple, responses)))
    torch.manual_seed(3)
    model = exact.GPT(exact.MODEL).double()
    torch.testing.assert_close(
        score_all(model, responses).exp().sum(1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_the_command_prints_the_table_and_the_distance(monkeypatch, capsys):
    status, out, err = run(monkeypatch, capsys, exact, "--steps", 60, "--seed", 1)
    assert (status, err) == (0, "")
    assert out.count('prompt "') == 2 and "please tea please" in out
    assert re.search(r"KL\(optimum \|\| learned\)    \d\.\de-\d\d nats", out)
    columns = [
        line.split()[-2:] for line in out.splitlines() if line.startswith("  ") and "response" not in line
    ]
    for column in zip(*columns, strict=True):
        assert sum(map(float, column)) == pytest.approx(2, abs=1e-6)


def test_nonsense_is_refused(monkeypatch, capsys):
    assert run(monkeypatch, capsys, exact, "--beta", 0)[0] == 2
