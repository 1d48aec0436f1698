"""Each bug that implementations of DPO really have, planted on purpose: the test named beside it must fail.

A bug is planted by changing a line of a function's source and putting the changed function wherever the old one is
known. If a line here no longer matches the source, planting fails, so the list cannot go stale in silence.
"""

import inspect
import sys
import textwrap

import pytest
from hypothesis import Phase, settings

from mini_dpo import data, dpo, exact, generate, logprobs, losses, model, sft, training
from mini_dpo.losses import LOSSES
from mini_dpo.properties import PROPERTIES
from tests import test_data, test_exact, test_generate, test_logprobs, test_losses, test_model, test_properties, test_training
from tests.strategies import tiny_gpt


def plant(monkeypatch, module, name, old, new):
    """Replace `old` by `new` in the source of `module.name`, everywhere that function is known."""
    function = getattr(module, name)
    function = getattr(function, "function", function)  # a registered loss wraps its function
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{module.__name__}.{name} has {old!r} {source.count(old)} times, not once"
    if name in LOSSES:
        del LOSSES[name]  # the changed one is registered in its place, until the test is over
    original, namespace = getattr(module, name), dict(vars(module))
    exec(compile("from __future__ import annotations\n" + source.replace(old, new), "<planted bug>", "exec"), namespace)
    for other in [m for n, m in sys.modules.items() if n.startswith(("mini_dpo", "tests"))]:
        for attribute, value in list(vars(other).items()):
            if value is original:
                monkeypatch.setattr(other, attribute, namespace[name])


naive_loop = test_logprobs.test_equals_the_naive_loop
mask = test_data.test_ids_and_mask_are_born_together
formula = test_losses.test_equals_the_formula_in_plain_python


def keeps(loss, property):
    test_properties.test_every_loss_keeps_every_property(LOSSES[loss], PROPERTIES[property])


def at_reference():
    test_training.test_a_run_begins_at_the_reference_s_own_value(LOSSES["dpo"])


BUGS = {
    # what a text scores
    "no shift": (logprobs, "index_responses", "positions - 1", "positions", lambda: test_logprobs.test_prefix_tree(tiny_gpt(), 3)),
    "pads unmasked": (data, "collate", "mask[row, : len(s.ids)] = torch.tensor(s.response_mask)", "mask[row, : len(s.ids)] = torch.tensor(s.response_mask); mask[row, len(s.ids) :] = True", naive_loop),
    "mean for sum": (logprobs, "response_logps", "logps.new_zeros(len(ids)).index_add(0, index.owners, logps)", "logps.new_zeros(len(ids)).index_add(0, index.owners, logps) / index.owners.bincount(minlength=len(ids))", naive_loop),
    "log-probs in half precision": (logprobs, "token_logps", "torch.promote_types(logits.dtype, torch.float32)", "torch.bfloat16", test_logprobs.test_sums_are_in_float32_or_better_whatever_the_model),
    # what is trained on
    "mask off by one, late": (data, "join", "[False] * len(before) + [True] * len(after)", "[False] * (len(before) + 1) + [True] * (len(after) - 1)", mask),
    "mask off by one, early": (data, "join", "[False] * len(before) + [True] * len(after)", "[False] * (len(before) - 1) + [True] * (len(after) + 1)", mask),
    "prompt unmasked": (data, "join", "[False] * len(before)", "[False] + [True] * (len(before) - 1)", mask),
    "end-of-text masked": (data, "join", "[True] * len(after)", "[True] * (len(after) - 1) + [False]", mask),
    "prompt and response encoded together": (data, "encode", "tokenizer.encode_prompt(prompt), tokenizer.encode_response(response)", "[tokenizer.user, tokenizer.assistant], tokenizer.encode_response(prompt + response)", mask),
    # the loss
    "beta's sign": (losses, "dpo", "beta * logps.h)", "-beta * logps.h)", lambda: formula(LOSSES["dpo"])),
    "beta twice": (losses, "dpo", "beta * logps.h)", "beta * beta * logps.h)", lambda: formula(LOSSES["dpo"])),
    "no beta": (losses, "dpo", "beta * logps.h)", "logps.h)", lambda: formula(LOSSES["dpo"])),
    "log of sigmoid": (losses, "dpo", "F.logsigmoid(beta * logps.h)", "(beta * logps.h).sigmoid().log()", lambda: keeps("dpo", "finite at extremes")),
    "smoothing on the wrong side": (losses, "cdpo", "F.logsigmoid(m) - label_smoothing * F.logsigmoid(-m)", "F.logsigmoid(-m) - label_smoothing * F.logsigmoid(m)", lambda: formula(LOSSES["cdpo"])),
    "smoothing ignored": (losses, "cdpo", "-(1 - label_smoothing) * F.logsigmoid(m) - label_smoothing * F.logsigmoid(-m)", "-F.logsigmoid(m)", lambda: formula(LOSSES["cdpo"])),
    "one mean for all pairs": (losses, "dpo", "-F.logsigmoid(beta * logps.h)", "-F.logsigmoid(beta * logps.h).mean().expand(len(logps.h))", lambda: keeps("dpo", "decomposes")),
    # the pair and the reference
    "swapped pair in the batch": (data, "collate_pairs", "[p.chosen for p in pairs] + [p.rejected for p in pairs]", "[p.rejected for p in pairs] + [p.chosen for p in pairs]", test_data.test_pairs_are_chosen_first_then_rejected),
    "swapped pair in the objective": (dpo, "pair_logps", "chosen=both[:B], rejected=both[B:]", "chosen=both[B:], rejected=both[:B]", test_training.test_pairs_are_scored_as_their_sequences_are),
    "labels in another order": (data, "collate_feedback", "torch.tensor([e.desirable for e in examples])", "torch.tensor([e.desirable for e in examples[::-1]])", test_training.test_single_responses_are_scored_as_their_sequences_are),
    "KTO's mismatched responses are their own": (data, "mismatch", "parts[i + 1 :] + parts[:i]", "parts[i:] + parts[:i]", test_training.test_single_responses_are_scored_as_their_sequences_are),
    "mismatched responses in the graph": (dpo, "unpaired_logps", "torch.no_grad()", "torch.enable_grad()", test_training.test_single_responses_are_scored_as_their_sequences_are),
    "the SFT term on the rejected one": (dpo, "sft_term", "-logps.chosen.average", "-logps.rejected.average", lambda: test_training.test_the_sft_weight_adds_the_chosen_response_s_nll_a_token(1.0)),
    "reference live in the graph": (dpo, "score_reference", "@torch.no_grad()\n", "", test_training.test_the_reference_builds_no_graph),
    "reference is the policy": (dpo, "freeze", "copy.deepcopy(model)", "model", test_training.test_freeze_is_a_copy),
    "dropout on while scoring": (dpo, "preference_objective", "policy.eval()", "policy.train()", at_reference),
    "dropout on in the reference": (dpo, "freeze", ".eval()", "", test_training.test_freeze_is_a_copy),
    "known reference log-probs in the wrong order": (data, "collate_pairs", ".T.flatten()", ".flatten()", test_training.test_training_is_the_same_with_reference_log_probs_known_ahead),
    # the loop
    "a mean of means": (sft, "sft_objective", "-logps.sum(), len(batch.index.targets)", "-logps.sum() / len(batch.index.targets), 1", lambda: test_training.test_accumulated_batches_make_the_gradient_of_one_large_batch("sft")),
    "not divided by the count": (training, "train_step", "parameter.grad.div_(count)", "pass", lambda: test_training.test_gradients_are_the_mean_s()),
    "a bad step is taken": (training, "train_step", "if not (math.isfinite", "if False and not (math.isfinite", lambda: _in_a_folder(test_training.test_a_loss_that_is_no_number_stops_the_run_and_spares_the_checkpoint, poison="gradient")),
    "dropout goes on from where it was": (training, "train_step", "torch.manual_seed(config.seed * 1_000_003 + step)", "pass", lambda: _in_a_folder(test_training.test_a_killed_run_goes_on_to_the_same_weights_and_the_same_log, name="sft", dropout=0.2, at=9)),
    # the model
    "attention sees the future": (model.Attention, "forward", "is_causal=True", "is_causal=False", test_model.test_a_later_token_never_changes_an_earlier_logit),
    "cached attention sees padding": (model, "remember", "places <= positions[:, None, :, None]", "places >= 0 * positions[:, None, :, None]", test_generate.test_greedy_decoding_equals_reading_everything_again),
    "generation reads the last column": (generate, "continue_batch", "hidden[torch.arange(len(prompts)), lengths - 1]", "hidden[:, -1]", test_generate.test_greedy_decoding_equals_reading_everything_again),
    # the proof
    "pairs without people's probabilities": (exact, "expected_dpo", "probabilities * LOSSES", "LOSSES", test_exact.test_the_gpt_lands_on_the_optimum),
}  # fmt: skip


def _in_a_folder(test, **arguments):
    """Call a test that wants a folder of its own."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        test(Path(folder), **arguments)


@pytest.fixture(autouse=True)
def the_losses_are_put_back_in_their_order():
    known = dict(LOSSES)
    yield
    LOSSES.clear()
    LOSSES.update(known)


@pytest.fixture(autouse=True)
def any_counterexample_will_do():
    """Finding one is enough here: do not look for the smallest."""
    before = settings.default
    settings.register_profile("first", parent=before, phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False)
    settings.load_profile("first")
    yield
    settings.register_profile("before", parent=before)
    settings.load_profile("before")


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, monkeypatch):
    module, name, old, new, killer = BUGS[bug]
    if inspect.isclass(module):  # a method: change it on its class
        source = textwrap.dedent(inspect.getsource(getattr(module, name)))
        assert source.count(old) == 1
        namespace = dict(vars(sys.modules[module.__module__]))
        exec(compile("from __future__ import annotations\n" + source.replace(old, new), "<planted bug>", "exec"), namespace)
        monkeypatch.setattr(module, name, namespace[name])
    else:
        plant(monkeypatch, module, name, old, new)
    with pytest.raises(BaseException) as caught:
        killer()
    assert not isinstance(caught.value, (KeyboardInterrupt, SystemExit, SyntaxError, NameError, TypeError))
