"""The closing table's numbers against exact ones."""

import itertools
import math

import pytest
import torch

from mini_dpo.bradley_terry import kl
from mini_dpo.data import Encoded, EncodedPair, join
from mini_dpo.dpo import freeze
from mini_dpo.evaluate import answer, compare_pairs, estimate_kl, perplexity, table, win_rate
from mini_dpo.shop import Verdict
from tests.oracles import response_logp
from tests.strategies import tiny_gpt

END = 2


class LetterTokenizer:
    """A vocabulary of two letters and end-of-text; prompts are their own ids."""

    end_of_text = END

    def encode_prompt(self, prompt):
        return [int(letter) for letter in prompt]


def small_gpt(seed):
    return tiny_gpt(seed, vocab_size=3, context=4)


def all_logps(model):
    """log pi of every string that fits: those that end, and those that the context cuts."""
    strings = [[*s, END] for n in range(3) for s in itertools.product(range(END), repeat=n)]
    strings += [list(s) for s in itertools.product(range(END), repeat=3)]
    return torch.tensor([response_logp(model, [0], s) for s in strings], dtype=torch.float64)


def test_estimated_kl_agrees_with_the_exact_one():
    """Within four standard errors, on a policy and a reference far apart. Catches the opposite direction as well."""
    policy, reference = small_gpt(1), small_gpt(2)
    exact, opposite = float(kl(all_logps(policy), all_logps(reference))), float(kl(all_logps(reference), all_logps(policy)))
    prompts = ["0"] * 4000
    responses = answer(policy, LetterTokenizer(), prompts, max_new_tokens=9, seed=0)
    estimate, error = estimate_kl(policy, reference, LetterTokenizer(), prompts, responses, "float32")
    assert abs(estimate - exact) < 4 * error < 0.3 < abs(exact - opposite)
    assert estimate_kl(policy, freeze(policy), LetterTokenizer(), prompts[:2], responses[:2], "float32") == (0, 0)
    assert estimate_kl(policy, reference, LetterTokenizer(), prompts[:1], responses[:1], "float32")[1] is None


def test_perplexity_by_hand():
    model = small_gpt(1)
    responses = [[1, END], [0, 1, 1]]
    total = sum(response_logp(model, [0], r) for r in responses)
    assert perplexity(model, [join([0], r) for r in responses], "float32") == pytest.approx(math.exp(-total / 5))


def test_pairs_are_compared_with_the_reference_taken_away():
    policy, reference = small_gpt(1), small_gpt(2)
    pairs = [EncodedPair(Encoded([0, 1, END], [False, True, True]), Encoded([0, END], [False, True]))] * 2
    pairs[1] = EncodedPair(pairs[1].rejected, pairs[1].chosen)
    accuracy, logps = compare_pairs(policy, reference, pairs, "float32")
    assert accuracy == 0.5
    assert logps["dpo"]["logps/chosen"] == pytest.approx(logps["dpo"]["logps/rejected"])
    h = [response_logp(m, [0], [1, END]) - response_logp(m, [0], [END]) for m in (policy, reference)]
    assert compare_pairs(policy, reference, pairs[:1], "float32")[0] == float(h[0] > h[1])
    assert compare_pairs(policy, freeze(policy), pairs[:1], "float32")[0] == 0.5, "at the reference all pairs are ties"
    assert logps["sft"]["logps/chosen"] == pytest.approx((response_logp(reference, [0], [1, END]) + response_logp(reference, [0], [END])) / 2)


def test_ties_count_half():
    judge = lambda prompt, response: Verdict(facts=len(response), tone=0, length=0)  # noqa: E731
    assert win_rate(judge, ["p"] * 4, ["aa", "a", "a", "aaa"], ["a", "a", "aa", "a"]) == (1 + 0.5 + 0 + 1) / 4


def test_the_table_says_so_when_both_log_probs_fall():
    column = {"response_tokens": 3.0, "unfinished": 0, "perplexity": 2.0, "logps/chosen": -5.0, "logps/rejected": -6.0}
    fallen = {**column, "logps/chosen": -7.0, "logps/rejected": -20.0, "kl": 1.0, "kl_error": 0.1, "reward_accuracy": 0.9}
    summary = {"prompts": 3, "pairs": 3, "sft": column, "dpo": fallen}
    assert "Both log-probs fell" in table(summary)
    assert "Both log-probs fell" not in table({**summary, "dpo": {**fallen, "logps/chosen": -4.0}})
    further = table({**summary, "dpo": {**fallen, "logps/chosen": -90.0}})
    assert "the chosen one further" in further
    assert "DPO" not in table({"prompts": 3, "pairs": 0, "sft": column})
