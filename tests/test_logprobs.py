"""The shift, the mask and the sum, held against loops and against the sum over all strings."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.batches import Encoded, collate, index_responses, pack
from mini_dpo.logprobs import response_logps, token_logps
from mini_dpo.packing import lay_out
from tests.oracles import response_logp
from tests.strategies import encoded_sequences, encoded_trees, seeds, tiny_gpt


@torch.no_grad()
def score(model, sequences):
    return response_logps(model, collate(sequences))


@torch.no_grad()
def score_trees(model, trees):
    return response_logps(model, pack(trees))


@given(encoded_trees(), seeds)
def test_equals_the_naive_loop(trees, seed):
    """Catches: no shift, a mask off by one, prompts counted, the last token left out, mean for sum, a
    response that is predicted from its neighbour in the row, or owned by it.
    """
    model = tiny_gpt(seed % 3)
    expected = torch.tensor(
        [response_logp(model, *s[:2]) for tree in trees for s in tree], dtype=torch.float64
    )
    torch.testing.assert_close(score_trees(model, trees), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("longest", [1, 2, 3, 4])
def test_prefix_tree(gpt, longest):
    """All strings that end within n tokens, and all n-token strings that have not, have probability one
    together: each after a prompt of its own, and all of them after one prompt.
    """
    END = 4
    ended = [[*s, END] for n in range(longest) for s in itertools.product(range(END), repeat=n)]
    cut = [list(s) for s in itertools.product(range(END), repeat=longest)]
    prompt = [1, 3]
    sequences = [Encoded(prompt, s) for s in ended + cut]
    assert float(score(gpt, sequences).exp().sum()) == pytest.approx(1, abs=1e-12)
    assert float(score_trees(gpt, [sequences]).exp().sum()) == pytest.approx(1, abs=1e-12)


@given(encoded_trees(n=3))
def test_is_the_sum_of_its_tokens_and_indifferent_to_order_and_company(trees):
    """Who else is in the row, before or after, changes nothing: neither another tree nor another response."""
    model = tiny_gpt()
    batch = pack(trees)
    tokens = token_logps(model, batch)
    logps = score_trees(model, trees)
    for i in range(len(logps)):
        torch.testing.assert_close(tokens[batch.index.owners == i].sum(), logps[i], rtol=0, atol=1e-11)
    torch.testing.assert_close(
        score_trees(model, [tree[::-1] for tree in trees[::-1]]), logps.flip(0), rtol=0, atol=1e-11
    )
    alone = torch.cat([score(model, [s]) for tree in trees for s in tree])
    torch.testing.assert_close(alone, logps, rtol=0, atol=1e-11)
    assert batch.lengths.tolist() == [len(s.response) for tree in trees for s in tree]
    assert batch.n_targets == sum(batch.lengths) == len(tokens)


@given(encoded_trees(n=2))
def test_logits_are_made_exactly_where_a_response_token_is_predicted(trees):
    """One row of logits a response token and none for a prompt: at the text's token before it, which for the
    first token of every response is the prompt's last.
    """
    model, batch, rows = tiny_gpt(), pack(trees), []
    whole, model.logits = model.logits, lambda hidden: rows.append(hidden) or whole(hidden)
    response_logps(model, batch)
    texts = [s for tree in trees for s in tree]
    places = [list(range(len(s.prompt) - 1, s.n_tokens - 1)) for s in texts]
    expected = torch.cat(
        [model.hidden(torch.tensor([s.ids]))[0, at] for s, at in zip(texts, places, strict=True)]
    )
    torch.testing.assert_close(torch.cat(rows), expected, rtol=1e-10, atol=1e-10)


@given(encoded_sequences(n=2), st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
def test_sums_are_in_float32_or_better_whatever_the_model(sequences, dtype):
    model = tiny_gpt().to(dtype)
    logps = score(model, sequences)
    assert logps.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_the_margin_is_blind_to_an_unmasked_prompt(gpt):
    """Counting the prompt is a bug that DPO's difference hides: log-probs change and their difference does
    not.
    """
    chosen, rejected = [0, 2, 1, 4], [0, 2, 3, 3, 4]
    right = score(gpt, [Encoded(ids[:2], ids[2:]) for ids in (chosen, rejected)])
    wrong = score(gpt, [Encoded(ids[:1], ids[1:]) for ids in (chosen, rejected)])
    assert abs(float(right[0] - wrong[0])) > 0.1
    assert float(right[0] - right[1]) == pytest.approx(float(wrong[0] - wrong[1]), abs=1e-12)


def test_a_response_without_a_position_before_it_is_refused():
    with pytest.raises(ValueError, match="position 0"):
        index_responses(torch.zeros(3, dtype=torch.long), lay_out([(0, 3)]))
