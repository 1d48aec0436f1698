"""What chapters 16 to 19 compute with: kept answers agree with kept tables, and draws are what they are said
to be.
"""

from statistics import fmean, stdev

import pytest
import torch

from mini_dpo import exact
from mini_dpo.theory.bradley_terry import preference_probability
from tests.strategies import tiny_gpt
from tutorials import answers, scaling
from tutorials.kept import over_seeds
from tutorials.measure import MEASUREMENTS


@pytest.mark.parametrize(
    "model, variant, key",
    [("sft", "offline", "sft"), ("offline", "offline", "dpo"), ("online", "three rounds", "dpo")],
)
def test_kept_answers_have_the_mean_reward_of_the_kept_tables(model, variant, key):
    """The same runs, once answer by answer and once as a table."""
    tables = over_seeds("online", variant)[f"{key}/reward"]
    for of_seed, mean in zip(answers.kept().values(), tables, strict=True):
        rewards = of_seed["answers"][model]["reward"]
        assert len(rewards) == len(of_seed["answers"][model]["words"]) == 256
        assert fmean(rewards) == pytest.approx(mean, abs=1e-4)


def test_online_starts_from_the_runs_of_another_measurement():
    assert MEASUREMENTS["online"].flags == MEASUREMENTS["short"].flags


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_heated_model_is_the_model_at_that_temperature(temperature):
    model, ids = tiny_gpt(), torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        model.ln_f.bias.normal_()  # a bias that is forgotten is seen
        wanted = (model.logits(model.hidden(ids)) / temperature).log_softmax(-1)
        heated = answers.heated(model, temperature)
        found = heated.logits(heated.hidden(ids)).log_softmax(-1)
    assert torch.allclose(found, wanted) and (temperature == 1) == torch.allclose(
        found, model.logits(model.hidden(ids)).log_softmax(-1)
    )


@pytest.mark.parametrize(
    "table", [lambda: answers.variety_table(answers.kept()), lambda: scaling.table(scaling.kept()["seeds"])]
)
def test_tables_show_a_mean_and_a_deviation_of_five_seeds(table):
    assert len(answers.kept()) == len(scaling.kept()["seeds"]) == 5
    values = [of_seed["drawn"]["online"]["reward"] for of_seed in answers.kept().values()]
    assert f"{fmean(values):.2f} ± {stdev(values):.2f}" in answers.variety_table(answers.kept())
    assert table().count("±") == 15


def test_infinitely_many_labels_are_the_limit_of_many():
    """All pairs of both prompts together count half their number, and the shares are those of draws."""
    torch.manual_seed(0)
    K = len(scaling.RESPONSES)
    ref_logps = torch.randn(2, K, dtype=torch.float64).log_softmax(-1)
    reward = exact.make_reward(scaling.RESPONSES, 0)
    tables = []
    for labels in (0, 200_000):
        (chosen, rejected), seen = scaling.compare(ref_logps, reward, labels, seed=1)
        assert float(seen.sum()) == pytest.approx(seen.numel() / 2)
        assert bool((chosen // K == rejected // K).all()), "a pair has one prompt"
        shares = torch.zeros(2 * K, 2 * K, dtype=torch.float64)
        shares[chosen, rejected] = seen / seen.sum()
        tables.append(shares)
    limit, drawn = tables
    assert (limit - drawn).abs().max() < 2e-3
    p = preference_probability(
        reward[1, 3], reward[1, 5]
    )  # of one pair: two orders of drawing, one of two prompts
    wanted = (ref_logps[1, 3] + ref_logps[1, 5]).exp() * p * 2 / 2
    assert float(limit[K + 3, K + 5]) == pytest.approx(float(wanted))
    assert (limit.T - drawn).abs().max() > 2e-3, "the labels the wrong way round would be seen"
