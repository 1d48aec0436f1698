"""The verdicts on claims: each can be any of the four; a wrong expectation and a wrong world turn them."""

import functools
import io
import math
from contextlib import redirect_stdout
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.claims import FULL, QUICK, optimum, worlds
from mini_dpo.claims import __main__ as command
from mini_dpo.claims.claim import Claim, Wanted, above, below, interval
from mini_dpo.claims.kept import Kept
from mini_dpo.files import read_json, write_json
from mini_dpo.losses import LOSSES
from tests.commands import run

BY_NAME = {claim.name: claim for claim in QUICK}
CHAPTERS = range(1, 21)


@functools.lru_cache
def measured(name, seed=0):
    with redirect_stdout(io.StringIO()):
        return BY_NAME[name].measure(seed)


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
    claim, number = BY_NAME[name], measured(name)[BY_NAME[name].number]
    numbers = [number, number + 1e-13]
    truth, lie = (replace(claim, wanted=w).verdict(numbers) for w in (claim.wanted, opposite(claim.wanted)))
    assert {truth, lie} == ({"holds", "false"} if claim.exact else {"holds here", "not here"})


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
    found = list(measured("as_good_one_weight").values())
    assert found == pytest.approx([0.1825, 1.4785, 1.2960, 0.7675, 1.0], abs=5e-5)


def test_the_loss_without_a_reference_has_its_own_optimum():
    found = measured("reference_needed")
    assert found["KL(softmax(r / beta) || without)"] < 1e-9 > found["J lost with it"]


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
    assert list(read_json(path)["claims"]["made_up"]) == ["0", "1"]
    numbers = [of_seed["x"] for of_seed in Kept(path).measure(claim, 3)]
    assert asked == [0, 1, 2, 2] and math.isnan(numbers[0]) and numbers[1:] == [1.0, 2.0]


def test_a_file_of_other_numbers_is_refused(tmp_path, monkeypatch, capsys):
    path = tmp_path / "claims.json"
    write_json(path, {"claims": {"as_good_one_weight": {"0": {"old": 1.0}}}})
    status, _, err = run(monkeypatch, capsys, command, "--claim", "as_good_one_weight", "--json", path)
    assert status == 2 and "as_good_one_weight has other numbers" in err
    path.write_text("[]", encoding="utf-8")
    assert run(monkeypatch, capsys, command, "--claim", "as_good_one_weight", "--json", path)[0] == 2
