"""Each bug that implementations of DPO really have, planted on purpose: the test named beside it must fail.

A bug is planted by changing a line of a function's source and putting the changed function wherever the old
one is known. If a line here no longer matches the source, planting fails, so the list cannot go stale in
silence.
"""

import inspect
import math
import sys
import textwrap

import pytest
import torch
from hypothesis import Phase, settings

from mini_dpo import (
    batches,
    exact,
    feedback,
    generate,
    logprobs,
    model,
    objectives,
    optimizers,
    packing,
    reference,
    training,
)
from mini_dpo.check import PROPERTIES
from mini_dpo.evaluation import measuring
from mini_dpo.fast import flex
from mini_dpo.losses import LOSSES, margins
from mini_dpo.losses import dpo as dpo_file
from mini_dpo.saving import reference_cache
from mini_dpo.theory import bradley_terry
from tests import (
    test_bradley_terry,
    test_data,
    test_evaluate,
    test_exact,
    test_generate,
    test_logprobs,
    test_model,
    test_packing,
    test_papers,
    test_properties,
    test_ref_cache,
    test_training,
)
from tests.strategies import tiny_gpt


def plant(monkeypatch, module, name, old, new):
    """Replace `old` by `new` in the source of `module.name`, everywhere that function is known. module: or a
    class.
    """
    if inspect.isclass(module):  # a method: change it on its class
        member = getattr(module, name)
        # a property has its function inside
        source = textwrap.dedent(inspect.getsource(getattr(member, "fget", member)))
        assert source.count(old) == 1
        planted = {}
        exec(
            compile(
                "from __future__ import annotations\n" + source.replace(old, new), "<planted bug>", "exec"
            ),
            vars(sys.modules[module.__module__]),
            planted,
        )
        monkeypatch.setattr(module, name, planted[name])
        return
    function = getattr(module, name)
    function = getattr(function, "function", function)  # a registered loss wraps its function
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{module.__name__}.{name} has {old!r} {source.count(old)} times, not once"
    if name in LOSSES:
        del LOSSES[name]  # the changed one is registered in its place, until the test is over
    original, planted = getattr(module, name), {}
    exec(
        compile("from __future__ import annotations\n" + source.replace(old, new), "<planted bug>", "exec"),
        vars(module),
        planted,
    )
    for other in [m for n, m in sys.modules.items() if n.startswith(("mini_dpo", "tests"))]:
        for attribute, value in list(vars(other).items()):
            if value is original:
                monkeypatch.setattr(other, attribute, planted[name])


naive_loop = test_logprobs.test_equals_the_naive_loop
mask = test_data.test_the_response_and_one_end_of_text_are_trained_on
packed = test_packing.test_log_probs_and_gradients_of_trees_are_those_of_padded_rows
mask_of_row = test_packing.test_a_token_sees_itself_and_its_ancestors
places = test_packing.test_each_text_is_laid_out_as_if_it_stood_alone
blocks = test_packing.test_flex_attention_never_skips_a_block_that_somebody_sees


def keeps(loss, claim):
    test_properties.test_every_loss_keeps_every_property(LOSSES[loss], PROPERTIES[claim])


def formula(loss):
    test_papers.test_values_and_gradients_are_the_papers(loss, torch.float64)


def at_reference():
    test_training.test_a_run_begins_at_the_reference_s_own_value(LOSSES["dpo"])


BUGS = {
    # what a text scores
    "no shift": (
        batches,
        "index_responses",
        "layout.parents[places]",
        "places",
        lambda: test_logprobs.test_prefix_tree(tiny_gpt(), 3),
    ),
    "a response's first token predicted at the token before it in the row": (
        batches,
        "index_responses",
        "layout.parents[places]",
        "places - 1",
        naive_loop,
    ),
    "a response's first token predicted at the prompt's first": (
        packing,
        "lay_out",
        "[root + prompt - 1 if prompt",
        "[root if prompt",
        naive_loop,
    ),
    "mean for sum": (
        logprobs,
        "response_logps",
        "index_add(0, batch.index.owners, logps)",
        "index_add(0, batch.index.owners, logps) / batch.lengths",
        naive_loop,
    ),
    "all of a prompt's responses are the first": (
        batches,
        "index_responses",
        "+ layout.branches[places] - 1",
        "",
        naive_loop,
    ),
    "the first of all responses last, then the second of all": (
        batches,
        "index_responses",
        "before[layout.trees[places]] + layout.branches[places] - 1",
        "(layout.branches[places] - 1) * len(layout.sizes) + layout.trees[places]",
        test_training.test_pairs_are_scored_as_their_sequences_are,
    ),
    "tiles in another order than their targets": (
        logprobs,
        "token_logps",
        "batch.index.targets.split(tile)",
        "batch.index.targets.split(tile)[::-1]",
        test_packing.test_tiles_change_nothing_and_are_never_too_large,
    ),
    "tiles are kept": (
        logprobs,
        "token_logps",
        "again(chosen_logps, model, *part)",
        "chosen_logps(model, *part)",
        test_packing.test_tiles_change_nothing_and_are_never_too_large,
    ),
    "log-probs in half precision": (
        logprobs,
        "chosen_logps",
        "torch.promote_types(logits.dtype, torch.float32)",
        "torch.bfloat16",
        test_logprobs.test_sums_are_in_float32_or_better_whatever_the_model,
    ),
    # one row for all
    "positions go on in the second response": (
        packing,
        "lay_out",
        "range(prompt, prompt + response)",
        "range(first - root, first - root + response)",
        packed,
    ),
    "positions go on in the next tree": (
        packing,
        "lay_out",
        "positions += range(prompt)",
        "positions += range(root, root + prompt)",
        places,
    ),
    "a response begins a position late": (
        packing,
        "lay_out",
        "range(prompt, prompt + response)",
        "range(prompt + 1, prompt + 1 + response)",
        packed,
    ),
    "the rejected response sees the chosen one": (
        packing,
        "attend_by_spans",
        "k[:, :, :prompt], v[:, :, :prompt]",
        "k[:, :, -prompt:], v[:, :, -prompt:]",
        packed,
    ),
    "the rejected response does not see the prompt": (
        packing,
        "attend_by_spans",
        ".tril(prompt)",
        ".tril(prompt) & (torch.arange(prompt + response) >= prompt)",
        packed,
    ),
    "the rejected response sees one token ahead": (
        packing,
        "attend_by_spans",
        ".tril(prompt)",
        ".tril(prompt + 1)",
        packed,
    ),
    "the rejected response does not see itself": (
        packing,
        "attend_by_spans",
        ".tril(prompt)",
        ".tril(prompt - 1)",
        packed,
    ),
    "the chosen response sees the future": (
        packing,
        "attend_by_spans",
        "is_causal=True",
        "is_causal=False",
        packed,
    ),
    "trees see each other": (packing, "sees", "(trees[query] == trees[key]) & ", "", mask_of_row),
    "responses see each other": (
        packing,
        "sees",
        "(branches[key] == branches[query])",
        "(branches[key] <= branches[query])",
        mask_of_row,
    ),
    "responses do not see the prompt": (packing, "sees", "(branches[key] == 0) | ", "", mask_of_row),
    "nobody sees himself": (packing, "sees", "key <= query", "key < query", mask_of_row),
    "a block looks at no block before it": (
        flex,
        "block_mask",
        "starts[layout.trees[blocks * BLOCK]] // BLOCK",
        "blocks",
        blocks,
    ),
    "a block does not look at itself": (flex, "block_mask", "blocks - first + 1", "blocks - first", blocks),
    "a block looks at the row's first blocks": (
        flex,
        "block_mask",
        "first[:, None] + blocks",
        "0 * first[:, None] + blocks",
        blocks,
    ),
    "the last block goes on with the wrong rows": (
        model.Block,
        "forward",
        "x.index_select(0, rows)",
        "x[: len(rows)]",
        packed,
    ),
    "every prompt taken for the first one's": (
        batches,
        "pack",
        "sequence.prompt != tree[0].prompt",
        "False",
        test_data.test_only_one_prompt_is_shared_and_it_is_not_empty,
    ),
    "a batch goes beyond its tokens": (
        batches.Batches,
        "cut",
        "room < size",
        "room <= 0",
        test_data.test_a_batch_of_tokens_is_as_full_as_it_can_be,
    ),
    "a pair costs its prompt twice": (
        batches.EncodedPair,
        "n_tokens",
        "len(self.rejected.response)",
        "self.rejected.n_tokens",
        test_data.test_pairs_are_chosen_first_then_rejected,
    ),
    # what is trained on
    "mask off by one, late": (
        batches,
        "index_responses",
        "(layout.branches > 0)",
        "((layout.branches > 0) & (layout.branches[layout.parents] > 0))",
        mask,
    ),
    "mask off by one, early": (
        batches,
        "index_responses",
        "(layout.branches > 0)",
        "((layout.branches > 0) | (layout.branches.roll(-1) > 0))",
        mask,
    ),
    "prompt unmasked": (batches, "index_responses", "(layout.branches > 0)", "(layout.parents >= 0)", mask),
    "end-of-text masked": (
        batches,
        "encode",
        "tokenizer.encode_response(response)",
        "tokenizer.encode_response(response)[:-1]",
        mask,
    ),
    "prompt and response encoded together": (
        batches,
        "encode",
        "tokenizer.encode_prompt(prompt), tokenizer.encode_response(response)",
        "[tokenizer.user, tokenizer.assistant], tokenizer.encode_response(prompt + response)",
        mask,
    ),
    # the loss
    "beta's sign": (dpo_file, "dpo", "beta * logps.h)", "-beta * logps.h)", lambda: formula(LOSSES["dpo"])),
    "beta twice": (
        dpo_file,
        "dpo",
        "beta * logps.h)",
        "beta * beta * logps.h)",
        lambda: formula(LOSSES["dpo"]),
    ),
    "no beta": (dpo_file, "dpo", "beta * logps.h)", "logps.h)", lambda: formula(LOSSES["dpo"])),
    "log of sigmoid": (
        dpo_file,
        "dpo",
        "F.logsigmoid(beta * logps.h)",
        "(beta * logps.h).sigmoid().log()",
        lambda: keeps("dpo", "finite at extremes"),
    ),
    "smoothing on the wrong side": (
        margins,
        "cdpo",
        "F.logsigmoid(m) - label_smoothing * F.logsigmoid(-m)",
        "F.logsigmoid(-m) - label_smoothing * F.logsigmoid(m)",
        lambda: formula(LOSSES["cdpo"]),
    ),
    "smoothing ignored": (
        margins,
        "cdpo",
        "-(1 - label_smoothing) * F.logsigmoid(m) - label_smoothing * F.logsigmoid(-m)",
        "-F.logsigmoid(m)",
        lambda: formula(LOSSES["cdpo"]),
    ),
    "one mean for all pairs": (
        dpo_file,
        "dpo",
        "-F.logsigmoid(beta * logps.h)",
        "-F.logsigmoid(beta * logps.h).mean().expand(len(logps.h))",
        lambda: keeps("dpo", "decomposes"),
    ),
    # the pair and the reference
    "swapped pair in the batch": (
        batches,
        "collate_pairs",
        "[pair.chosen, pair.rejected]",
        "[pair.rejected, pair.chosen]",
        test_data.test_pairs_are_chosen_first_then_rejected,
    ),
    "swapped pair in the objective": (
        objectives,
        "pair_logps",
        "chosen=both[0::2], rejected=both[1::2]",
        "chosen=both[1::2], rejected=both[0::2]",
        test_training.test_pairs_are_scored_as_their_sequences_are,
    ),
    "the first half of the responses taken for the chosen ones": (
        objectives,
        "pair_logps",
        "chosen=both[0::2], rejected=both[1::2]",
        "chosen=both[: len(both) // 2], rejected=both[len(both) // 2 :]",
        test_training.test_pairs_are_scored_as_their_sequences_are,
    ),
    "labels in another order": (
        feedback,
        "collate_feedback",
        "torch.tensor([e.desirable for e in examples])",
        "torch.tensor([e.desirable for e in examples[::-1]])",
        test_training.test_single_responses_are_scored_as_their_sequences_are,
    ),
    "KTO's mismatched responses answer the same prompt": (
        feedback,
        "mismatch",
        " if other.prompt != prompt",
        "",
        test_training.test_single_responses_are_scored_as_their_sequences_are,
    ),
    "mismatched responses in the graph": (
        feedback,
        "unpaired_logps",
        "torch.no_grad()",
        "torch.enable_grad()",
        test_training.test_single_responses_are_scored_as_their_sequences_are,
    ),
    "the SFT term on the rejected one": (
        objectives,
        "sft_term",
        "-logps.chosen.average",
        "-logps.rejected.average",
        lambda: test_training.test_the_sft_weight_adds_the_chosen_response_s_nll_a_token(1.0),
    ),
    "reference live in the graph": (
        logprobs,
        "score_reference",
        "@torch.no_grad()\n",
        "",
        test_training.test_the_reference_builds_no_graph,
    ),
    "reference is the policy": (
        reference,
        "freeze",
        "copy.deepcopy(model)",
        "model",
        test_training.test_freeze_is_a_copy,
    ),
    "dropout on while scoring": (
        objectives,
        "preference_objective",
        "policy.eval()",
        "policy.train()",
        at_reference,
    ),
    "dropout on in the reference": (reference, "freeze", ".eval()", "", test_training.test_freeze_is_a_copy),
    "known reference log-probs in the wrong order": (
        batches,
        "collate_pairs",
        ".flatten()",
        ".T.flatten()",
        test_training.test_training_is_the_same_with_reference_log_probs_known_ahead,
    ),
    "kept reference log-probs of other weights": (
        reference_cache,
        "hash_all",
        "digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())",
        "pass",
        lambda: _in_a_folder(test_ref_cache.test_whatever_the_numbers_depend_on_has_another_file),
    ),
    "kept reference log-probs of other responses": (
        reference_cache,
        "hash_all",
        "digest.update(repr([tuple(sequence) for sequence in sequences]).encode())",
        "pass",
        lambda: _in_a_folder(test_ref_cache.test_whatever_the_numbers_depend_on_has_another_file),
    ),
    # the loop
    "a mean of means": (
        objectives,
        "sft_objective",
        "-logps.sum(), batch.n_targets",
        "-logps.sum() / batch.n_targets, 1",
        lambda: test_training.test_accumulated_batches_make_the_gradient_of_one_large_batch("sft"),
    ),
    "not divided by the count": (
        training,
        "train_step",
        "clamp(max=1) / count",
        "clamp(max=1)",
        lambda: test_training.test_gradients_are_the_mean_s(),
    ),
    "a bad step is taken": (
        optimizers,
        "step_where",
        "1 - taken.float()",
        "torch.zeros(())",
        lambda: test_training.test_a_bad_step_changes_neither_weights_nor_moments(
            "gradient", math.nan, "adamw"
        ),
    ),
    "a step is skipped where loss times norm overflows": (
        training,
        "train_step",
        'record["loss"].isfinite() & grad_norm.isfinite()',
        '(record["loss"] * grad_norm).isfinite()',
        lambda: test_training.test_what_is_reported_is_what_was_done(1e30, 1e18),
    ),
    "dropout goes on from where it was": (
        training,
        "train_step",
        "torch.manual_seed((config.seed * 1_000_003 + step) * processes() + rank())",
        "pass",
        lambda: _in_a_folder(
            test_training.test_a_killed_run_goes_on_to_the_same_weights_and_the_same_log,
            name="sft",
            dropout=0.2,
            at=9,
            kind="adamw",
        ),
    ),
    # the model
    "a value that is missing spoils the mean": (
        training,
        "means",
        "values.nanmean()",
        "values.mean()",
        test_training.test_the_mean_of_a_metric_is_over_the_values_that_there_are,
    ),
    "attention sees the future": (
        model,
        "causal",
        "is_causal=True",
        "is_causal=False",
        test_model.test_a_later_token_never_changes_an_earlier_logit,
    ),
    "cached attention sees padding": (
        generate,
        "remember",
        "places <= positions[:, None, :, None]",
        "places >= 0 * positions[:, None, :, None]",
        test_generate.test_greedy_decoding_equals_reading_everything_again,
    ),
    "generation reads the last column": (
        generate,
        "continue_batch",
        "hidden[torch.arange(len(prompts)), lengths - 1]",
        "hidden[:, -1]",
        test_generate.test_greedy_decoding_equals_reading_everything_again,
    ),
    # the numbers
    "ties are lost": (
        bradley_terry,
        "wins",
        "+ 0.5 * (ours == theirs)",
        "+ 0.0",
        test_evaluate.test_ties_count_half_everywhere,
    ),
    "every reward is beta log(pi / ref)": (
        objectives,
        "preference_metrics",
        "loss.rewards(y, **hyperparameters)",
        "(hyperparameters['beta'] * y.logratio)",
        lambda: test_evaluate.test_the_reward_is_the_loss_s_own("dpo_norm"),
    ),
    "two models answer the same prompts, and the error forgets it": (
        measuring,
        "evaluate",
        "mean_and_error(ours - theirs)",
        "mean_and_error(ours)",
        test_evaluate.test_the_summary_has_the_paired_error_of_the_gain_and_the_marks_of_each_answer,
    ),
    "0 log 0 is no number": (
        bradley_terry,
        "kl",
        ".masked_fill(p_logps.isneginf(), 0)",
        "",
        test_bradley_terry.test_kl_with_zeros,
    ),
    # the proof
    "pairs without people's probabilities": (
        exact,
        "expected_dpo",
        "probabilities * LOSSES",
        "LOSSES",
        test_exact.test_a_few_steps_go_towards_the_optimum,
    ),
}


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
def hasty(monkeypatch):
    any_counterexample_will_do(monkeypatch)


def any_counterexample_will_do(monkeypatch):
    """Finding one is enough here: do not look for the smallest. A test has taken its settings when it was
    defined, so they are changed where it keeps them.
    """
    kept = "_hypothesis_internal_use_settings"
    for test in [
        value
        for name, module in list(sys.modules.items())
        if name.startswith("tests.")
        for value in vars(module).values()
    ]:
        if isinstance(getattr(test, kept, None), settings):
            first = settings(
                getattr(test, kept), phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False
            )
            monkeypatch.setattr(test, kept, first)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, monkeypatch):
    module, name, old, new, killer = BUGS[bug]
    plant(monkeypatch, module, name, old, new)
    with pytest.raises(BaseException) as caught:
        killer()
    assert not isinstance(caught.value, (KeyboardInterrupt, SystemExit, SyntaxError, NameError, TypeError))
