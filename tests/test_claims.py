"""The verdicts on claims: each can be any of the four; a wrong expectation and a wrong world turn them."""

import functools
import io
import math
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.claims import (
    FULL,
    QUICK,
    labels,
    likelihood,
    optimum,
    relatives,
    rivals,
    shop,
    shop_costs,
    shop_judges,
    shop_labels,
    shop_memory,
    shop_rivals,
    shop_runs,
    shop_tuning,
    worlds,
)
from mini_dpo.claims import __main__ as command
from mini_dpo.claims.claim import Claim, Wanted, above, below, interval
from mini_dpo.claims.kept import Kept
from mini_dpo.corpus.worlds import words_of, world_corpus
from mini_dpo.files import read_json, write_json
from mini_dpo.losses import LOSSES
from mini_dpo.pictures import find_tokenizer
from mini_dpo.rlhf.__main__ import Setup
from mini_dpo.theory.bradley_terry import expected_reward, kl, optimal_policy
from mini_dpo.trace import laboratory
from mini_dpo.train import preparing
from tests.commands import run
from tutorials.chapters import HERE, ROOT

BY_NAME = {claim.name: claim for claim in QUICK}
CHAPTERS = range(1, 22)
KEPT = Kept(Path(command.FULL_FILE))


@functools.lru_cache
def measured(measure, seed=0):
    """A measurement, with fewer steps and settings than the command has: the verdicts are not the point."""
    with pytest.MonkeyPatch.context() as less, redirect_stdout(io.StringIO()):
        less.setattr(likelihood, "STEPS", 10)
        less.setattr(relatives, "STEPS", 20)
        less.setattr(relatives, "N", 50)
        less.setattr(rivals, "TRIES", 2)
        less.setattr(rivals, "BETAS", [1.0, 0.3])
        less.setattr(rivals, "N", 100)
        less.setattr(labels, "BETAS", [1.0])
        less.setattr(laboratory, "N", 30)
        return measure(seed)


POSITIVE = above(0)


def made_up(exact=False, wanted=POSITIVE, **change):
    claim = Claim("made_up", "a claim", lambda seed: {"x": seed - 3.0}, "x", wanted, "nothing", 1, exact)
    return replace(claim, **change)


# --- the rule


def test_each_verdict_is_possible():
    assert made_up(exact=True).verdict([1.0, 2.0]) == "holds"
    assert made_up(exact=True).verdict([1.0, 2.0, -1e-9]) == "false", "one counterexample is enough"
    assert made_up().verdict([1.0, 1.1, 0.9]) == "holds here"
    assert made_up().verdict([1.0, -1.0, 3.0]) == "not here", "the mean is as wanted, its interval is not"
    assert made_up().verdict([-1.0, -1.1, -0.9]) == "not here"


@pytest.mark.parametrize("exact", [True, False])
def test_what_is_no_number_makes_nothing_hold(exact):
    assert made_up(exact).verdict([1.0, math.nan]) in ("false", "not here")
    assert made_up(exact, below(3)).verdict([1.0, -math.inf]) in ("false", "not here")


def test_the_interval_is_student_s():
    """By the table: five numbers, four degrees of freedom, 2.776."""
    mean, low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776 * math.sqrt(2.5) / math.sqrt(5)
    assert (mean, low, high) == pytest.approx((3, 3 - half, 3 + half))
    assert interval([1.0]) == (1.0, -math.inf, math.inf)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draws = torch.randn(2_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covered = sum(low < 0 < high for _, low, high in map(interval, draws.tolist()))
    assert abs(covered / 2_000 - 0.95) < 0.02


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6))
def test_a_claim_and_its_opposite_do_not_both_hold(numbers):
    for exact in (True, False):
        verdicts = [made_up(exact, wanted).verdict(numbers) for wanted in (above(0), below(0))]
        assert sum(verdict in ("holds", "holds here") for verdict in verdicts) <= 1


# --- the claims


def opposite(wanted):
    """What is wanted if the claim is denied."""
    return Wanted(-math.inf, wanted.low) if wanted.high == math.inf else Wanted(wanted.high, math.inf)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_wrong_expectation_turns_the_verdict(name):
    """From one seed's number, as if other seeds had given nearly the same."""
    claim = BY_NAME[name]
    number = measured(claim.measure)[claim.number]
    numbers = [number, number + 1e-13]
    truth, lie = (replace(claim, wanted=w).verdict(numbers) for w in (claim.wanted, opposite(claim.wanted)))
    assert {truth, lie} == ({"holds", "false"} if claim.exact else {"holds here", "not here"})


@pytest.mark.parametrize("name", KEPT.claims)
def test_a_wrong_expectation_turns_what_is_kept(name):
    """Or, if the limit is inside the interval, neither a claim nor its opposite holds. The rows that the page
    shows are those of the numbers beside them.
    """
    claim, row = {claim.name: claim for claim in QUICK + FULL}[name], KEPT.claims[name]
    numbers = [of_seed[claim.number] for of_seed in KEPT.measure(claim, row["seeds"])]
    assert row["verdict"] == claim.verdict(numbers) and row["wanted"] == str(claim.wanted)
    assert (row["mean"], row["low"], row["high"]) == pytest.approx(claim.spread(numbers))
    lie = replace(claim, wanted=opposite(claim.wanted)).verdict(numbers)
    limit = claim.wanted.low if claim.wanted.high == math.inf else claim.wanted.high
    if row["low"] < limit < row["high"]:
        assert {row["verdict"], lie} == ({"false"} if claim.exact else {"not here"})
    else:
        assert {row["verdict"], lie} == ({"holds", "false"} if claim.exact else {"holds here", "not here"})


def test_the_claims_are_said_in_one_way():
    names = [claim.name for claim in QUICK + FULL]
    assert len(set(names)) == len(names)
    for claim in QUICK + FULL:
        assert claim.seeds >= 2 or claim.exact
        assert claim.chapter in CHAPTERS
        assert claim.wanted.low == -math.inf or claim.wanted.high == math.inf
        assert claim.text[0].islower() or claim.text.split()[0].isupper() or claim.text[:3].isupper()


# --- wrong versions


def verdict_of(name, seeds=1):
    with redirect_stdout(io.StringIO()):
        numbers = [BY_NAME[name].measure(seed)[BY_NAME[name].number] for seed in range(seeds)]
    return BY_NAME[name].verdict(numbers)


def test_a_beta_that_is_taken_twice_is_found(monkeypatch):
    monkeypatch.setattr(optimum, "dpo", lambda logps: LOSSES["dpo"](logps, beta=optimum.BETA**2))
    assert verdict_of("no_reward_model") == "false"


def test_a_reference_that_is_uniform_is_not_needed(monkeypatch):
    flat = worlds.table(0)
    flat = replace(flat, ref=torch.zeros_like(flat.ref).log_softmax(-1))
    monkeypatch.setattr(optimum, "table", lambda seed: flat)
    assert verdict_of("reference_needed") == "false"


def test_a_policy_that_can_be_any_is_as_good_as_rlhf(monkeypatch):
    monkeypatch.setattr(
        optimum, "World", lambda ref, reward, features: worlds.World(ref, reward, torch.eye(3).double())
    )
    assert verdict_of("as_good_one_weight") == "holds"


def test_one_weight_has_the_paper_s_numbers():
    """arXiv:2510.20413 gives 1.0, 1.296, 0.768 and 1.480; J's maximum is at 1.4785."""
    found = list(measured(optimum.one_weight).values())
    assert found == pytest.approx([0.1825, 1.4785, 1.2960, 0.7675, 1.0], abs=5e-5)


def test_the_loss_without_a_reference_has_its_own_optimum():
    found = measured(optimum.reference_needed)
    assert found["KL(softmax(r / beta) || without)"] < 1e-9 > found["J lost with it"]


def test_the_reference_is_what_turns_the_ranking(monkeypatch):
    """Where the reference finds all responses equally likely, pi* ranks as its reward does."""
    house = worlds.tea_house(0)
    flat = replace(house, ref=torch.full_like(house.ref, 1 / 15).log())
    monkeypatch.setattr(optimum, "tea_house", lambda seed: flat)
    assert verdict_of("ranks_pairs") == "holds"


def test_a_wrong_sign_in_r_dpo_is_found(monkeypatch):
    monkeypatch.setattr(labels, "A_WORD", 0.0)
    assert verdict_of("length_exploited") == "false", "no taste for length, no longer answers"
    right = LOSSES["r_dpo"]
    monkeypatch.undo()
    monkeypatch.setitem(LOSSES, "r_dpo", lambda p, beta, alpha: right(p, beta=beta, alpha=-alpha))
    assert verdict_of("length_r_dpo") == "false"


def test_a_table_s_chosen_response_becomes_likelier(monkeypatch):
    monkeypatch.setattr(
        likelihood, "World", lambda ref, r, features: worlds.World(ref, r, torch.eye(4).double())
    )
    assert verdict_of("chosen_one_pair") == "holds"


def test_without_flips_nothing_is_lost_to_them(monkeypatch):
    monkeypatch.setattr(labels, "flip", lambda pairs, share, seed: pairs)
    monkeypatch.setattr(labels, "BETAS", [labels.BETA])
    assert labels.noise(0)["J lost to the flips by DPO"] == pytest.approx(0, abs=1e-9)


def test_flips_are_as_many_as_are_asked():
    w, l = torch.zeros(20_000).long(), torch.ones(20_000).long()
    flipped_w, flipped_l = labels.flip((w, l), 0.3, seed=0)
    assert float(flipped_w.double().mean()) == pytest.approx(0.3, abs=0.01)
    assert torch.equal(flipped_w + flipped_l, w + l)


def test_the_best_of_n_is_what_drawing_n_gives():
    """Against 100,000 draws of three; and with one draw it is the reference."""
    world = worlds.table(3, K=5)
    draws = torch.multinomial(
        world.ref.exp(), 300_000, replacement=True, generator=torch.Generator().manual_seed(0)
    ).view(-1, 3)
    best = draws.gather(1, world.reward[draws].argmax(1, keepdim=True)).flatten()
    counted = torch.bincount(best, minlength=5) / len(best)
    exact = rivals.best_of(3, world.ref, world.reward).exp()
    torch.testing.assert_close(exact, counted.double(), rtol=0, atol=0.006)
    torch.testing.assert_close(rivals.best_of(1, world.ref, world.reward), world.ref)


def test_no_policy_has_more_reward_at_a_distance_than_the_frontier():
    world = worlds.table(1)
    ways = {
        "pi*": [optimal_policy(world.ref, world.reward, beta) for beta in rivals.BETAS],
        "another": [optimal_policy(world.ref, world.reward.flip(0), beta) for beta in rivals.BETAS],
    }
    for far in (0.05, 0.2, 0.5):
        assert rivals.reward_at(far, world, ways["another"]) < rivals.reward_at(far, world, ways["pi*"])
    assert rivals.reward_at(0.0, world, ways["pi*"]) == pytest.approx(
        float(expected_reward(world.ref, world.reward))
    )


def test_both_ways_of_descending_find_the_optimum_s_direction():
    """With enough pairs, steps and samples, DPO's descent and the reward model with RLOO come near pi*."""
    world = worlds.log_linear(0)
    w, l = world.pairs(4_000, 0)
    gaps, rng = world.features[w] - world.features[l], torch.Generator().manual_seed(0)
    best = optimal_policy(world.ref, world.reward, rivals.BETA)
    ours = rivals.logistic(gaps, rivals.BETA, 300, 2.0, 256, rng)
    judge = rivals.logistic(gaps, 1.0, 300, 0.5, 256, rng)
    theirs = rivals.rloo(world, world.features @ judge, 200, 0.2, 128, rng)
    before = float(kl(world.ref, best))
    assert all(float(kl(world.policy(theta), best)) < before / 10 for theta in (ours, theirs))


# --- the claims that train on the shop, in small


@functools.lru_cache
def part_of(world, split):
    """The beginning of a world's corpus, which takes long to read."""
    tokenizer = find_tokenizer(words_of(world))
    corpus = world_corpus(world, tokenizer, 256, split)
    held_out = replace(corpus.held_out, prompts=corpus.held_out.prompts[:4])
    few = {name: getattr(corpus, name)[:16] for name in ("responses", "preferences", "prompts")}
    return replace(corpus, held_out=held_out, **few)


@pytest.fixture
def small_shop(tmp_path, monkeypatch):
    less = ["--batch-size", "4", "--steps", "2", "--eval-examples", "4", "--max-new-tokens", "4"]
    shape = "--n-layer 1 --n-head 2 --n-embd 16".split()
    monkeypatch.setattr(shop_runs, "RUNS", tmp_path)
    monkeypatch.setattr(shop_runs, "FLAGS", {"sft": [*shape, *less], "dpo": less})
    monkeypatch.setattr(shop_runs, "RL", {"steps": 1, "responses": 8})
    monkeypatch.setattr(  # nor is one of its answers better than another
        shop_judges, "judged_pairs", lambda setup, ours, theirs: setup.corpus.held_out.pairs
    )
    monkeypatch.setattr(  # two steps of SFT make a model that never ends, of which no pair can be made online
        shop_rivals, "run_of", lambda seed, loss, world, stage: shop_runs.run_of(seed, loss, world=world)
    )
    monkeypatch.setattr(shop, "LOSSES", ["dpo", "ipo"])
    monkeypatch.setattr(  # of the shop, there is no online run either
        shop, "worth_of", lambda seed, loss, stage="dpo": shop_runs.worth_of(seed, loss)
    )
    monkeypatch.setattr(shop_tuning, "FACTORS", [1])
    monkeypatch.setattr(shop_costs, "RL", shop_runs.RL)
    monkeypatch.setattr(shop_memory, "alone", lambda setup, name: 1 + shop_memory.taken(setup, name))
    for file in (shop, shop_rivals):
        monkeypatch.setattr(file, "BETAS", ["0.1", "0.3"])
    monkeypatch.setattr(shop_labels, "BETAS", [0.3])
    few = {shop_rivals.RLOO: {}, shop_rivals.FAR: {}, "RLOO on the true reward": {"reward": "true"}}
    monkeypatch.setitem(shop_rivals.RIVALS, "shop", few)
    for file in (preparing, shop, shop_labels):
        monkeypatch.setattr(
            file, "world_corpus", lambda world, tokenizer, context, split="test": part_of(world, split)
        )


def test_each_shop_claim_runs(small_shop, capsys):
    measures = {claim.measure for claim in FULL} - {shop_rivals.code_frontier}
    found = {measure: measure(0) for measure in measures}
    found[shop_rivals.code_frontier] = found[shop_rivals.shop_frontier]  # in another world, slow to write
    capsys.readouterr()
    for claim in FULL:
        numbers = found[claim.measure]
        assert math.isfinite(numbers[claim.number]), claim.name
    assert sum(found[shop.quadrants].values()) == pytest.approx(1)


def test_dpo_may_stop_where_its_line_falls():
    line = [(0.0, 2.0), (2.0, 9.0), (6.0, 10.0), (5.0, 6.0)]
    points = [shop_runs.Point(*point) for point in line]
    reached = {1.0: 5.5, 2.0: 9.0, 4.0: 9.0, 5.0: 9.0, 5.9: 9.6, 9.0: 10.0}
    assert {far: pytest.approx(shop_rivals.dpo_near(far, points)) for far in reached} == reached


@pytest.mark.parametrize("n", [2, 4, 16])
def test_best_of_n_is_never_farther_than_its_formula(n):
    world = worlds.table(n, K=300)
    formula = math.log(n) - (n - 1) / n
    assert 0.9 * formula < float(kl(rivals.best_of(n, world.ref, world.reward), world.ref)) <= formula


def test_what_was_stopped_begins_anew_and_what_is_finished_is_loaded(tmp_path):
    setup, seen = Setup(*[None] * 2, tmp_path, *[None] * 3), []

    def fit(where):
        seen.append([path.name for path in where.folder.iterdir()])
        (where.folder / "half.pt").touch()
        if len(seen) == 1:
            raise KeyboardInterrupt
        return "a model"

    with pytest.raises(KeyboardInterrupt):
        shop_runs.fitted(setup, "x", fit)
    first, again = (shop_runs.fitted(setup, "x", fit) for _ in range(2))
    assert first == again and first[0] == "a model" and first[1] >= 0
    assert seen[:2] == [["reward"], ["reward"]] and "half.pt" in seen[2]


# --- the command


def test_one_claim_is_shown_with_all_its_numbers(monkeypatch, capsys):
    status, out, err = run(monkeypatch, capsys, command, "--claim", "as_good_one_weight")
    assert (status, err) == (0, "")
    assert out.startswith("false       DPO is as good as RLHF") and "0.183, wanted below 1e-06" in out
    assert "reward of DPO, 98 % of the pairs alike" in out and "0.7675" in out


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--claim", "no_reward_modle"], "did you mean no_reward_model"),
        (["--seeds", 1], "--seeds must be at least 2"),
    ],
)
def test_nonsense_is_refused(monkeypatch, capsys, flags, said):
    status, _, err = run(monkeypatch, capsys, command, *flags)
    assert status == 2 and said in err and err.count("\n") == 1


def test_what_is_kept_is_shown_without_measuring(monkeypatch, capsys, tmp_path):
    path, asked = tmp_path / "claims.json", "as_good_one_weight,ipo_certain"
    measured = run(monkeypatch, capsys, command, "--claim", asked, "--json", path)[1]
    monkeypatch.setattr(Kept, "measure", None)
    status, out, _ = run(monkeypatch, capsys, command, "--show", "--json", path)
    assert status == 0 and out.splitlines() == [
        line for line in measured.splitlines() if line and line in out
    ]
    assert out.count("wanted") == 2
    only = run(monkeypatch, capsys, command, "--show", "--json", path, "--claim", "ipo_certain")[1]
    assert only and out.endswith(only)


def test_work_that_was_stopped_goes_on(tmp_path):
    """What is kept is not measured again; a number that is not finite comes back as nan."""
    path, asked = tmp_path / "claims.json", []

    def measure(seed):
        asked.append(seed)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return {"x": math.inf if seed == 0 else float(seed)}

    claim = made_up(measure=measure)
    with pytest.raises(KeyboardInterrupt):
        Kept(path).measure(claim, 3)
    ((_, kept),) = read_json(path)["measured"].items()
    assert list(kept) == ["0", "1"]
    numbers = [of_seed["x"] for of_seed in Kept(path).measure(claim, 3)]
    assert asked == [0, 1, 2, 2] and math.isnan(numbers[0]) and numbers[1:] == [1.0, 2.0]


def test_a_file_of_other_numbers_is_refused(tmp_path, monkeypatch, capsys):
    path = tmp_path / "claims.json"
    write_json(path, {"claims": {}, "measured": {"optimum.one_weight": {"0": {"old": 1.0}}}})
    status, _, err = run(monkeypatch, capsys, command, "--claim", "as_good_one_weight", "--json", path)
    assert status == 2 and "one_weight has other numbers" in err
    path.write_text("[]", encoding="utf-8")
    assert run(monkeypatch, capsys, command, "--claim", "as_good_one_weight", "--json", path)[0] == 2


def test_the_readme_counts_the_claims_that_hold():
    kept = read_json(HERE / "measured" / "claims.json")["claims"].values()
    hold = sum(claim["verdict"].startswith("holds") for claim in kept)
    assert f"{len(kept)} claims, {hold} of them hold" in (ROOT / "README.md").read_text(encoding="utf-8")
