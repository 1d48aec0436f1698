"""What a pair did to an answer: held to gradients, to the steps that were taken, and to leaving pairs out."""

import functools
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.batches import Batches, Encoded, EncodedPair, collate, collate_pairs
from mini_dpo.logprobs import response_logps
from mini_dpo.losses import LOSSES, PairLogps, Responses, find_loss
from mini_dpo.objectives import preference_objective
from mini_dpo.reference import freeze, know_reference, reference_logps
from mini_dpo.theory import bradley_terry
from mini_dpo.trace import __main__ as command
from mini_dpo.trace import influence, laboratory, path
from mini_dpo.trace.influence import adam_scale, correlation, doses, found_by, gradient, products, step_for
from mini_dpo.trace.laboratory import left_out
from mini_dpo.trace.path import Way, change, similarities, trace, without
from mini_dpo.train import __main__ as train
from tests.commands import SHORT, SMALL, preference_file, run
from tests.strategies import pair_logps, tiny_gpt
from tests.test_planted_bugs import plant

REFERENCE = tiny_gpt(seed=1)
ANSWER = Encoded([0, 3], [2, 1, 4])
TEXTS = [([0, 3], [2, 1], [4, 4, 1]), ([1], [2, 2, 4], [0]), ([2, 2], [3, 4], [1, 4]), ([0], [2, 1, 4], [3])]
SUMS = [
    name
    for name, loss in LOSSES.items()
    if loss.paired and not loss.mismatched and loss.fact("decomposes", **loss.hyperparameters)
]


def way_of(lr, steps, name="dpo", batch_size=4):
    """Plain gradient descent with this rate from a tiny model, a way whose every step is known. The reference
    is another model, so that the margins are not 0 at the start.
    """
    start, loss = tiny_gpt(), find_loss(name)
    pairs = [EncodedPair(Encoded(x, w), Encoded(x, l)) for x, w, l in TEXTS]
    pairs = know_reference(pairs, reference_logps(REFERENCE, pairs, "float32", 4))
    batches = Batches(pairs, collate_pairs, batch_size, seed=0)
    objective = preference_objective(loss, loss.hyperparameters, None)
    policy = freeze(start).requires_grad_(True)
    for k in range(steps):
        outcome = objective(policy, batches[k])
        slopes = torch.autograd.grad(outcome.loss / outcome.count, list(policy.parameters()))
        with torch.no_grad():
            for weight, slope in zip(policy.parameters(), slopes, strict=True):
                weight -= lr * slope
    return Way(start, policy, loss, loss.hyperparameters, batches, [lr] * steps, adam=False)


def explicit_products(model, direction):
    """g . grad log pi(y') for each response of the pairs, a backward pass each."""
    found = []
    for x, w, l in TEXTS:
        for said in (w, l):
            slope = gradient(model, response_logps(model, collate([Encoded(x, said)])).sum())
            found.append(sum((direction[name] * slope[name]).sum() for name in slope))
    return torch.stack(found)


def miss(lr, name="dpo"):
    """(what one step of this rate did to log pi(y), by how much the sum of all parts misses it)."""
    way = way_of(lr, 1, name)
    model = freeze(way.start).requires_grad_(True)
    similarity, logps = similarities(way, model, collate([ANSWER]), "all", "")
    parts = influence.contributions(way.losses, logps, similarity) / len(TEXTS)
    happened = change(way.start, way.end, ANSWER)
    return happened, abs(float(lr * parts.sum()) - happened)


def identity_holds():
    """The parts add up to what a step did, and half the rate leaves a quarter of the error."""
    happened, whole = miss(2e-3)
    _, half = miss(1e-3)
    return whole < 0.05 * abs(happened) and 3.6 < whole / half < 4.4


def test_the_parts_add_up_to_what_gradient_descent_did():
    assert identity_holds()


@pytest.mark.parametrize("name", ["ipo", "simpo", "orpo"])
def test_so_they_do_for_other_losses(name):
    happened, whole = miss(2e-5, name)
    assert whole < 0.05 * abs(happened) and 3.6 < whole / miss(1e-5, name)[1] < 4.4


@pytest.mark.parametrize(
    "module, name, old, new",
    [
        (influence, "contributions", "return -(", "return ("),
        (influence, "contributions", "PairLogps(*sides)", "PairLogps(*sides).swapped"),
        (path, "similarities", "for side in (0, 1)", "for side in (1, 0)"),
        (influence, "contributions", "side.lengths, side.ref)", "side.lengths, side.policy.detach() * 0)"),
        (influence, "products", "(2 * step)", "step"),
        (influence, "products", "(back, -step)", "(back, 0.0)"),
    ],
    ids=["sign", "chosen and rejected", "their log-probs", "no reference", "half a difference", "one side"],
)
def test_wrong_parts_do_not_add_up(monkeypatch, module, name, old, new):
    plant(monkeypatch, module, name, old, new)
    assert not identity_holds()


@pytest.mark.parametrize("layers", ["all", "last"])
def test_two_forward_passes_are_all_the_products_of_gradients(layers):
    model = tiny_gpt().requires_grad_(True)
    g = gradient(model, response_logps(model, collate([ANSWER])).sum(), layers)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    batches = [collate([Encoded(x, w), Encoded(x, l)]) for x, w, l in TEXTS]
    logps, found = products(model, g, step_for(g, g), batches)
    torch.testing.assert_close(found, explicit_products(model, g), rtol=1e-6, atol=1e-6)
    scored = torch.cat([response_logps(model, batch) for batch in batches]).detach()
    torch.testing.assert_close(logps, scored, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_the_last_layers_are_the_last_ones():
    model = tiny_gpt().requires_grad_(True)
    g = gradient(model, response_logps(model, collate([ANSWER])).sum(), "last")
    moved = {name for name, slope in g.items() if slope.any()}
    assert moved and all(name.startswith((f"h.{len(model.h) - 1}.", "ln_f.")) for name in moved)


@given(pair_logps(), st.sampled_from(SUMS), st.integers(0, 99))
def test_the_part_of_a_pair_is_its_own_loss_along_the_direction(logps, name, seed):
    """For every loss that is a sum over pairs, against the loss's own central difference."""
    loss = LOSSES[name]
    K = torch.randn(len(logps), 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = influence.contributions(functools.partial(loss, **loss.hyperparameters), logps, K)
    e, sides = 1e-6, (logps.chosen, logps.rejected)

    def moved(by):
        there = [Responses(s.policy + by * K[:, i], s.lengths, s.ref) for i, s in enumerate(sides)]
        return loss(PairLogps(*there), **loss.hyperparameters)

    slope = (moved(e) - moved(-e)) / (2 * e)
    smooth = (moved(e) - 2 * moved(0) + moved(-e)).abs() < 1e-9  # not across a kink
    close = (found + slope).abs() <= 1e-4 * (1 + slope.abs())
    assert bool((close | ~smooth).all())


# --- the way of a run


LR, STEPS, ROWS = 0.03, 4, 2  # two pairs per step: some are seen early on the way, others late


def by_steps():
    """What each pair did, from the model that its step began with: (N,)."""
    parts = torch.zeros(len(TEXTS)).double()
    for k in range(STEPS):
        way, (seen,) = way_of(LR, k, batch_size=ROWS), way_of(LR, k + 1, batch_size=ROWS).order[k]
        model = freeze(way.end).requires_grad_(True)
        similarity, logps = similarities(way, model, collate([ANSWER]), "all", "")
        parts[seen] += LR / ROWS * influence.contributions(way.losses, logps, similarity)[seen]
    return parts


def way_is_followed():
    """From the two ends of the way the parts are nearly those of the steps, pair by pair."""
    traced, wanted = trace(way_of(LR, STEPS, batch_size=ROWS), ANSWER, points=2).parts, by_steps()
    return bool((traced - wanted).norm() < 0.05 * wanted.norm())


def test_the_parts_of_a_way_are_those_of_its_steps():
    assert way_is_followed()


@pytest.mark.parametrize(
    "module, name, old, new",
    [
        (path, "trace", "k / (points - 1)", "1 - k / (points - 1)"),
        (path, "trace", "k / (points - 1)", "1.0"),
        (influence, "doses", "- rate) /", "* 0) /"),
        (influence, "doses", "/ len(pairs)).expand", ").expand"),
    ],
    ids=["from end to start", "only at the end", "the start for all", "sum for mean"],
)
def test_a_wrong_way_is_found(monkeypatch, module, name, old, new):
    plant(monkeypatch, module, name, old, new)
    assert not way_is_followed()


@given(st.integers(2, 6), st.lists(st.floats(0.01, 2), min_size=1, max_size=8), st.integers(0, 99))
def test_doses_are_the_rates(points, rates, seed):
    """Whatever the places: each step's rate is dealt in whole, in equal shares to the pairs that it saw."""
    generator = torch.Generator().manual_seed(seed)
    order = [[torch.randint(5, (2,), generator=generator).tolist() for _ in range(2)] for _ in rates]
    dealt = doses(order, rates, 5, points)
    wanted = torch.zeros(5).double()
    for step, rate in zip(order, rates, strict=True):
        for i in chain.from_iterable(step):
            wanted[i] += rate / 4
    torch.testing.assert_close(dealt.sum(0), wanted)
    assert dealt.min() >= 0


def test_the_doubt_is_the_chance_of_the_other_label():
    way = way_of(2e-2, 10)
    h = [change(REFERENCE, way.end, p.chosen) - change(REFERENCE, way.end, p.rejected) for p in way.pairs]
    wanted = torch.sigmoid(-way.options["beta"] * torch.tensor(h).double())
    assert (wanted - 0.5).abs().max() > 0.1
    torch.testing.assert_close(trace(way, ANSWER).doubt, wanted, rtol=1e-5, atol=1e-6)


def test_the_scale_of_adam_is_one_over_the_root_mean_square():
    way = way_of(1e-3, 0, batch_size=2)
    model = freeze(way.start).requires_grad_(True)
    batches = [way.batches[k] for k in range(2)]
    scale = adam_scale(model, way.objective, batches)
    slopes = [gradient(model, o.loss / o.count) for o in (way.objective(model, b) for b in batches)]
    for name, found in scale.items():
        square = sum(slope[name] ** 2 for slope in slopes) / 2
        seen = square > 0
        torch.testing.assert_close(found[seen], square[seen] ** -0.5)
        assert not found[~seen].any()


def test_no_batch_is_left_without_a_pair():
    order = [[0, 1], [2, 3], [0, 2]]
    for seed in range(20):
        left = without(order, 4, path.random.Random(seed))
        assert left and not any(left.issuperset(batch) for batch in order)


# --- the world where each pair's part is known


def tells_the_truth():
    found = left_out(seed=0)
    return (
        found["dpo curvature"] > 0.99
        and found["dpo gradients"] > 0.8
        and abs(found["rlhf gradients"] - found["dpo gradients"]) < 1e-3
        and found["rloo gradients"] > 0.8
        and found["flipped"] > 0.9
    )


def test_parts_are_what_leaving_out_shows():
    assert tells_the_truth()


@pytest.mark.parametrize(
    "module, name, old, new",
    [
        (bradley_terry, "dpo_gradient", "(r_l, r_w)", "(r_w, r_l)"),
        (laboratory, "guesses", "similarity[winners]", "similarity[losers]"),
    ],
    ids=["sigmoid(m)", "chosen and rejected"],
)
def test_wrong_parts_are_not(monkeypatch, module, name, old, new):
    monkeypatch.setattr(laboratory, "RL_STEPS", 1)
    plant(monkeypatch, module, name, old, new)
    assert not tells_the_truth()


def test_correlation_and_auc():
    a = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(correlation(a, 3 * a + 1), torch.ones(2).double())
    both = torch.stack([a[:, 0], a[:, 1]])
    torch.testing.assert_close(correlation(a[:, 0], a[:, 1]), torch.corrcoef(both)[0, 1])
    assert found_by(torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([False, True, False, True])) == 0.875


# --- the command


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small run."""
    folder = tmp_path_factory.mktemp("trace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train"])
        patch.chdir(folder)
        data = preference_file(folder / "mine.jsonl", n=24)
        patch.setattr("sys.argv", ["train", "--data", str(data), "--out", "run", *SMALL, *SHORT])
        train.run_command(train.main)
    return folder / "run"


def test_the_command_prints_pairs_and_the_answer(finished, monkeypatch, capsys):
    status, out, err = run(
        monkeypatch,
        capsys,
        command,
        finished,
        "say 3",
        "--answer",
        "yes yes",
        "--suspects",
        2,
        "--retrain",
        2,
    )
    assert (status, err) == (0, "")
    assert "<|endoftext|>(" in out
    for heading in ("helped this answer most", "harmed this answer most", "doubts most"):
        assert heading in out
    assert out.count("  chosen    yes") == out.count("  rejected  no") == 3 + 3 + 2
    assert "correlation over 2 random halves" in out


def test_what_cannot_be_traced_is_refused_in_a_line(finished, tmp_path, monkeypatch, capsys):
    for wrong in (["--points", 1], ["--top", -1], ["--answer", "yes " * 50]):
        status, _, err = run(monkeypatch, capsys, command, finished, "say 3", *wrong)
        assert status == 2 and err.count("\n") == 1
    assert run(monkeypatch, capsys, command, tmp_path, "say 3")[0] == 2
