"""The closing table's numbers against exact ones, and their standard errors against what really happens."""

import itertools
import json
import math
import random
from statistics import fmean, stdev
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo import generate, logprobs, objectives
from mini_dpo.batches import Encoded, EncodedPair
from mini_dpo.corpus.parts import HeldOut
from mini_dpo.data import Preference
from mini_dpo.evaluation import measuring as evaluation
from mini_dpo.evaluation.measuring import (
    How,
    answer_prompts,
    compare_pairs,
    estimate_kl,
    evaluate,
    mean_and_error,
    perplexity,
)
from mini_dpo.evaluation.table import closing_table
from mini_dpo.losses import LOSSES, PairLogps, Responses
from mini_dpo.objectives import preference_metrics
from mini_dpo.reference import freeze
from mini_dpo.theory.bradley_terry import kl, wins
from mini_dpo.worlds.world import win_rate
from tests.oracles import response_logp
from tests.strategies import tiny_gpt

END = 2
HOW = How()


class LetterTokenizer:
    """A vocabulary of two letters and end-of-text; prompts are their own ids."""

    end_of_text = END

    def encode_prompt(self, prompt):
        return [int(letter) for letter in prompt]

    def decode_response(self, ids):
        return "".join(str(i) for i in ids if i != END)


def small_gpt(seed):
    return tiny_gpt(seed, vocab_size=3, context=4)


def all_logps(model):
    """log pi of every string that fits: those that end, and those that the context cuts."""
    strings = [[*s, END] for n in range(3) for s in itertools.product(range(END), repeat=n)]
    strings += [list(s) for s in itertools.product(range(END), repeat=3)]
    return torch.tensor([response_logp(model, [0], s) for s in strings], dtype=torch.float64)


def test_estimated_kl_agrees_with_the_exact_one():
    """Within four standard errors, on a policy and a reference far apart. Catches the opposite direction as
    well.
    """
    policy, reference = small_gpt(1), small_gpt(2)
    exact, opposite = (
        float(kl(all_logps(policy), all_logps(reference))),
        float(kl(all_logps(reference), all_logps(policy))),
    )
    prompts = ["0"] * 4000
    responses = answer_prompts(policy, LetterTokenizer(), prompts, max_new_tokens=9, seed=0)
    estimate, error = estimate_kl(policy, reference, LetterTokenizer(), prompts, responses, HOW)
    assert abs(estimate - exact) < 4 * error < 0.3 < abs(exact - opposite)
    assert estimate_kl(policy, freeze(policy), LetterTokenizer(), prompts[:2], responses[:2], HOW) == (0, 0)
    assert estimate_kl(policy, reference, LetterTokenizer(), prompts[:1], responses[:1], HOW)[1] is None


def test_perplexity_by_hand():
    model = small_gpt(1)
    responses = [[1, END], [0, 1, 1]]
    total = sum(response_logp(model, [0], r) for r in responses)
    value, error = perplexity(model, [Encoded([0], r) for r in responses], HOW)
    assert value == pytest.approx(math.exp(-total / 5)) and 0 < error < value
    assert perplexity(model, [Encoded([0], responses[0])], HOW)[1] is None
    with torch.no_grad():
        model.wte.weight.mul_(1e6)
    assert perplexity(model, [Encoded([0], r) for r in responses], HOW)[0] == math.inf


def test_perplexity_s_error_is_how_far_it_moves_with_other_responses(monkeypatch):
    """Against the spread over 1,000 draws of 60 responses. Long ones cost more nats: an error that forgets by
    how much would be twice as large.
    """
    costs = {2: [1.0, 2.0], 9: [9.0, 14.0]}  # tokens: nats of the responses that long
    monkeypatch.setattr(
        evaluation, "score_sequences", lambda model, drawn, how: -torch.tensor([cost for cost, _ in drawn])
    )
    rng = random.Random(0)
    found, forgetful = [], []
    for _ in range(1000):
        lengths = rng.choices(list(costs), k=60)
        drawn = [Drawn(rng.choice(costs[length]), [0] * length) for length in lengths]
        found.append(perplexity(None, drawn, HOW))
        forgetful.append(found[-1][0] * stdev(cost for cost, _ in drawn) / math.sqrt(60) / fmean(lengths))
    spread = stdev(value for value, _ in found)
    assert (
        fmean(error for _, error in found) == pytest.approx(spread, rel=0.1) and fmean(forgetful) > 2 * spread
    )


class Drawn(NamedTuple):
    nats: float
    response: list[int]

    @property
    def n_targets(self) -> int:
        return len(self.response)


# --- reward accuracy

PAIRS = [EncodedPair(Encoded([0], [1, END]), Encoded([0], [END]))] * 2
PAIRS[1] = EncodedPair(PAIRS[1].rejected, PAIRS[1].chosen)


def compare(policy, sft, pairs, loss="dpo"):
    return compare_pairs(policy, sft, sft, LOSSES[loss], LOSSES[loss].hyperparameters, pairs, HOW)


def test_pairs_are_compared_with_the_reference_taken_away():
    policy, reference = small_gpt(1).float(), small_gpt(2).float()
    before, after = compare(policy, reference, PAIRS)
    assert after["reward_accuracy"] == 0.5 and after["reward_accuracy_error"] == pytest.approx(0.5)
    assert after["logps/chosen"] == pytest.approx(after["logps/rejected"])
    h = [response_logp(m, [0], [1, END]) - response_logp(m, [0], [END]) for m in (policy, reference)]
    first = compare(policy, reference, PAIRS[:1])[1]
    assert first["reward_accuracy"] == float(h[0] > h[1]) and first["reward_accuracy_error"] is None
    assert compare(policy, freeze(policy), PAIRS[:1])[1]["reward_accuracy"] == 0.5, (
        "at the reference all pairs are ties"
    )
    assert before["logps/chosen"] == pytest.approx(
        (response_logp(reference, [0], [1, END]) + response_logp(reference, [0], [END])) / 2
    )


def test_another_reference_than_the_starting_model_is_the_rewards_alone():
    policy, start, reference = (small_gpt(seed).float() for seed in (1, 2, 3))
    before, after = compare_pairs(policy, start, reference, LOSSES["dpo"], {"beta": 0.1}, PAIRS[:1], HOW)
    assert before == compare(policy, start, PAIRS[:1])[0]
    h = [response_logp(m, [0], [1, END]) - response_logp(m, [0], [END]) for m in (policy, reference)]
    assert after["reward_accuracy"] == float(h[0] > h[1])


@pytest.mark.parametrize("name", LOSSES)
def test_the_reward_is_the_loss_s_own(name):
    """Four strings, all pairs of them, against the loss's reward of log-probs from the naive loop; and a loss
    that has no reference gives the same whatever the SFT model is.
    """
    loss, policy, reference = LOSSES[name], small_gpt(1).float(), small_gpt(2).float()
    strings = [[END], [1, END], [0, 1, END], [1, 0, 1]]
    pairs = [EncodedPair(Encoded([0], w), Encoded([0], l)) for w, l in itertools.permutations(strings, 2)]
    lengths = torch.tensor([len(s) for s in strings])
    policy_logps, ref_logps = (
        torch.tensor([response_logp(model, [0], s) for s in strings]) for model in (policy, reference)
    )
    rewards = loss.rewards(
        Responses(policy_logps, lengths, ref_logps if loss.reference else None), **loss.hyperparameters
    )
    agrees = [float(wins(w, l)) for w, l in itertools.permutations(rewards, 2)]
    labels = [2.0, 0.0, 3.0, 1.0]  # people like the third best; only pairs that they order so are labelled
    kept = [i for i, (w, l) in enumerate(itertools.permutations(labels, 2)) if w > l]
    found = compare(policy, reference, [pairs[i] for i in kept], name)[1]
    assert found["reward_accuracy"] == pytest.approx(fmean(agrees[i] for i in kept))
    if not loss.reference:
        assert compare(policy, small_gpt(3).float(), [pairs[i] for i in kept], name)[1] == found
    signs = [(float(w > 0) + float(l < 0)) / 2 for w, l in itertools.permutations(rewards.tolist(), 2)]
    assert loss.paired or found["reward_sign_accuracy"] == pytest.approx(fmean(signs[i] for i in kept))


def test_h_would_judge_a_loss_without_reference_differently():
    """The two definitions part on this pair: what this file tests is not the same number under two names."""
    policy, reference = small_gpt(1).float(), small_gpt(2).float()
    found = {
        name: compare(policy, reference, PAIRS[:1], name)[1]["reward_accuracy"]
        for name in ("dpo", "simpo", "orpo", "cpo")
    }
    assert len(set(found.values())) == 2


@given(
    st.lists(
        st.tuples(st.sampled_from([-1.0, 0.0, 2.5]), st.sampled_from([-1.0, 0.0, 2.5])),
        min_size=1,
        max_size=8,
    )
)
def test_ties_count_half_everywhere(pairs):
    """In the win rate, of pairs and of single responses: an accuracy and the one with the labels exchanged
    add up to 1.
    """
    expected = fmean(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs)
    judge = lambda prompt, response: {"facts": float(response)}  # noqa: E731
    ours, theirs = zip(*pairs, strict=True)
    assert win_rate(judge, ["p"] * len(pairs), ours, theirs) == pytest.approx(expected)
    a, b, zero = torch.tensor(ours), torch.tensor(theirs), torch.zeros(len(pairs))
    assert float(wins(a, b).mean()) == pytest.approx(expected) and torch.equal(
        wins(a, b) + wins(b, a), zero + 1
    )
    logps = PairLogps(*(Responses(values, zero + 1, zero) for values in (a, b)))
    accuracies = preference_metrics(LOSSES["dpo"], logps, {"beta": 0.1})["rewards/accuracies"]
    assert torch.equal(accuracies, wins(a, b))


# --- standard errors


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_a_standard_error_is_the_deviation_by_the_root_of_the_number(values):
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(fmean(values), abs=1e-9) and error == pytest.approx(
        stdev(values) / math.sqrt(len(values)), abs=1e-9
    )
    assert mean_and_error(values[:1])[1] is None


def held_out(prompts, judge):
    pairs = [EncodedPair(Encoded([int(p[0])], [1, END]), Encoded([int(p[0])], [0, END])) for p in prompts]
    preferences = [Preference(p, "1", "0", i) for i, p in enumerate(prompts)]
    return HeldOut(prompts, [pair.chosen for pair in pairs], preferences, pairs, judge)


def test_the_summary_has_the_paired_error_of_the_gain_and_the_marks_of_each_answer():
    """Prompts of very different difficulty: the gain's error is that of the differences, far below the two
    models' own.
    """

    def judge(prompt, response):
        return {"facts": 100 * int(prompt[-1]), "tone": len(response), "length": -0.25}

    prompts = ["00", "01", "10", "11"]
    summary, samples = evaluate(
        small_gpt(2).float(),
        small_gpt(1).float(),
        LOSSES["dpo"],
        {"beta": 0.1},
        LetterTokenizer(),
        held_out(prompts, judge),
        0,
        HOW,
    )
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary and json.dumps(
        samples, allow_nan=False
    )
    sft, dpo = summary["sft"], summary["dpo"]
    for sample in samples:
        for name in ("sft", "dpo"):
            verdict = judge(sample["prompt"], sample[name])
            assert sample["marks"][name] == {**verdict, "reward": sum(verdict.values())}
    rewards = {name: [sample["marks"][name]["reward"] for sample in samples] for name in ("sft", "dpo")}
    gains = [ours - theirs for ours, theirs in zip(rewards["dpo"], rewards["sft"], strict=True)]
    assert dpo["reward_gain"] == pytest.approx(fmean(gains)) == pytest.approx(dpo["reward"] - sft["reward"])
    assert (
        dpo["reward_gain_error"] == pytest.approx(stdev(gains) / 2)
        and dpo["reward_gain_error"] < 2 < 20 < dpo["reward_error"]
    )
    won = [1.0 if gain > 0 else 0.5 if gain == 0 else 0.0 for gain in gains]
    assert dpo["win_rate"] == fmean(won) and dpo["win_rate_error"] == pytest.approx(stdev(won) / 2)
    wanted = {"reward", "facts", "tone", "length", "perplexity"}
    assert {f"{name}_error" for name in wanted} <= sft.keys() and {
        f"{name}_error" for name in wanted | {"kl", "reward_accuracy"}
    } <= dpo.keys()


def test_a_single_held_out_prompt_has_numbers_without_errors():
    judge = lambda prompt, response: {"length": 1, "tone": 2}  # noqa: E731
    summary, _ = evaluate(
        small_gpt(2).float(),
        small_gpt(1).float(),
        LOSSES["kto"],
        {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        LetterTokenizer(),
        held_out(["0"], judge),
        0,
        HOW,
    )
    errors = [
        value
        for column in (summary["sft"], summary["dpo"])
        for name, value in column.items()
        if name.endswith("_error")
    ]
    assert (
        set(errors) == {None}
        and "(" not in closing_table(summary).split("\n\n")[0].split("length")[1].split("KL")[0]
    )
    json.dumps(summary, allow_nan=False)


def test_the_table_has_each_error_beside_its_number_and_fits_the_screen():
    column = {"response_tokens": 123.4, "unfinished": 256, "logps/chosen": -1234.5, "logps/rejected": -1234.5}
    column |= {
        f"{name}{suffix}": value
        for name in ("reward", "facts", "tone", "length", "perplexity")
        for suffix, value in (("", -10.25), ("_error", 12.5))
    }
    dpo = column | {
        f"{name}{suffix}": value
        for name in ("kl", "win_rate", "reward_gain", "reward_accuracy", "reward_sign_accuracy")
        for suffix, value in (("", 1.5), ("_error", 0.125))
    }
    shown = closing_table(
        {
            "prompts": 256,
            "pairs": 256,
            "loss": "apo_zero_unpaired",
            "sft": column,
            "dpo": dpo,
            "label_accuracy": 0.9,
        }
    )
    assert (
        max(map(len, shown.splitlines())) <= 108
        and max(len(line) for line in shown.split("\n\n")[0].splitlines()) <= 100
    )
    lines = {line[:42].strip(): line[42:].split() for line in shown.splitlines()}
    assert lines["true reward"] == ["-10.25", "(12.50)"] * 2 and lines["gain over SFT, prompt by prompt"] == [
        "1.50",
        "(0.12)",
    ]
    assert lines["perplexity on held-out SFT responses"] == ["-10.250", "(12.500)"] * 2 and lines[
        "tokens per response"
    ] == ["123.4", "123.4"]
    assert "not finite" in closing_table(
        {"prompts": 3, "pairs": 0, "sft": {"perplexity": None, "perplexity_error": None}}
    )


@given(st.lists(st.one_of(st.none(), st.floats(), st.floats(-1e9, 1e9)), min_size=8, max_size=8))
def test_no_number_of_the_table_runs_into_its_neighbour(values):
    """Whatever its size: as many numbers and errors in a line as the summary has, in columns that begin where
    theirs do.
    """
    names = ["kl", "kl_error", "logps/chosen", "logps/rejected"]
    columns = [dict(zip(names, half, strict=True)) for half in (values[:4], values[4:])]
    shown = (
        closing_table({"prompts": 3, "pairs": 3, "loss": "dpo", "sft": columns[0], "dpo": columns[1]})
        .split("\n\n")[0]
        .splitlines()
    )
    for line, name in zip(shown[1:], ("kl", "logps/chosen", "logps/rejected"), strict=False):
        found = line[42:].replace("not finite", "none").replace("(", " (").split()
        errors = sum(column.get(f"{name}_error") is not None for column in columns)
        assert len(found) == 2 + errors and line[42] == " ", shown
        for value, text in zip(
            [column[name] for column in columns], [text for text in found if "(" not in text], strict=True
        ):
            finite = value is not None and math.isfinite(value)
            assert float(text) == pytest.approx(value, rel=1e-3, abs=0.06) if finite else text == "none"


@given(batch_size=st.integers(1, 9), tokens=st.one_of(st.none(), st.integers(9, 40)), n=st.integers(1, 12))
def test_the_measuring_stays_within_the_training_s_batches(batch_size, tokens, n):
    """Answers, responses, pairs and the reference: no batch has more examples, or more tokens, than one in
    training.
    """
    sizes, rows = [], []
    prompts = [format(i, "b") for i in range(n)]  # of one to four tokens
    models = [tiny_gpt(seed, vocab_size=3, context=12).float() for seed in (1, 2)]
    how = How("float32", None if tokens else batch_size, tokens)

    def watched_logps(function):
        return lambda model, batch: (
            sizes.append((len(batch.lengths), batch.n_tokens)) or function(model, batch)
        )

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(objectives, "response_logps", watched_logps(objectives.response_logps))
        patched.setattr(logprobs, "response_logps", watched_logps(logprobs.response_logps))
        patched.setattr(generate, "empty_cache", lambda m, b, t: rows.append((b, t)) or empty_cache(m, b, t))
        evaluate(*models, LOSSES["dpo"], {"beta": 0.1}, LetterTokenizer(), held_out(prompts, None), 0, how)
    assert sizes and rows
    if tokens:
        assert max(n_tokens for _, n_tokens in sizes) <= max(tokens, 12) and max(
            b * t for b, t in rows
        ) <= max(tokens, 12)
    else:
        assert max(b for b, _ in sizes) <= 2 * batch_size and max(b for b, _ in rows) <= 2 * batch_size


empty_cache = generate.empty_cache


def test_the_table_says_so_when_both_log_probs_fall():
    column = {
        "response_tokens": 3.0,
        "unfinished": 0,
        "perplexity": 2.0,
        "logps/chosen": -5.0,
        "logps/rejected": -6.0,
    }
    fallen = {
        **column,
        "logps/chosen": -7.0,
        "logps/rejected": -20.0,
        "kl": 1.0,
        "kl_error": 0.1,
        "reward_accuracy": 0.9,
    }
    summary = {"prompts": 3, "pairs": 3, "sft": column, "dpo": fallen}
    assert "Both log-probs fell" in closing_table(summary)
    assert "Both log-probs fell" not in closing_table({**summary, "dpo": {**fallen, "logps/chosen": -4.0}})
    further = closing_table({**summary, "dpo": {**fallen, "logps/chosen": -90.0}})
    assert "the chosen one further" in further
    assert "DPO" not in closing_table({"prompts": 3, "pairs": 0, "sft": column})
