"""Sampling: the cache gives what the full pass gives, rows do not disturb each other, draws follow the
distribution.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.errors import UserError
from mini_dpo.generate import generate, sample
from tests.strategies import seeds, tiny_gpt

END = 4
prompt_lists = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=5)


def naive_greedy(model, prompt, max_new_tokens):
    """No cache, no batch: read everything again for each token."""
    ids = list(prompt)
    while len(ids) < min(len(prompt) + max_new_tokens, model.config.context):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == END:
            break
    return ids[len(prompt) :]


@given(prompt_lists, st.integers(1, 12), st.integers(0, 3))
def test_greedy_decoding_equals_reading_everything_again(prompts, max_new_tokens, seed):
    """Catches: positions off by one, padding attended to, a cache place overwritten, the wrong last
    position.
    """
    model = tiny_gpt(seed)
    expected = [naive_greedy(model, prompt, max_new_tokens) for prompt in prompts]
    assert generate(model, prompts, end_of_text=END, max_new_tokens=max_new_tokens, temperature=0) == expected


@given(prompt_lists, seeds, st.integers(1, 3))
def test_a_row_s_answer_does_not_depend_on_its_neighbours(prompts, seed, batch_size):
    model = tiny_gpt()
    together = generate(model, prompts, end_of_text=END, max_new_tokens=6, seed=seed)
    assert (
        generate(model, prompts, end_of_text=END, max_new_tokens=6, seed=seed, batch_size=batch_size)
        == together
    )
    assert generate(model, prompts[:1], end_of_text=END, max_new_tokens=6, seed=seed)[0] == together[0]


@given(prompt_lists, seeds)
def test_answers_end_once_and_stay_in_the_context(prompts, seed):
    model = tiny_gpt()
    for prompt, answer in zip(
        prompts, generate(model, prompts, end_of_text=END, max_new_tokens=100, seed=seed), strict=True
    ):
        assert END not in answer[:-1]
        assert answer[-1] == END or len(prompt) + len(answer) == model.config.context


@given(seeds, st.floats(0.2, 3.0))
def test_draws_follow_the_distribution(seed, temperature):
    """With numbers evenly spread over [0, 1), each token comes up as often as its probability says."""
    logits = 2 * torch.randn(1, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    N = 20_000
    uniforms = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    counts = sample(logits.expand(N, 6), uniforms, temperature, None, None).bincount(minlength=6) / N
    torch.testing.assert_close(counts, (logits[0] / temperature).softmax(-1).float(), rtol=0, atol=2 / N)


@given(seeds, st.integers(1, 6), st.floats(0.01, 1.0))
def test_top_k_and_top_p_keep_the_likeliest(seed, k, p):
    logits = 2 * torch.randn(1, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    uniforms = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    probabilities, order = logits[0].softmax(-1).sort(descending=True)
    drawn = set(sample(logits.expand(2000, 6), uniforms, 1.0, k, None).tolist())
    assert drawn <= set(order[:k].tolist()) and int(order[0]) in drawn
    drawn = set(sample(logits.expand(2000, 6), uniforms, 1.0, None, p).tolist())
    nucleus = int((probabilities.cumsum(0) < p).sum()) + 1  # the fewest tokens that hold p
    assert drawn <= set(order[:nucleus].tolist()) and int(order[0]) in drawn


@given(prompt_lists)
def test_one_seed_one_answer_and_no_choice_no_seed(prompts):
    model = tiny_gpt()

    def run(**settings):
        return generate(model, prompts, end_of_text=END, max_new_tokens=8, **settings)

    assert run(seed=3) == run(seed=3)
    assert run(top_k=1, seed=1) == run(temperature=0, seed=2) == run(top_p=1e-9, seed=3)


def test_another_seed_another_answer(gpt):
    answers = {
        tuple(generate(gpt, [[1]], end_of_text=END, max_new_tokens=8, temperature=3.0, seed=s)[0])
        for s in range(20)
    }
    assert len(answers) > 5


def test_the_model_s_mode_is_left_as_it_was():
    model = tiny_gpt(dropout=0.5).train()
    assert generate(model, [[1]], end_of_text=END, max_new_tokens=8, seed=0) == generate(
        tiny_gpt(), [[1]], end_of_text=END, max_new_tokens=8, seed=0
    )
    assert model.training


def test_a_prompt_without_room_and_settings_out_of_range_are_refused(gpt):
    with pytest.raises(UserError, match="12 tokens and the model's context 12: no room"):
        generate(gpt, [[0] * 12], end_of_text=END, max_new_tokens=1)
    assert len(generate(gpt, [[0] * 11], end_of_text=END, max_new_tokens=5)[0]) == 1
    for wrong in (dict(temperature=-1.0), dict(top_k=0), dict(top_p=0.0), dict(top_p=1.5)):
        with pytest.raises(ValueError):
            generate(gpt, [[0]], end_of_text=END, max_new_tokens=1, **wrong)
