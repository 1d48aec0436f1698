"""The shift, the mask and the sum, held against loops and against the sum over all strings."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.data import Encoded, collate
from mini_dpo.logprobs import index_responses, response_logps, token_logps
from tests.oracles import response_logp
from tests.strategies import encoded_sequences, seeds, tiny_gpt


def split(sequence: Encoded) -> tuple[list[int], list[int]]:
    n = sequence.response_mask.index(True)
    return sequence.ids[:n], sequence.ids[n:]


def score(model, sequences):
    batch = collate(sequences)
    with torch.no_grad():
        return response_logps(model, batch.ids, batch.index)


@given(encoded_sequences(), seeds)
def test_equals_the_naive_loop(sequences, seed):
    """Catches: no shift, a mask off by one, prompts or padding counted, the last token left out, mean for sum."""
    model = tiny_gpt(seed % 3)
    expected = torch.tensor([response_logp(model, *split(s)) for s in sequences], dtype=torch.float64)
    torch.testing.assert_close(score(model, sequences), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("longest", [1, 2, 3, 4])
def test_prefix_tree(gpt, longest):
    """All strings that end within n tokens, and all n-token strings that have not, have probability one together."""
    END = 4
    ended = [[*s, END] for n in range(longest) for s in itertools.product(range(END), repeat=n)]
    cut = [list(s) for s in itertools.product(range(END), repeat=longest)]
    prompt = [1, 3]
    sequences = [Encoded(prompt + s, [False] * 2 + [True] * len(s)) for s in ended + cut]
    assert float(score(gpt, sequences).exp().sum()) == pytest.approx(1, abs=1e-12)


@given(encoded_sequences(n=3))
def test_is_the_sum_of_its_tokens_and_indifferent_to_order_and_padding(sequences):
    model = tiny_gpt()
    batch = collate(sequences)
    tokens = token_logps(model, batch.ids, batch.index)
    logps = score(model, sequences)
    for i in range(3):
        torch.testing.assert_close(tokens[batch.index.owners == i].sum(), logps[i], rtol=0, atol=1e-11)
    torch.testing.assert_close(score(model, sequences[::-1]), logps.flip(0), rtol=0, atol=1e-11)
    alone = torch.cat([score(model, [s]) for s in sequences])
    torch.testing.assert_close(alone, logps, rtol=0, atol=1e-11)
    assert batch.lengths.tolist() == [sum(s.response_mask) for s in sequences]


@given(encoded_sequences(n=2))
def test_logits_get_a_gradient_exactly_where_a_response_token_is_predicted(sequences):
    model = tiny_gpt()
    batch = collate(sequences)
    rows = []
    whole = model.hidden
    model.hidden = lambda ids: rows.append(whole(ids).detach().requires_grad_()) or rows[0]
    response_logps(model, batch.ids, batch.index).sum().backward()
    touched = rows[0].grad.abs().sum(-1) > 0  # (B, T)
    for i, s in enumerate(sequences):
        predicts = {t - 1 for t, trained in enumerate(s.response_mask) if trained}
        assert set(touched[i].nonzero().flatten().tolist()) == predicts


@given(encoded_sequences(n=2), st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
def test_sums_are_in_float32_or_better_whatever_the_model(sequences, dtype):
    model = tiny_gpt().to(dtype)
    logps = score(model, sequences)
    assert logps.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_the_margin_is_blind_to_an_unmasked_prompt(gpt):
    """Counting the prompt is a bug that DPO's difference hides: log-probs change and their difference does not."""
    chosen, rejected = [0, 2, 1, 4], [0, 2, 3, 3, 4]
    right = score(gpt, [Encoded(ids, [False, False] + [True] * (len(ids) - 2)) for ids in (chosen, rejected)])
    wrong = score(gpt, [Encoded(ids, [False] + [True] * (len(ids) - 1)) for ids in (chosen, rejected)])
    assert abs(float(right[0] - wrong[0])) > 0.1
    assert float(right[0] - right[1]) == pytest.approx(float(wrong[0] - wrong[1]), abs=1e-12)


def test_a_response_without_a_position_before_it_is_refused():
    with pytest.raises(ValueError, match="position 0"):
        index_responses(torch.zeros(1, 3, dtype=torch.long), torch.tensor([[True, True, False]]))
