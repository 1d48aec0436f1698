"""The loop: accumulation, schedule, going on after a stop, stopping at nonsense; and both objectives in
it.
"""

import json
import math
import os
import signal
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_dpo import progress
from mini_dpo.batches import Batches, Encoded, EncodedPair, collate, collate_pairs
from mini_dpo.errors import TrainingFailed
from mini_dpo.feedback import collate_feedback, collate_for, split_pairs, unpaired_logps
from mini_dpo.logprobs import response_logps, score_reference
from mini_dpo.losses import LOSSES
from mini_dpo.objectives import Outcome, pair_logps, preference_objective, sft_objective
from mini_dpo.optimizers import LoopConfig, learning_rate, make_optimizer
from mini_dpo.progress import watched
from mini_dpo.reference import freeze, precompute_reference
from mini_dpo.saving import stages
from mini_dpo.saving.checkpoint import load_checkpoint
from mini_dpo.saving.stages import StageFiles
from mini_dpo.training import FETCH_EVERY, fetch, means, score, train, train_step
from tests.oracles import response_logp
from tests.strategies import encoded_pairs, tiny_gpt

HYPER = LOSSES["dpo"].hyperparameters
TAKEN = {"grad_norm": torch.tensor(1.0), "taken": torch.tensor(True)}


def some_sequences(n=24, seed=0):
    """Sequences of assorted lengths over the tiny vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda low, high, size: torch.randint(low, high, size, generator=generator).tolist()  # noqa: E731
    sequences = []
    for _ in range(n):
        prompt, response = draw(0, 5, (draw(1, 5, (1,))[0],)), draw(0, 5, (draw(1, 7, (1,))[0],))
        sequences.append(Encoded(prompt, response))
    return sequences


def some_pairs(n=12):
    """The first n sequences as chosen responses; the rejected ones are the responses of others to the same
    prompts.
    """
    sequences = some_sequences(2 * n)
    return [
        EncodedPair(w, Encoded(w.prompt, l.response))
        for w, l in zip(sequences[:n], sequences[n:], strict=True)
    ]


def same_weights(a, b):
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def objectives():
    """Each objective with a function from a batch size to the batches that it takes."""
    dpo = preference_objective(LOSSES["dpo"], HYPER, freeze(tiny_gpt(7)))
    return {
        "sft": (sft_objective, lambda size: Batches(some_sequences(), collate, size, seed=0)),
        "dpo": (dpo, lambda size: Batches(some_pairs(), collate_pairs, size, seed=0)),
        "tokens": (dpo, lambda size: Batches(some_pairs(), collate_pairs, None, seed=0, tokens=12 * size)),
    }


both = pytest.mark.parametrize("name", ["sft", "dpo"])
each_optimizer = pytest.mark.parametrize("kind", ["adamw", "muon"])


# --- the step


@both
@given(cuts=st.lists(st.integers(1, 11), max_size=4))
def test_accumulated_batches_make_the_gradient_of_one_large_batch(name, cuts):
    """Whichever way a batch is cut. Catches a mean of means, which weighs short responses and small batches
    more.
    """
    objective, _ = objectives()[name]
    examples, collate_ = (some_sequences(12), collate) if name == "sft" else (some_pairs(12), collate_pairs)
    bounds = [0, *sorted(set(cuts)), 12]
    pieces = [collate_(examples[a:b]) for a, b in pairwise(bounds)]
    config = LoopConfig(steps=1, lr=1e-3, grad_clip=math.inf)
    gradients, records = [], []
    for micro_batches in ([collate_(examples)], pieces):
        policy = tiny_gpt()
        records.append(
            train_step(policy, make_optimizer(policy, config), objective, micro_batches, config, 0)
        )
        gradients.append([p.grad for p in policy.parameters()])
    for whole, cut in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, cut, rtol=1e-9, atol=1e-11)
    (whole,), (cut,) = (fetch([record], name, 1) for record in records)
    assert whole == pytest.approx(cut, rel=1e-9, abs=1e-11)


def test_sft_loss_is_the_mean_over_response_tokens():
    policy, sequences = tiny_gpt(), some_sequences(5)
    batch = collate(sequences)
    total = response_logps(policy, batch).sum()
    outcome = sft_objective(policy, batch)
    assert outcome.count == sum(len(s.response) for s in sequences)
    torch.testing.assert_close(outcome.loss, -total)


def test_gradients_are_the_mean_s():
    """Not the sum's: clipping and weight decay would depend on the batch."""
    policy, batch, config = (
        tiny_gpt(),
        collate(some_sequences()),
        LoopConfig(steps=1, lr=0.0, grad_clip=math.inf),
    )
    train_step(policy, make_optimizer(policy, config), sft_objective, [batch], config, 0)
    found = [p.grad.clone() for p in policy.parameters()]
    outcome = sft_objective(policy, batch)
    expected = torch.autograd.grad(outcome.loss / outcome.count, list(policy.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_logged():
    policy, config = tiny_gpt(), LoopConfig(steps=1, lr=0.0, grad_clip=0.01)
    record = train_step(
        policy, make_optimizer(policy, config), sft_objective, [collate(some_sequences())], config, 0
    )
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in policy.parameters()))
    assert record["grad_norm"] > 0.1 and norm == pytest.approx(0.01, rel=1e-4)


@given(st.integers(0, 20), st.integers(1, 200))
def test_schedule_rises_in_a_line_and_falls_in_a_cosine_to_zero(warmup, rest):
    config = LoopConfig(steps=warmup + rest, lr=2.0, warmup=warmup)
    rates = [learning_rate(step, config) for step in range(config.steps)]
    assert rates[:warmup] == pytest.approx([2.0 * (i + 1) / warmup for i in range(warmup)])
    assert rates[warmup] == 2.0 == max(rates) and all(a >= b for a, b in pairwise(rates[warmup:]))
    assert rates[-1] > 0 and learning_rate(config.steps, config) == pytest.approx(0)
    assert learning_rate(warmup + rest // 2, config) == pytest.approx(
        1 + math.cos(math.pi * (rest // 2) / rest)
    )


@each_optimizer
def test_weight_decay_is_for_matrices_only(kind):
    policy = tiny_gpt()
    groups = make_optimizer(
        policy, LoopConfig(steps=1, lr=1e-3, optimizer=kind, weight_decay=0.5)
    ).param_groups
    assert all(
        group["weight_decay"] == (0.5 if p.dim() == 2 else 0) for group in groups for p in group["params"]
    )
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(
        id(p) for p in policy.parameters()
    )


@each_optimizer
@both
def test_training_lowers_the_loss(name, kind):
    objective, batches = objectives()[name]
    policy = tiny_gpt()
    before = score(policy, objective, batches(4), "float32")["loss"]
    train(policy, objective, batches(4), LoopConfig(steps=60, lr=1e-2, optimizer=kind))
    assert score(policy, objective, batches(4), "float32")["loss"] < 0.8 * before


def test_bfloat16_autocast_trains_with_float32_weights_and_log_probs():
    policy = tiny_gpt().float()
    reference = freeze(policy)
    batches = Batches(some_pairs(), collate_pairs, 4, seed=0)
    seen = []
    objective = preference_objective(LOSSES["dpo"], HYPER, reference)

    def watched(policy, batch):
        outcome = objective(policy, batch)
        seen.append(
            (outcome.loss.dtype, outcome.metrics["logps/chosen"].dtype, torch.is_autocast_enabled("cpu"))
        )
        return outcome

    train(policy, watched, batches, LoopConfig(steps=3, lr=1e-3, dtype="bfloat16"))
    assert set(seen) == {(torch.float32, torch.float32, True)}
    assert {p.dtype for p in policy.parameters()} == {torch.float32} and not same_weights(policy, reference)


# --- the reference


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_run_begins_at_the_reference_s_own_value(loss):
    """The policy starts as a copy: log-ratios are zero to the bit, dropout or not, and the loss is what it
    declares.
    """
    start = tiny_gpt(dropout=0.3).train()
    policy = freeze(start).requires_grad_(True).train()
    batch = collate_for(loss, context=12)(some_pairs() if loss.paired else split_pairs(some_pairs()))
    outcome = preference_objective(loss, loss.hyperparameters, freeze(start) if loss.reference else None)(
        policy, batch
    )
    if loss.facts.at_reference:
        # of a pair, or of one of its halves
        expected = loss.facts.at_reference(**loss.hyperparameters) * (1 if loss.paired else 0.5)
        assert float(outcome.loss.detach()) / outcome.count == pytest.approx(expected, abs=1e-12)
        if loss.paired:
            assert (
                not outcome.metrics["rewards/margins"].any()
                and (outcome.metrics["rewards/accuracies"] == 0.5).all()
            )
    if loss.reference and loss.reward is None:
        assert (outcome.metrics["rewards/accuracies"] == 0.5).all(), (
            "all are ties, of single responses as well"
        )
        assert not any(
            outcome.metrics[f"rewards/{which}"].nan_to_num().any() for which in ("chosen", "rejected")
        )
    assert not any(values.requires_grad or values.isinf().any() for values in outcome.metrics.values())
    without = {
        name: values.isnan().tolist() for name, values in outcome.metrics.items() if values.isnan().any()
    }
    liked = [] if loss.paired else batch.desirable.tolist()
    assert loss.paired or without.pop("rewards/chosen") == without.pop("logps/chosen") == [
        not label for label in liked
    ]
    assert loss.paired or without.pop("rewards/rejected") == without.pop("logps/rejected") == liked
    assert not without, (
        "only a metric of liked responses may have no value for a disliked one, and the reverse"
    )


def test_the_reference_never_changes_and_gets_no_gradient():
    policy = tiny_gpt()
    reference = freeze(policy)
    as_it_was = freeze(reference)
    reference.requires_grad_(True)  # even a reference that somebody forgot to freeze
    objective = preference_objective(LOSSES["dpo"], HYPER, reference)
    train(policy, objective, Batches(some_pairs(), collate_pairs, 4, seed=0), LoopConfig(steps=5, lr=1e-2))
    assert same_weights(reference, as_it_was) and not same_weights(policy, reference)
    assert all(p.grad is None for p in reference.parameters())


def test_freeze_is_a_copy():
    policy = tiny_gpt(dropout=0.3).train()
    reference = freeze(policy)
    with torch.no_grad():
        policy.wte.weight.add_(1)
    assert not torch.equal(policy.wte.weight, reference.wte.weight)
    assert not reference.training and not any(p.requires_grad for p in reference.parameters())


def test_training_is_the_same_with_reference_log_probs_known_ahead():
    start = tiny_gpt(3)
    pairs = some_pairs()
    known = precompute_reference(freeze(start), pairs, dtype="float32", batch_size=5)
    for other_batches in (dict(batch_size=12), dict(batch_size=None, tokens=40)):
        again = precompute_reference(freeze(start), pairs, dtype="float32", **other_batches)
        torch.testing.assert_close(*(torch.tensor([p.ref_logps for p in them]) for them in (again, known)))
    trained = []
    for examples, reference in ((pairs, freeze(start)), (known, None)):
        policy = freeze(start).requires_grad_(True)
        objective = preference_objective(LOSSES["dpo"], HYPER, reference)
        train(policy, objective, Batches(examples, collate_pairs, 4, seed=0), LoopConfig(steps=10, lr=1e-3))
        trained.append(policy)
    for a, b in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        # they are kept in float32, the model is in float64
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@settings(max_examples=10)
@given(encoded_pairs(n=3))
def test_pairs_are_scored_as_their_sequences_are(pairs):
    """Each apart, chosen as chosen and rejected as rejected, under the policy and under the reference."""
    policy, reference = tiny_gpt(1), freeze(tiny_gpt(2))
    logps = pair_logps(policy, reference, collate_pairs(pairs))
    sequences = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    expected = torch.stack([response_logps(model, collate(sequences)) for model in (policy, reference)]).view(
        4, 3
    )
    found = torch.stack([logps.chosen.policy, logps.rejected.policy, logps.chosen.ref, logps.rejected.ref])
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    lengths = [len(s.response) for s in sequences]
    assert torch.cat([logps.chosen.lengths, logps.rejected.lengths]).tolist() == lengths


def test_no_reference_at_all_is_refused():
    with pytest.raises(ValueError, match="there is no reference"):
        preference_objective(LOSSES["dpo"], HYPER, None)(tiny_gpt(), collate_pairs(some_pairs()))


def test_the_reference_builds_no_graph():
    forgotten = tiny_gpt().requires_grad_(True)
    assert not score_reference(forgotten, collate_pairs(some_pairs()).sequences).requires_grad


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_sft_weight_adds_the_chosen_response_s_nll_a_token(weight):
    policy, reference = tiny_gpt(3), freeze(tiny_gpt(7))
    for loss, batch in (
        ("dpo", collate_pairs(some_pairs())),
        ("apo_zero_unpaired", collate_feedback(split_pairs(some_pairs()))),
    ):
        plain, more = (
            preference_objective(LOSSES[loss], {"beta": 0.3}, reference, w)(policy, batch).loss
            for w in (0.0, weight)
        )
        chosen = [
            response_logp(policy, *pair.chosen[:2]) / len(pair.chosen.response) for pair in some_pairs()
        ]
        assert float((more - plain).detach()) == pytest.approx(-weight * sum(chosen), abs=1e-9)


# --- single responses


def test_single_responses_are_scored_as_their_sequences_are():
    policy, reference = tiny_gpt(3), freeze(tiny_gpt(7))
    examples = split_pairs(some_pairs())
    logps = unpaired_logps(policy, reference, collate_feedback(examples, context=12))
    for model, found in ((policy, logps.responses.policy), (reference, logps.responses.ref)):
        expected = [response_logp(model, *e.sequence[:2]) for e in examples]
        torch.testing.assert_close(found.tolist(), expected, rtol=1e-9, atol=1e-9)
    assert logps.desirable.tolist() == [e.desirable for e in examples]
    parts = [e.sequence for e in examples]
    others = [
        (prompt, next(other.response for other in parts[i:] + parts[:i] if other.prompt != prompt))
        for i, (prompt, *_) in enumerate(parts)
    ]
    expected = [response_logp(policy, *other[:2]) - response_logp(reference, *other[:2]) for other in others]
    torch.testing.assert_close(logps.mismatched.tolist(), expected, rtol=1e-9, atol=1e-9)
    assert not logps.mismatched.requires_grad


def test_metrics_of_a_batch_in_which_nothing_is_liked_are_left_out():
    policy, reference = tiny_gpt(3), freeze(tiny_gpt(7))
    disliked = [e._replace(desirable=False) for e in split_pairs(some_pairs())]
    with torch.no_grad():
        outcome = preference_objective(LOSSES["kto"], {"beta": 0.3}, reference)(
            policy, collate_feedback(disliked, context=12)
        )
    (logged,) = fetch([{**means([outcome]), **TAKEN}], "dpo", 1)
    assert "rewards/chosen" not in logged and "logps/chosen" not in logged
    assert (
        all(math.isfinite(value) for value in logged.values())
        and {"rewards/rejected", "logps/rejected", "kl"} <= logged.keys()
    )


@given(
    st.lists(st.lists(st.floats(-9, 9) | st.just(math.nan), min_size=1, max_size=4), min_size=1, max_size=4)
)
def test_the_mean_of_a_metric_is_over_the_values_that_there_are(batches):
    """Each value weighs the same, in whichever batch it is; a metric without any is not logged."""
    outcomes = [
        Outcome(torch.tensor(2.0 * len(values)), len(values), {"reward": torch.tensor(values)})
        for values in batches
    ]
    (logged,) = fetch([{**means(outcomes), **TAKEN}], "dpo", 1)
    there = [value for values in batches for value in values if not math.isnan(value)]
    assert logged["loss"] == 2.0 and ("reward" in logged) == bool(there)
    assert not there or logged["reward"] == pytest.approx(sum(there) / len(there), abs=1e-5)


# --- stopping and going on


class Killed(BaseException):
    """Stands for a process that is gone: nothing after it runs."""


def interrupted(objective, at):
    """The objective, until it is called for the `at`-th time."""
    calls = iter(range(10**9))

    def wrapped(policy, batch):
        if next(calls) == at:
            raise Killed
        return objective(policy, batch)

    return wrapped


@pytest.mark.parametrize(
    "name, dropout, at, kind",
    [*product(["sft", "dpo"], [0.2], [0, 2, 5, 9, 11, 16], ["adamw", "muon"]), ("tokens", 0.0, 9, "adamw")],
)
def test_a_killed_run_goes_on_to_the_same_weights_and_the_same_log(tmp_path, name, dropout, at, kind):
    objective, batches = objectives()[name]
    config = LoopConfig(steps=11, lr=1e-2, warmup=2, optimizer=kind, save_every=4, eval_every=3)
    valid = batches(5)
    outcomes = []
    for run, kill_at in (("whole", None), ("killed", at)):
        folder = tmp_path / run
        folder.mkdir()
        files = StageFiles(name, folder, "toy")
        if kill_at is not None:
            with pytest.raises(Killed):
                train(
                    tiny_gpt(dropout=dropout),
                    interrupted(objective, kill_at),
                    batches(3),
                    config,
                    files,
                    valid,
                )
            with open(folder / "metrics.jsonl", "ab") as log:
                log.write(b'{"half a li')
        policy = tiny_gpt(dropout=dropout)
        train(policy, objective, batches(3), config, files, valid)
        outcomes.append((policy, (folder / "metrics.jsonl").read_bytes()))
    (whole, whole_log), (resumed, resumed_log) = outcomes
    assert same_weights(whole, resumed)
    assert whole_log == resumed_log
    rows = [json.loads(line) for line in whole_log.splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 12))
    assert [row["step"] for row in rows if "eval_loss" in row] == [3, 6, 9, 11]


def test_a_finished_stage_is_not_trained_again_and_loses_its_optimizer(tmp_path):
    files = StageFiles("sft", tmp_path, "toy")
    config = LoopConfig(steps=3, lr=1e-2)
    policy = tiny_gpt()
    train(policy, sft_objective, Batches(some_sequences(), collate, 4, 0), config, files)
    assert "optimizer" not in load_checkpoint(files.checkpoint)
    again = tiny_gpt(5)
    train(again, interrupted(sft_objective, 0), Batches(some_sequences(), collate, 4, 0), config, files)
    assert same_weights(policy, again)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_the_run_and_spares_the_checkpoint(tmp_path, poison):
    calls = iter(range(100))

    def objective(policy, batch):
        outcome = sft_objective(policy, batch)
        if next(calls) < 6:
            return outcome
        loss = (
            outcome.loss * math.nan
            if poison == "loss"
            else outcome.loss + (policy.wte.weight[0, 0] * 0).sqrt()
        )
        return Outcome(loss, outcome.count, {})

    policy, files = tiny_gpt(), StageFiles("sft", tmp_path, "toy")
    with pytest.raises(
        TrainingFailed, match="sft, step 7: the loss is .* start again with a lower learning rate"
    ):
        train(
            policy,
            objective,
            Batches(some_sequences(), collate, 4, 0),
            LoopConfig(steps=20, lr=1e-3, save_every=2),
            files,
        )
    saved = load_checkpoint(files.checkpoint)
    assert saved["step"] == 6
    assert all(torch.isfinite(tensor).all() for tensor in saved["model"].values())
    assert all(torch.isfinite(p).all() for p in policy.parameters()), "the bad step must not be taken"


@each_optimizer
@pytest.mark.parametrize("poison", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_step_changes_neither_weights_nor_moments(poison, value, kind):
    """Nobody looks at the loss between the backward pass and the optimizer: the optimizer itself has to stay
    where it is, and to go on from there as if the step had not been.
    """

    def objective(policy, batch):
        outcome = sft_objective(policy, batch)
        loss = (
            outcome.loss * value if poison == "loss" else outcome.loss + (policy.wte.weight[0, 0] * 0).sqrt()
        )
        return outcome._replace(loss=loss)

    batch, config = collate(some_sequences()), LoopConfig(steps=9, lr=1e-2, optimizer=kind, weight_decay=0.5)
    trained = []
    for steps in ([sft_objective] * 2, [sft_objective, objective, sft_objective]):
        policy = tiny_gpt()
        optimizer = make_optimizer(policy, config)
        for step in steps:
            train_step(policy, optimizer, step, [batch], config, 0)
        trained.append((policy, [moment for state in optimizer.state.values() for moment in state.values()]))
    (without, moments), (with_it, same) = trained
    assert same_weights(without, with_it) and all(
        torch.equal(a, b) for a, b in zip(moments, same, strict=True)
    )


@pytest.mark.parametrize("gradient", [1.0, 1e18, math.inf, math.nan])
@pytest.mark.parametrize("loss", [1.0, 1e30, math.inf, math.nan])
def test_what_is_reported_is_what_was_done(loss, gradient):
    """A step is taken exactly where loss and gradient are finite, each alone: their product may be too large
    for its type, and a loss may be no number whose gradient is 0.
    """

    def objective(policy, batch):
        weight = policy.wte.weight[0, 0]
        return Outcome(loss + gradient * (weight - weight.detach()), 1, {})

    policy, config = tiny_gpt().float(), LoopConfig(steps=9, lr=1e-2)
    before, optimizer = freeze(policy), make_optimizer(policy, config)
    record = train_step(policy, optimizer, objective, [collate(some_sequences())], config, 0)
    finite = math.isfinite(loss) and math.isfinite(gradient)
    assert same_weights(policy, before) == (not finite)
    if finite:
        assert "taken" not in fetch([record], "sft", 1)[0]
    else:
        with pytest.raises(TrainingFailed, match="step 1: the loss is .* the step was not taken"):
            fetch([record], "sft", 1)


@pytest.mark.parametrize("bad", [3, FETCH_EVERY, FETCH_EVERY + 2])
def test_a_bad_step_is_found_by_its_own_number_even_if_nobody_looked_for_a_while(bad):
    calls = iter(range(1, 1000))

    def objective(policy, batch):
        outcome = sft_objective(policy, batch)
        return outcome._replace(loss=outcome.loss * (math.nan if next(calls) == bad else 1))

    policy, config = tiny_gpt(), LoopConfig(steps=1000, lr=1e-3, save_every=1000, eval_every=1000)
    with pytest.raises(TrainingFailed, match=f"train, step {bad}: the loss is nan .* the step was not taken"):
        train(policy, objective, Batches(some_sequences(), collate, 4, 0), config)
    assert next(calls) <= bad + FETCH_EVERY and all(p.isfinite().all() for p in policy.parameters())


def test_however_seldom_anybody_looks_the_log_has_every_step(tmp_path):
    """The records of several steps are fetched together: each under its own number, with its own learning
    rate.
    """
    logs = []
    for save_every in (1, 7, 100):
        files = StageFiles("sft", tmp_path / str(save_every), "toy")
        files.folder.mkdir()
        config = LoopConfig(steps=2 * FETCH_EVERY + 3, lr=1e-3, warmup=3, save_every=save_every)
        train(tiny_gpt(), sft_objective, Batches(some_sequences(), collate, 4, 0), config, files)
        logs.append((files.folder / "metrics.jsonl").read_bytes())
    assert logs[0] == logs[1] == logs[2]
    rows = [json.loads(line) for line in logs[0].splitlines()]
    assert [(row["step"], row["learning_rate"]) for row in rows] == [
        (i + 1, learning_rate(i, config)) for i in range(config.steps)
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
# also when it was the stage's last step, which must not go on to the next stage
@pytest.mark.parametrize("steps", [20, 4])
def test_ctrl_c_saves_at_the_end_of_the_step(tmp_path, number, steps):
    calls = iter(range(100))

    def objective(policy, batch):
        if next(calls) == 3:
            os.kill(os.getpid(), number)
        return sft_objective(policy, batch)

    files, before = StageFiles("sft", tmp_path, "toy"), signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(
            tiny_gpt(),
            objective,
            Batches(some_sequences(), collate, 4, 0),
            LoopConfig(steps=steps, lr=1e-3),
            files,
        )
    saved = load_checkpoint(files.checkpoint)
    assert (saved["step"], saved["finished"]) == (4, steps == 4)
    assert len((tmp_path / "metrics.jsonl").read_bytes().splitlines()) == 4
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step, at", [(3, 0), (3, 2), (6, 1), (10, 0)])
def test_a_look_is_stopped_at_once_and_made_up_for(tmp_path, number, step, at):
    """In the middle of a batch of it, at a step with a checkpoint and without, and after the last one: no
    step is lost, and weights and log are those of a run that nobody stopped. at: the batch of the look.
    """
    config = LoopConfig(steps=10, lr=1e-2, warmup=2, save_every=6, eval_every=3)
    batches, looks, logs = Batches(some_sequences(), collate, 3, seed=0), [], []
    ends = []

    def objective(policy, batch):
        if not torch.is_grad_enabled():
            looks.append(batch)
            if len(looks) == (step + 2) // 3 * 8 - 8 + at + 1 and stopping:
                os.kill(os.getpid(), number)
                pytest.fail("the batch went on")
        return sft_objective(policy, batch)

    for stopping in (False, True):
        looks.clear()
        folder = tmp_path / str(stopping)
        folder.mkdir()
        files, before = StageFiles("sft", folder, "toy"), signal.getsignal(number)
        if stopping:
            with pytest.raises(KeyboardInterrupt):
                train(tiny_gpt(dropout=0.1), objective, batches, config, files, batches)
            saved = load_checkpoint(files.checkpoint)
            assert (saved["step"], saved["finished"], saved["owed"].keys()) == (
                step,
                False,
                {"loss", "grad_norm"},
            )
            assert (
                len((folder / "metrics.jsonl").read_bytes().splitlines()) == step - 1
                and signal.getsignal(number) is before
            )
        policy = tiny_gpt(dropout=0.1)
        train(policy, objective, batches, config, files, batches)
        logs.append((folder / "metrics.jsonl").read_bytes())
        ends.append(policy)
    assert logs[0] == logs[1] and same_weights(*ends) and load_checkpoint(files.checkpoint)["finished"]


def test_a_stop_that_is_asked_for_in_a_step_does_not_wait_for_the_look(tmp_path):
    def objective(policy, batch):
        assert torch.is_grad_enabled(), "a look was begun"
        os.kill(os.getpid(), signal.SIGINT)
        return sft_objective(policy, batch)

    files, batches = StageFiles("sft", tmp_path, "toy"), Batches(some_sequences(), collate, 4, 0)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_gpt(), objective, batches, LoopConfig(steps=5, lr=1e-3, eval_every=1), files, batches)
    assert load_checkpoint(files.checkpoint)["owed"]


class Clock:
    """In place of `time`, for training.py: a step takes a second, a batch of a look a thousand."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def objective(self, policy, batch):
        self.now += 1 if torch.is_grad_enabled() else 1000
        return sft_objective(policy, batch)


def test_a_look_counts_for_neither_speed_nor_time_left_and_is_seen(tmp_path, monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(stages, "time", clock)
    batches = Batches(some_sequences(), collate, 12, seed=0)
    tokens = sum(s.n_tokens for s in some_sequences())
    train(tiny_gpt(), clock.objective, batches, LoopConfig(steps=20, lr=1e-3, eval_every=2), valid=batches)
    lines = [line for line in capsys.readouterr().out.splitlines() if "step" in line]
    assert len(lines) == 10
    for i, line in enumerate(lines):
        assert f"{round(tokens / 2):,} tokens/s  0:{18 - 2 * i:02} left" in line


def test_seconds_add_up_over_stops(tmp_path, monkeypatch, capsys):
    """Those before a stop, those of the looks, and those from when the stage began to its first step."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(stages, "time", clock)
    batches, config = (
        Batches(some_sequences(), collate, 12, seed=0),
        LoopConfig(steps=8, lr=1e-3, eval_every=8),
    )

    def stopped(policy, batch):
        if clock.now == 14:
            os.kill(os.getpid(), signal.SIGTERM)
        return clock.objective(policy, batch)

    started, clock.now = clock.now, 10.0  # ten seconds went by before the first step
    with pytest.raises(KeyboardInterrupt):
        train(tiny_gpt(), stopped, batches, config, StageFiles("sft", tmp_path, "toy", started), batches)
    clock.now = 1e6
    for _ in range(2):  # a stage that is finished says the same
        assert (
            train(
                tiny_gpt(), clock.objective, batches, config, StageFiles("sft", tmp_path, "toy", 1e6), batches
            )
            == 10 + 8 + 2000
        )


def test_work_that_goes_on_says_so_now_and_then(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr("mini_dpo.progress.time", clock)
    for item in watched("abcdefgh", 8, "looking"):
        clock.now += 4
    assert item == "h" and capsys.readouterr().out.splitlines() == [
        "looking: 3 of 8 batches",
        "looking: 6 of 8 batches",
    ]
