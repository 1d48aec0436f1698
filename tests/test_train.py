"""`python -m mini_dpo.train` as people use and misuse it."""

import hashlib
import json
import math
import os
import re
import signal
from dataclasses import fields, replace

import pytest
import torch

from mini_dpo import compare, exact, logprobs, reference, sample, show
from mini_dpo.batches import Encoded
from mini_dpo.corpus.parts import HeldOut, at_most
from mini_dpo.corpus.splits import own_corpus, read_own, same_prompt
from mini_dpo.evaluation import measuring
from mini_dpo.evaluation import table as closing_table
from mini_dpo.files import write_json
from mini_dpo.losses import LOSSES
from mini_dpo.saving.checkpoint import load_checkpoint, load_model
from mini_dpo.tokenizer import load_tokenizer
from mini_dpo.train import __main__ as train
from mini_dpo.train import closing, parsing, preparing, running, stages
from mini_dpo.train.parsing import parse
from mini_dpo.train.preparing import prepare
from mini_dpo.train.settings import Settings
from tests.commands import SHAPE, SHORT, SMALL, change_settings, preference_file, run, sft_file


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def go(monkeypatch, capsys, here):
    """Run the command; `go(...)` returns (status, out, err)."""
    return lambda *args: run(monkeypatch, capsys, train, *args)


@pytest.fixture
def own(here):
    return preference_file(here / "mine.jsonl")


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- it works


def test_the_main_job_in_small(go, here):
    status, out, err = go(*SMALL, "--context", 128, *SHORT, "--eval-examples", 32)
    assert (status, err) == (0, "")
    folder = here / "runs" / "1"
    assert sorted(os.listdir(folder)) == [
        "config.json",
        "dpo.pt",
        "metrics.jsonl",
        "report.html",
        "samples.jsonl",
        "sft.pt",
        "summary.json",
        "words.jsonl",
    ]
    log = rows(folder / "metrics.jsonl")
    assert [(row["stage"], row["step"]) for row in log] == [
        (s, i) for s in ("sft", "dpo") for i in range(1, 6)
    ]
    names = (
        "loss rewards/chosen rewards/rejected rewards/margins rewards/accuracies "
        "logps/chosen logps/rejected grad_norm learning_rate"
    )
    assert set(names.split()) <= log[-1].keys() and {"eval_loss", "eval_rewards/accuracies"} <= log[-1].keys()
    summary = json.loads((folder / "summary.json").read_text())
    assert {
        "reward",
        "facts",
        "tone",
        "length",
        "win_rate",
        "kl",
        "perplexity",
        "reward_accuracy",
        "logps/chosen",
        "logps/rejected",
    } <= summary["dpo"].keys()
    for name in ("reward", "reward_gain", "win_rate", "kl", "perplexity", "reward_accuracy"):
        assert 0 <= summary["dpo"][f"{name}_error"] < math.inf, name
    assert summary["dpo"]["kl"] > -4 * summary["dpo"]["kl_error"]
    samples = rows(folder / "samples.jsonl")
    assert len(samples) == 32 and samples[0].keys() == {"prompt", "sft", "dpo", "marks"}
    assert sum(sample["marks"]["dpo"]["reward"] for sample in samples) / 32 == pytest.approx(
        summary["dpo"]["reward"]
    )
    for words in (
        "tokens/s",
        "left",
        "true reward",
        "win rate",
        "KL(policy || reference)",
        "perplexity",
        "python -m mini_dpo.sample runs/1",
    ):
        assert words in out


def test_own_data_a_second_run_and_a_second_seed(go, here, own):
    assert go("--data", own, *SMALL, *SHORT)[0] == 0
    first = {path.name: path.read_bytes() for path in (here / "runs/1").iterdir()}
    assert go("--data", own, *SMALL, *SHORT)[0] == 0
    assert {path.name: path.read_bytes() for path in (here / "runs/1").iterdir()} == first
    again = {path.name: path.read_bytes() for path in (here / "runs/2").iterdir()}
    assert all(again[name] == first[name] for name in ("metrics.jsonl", "samples.jsonl")), (
        "one seed, one result"
    )
    assert go("--data", own, *SMALL, *SHORT, "--seed", 1)[0] == 0
    assert (here / "runs/3/metrics.jsonl").read_bytes() != first["metrics.jsonl"]


def test_own_data_has_no_true_reward(go, here, own):
    status, out, _ = go("--data", own, *SMALL, *SHORT)
    assert status == 0 and "true reward" not in out and "win rate" not in out
    assert "SFT imitates its chosen responses" in out and "held out by prompt: 1 of 12 pairs" in out


def test_stages_apart_make_what_they_make_together(go, here, own):
    assert go("--data", own, *SMALL, *SHORT, "--out", "both")[0] == 0
    assert go("--stage", "sft", "--data", own, *SMALL, "--steps", 5, "--out", "first")[0] == 0
    status, _out, _ = go(
        "--stage",
        "dpo",
        "--data",
        own,
        "--init-from",
        "first",
        "--steps",
        5,
        "--batch-size",
        4,
        "--out",
        "second",
    )
    assert status == 0
    for stage in ("sft", "dpo"):
        (a, _), (b, _) = (
            load_model(here / "both" / f"{stage}.pt"),
            load_model(here / "second" / f"{stage}.pt"),
        )
        assert all(
            torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
        )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "flags",
    [[], ["--sft-weight", "0.5", "--precompute-ref"], ["--accumulate", "2", "--dtype", "bfloat16"]],
    ids=str,
)
def test_every_loss_trains(go, here, own, loss, flags):
    if not LOSSES[loss].reference or LOSSES[loss].mismatched:
        flags = [flag for flag in flags if flag != "--precompute-ref"]
    status, out, err = go("--data", own, *SMALL, "--sft-steps", 1, "--steps", 2, "--loss", loss, *flags)
    assert (
        (status, err) == (0, "")
        and f"\n{loss}" in out
        and LOSSES[loss].name.upper().replace("_", "-")[:11] in out
    )
    assert all(
        math.isfinite(value)
        for row in rows(here / "runs/1/metrics.jsonl")
        for name, value in row.items()
        if name != "stage"
    )
    assert ("looks at a batch as a whole" in out) == (
        "--accumulate" in flags and not LOSSES[loss].declared("decomposes")
    )


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if not loss.reference])
def test_a_reference_free_loss_never_makes_or_runs_a_reference(go, here, own, loss, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a reference was asked for")

    monkeypatch.setattr(stages, "freeze", never)
    monkeypatch.setattr(logprobs, "score_reference", never)
    with pytest.raises(AssertionError, match="a reference was asked for"):
        go("--data", own, *SMALL, *SHORT)
    # measuring may look at the SFT model
    monkeypatch.setattr(closing, "evaluate", lambda *args: pytest.skip("trained to its end"))
    with pytest.raises(pytest.skip.Exception, match="trained to its end"):
        go("--data", own, *SMALL, *SHORT, "--loss", loss)


@pytest.mark.parametrize("loss", ["dpo", "simpo", "orpo", "r_dpo", "kto"])
def test_the_closing_table_s_accuracy_is_the_log_s(go, here, loss):
    """The held-out pairs of a file of one's own are those that the loop looks at: one number in both places.
    A loss of single responses logs how many of these have the right sign.
    """
    answers = [["yes " * (1 + i % 3), "no " * (1 + i % 4)] for i in range(240)]
    lines = [
        json.dumps({"prompt": f"say {i}", "chosen": a, "rejected": b})
        for i, (a, b) in enumerate(two[:: 1 if i % 5 > 1 else -1] for i, two in enumerate(answers))
    ]
    own = here / "mine.jsonl"
    own.write_text("\n".join(lines))
    assert go("--data", own, *SMALL, "--sft-steps", 5, "--steps", 3, "--loss", loss)[0] == 0
    logged = rows(here / "runs/1/metrics.jsonl")[-1]["eval_rewards/accuracies"]
    summary = json.loads((here / "runs/1/summary.json").read_text())["dpo"]
    assert summary["reward_sign_accuracy" if loss == "kto" else "reward_accuracy"] == pytest.approx(logged)
    assert 0 < logged < 1, "or nothing is compared"


def test_trl_s_names_are_aliases(go, own):
    for alias, name in {
        "sigmoid": "dpo",
        "robust": "rdpo",
        "exo_pair": "exo",
        "nca_pair": "nca",
        "bco_pair": "bco",
        "sppo_hard": "sppo",
        "sigmoid_norm": "dpo_norm",
    }.items():
        assert parse(["--data", "x", "--loss", alias]).loss == name


def test_list_losses(go):
    status, out, _ = go("--list-losses")
    assert status == 0
    for loss in LOSSES.values():
        needs = (
            f"{'pairs' if loss.paired else 'single responses'}, "
            f"{'a reference' if loss.reference else 'no reference'}"
        )
        assert f"{needs}\n    {loss.formula.splitlines()[0]}" in out and loss.paper in out


# --- single responses


def feedback_file(path, n=12, **change):
    """A file of single responses, liked and not."""
    lines = [
        json.dumps({"prompt": f"say {i}", "completion": "yes " * (1 + i % 3), "label": i % 3 > 0, **change})
        for i in range(n)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if not loss.paired])
def test_truly_unpaired_data_trains(go, here, loss):
    status, out, err = go("--data", feedback_file(here / "f.jsonl"), *SMALL, *SHORT, "--loss", loss)
    assert (
        (status, err) == (0, "")
        and "SFT imitates its liked responses" in out
        and "held out by prompt: 1 of 12 single responses" in out
    )
    log = [row for row in rows(here / "runs/1/metrics.jsonl") if row["stage"] == "dpo"]
    assert all({"rewards/accuracies", "logps/chosen"} & row.keys() for row in log) and all(
        ("kl" in row) == (loss == "kto") for row in log
    )


def test_a_paired_file_is_split_in_two(go, own):
    status, out, _ = go("--data", own, *SMALL, *SHORT, "--loss", "kto")
    assert status == 0 and "each of 11 pairs is split into a liked and a disliked one" in out


def test_kto_refuses_a_batch_of_one(go, here, own):
    status, _, err = go("--data", own, *SMALL, *SHORT, "--loss", "kto", "--batch-size", 1)
    assert status == 2 and "use --batch-size 2 or more" in err and err.count("\n") == 1
    for change in ({"n": 2, "label": True}, {"prompt": "same"}):  # one example, or one prompt, to train on
        status, _, err = go(
            "--data", feedback_file(here / "f.jsonl", **change), *SMALL, *SHORT, "--loss", "kto"
        )
        assert status == 2 and "too few different prompts" in err and err.count("\n") == 1
    assert not (here / "runs").exists()


def test_feedback_of_one_kind_only(go, here):
    path = feedback_file(here / "f.jsonl", label=False)
    status, _, err = go("--data", path, *SMALL, *SHORT, "--loss", "kto")
    assert (
        status == 2
        and "no liked response for SFT to imitate; give --sft-data" in err
        and not (here / "runs").exists()
    )
    status, out, err = go(
        "--data", path, "--sft-data", sft_file(here / "s.jsonl"), *SMALL, *SHORT, "--loss", "kto"
    )
    assert (status, err) == (0, "") and "every response to train on is disliked" in out


@pytest.mark.parametrize(
    "loss, message", [("dpo", "no 'chosen'"), ("kto", "'label' must be true or false, not \"yes\"")]
)
def test_feedback_that_does_not_fit(go, here, loss, message):
    path = feedback_file(here / "f.jsonl", label="yes")
    status, _, err = go("--data", path, *SMALL, *SHORT, "--loss", loss)
    assert (
        status == 2
        and f"{path}: 12 of 12 lines cannot be used; each must be like " in err
        and f"\n  lines 1, 2, 3, 4, 5: {message}" in err
    )
    assert err.endswith("  ... and 7 more, the last on line 12\n")
    assert loss == "kto" or "single responses are for the losses kto and apo_zero_unpaired" in err


# --- a loss of one's own

MINE = '''
from typing import Literal

import torch
from mini_dpo.losses import Facts, PairLogps, loss

@loss(paper="mine", facts=Facts(at_reference=lambda beta, power, side: 1.0))
def mine(
    logps: PairLogps, *, beta: float = 0.1, power: int = 2, side: Literal["left", "right"] = "left"
) -> torch.Tensor:
    """A loss of my own.

        L = |1 - beta h|^power

    beta: price of a nat, as I see it
    power: how steep
    side: which
    """
    return (1 - beta * logps.h).abs() ** power
'''


@pytest.fixture
def mine(here):
    (here / "mine.py").write_text(MINE, encoding="utf-8")
    known = dict(LOSSES)
    yield "mine.py:mine"
    LOSSES.clear()
    LOSSES.update(known)


def test_a_loss_in_a_file_of_one_s_own(go, here, own, mine):
    status, out, err = go("--data", own, *SMALL, *SHORT, "--loss", mine, "--power", 4, "--side", "right")
    assert (status, err) == (0, "") and "mine  beta 0.1  power 4  side right" in out and "MINE" in out
    config = json.loads((here / "runs/1/config.json").read_text())
    assert config["settings"]["loss"] == "./../../mine.py:mine" and "./../../mine.py" in config["sha256"]
    assert go("--resume", "runs/1")[0] == 0
    (here / "mine.py").write_text(MINE + "\n# another mind\n")
    status, _, err = go("--resume", "runs/1")
    assert status == 2 and "mine.py has changed since runs/1 was begun" in err


def test_help_has_the_words_of_one_s_own_loss(go, mine):
    status, out, _ = go("--loss", mine, "--help")
    assert (
        status == 0
        and "the loss mine" in out
        and "price of a nat, as I see it (default: 0.1)" in " ".join(out.split())
    )
    assert "how steep (default: 2)" in " ".join(out.split()) and "--side {left,right}" in out


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("-> torch.Tensor:", "-> torch.Tensor", "mine.py, line 10: SyntaxError"),
        ("import torch", "import torcch", "mine.py, line 4: ModuleNotFoundError"),
        ("beta: float = 0.1", "beta: float", "mine's beta must be a keyword argument with a default"),
        ("logps: PairLogps, *,", "logps, *,", "the first argument of mine must be `logps: PairLogps`"),
        ("power: int = 2", "power: bool = True", "mine's power must be a number"),
        (
            "** power\n",
            "** power).mean()\n",
            "must return one value an example, a tensor of shape (2,), not shape ()",
        ),
        ("logps.h)", "logps.hh)", "fails on a batch of two, "),
        (
            '@loss(paper="mine", facts=Facts(at_reference=lambda beta, power, side: 1.0))',
            "",
            "mine is not a loss: put @loss(...) above it",
        ),
        ("def mine(", "def dpo(", "'dpo' is the name of a loss already, in "),
        ("power", "help", "its hyperparameter help has the name of a flag of train"),
        (
            "** power",
            "** power + 0 * logps.h.double()",
            "must return values in the type of the log-probs, torch.float32, and on their "
            "device, cpu, not torch.float64",
        ),
        ("power", "lr", "its hyperparameter lr has the name of a flag of train"),
    ],
)
def test_a_broken_loss_of_one_s_own_is_one_clear_line(go, here, own, mine, old, new, message):
    changed = MINE.replace(old, new)
    if "mean" in new:
        changed = changed.replace("return (1", "return ((1")
    (here / "mine.py").write_text(changed, encoding="utf-8")
    status, _, err = go("--data", own, *SMALL, *SHORT, "--loss", mine)
    assert status == 2 and message in err and err.count("\n") == 1, err
    assert not (here / "runs").exists() and LOSSES["dpo"].function.__module__ == "mini_dpo.losses.dpo"


def test_accumulating_equals_a_larger_batch(go, here, own):
    assert (
        go("--data", own, *SMALL, "--sft-steps", 2, "--steps", 2, "--batch-size", 11, "--out", "large")[0]
        == 0
    )
    assert (
        go(
            "--data",
            own,
            *SMALL,
            "--sft-steps",
            2,
            "--steps",
            2,
            "--batch-size",
            11,
            "--precompute-ref",
            "--out",
            "ahead",
        )[0]
        == 0
    )
    (a, _), (b, _) = load_model(here / "large/dpo.pt"), load_model(here / "ahead/dpo.pt")
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_memory_is_saved_without_a_trace(go, here, own):
    """Blocks that are computed again for the gradient, with dropout, train to the same weights."""
    for name, flags in (("plain", []), ("again", ["--checkpoint-activations"])):
        assert go("--data", own, *SMALL, *SHORT, "--dropout", 0.1, *flags, "--out", name)[0] == 0
    assert (here / "plain/metrics.jsonl").read_bytes() == (here / "again/metrics.jsonl").read_bytes()


def test_reference_log_probs_are_kept_for_the_next_run(go, here, own):
    """Beside the data. A run that finds them is the run that made them, to the byte, and so is one whose
    batches are of tokens.
    """
    for size in (["--batch-size", 4], ["--tokens-per-batch", 90]):
        logs = []
        for _ in range(2):
            status, out, err = go("--data", own, *SHAPE, *SHORT, *size, "--precompute-ref")
            assert (status, err) == (0, "")
            logs.append(max((here / "runs").iterdir(), key=lambda run: int(run.name)) / "metrics.jsonl")
        assert "reference log-probs from " in out and "scoring" not in out
        assert logs[0].read_bytes() == logs[1].read_bytes()
    assert len(list(here.glob("mine.jsonl.ref-*.pt"))) == 2, (
        "the two kinds of batches have made two SFT models"
    )


def test_sft_data_of_one_s_own(go, here, own):
    status, out, _ = go("--data", own, "--sft-data", sft_file(here / "sft.jsonl"), *SMALL, *SHORT)
    assert status == 0 and "1 of 12 pairs, 1 of 12 responses" in out
    status, out, _ = go("--stage", "sft", "--sft-data", here / "sft.jsonl", *SMALL, "--steps", 2)
    assert status == 0 and "DPO" not in out


def test_prompts_held_out_in_one_file_are_trained_on_in_neither(go, here):
    """Twelve prompts in both files, and in each file ten of its own, so that each holds out what the other
    has.
    """
    pairs, demonstrations = here / "pairs.jsonl", here / "sft.jsonl"
    common = [f"say {i}" for i in range(12)]
    pairs.write_text(
        "".join(
            json.dumps({"prompt": p, "chosen": "yes", "rejected": "no"}) + "\n"
            for p in [*common, *(f"ask {i}" for i in range(30))]
        )
    )
    demonstrations.write_text(
        "".join(
            json.dumps({"prompt": f" {p.upper()}", "response": "well"}) + "\n"
            for p in [*common, *(f"tell {i}" for i in range(10))]
        )
    )
    corpus = own_corpus(read_own(str(pairs), str(demonstrations), load_tokenizer("toy"), paired=True), 40)

    def prompts(encoded):
        return {same_prompt(load_tokenizer("toy").decode(e.prompt[1:-1])) for e in encoded}

    trained_on = prompts(corpus.responses) | prompts(p.chosen for p in corpus.preferences)
    held_out = prompts(corpus.valid_responses) | prompts(p.chosen for p in corpus.valid_preferences)
    assert not trained_on & held_out and len(trained_on | held_out) == 52
    status, out, _ = go("--data", pairs, "--sft-data", demonstrations, *SMALL, *SHORT)
    assert status == 0 and "12 of 64 prompts are near copies of another one" in out


def test_a_file_whose_only_prompt_is_held_out_in_the_other_is_refused(go, here, own):
    common = min(range(12), key=lambda i: hashlib.sha256(f"say {i}".encode()).digest())
    (here / "sft.jsonl").write_text(json.dumps({"prompt": f"say {common}", "response": "well"}))
    status, _, err = go("--data", own, "--sft-data", "sft.jsonl", *SMALL, *SHORT)
    assert (
        status == 2
        and "sft.jsonl: every prompt is held out in the other file" in err
        and err.count("\n") == 1
    )


def test_one_prompt_alone_trains_and_says_that_nothing_is_measured(go, here):
    status, out, _ = go("--data", preference_file(here / "one.jsonl", n=3, prompt="same"), *SMALL, *SHORT)
    assert status == 0 and "nothing is measured" in out


def test_one_preference_prompt_and_sft_data_of_one_s_own(go, here):
    """No pair can be held out, but SFT prompts are: what can be measured is."""
    preferences = preference_file(here / "one.jsonl", n=3, prompt="same")
    status, out, err = go("--data", preferences, "--sft-data", sft_file(here / "sft.jsonl"), *SMALL, *SHORT)
    assert (status, err) == (0, "") and "perplexity" in out and "reward accuracy" not in out


def test_sft_data_of_a_single_prompt(go, here, own):
    """No response can be held out, but pairs are."""
    (here / "sft.jsonl").write_text('{"prompt": "tell", "response": "well"}\n' * 3)
    status, out, err = go("--data", own, "--sft-data", "sft.jsonl", *SMALL, *SHORT)
    assert (status, err) == (0, "") and "reward accuracy" in out and "perplexity on" not in out


def test_weights_that_overflow_in_the_last_step_are_not_a_finished_stage(go, here, own):
    status, _, err = go("--data", own, *SMALL, "--sft-steps", 2, "--steps", 1, "--lr", 1e39)
    assert status == 1 and "dpo, step 1: a weight is no longer a finite number" in err
    assert not (here / "runs/1/dpo.pt").exists()


# --- the measuring


def whole(folder):
    """Every file of a run: its bytes, and when it was written."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_finished_run_that_is_resumed_prints_its_table_and_changes_nothing(go, here, own, monkeypatch):
    _, out, _ = go("--data", own, *SMALL, *SHORT)
    before = whole(here / "runs/1")
    monkeypatch.setattr(running, "run", None)  # nothing is trained, scored or measured
    status, again, err = go("--resume", "runs/1")
    assert (status, err) == (0, "") and whole(here / "runs/1") == before
    assert (
        again == out[out.index("\n> ") :] and "on held-out prompts" in again and "in all; talk to it" in again
    )


def test_what_was_measured_before_a_failure_is_kept(go, here, monkeypatch):
    job = [*SMALL, "--context", 128, "--eval-examples", 8]
    assert go(*job, *SHORT, "--out", "good")[0] == 0
    for part in ("judge_all", "perplexity", "estimate_kl", "compare_pairs"):
        assert_kept(go, [*job, *SHORT], here / "good", here / part, monkeypatch, part)


def assert_kept(go, job, good, bad, monkeypatch, part):
    """Of a run whose measuring fails in that part: what was measured before, and the rest when it is gone on
    with.
    """

    def fail(*args):
        raise ZeroDivisionError(part)

    with monkeypatch.context() as broken:
        broken.setattr(measuring, part, fail)
        with pytest.raises(ZeroDivisionError):
            go(*job, "--out", part)
    assert [row["dpo"] for row in rows(bad / "samples.jsonl")] == [
        row["dpo"] for row in rows(good / "samples.jsonl")
    ]
    summary = json.loads((bad / "summary.json").read_text())
    assert (
        summary["unfinished"]
        and summary["dpo"]["response_tokens"] > 0
        and ("kl" in summary["dpo"]) == (part == "compare_pairs")
    )
    models = [(bad / name).read_bytes() for name in ("sft.pt", "dpo.pt")]
    status, out, err = go("--resume", part)
    assert (status, err) == (0, "") and "measuring" in out and "step" not in out and "scoring" not in out
    assert [(bad / name).read_bytes() for name in ("sft.pt", "dpo.pt")] == models
    assert (bad / "samples.jsonl").read_bytes() == (good / "samples.jsonl").read_bytes()
    after, wanted = (json.loads((folder / "summary.json").read_text()) for folder in (bad, good))
    assert (
        after["seconds"] > summary["seconds"] > after["dpo"]["training_seconds"]
        and after["sft"] == wanted["sft"]
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["measuring", "reference"])
def test_a_stop_outside_of_the_loop_is_obeyed_at_once(go, here, own, monkeypatch, number, where):
    """While the result is measured and while the reference is scored: with the line that says how to go
    on.
    """
    calls = []

    def stop(*args, **kwargs):
        calls.append(where)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with monkeypatch.context() as stopped:
        stopped.setattr(
            *((measuring, "generate") if where == "measuring" else (reference, "score_reference")), stop
        )
        status, _, err = go("--data", own, *SMALL, *SHORT)
    assert (status, len(calls)) == (
        130,
        1,
    ) and "stopped; go on with: python -m mini_dpo.train --resume runs/1" in err
    assert signal.getsignal(number) is before
    assert go("--resume", "runs/1")[0] == 0 and (here / "runs/1/summary.json").exists()


def test_each_look_takes_in_a_bounded_number_of_examples_and_says_so(go, here, monkeypatch):
    """In the loop, in the reference's log-probs and in the closing table; those taken are spread over all."""
    sizes = []
    precompute = stages.precompute_reference
    monkeypatch.setattr(
        stages,
        "precompute_reference",
        lambda reference, examples, *how: (
            sizes.append(len(examples)) or precompute(reference, examples, *how)
        ),
    )
    own = preference_file(here / "mine.jsonl", n=200)
    status, out, _ = go(
        "--data", own, *SMALL, "--sft-steps", 1, "--epochs", 2, "--batch-size", 60, "--eval-examples", 7
    )
    summary = json.loads((here / "runs/1/summary.json").read_text())
    assert (
        status == 0
        and "of 20 held-out examples, 7 are looked at each time; --eval-examples changes that" in out
    )
    assert (summary["prompts"], summary["pairs"], sizes) == (7, 7, [187])
    corpus = own_corpus(read_own(str(own), None, load_tokenizer("toy"), paired=True), 40)
    few, prompts = at_most(corpus, 7).held_out, corpus.held_out.prompts
    assert few.prompts == [p.prompt for p in few.preferences] and [prompts.index(p) for p in few.prompts] == [
        0,
        2,
        5,
        8,
        11,
        14,
        17,
    ]
    assert at_most(corpus, 20) == corpus


def test_answers_have_an_end(go, here, own):
    assert "with answers of 3 tokens at most" in go("--data", own, *SMALL, *SHORT, "--max-new-tokens", 3)[1]
    assert json.loads((here / "runs/1/summary.json").read_text())["sft"]["response_tokens"] <= 3
    long = Encoded([0], [0] * 3999)
    for responses, n in (([], 80), ([long], 512), ([Encoded([], [0] * 9)], 18)):
        assert measuring.answer_length(HeldOut(["x"], responses, [], [], None), 40) == n


def test_a_diverged_run_has_a_table_and_strict_json(go, here, own):
    """Weights that are finite, and nothing else is: no number of the two columns runs into its neighbour."""
    status, out, err = go("--data", own, *SMALL, "--sft-steps", 2, "--steps", 1, "--lr", 1e36)
    assert (status, err) == (0, "") and "not finite" in out and (here / "runs/1/dpo.pt").exists()
    refuse = lambda name: pytest.fail(f"{name} is no JSON")  # noqa: E731
    summary = json.loads((here / "runs/1/summary.json").read_text(), parse_constant=refuse)
    assert summary["dpo"]["perplexity"] is None
    assert compare.comparison_table(
        {
            "dpo": {
                **summary,
                "dpo": {**summary["dpo"], "reward": 1.0, "win_rate": 0.5},
                "sft": {**summary["sft"], "reward": 1.0},
            }
        }
    )


def test_long_samples_are_short_on_the_screen_and_whole_in_the_file(go, here, monkeypatch):
    words = " ".join(f"word{i}" for i in range(1000))
    blocks = closing_table.side_by_side([{"prompt": words, "sft": words, "dpo": "short"}], "SFT", "DPO")
    assert len(blocks.splitlines()) == 12 + 1 + 12 and max(map(len, blocks.splitlines())) <= 110
    assert blocks.count("more lines in samples.jsonl") == 2 and "word999" not in blocks
    assert closing_table.side_by_side([{"prompt": "a\nb", "sft": "c", "dpo": "d"}], "SFT", "DPO").startswith(
        "> a\n  b\n  SFT"
    )
    monkeypatch.setattr(
        measuring,
        "answer_prompts",
        lambda model, tokenizer, prompts, *how: [tokenizer.encode_response(words) for _ in prompts],
    )
    # such an answer does not fit the model
    monkeypatch.setattr(measuring, "estimate_kl", lambda *args: (0.0, None))
    _, out, _ = go("--data", preference_file(here / "mine.jsonl"), *SMALL, *SHORT)
    assert "more lines in samples.jsonl" in out and rows(here / "runs/1/samples.jsonl")[0]["dpo"] == words


def test_held_out_preferences_of_one_s_own(go, here, own):
    """They take the tenth's place, whatever form their prompts have; nothing else is held out, and none is
    trained on.
    """
    kept = here / "kept.jsonl"
    kept.write_text(
        "".join(
            json.dumps({"prompt": p, "chosen": "yes", "rejected": "no"}) + "\n"
            for p in (" SAY 3", "say 5", "ask 1")
        )
    )
    demonstrations = here / "sft.jsonl"
    demonstrations.write_text(
        "".join(json.dumps({"prompt": p, "response": "well"}) + "\n" for p in ("Say 5", "tell", "tell me"))
    )
    for sft_data, others in ((None, 2), (str(demonstrations), 3)):
        corpus = own_corpus(read_own(str(own), sft_data, load_tokenizer("toy"), True, held_out=str(kept)), 40)
        assert (
            corpus.held_out.prompts == [" SAY 3", "say 5", "ask 1"]
            and len(corpus.valid_preferences) == len(corpus.valid_responses) == 3
        )
        assert len(corpus.preferences) == 10 and len(corpus.responses) == (2 if sft_data else 10)
        trained_on = {
            same_prompt(load_tokenizer("toy").decode(s.prompt[1:-1]))
            for s in [*corpus.responses, *(p.chosen for p in corpus.preferences)]
        }
        assert not trained_on & {"say 3", "say 5", "ask 1"}
        args = ["--data", own, "--held-out", kept, *(["--sft-data", sft_data] if sft_data else [])]
        status, out, err = go(*args, *SMALL, *SHORT)
        assert (
            (status, err) == (0, "")
            and f"kept.jsonl: 3 examples are held out, in place of a tenth; {others} others "
            "have their prompts, and are not trained on"
            in out
        )
    kept.write_text(kept.read_text().replace("yes", "yes!"))
    status, _, err = go("--resume", "runs/1")
    assert status == 2 and "kept.jsonl has changed since" in err
    status, _, err = go("--data", own, "--held-out", own, *SMALL, *SHORT)
    assert status == 2 and "mine.jsonl: every prompt is held out in the other file" in err


# --- it refuses, clearly


@pytest.mark.parametrize(
    "args, message",
    {
        "--data none.jsonl": "none.jsonl: cannot be read",
        "--stage dpo": "--stage dpo needs --init-from",
        "--stage dpo --init-from none": "none: no model there",
        "--stage dpo --init-from x --sft-lr 1": "--stage dpo does not read --sft-lr",
        "--stage sft --beta 0.2": "--stage sft does not read --beta",
        "--stage sft --loss cdpo": "--stage sft does not read --loss",
        "--stage sft --sft-lr 1": "with --stage sft, write --lr for --sft-lr",
        "--init-from x --model toy": "come from --init-from; leave out --model",
        "--sft-data x": "--sft-data without --data",
        "--label-smoothing 0.1": "--loss dpo does not read --label-smoothing (cdpo, rdpo, "
        "exo, aot and others do)",
        "--loss simpo --tau 0.1": "--loss simpo does not read --tau (discopop reads it)",
        "--loss dppo": "there is no loss dppo (did you mean dpo?); `python -m mini_dpo.train "
        "--list-losses` shows what there is",
        "--loss none.py:mine": "none.py:mine: there is no file none.py",
        "--loss simpo --precompute-ref": "--loss simpo has no reference; leave out --precompute-ref",
        "--loss kto --precompute-ref": "--loss kto needs the reference in every step",
        "--sft-weight -1": "--sft-weight must be at least 0, not -1.0",
        "--stage sft --sft-weight 1": "--stage sft does not read --sft-weight",
        "--loss cdpo --label-smoothing 0.7": "label_smoothing must be in [0, 0.5), not 0.7",
        "--beta 0": "beta must be positive, not 0.0",
        "--beta nan": "--beta must be a finite number, not nan",
        "--beta inf": "--beta must be a finite number, not inf",
        "--loss simpo --gamma nan": "--gamma must be a finite number, not nan",
        "--sft-weight nan": "--sft-weight must be a finite number, not nan",
        "--dropout nan": "--dropout must be a finite number, not nan",
        "--epochs 1e999": "--epochs must be a finite number, not 1e999",
        "--steps 0": "--steps must be at least 1, not 0",
        "--steps 3 --epochs 2": "--steps and --epochs say the same thing twice",
        "--tokens-per-batch 0": "--tokens-per-batch must be at least 1, not 0",
        "--tokens-per-batch 100 --batch-size 8": "--batch-size and --tokens-per-batch both "
        "say how large a batch is; give one",
        "--lr -1": "--lr must be positive, not -1.0",
        "--lr nan": "--lr must be a finite number, not nan",
        "--epochs inf": "--epochs must be a finite number, not inf",
        "--dropout 1": "--dropout must be in [0, 1)",
        "--seed -1": "--seed must be in [0, 2^31)",
        "--n-head 3": "n_embd (128) must be a multiple of n_head (3)",
        "--device cuda": "--device cuda: this machine, or this build of torch, has none",
        "--reference x": "--reference goes with --stage dpo",
        "--stage sft --reference x": "--stage sft does not read --reference",
        "--stage dpo --init-from x --reference y --loss "
        "simpo": "--loss simpo has no reference; leave out --reference",
        "--skip-bad": "--skip-bad is about your own files",
        "--held-out x": "--held-out is in place of a tenth of your own files; give --data or --sft-data",
        "--eval-examples 0": "--eval-examples must be at least 1, not 0",
        "--max-new-tokens 0": "--max-new-tokens must be at least 1, not 0",
        "--resume none": "none/config.json: cannot be read",
        "--resume none --beta 1": "leave out --beta, or start a new run",
    }.items(),
    ids=str,
)
def test_flags_that_make_no_sense_are_one_clear_line(go, here, monkeypatch, args, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _out, err = go(*args.split())
    assert status == 2 and message in err and err.startswith("error: ") and err.count("\n") == 1
    assert not list(here.iterdir()), "nothing may be left behind"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "NaN", "-1e400"])
def test_no_flag_of_any_command_takes_what_is_no_finite_number(monkeypatch, capsys, here, value):
    """Each flag that takes a number with a fraction, of every command and of every loss."""
    commands = [
        (train, Settings),
        (sample, sample.SampleSettings),
        (exact, exact.ExactSettings),
        (compare, compare.CompareSettings),
    ]
    asked = [
        (module, [], field.name)
        for module, settings in commands
        for field in fields(settings)
        if field.metadata.get("kind") is float
    ]
    asked += [
        (train, ["--loss", loss.name], name)
        for loss in LOSSES.values()
        for name, default in loss.hyperparameters.items()
        if isinstance(default, float)
    ]
    assert len(asked) > 8 + len(LOSSES)
    for module, before, name in asked:
        flag = "--" + name.replace("_", "-")
        status, _, err = run(
            monkeypatch, capsys, module, *before, f"{flag}={value}", *(["run"] if module is sample else [])
        )
        assert (status, err) == (2, f"error: {flag} must be a finite number, not {value}\n")
    assert not list(here.iterdir())


@pytest.mark.parametrize("args", ["--nonsense", "--steps many", "--bet 0.1", "--stage"])
def test_flags_that_do_not_exist_exit_with_2_as_well(go, args):
    status, _, err = go(*args.split())
    assert status == 2 and "python -m mini_dpo.train" in err


def test_broken_data_leaves_no_folder(go, here, own):
    with own.open("a") as file:
        file.write("{nope\n")
    status, _, err = go("--data", own, *SMALL, *SHORT)
    assert status == 2 and f"{own}, line 13: not JSON" in err and err.count("\n") == 1
    assert not (here / "runs").exists()


def test_data_longer_than_the_context(go, here):
    path = preference_file(here / "long.jsonl", prompt="x" * 100)
    status, _, err = go("--data", path, *SMALL, *SHORT)
    assert status == 2 and "every example to train on is longer than the context of 40 tokens" in err


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_too_few_tokens_for_a_batch_are_refused_with_the_number_to_give(go, here, own, loss):
    """That number is enough, and one less is not; KTO, whose batches hold two prompts at least, needs three
    of the longest.
    """
    status, _, err = go("--data", own, *SHAPE, *SHORT, "--loss", loss, "--tokens-per-batch", 5)
    assert (
        status == 2
        and "--tokens-per-batch 5 does not hold the longest of the examples; give " in err
        and err.count("\n") == 1
    )
    needed = int(err.split("give ")[1].split()[0])
    status, _, err = go("--data", own, *SHAPE, *SHORT, "--loss", loss, "--tokens-per-batch", needed - 1)
    assert status == 2 and f"give {needed} or more" in err and not (here / "runs").exists()
    assert go("--data", own, *SHAPE, *SHORT, "--loss", loss, "--tokens-per-batch", needed)[0] == 0


def words_file(path, lengths, **change):
    """Pairs whose longer response has so many words each, a token a word with either vocabulary."""
    rows = [
        {"prompt": f"say {i}", "chosen": "the" + " the" * (n - 1), "rejected": "the"}
        for i, n in enumerate(lengths)
    ]
    path.write_text("".join(json.dumps({**row, **change}) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "lengths, context, kept",
    [
        ([100] * 30, 128, 30),
        ([1900] * 3, 1906, 3),
        ([200] * 99 + [300], 206, 99),
        ([150] * 9 + [2500], 2048, 9),
    ],
)
def test_the_context_is_fitted_to_one_s_own_data(here, capsys, monkeypatch, lengths, context, kept):
    """99 of a hundred examples fit: at least 128 tokens, at most 2,048. A context that is given wins. A
    prompt of two words is five tokens at most, and a response's end is one.
    """
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(here))
    path = words_file(here / "long.jsonl", lengths)
    settings, tokenizer, model, corpus = prepare(parse(["--data", str(path)]))
    assert tokenizer.name == settings.tokenizer == "toy" and settings.context == model.config.context
    assert context <= model.config.context <= context + 3 * (context not in (128, 2048))
    assert len(corpus.preferences) + len(corpus.valid_preferences) == kept
    out = capsys.readouterr().out
    assert (
        f"and a context of {model.config.context:,} tokens" in out
        and "made for other texts: GPT-2's is not in tiktoken's cache" in out
    )
    assert prepare(settings)[2].config == model.config and "--tokenizer" not in capsys.readouterr().out, (
        "a resumed run has chosen already"
    )
    assert prepare(parse(["--data", str(path), "--context", "2600"]))[2].config.context == 2600


def test_gpt2_s_vocabulary_is_taken_where_it_is_at_hand(here, own, capsys, monkeypatch):
    monkeypatch.setattr(preparing, "default_vocabulary", lambda: "gpt2")
    monkeypatch.setattr(
        preparing, "find_tokenizer", lambda name: load_tokenizer("toy") if name == "toy" else stand_in
    )
    stand_in = load_tokenizer("toy")
    stand_in.name = "gpt2"
    assert (
        prepare(parse(["--data", str(own)]))[0].tokenizer == "gpt2"
        and "GPT-2's vocabulary (" in capsys.readouterr().out
    )
    assert prepare(parse(["--data", str(own), "--tokenizer", "toy"]))[0].tokenizer == "toy"
    assert prepare(parse([]))[0].tokenizer == "toy" and prepare(parse([]))[0].context is None, (
        "the toy shop's run is what it was"
    )


@pytest.mark.parametrize("context", [16, 25, 128])
def test_what_is_held_out_does_not_depend_on_the_context(here, capsys, context):
    """And what would keep everything is one number, said once, that does keep everything."""
    path = words_file(here / "long.jsonl", [5] * 20 + [18] * 10 + [40])
    own = read_own(str(path), None, load_tokenizer("toy"), paired=True)
    everything = own_corpus(own, 128).held_out.prompts
    capsys.readouterr()
    prompts = own_corpus(own, context).held_out.prompts
    assert set(prompts) <= set(everything)
    said = re.findall(r"--context (\d+) would keep all", capsys.readouterr().out)
    assert len(said) == (context < 128)
    assert all(
        len((corpus := own_corpus(own, int(n))).preferences) + len(corpus.valid_preferences) == 31
        for n in said
    )


def test_a_file_of_three_pairs_trains(go, here):
    """Even if the one that is held out is too long."""
    status, out, err = go("--data", preference_file(here / "three.jsonl", n=3), *SMALL, *SHORT)
    assert (status, err) == (0, "") and "held out by prompt: 1 of 3 pairs" in out
    own = read_own(str(here / "three.jsonl"), None, load_tokenizer("toy"), paired=True)
    lines = [
        {
            "prompt": p.prompt,
            "rejected": "no",
            "chosen": "yes " * (60 if p.line == own[0].examples[-1].line else 1),
        }
        for p in own[0].examples
    ]
    (here / "three.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, out, err = go("--data", here / "three.jsonl", *SMALL, *SHORT)
    assert (
        (status, err) == (0, "")
        and "held out by prompt: 0 of 2 pairs" in out
        and "nothing is measured" in out
    )


def test_bad_lines_are_left_out_aloud_if_asked(go, here, own):
    with own.open("a") as file:
        file.write('{"prompt": "p", "chosen": "", "rejected": "r"}\n' * 2)
    status, _, err = go("--data", own, *SMALL, *SHORT)
    assert (
        status == 2 and "2 of 14 lines cannot be used" in err and "\n  lines 13, 14: 'chosen' is empty" in err
    )
    status, out, err = go("--data", own, *SMALL, *SHORT, "--skip-bad")
    assert (status, err) == (0, "") and "--skip-bad left out 2 of 14 lines" in out and "1 of 12 pairs" in out
    assert go("--resume", "runs/1")[0] == 0


def test_a_chosen_answer_that_won_ten_times_is_imitated_once(here, capsys):
    path = here / "won.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt": f"say {i // 10}", "chosen": "yes", "rejected": "no " * (1 + i % 10)}) + "\n"
            for i in range(30)
        )
    )
    _, demonstrations = read_own(str(path), None, load_tokenizer("toy"), paired=True)
    assert [(d.prompt, d.response) for d in demonstrations.examples] == [
        (d.prompt, "yes") for d in demonstrations.examples
    ] and len(demonstrations.examples) == 3
    assert (
        "SFT imitates its chosen responses (18 of them stand there again, and are imitated once)"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_weights_are_proposed_for_labels_that_are_far_from_even(here, capsys, loss):
    path = here / "f.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt": f"say {i}", "completion": "yes", "label": i % 10 > 0}) + "\n"
            for i in range(100)
        )
    )
    parsed = parse(["--data", str(path), "--loss", loss, "--tokenizer", "toy"])
    prepare(parsed)
    assert "would balance them" in capsys.readouterr().out
    prepare(replace(parsed, loss_options={**parsed.loss_options, "undesirable_weight": 8.0}))
    assert "would balance them" not in capsys.readouterr().out


# --- a second round


def test_a_second_round_with_the_first_reference(go, here, own, monkeypatch, capsys):
    """It starts from a preference-trained model, says so, keeps the reference that is given, and goes on
    after a stop.
    """
    assert go("--data", own, *SMALL, *SHORT, "--out", "first")[0] == 0
    second = [
        "--stage",
        "dpo",
        "--data",
        own,
        "--init-from",
        "first/dpo.pt",
        "--reference",
        "first",
        "--steps",
        5,
        "--batch-size",
        4,
    ]
    status, out, err = go(*second, "--out", "second")
    assert (
        (status, err) == (0, "")
        and re.search(r"on held-out prompts \(1\) +START +DPO\n", out)
        and re.search(r"^  START +DPO$", out, re.M)
    )
    assert "SFT   " not in out
    config = json.loads((here / "second/config.json").read_text())
    assert config["settings"]["reference"] == "./../first" and "./../first/sft.pt" in config["sha256"]
    first_loss = next(row["loss"] for row in rows(here / "second/metrics.jsonl") if row["stage"] == "dpo")
    assert abs(first_loss - math.log(2)) > 1e-6, "the policy no longer begins at its reference"
    assert go(*second[:6], *second[8:], "--out", "plain")[0] == 0
    first_loss = next(row["loss"] for row in rows(here / "plain/metrics.jsonl") if row["stage"] == "dpo")
    assert first_loss == pytest.approx(math.log(2), abs=1e-6)
    assert run(monkeypatch, capsys, sample, "second", "--prompt", "say 3", "--max-new-tokens", 5)[
        1
    ].startswith("START  ")
    # what is measured on the way: the same reference, so the same KL, whichever model the run started from
    before = (here / "second/summary.json").read_text()
    assert go("--resume", "second")[0] == 0
    kl = [
        json.loads(text)["dpo"]["kl"]
        for text in (
            before,
            (here / "second/summary.json").read_text(),
            (here / "plain/summary.json").read_text(),
        )
    ]
    assert kl[0] == kl[1] and kl[0] != kl[2]
    # and a third round from the second's folder, whose starting model is no SFT model either
    status, out, _ = go(
        "--stage", "dpo", "--data", own, "--init-from", "second", "--steps", 2, "--batch-size", 4
    )
    assert status == 0 and re.search(r"START +DPO\n", out)


def test_a_reference_that_does_not_fit_is_refused(go, here, own):
    assert go("--data", own, *SMALL, *SHORT, "--out", "first")[0] == 0
    assert go("--stage", "sft", "--data", own, *SMALL, "--context", 50, "--steps", 1, "--out", "wide")[0] == 0
    second = ["--stage", "dpo", "--data", own, "--init-from", "first", "--steps", 2]
    for flags, message in (
        (
            ["--reference", "wide"],
            "must have the tokenizer and the context of --init-from (toy, 40 tokens), not toy, 50 tokens",
        ),
        (["--reference", "none"], "none: no model there"),
    ):
        status, _, err = go(*second, *flags)
        assert status == 2 and message in err and err.count("\n") == 1 and not (here / "runs").exists()


def test_a_taken_folder_is_refused(go, here, own):
    (here / "mine").mkdir()
    status, _, err = go("--data", own, *SMALL, *SHORT, "--out", "mine")
    assert status == 2 and "mine exists; choose another --out" in err


def test_data_that_changed_since_is_refused(go, here, own):
    go("--data", own, *SMALL, *SHORT)
    preference_file(own, n=11)
    status, _, err = go("--resume", "runs/1")
    assert status == 2 and "mine.jsonl has changed since runs/1 was begun" in err


def test_an_unfinished_sft_model_is_no_place_to_start_from(go, here, own):
    go("--data", own, *SMALL, *SHORT)
    path = here / "runs/1/sft.pt"
    saved = load_checkpoint(path)
    torch.save({**saved, "finished": False}, path)
    status, _, err = go("--stage", "dpo", "--data", own, "--init-from", "runs/1", "--steps", 2)
    assert status == 2 and "its training is not finished; go on with that run first: --resume" in err


def test_a_run_from_another_machine_s_gpu_is_refused(go, here, own, monkeypatch):
    go("--data", own, *SMALL, *SHORT)
    change_settings(here / "runs/1", device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, err = go("--resume", "runs/1")
    assert status == 2 and "runs/1 was begun on cuda" in err


def test_a_config_of_another_version_is_refused(go, here):
    (here / "old").mkdir()
    for config in (
        {"settings": {"colour": "red"}, "sha256": {}},
        {},
        {"settings": {}},
        {"settings": [], "sha256": {}},
    ):
        write_json(here / "old/config.json", config)
        status, _, err = go("--resume", "old")
        assert (
            status == 2 and "old/config.json: not the settings of a run of this version of mini_dpo" in err
        ), config


def test_nonsense_learning_rate_ends_in_one_line_and_status_1(go, here, own):
    status, _, err = go("--data", own, *SMALL, "--sft-steps", 60, "--steps", 2, "--sft-lr", 1e30)
    assert (
        status == 1
        and err.startswith("error: ")
        and "start again with a lower learning rate" in err
        and err.count("\n") == 1
    )
    assert (here / "runs/1/config.json").exists()


def test_help_is_for_newcomers(go):
    status, out, _ = go("--help")
    assert status == 0
    for name in (f.name for f in Settings.__dataclass_fields__.values() if f.metadata):
        assert "--" + name.replace("_", "-") in out
    for words in ("examples:", "--beta", "price of a nat", "(default: 0.1; 0.3 on the toy shop)"):
        assert words in " ".join(out.split())
    assert "--label-smoothing" in go("--loss", "cdpo", "--help")[1] and "--label-smoothing" not in out


def test_each_setting_is_read_by_something():
    """A setting that nothing reads would be a lie: each field's name must stand in the wiring as
    `settings.NAME`.
    """
    import inspect

    wiring = preparing, running, stages, closing, parsing.model_config
    source = "".join(inspect.getsource(part) for part in wiring)
    by_name = ("n_layer", "n_head", "n_embd", "context")  # read in a loop over their names
    for name in Settings.__dataclass_fields__:
        assert f"settings.{name}" in source or name in by_name, name


def test_settings_survive_config_json(here):
    settings = parse(["--data", "x.jsonl", "--loss", "cdpo", "--beta", "0.3", "--steps", "7"])
    assert settings.loss_options == {"beta": 0.3, "label_smoothing": 0.1}
    assert parse(["--data", "x.jsonl"]).loss_options == {"beta": 0.1} and parse([]).loss_options == {
        "beta": 0.3
    }
    assert parse(["--beta", "0.2"]).loss_options == {"beta": 0.2}
    assert settings.data == str(here / "x.jsonl") and settings.epochs is None and settings.sft_epochs == 6.0
    assert Settings(**json.loads(json.dumps(vars(settings)))) == settings


@pytest.mark.parametrize(
    "flags, expected",
    {
        "": [("muon", 8e-3, 250), ("adamw", 3e-4, 125)],
        "--optimizer adamw --lr 1e-5 --sft-steps 7": [("adamw", 8e-3, 7), ("adamw", 1e-5, 125)],
        "--optimizer muon --steps 9": [("muon", 8e-3, 250), ("muon", 3e-4, 9)],
        "--n-embd 512": [("adamw", 5e-4, 250), ("adamw", 2e-5, 125)],
        "--data mine.jsonl": [("adamw", 8e-3, 6), ("adamw", 2e-4, 3)],
        "--data mine.jsonl --n-embd 512": [("adamw", 5e-4, 6), ("adamw", 2e-5, 3)],
    }.items(),
    ids=str,
)
def test_what_each_stage_trains_with(go, own, monkeypatch, flags, expected):
    """Muon only where a narrow model learns the toy shop's talk, larger steps only for its single pass of
    preferences.
    """
    found = []
    monkeypatch.setattr(
        stages,
        "train",
        lambda policy, objective, batches, config, *rest: found.append(
            (config.optimizer, config.lr, config.steps)
        ),
    )
    monkeypatch.setattr(stages, "precompute_reference", lambda reference, examples, *rest: examples)
    go("--n-layer", 1, *flags.split())
    assert found == expected


# --- sample and show


def test_sample_talks_to_both_models(go, monkeypatch, capsys, here, own):
    go("--data", own, *SMALL, *SHORT)
    status, out, err = run(monkeypatch, capsys, sample, "runs/1", "--prompt", "say 3", "--max-new-tokens", 5)
    assert (status, err) == (0, "") and out.splitlines()[0].startswith("  SFT  ") and "  DPO  " in out
    assert run(monkeypatch, capsys, sample, "runs/1", "--prompt", "say 3", "--max-new-tokens", 5)[1] == out
    status, out, _ = run(
        monkeypatch, capsys, sample, "runs/1/sft.pt", "--prompt", "say 3", "--temperature", 0
    )
    assert status == 0 and "DPO" not in out


def test_sample_reads_prompts_until_the_end_and_forgives_a_bad_one(go, monkeypatch, capsys, here, own):
    import io
    import sys

    go("--data", own, *SMALL, *SHORT)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n" + "x" * 100 + "\nagain\n\nnever read\n"))
    status, out, err = run(monkeypatch, capsys, sample, "runs/1", "--max-new-tokens", 3)
    assert status == 0 and out.count("SFT") == 2 and "no room for a response" in err


def test_sample_shows_the_judge_s_marks(go, monkeypatch, capsys, here):
    go(*SMALL, "--stage", "sft", "--context", 128, "--steps", 2)
    prompt = "Ada here. On Friday you sold me a kettle, and now it bites."
    assert (
        "true reward"
        in run(monkeypatch, capsys, sample, "runs/1", "--prompt", prompt, "--max-new-tokens", 5)[1]
    )


@pytest.mark.parametrize(
    "args, message",
    {
        "none": "none: no model there",
        "run --temperature -1": "--temperature must be at least 0",
        "run --top-p 2": "--top-p must be in (0, 1]",
        "run --temperature nan": "--temperature must be a finite number, not nan",
        "run --top-p inf": "--top-p must be a finite number, not inf",
        "run --max-new-tokens 0": "--max-new-tokens must be at least 1",
        "run --seed 99999999999999999999": "--seed 99999999999999999999 is out of all reach",
    }.items(),
    ids=str,
)
def test_sample_refuses_clearly(monkeypatch, capsys, here, args, message):
    status, _, err = run(monkeypatch, capsys, sample, *args.split())
    assert status == 2 and message in err and err.count("\n") == 1


def test_show_says_which_tokens_are_trained_on(monkeypatch, capsys, here, own):
    status, out, _ = run(monkeypatch, capsys, show, "--data", own, "--line", 4)
    assert status == 0 and "line 4, chosen:" in out and "line 4, rejected:" in out
    lines = out.splitlines()[3:]
    assert lines[0].split()[2:] == ["'<|user|>'", "no"]
    marker = next(i for i, line in enumerate(lines) if "<|assistant|>" in line)
    end = next(i for i, line in enumerate(lines) if "<|endoftext|>" in line)
    assert all(line.endswith("no") for line in lines[: marker + 1])
    assert [line.split("position ")[1] for line in lines[marker + 1 : end + 1]] == [
        str(i) for i in range(marker, end)
    ]
    assert lines[end + 1] == f"{end - marker} of {end + 1} tokens are trained on"
    assert run(monkeypatch, capsys, show, "--data", own, "--line", 99)[0] == 2
    out = run(
        monkeypatch,
        capsys,
        show,
        "--data",
        preference_file(here / "bytes.jsonl", chosen="\u2019 \ufffd\n"),
        "--tokenizer",
        "toy",
    )[1]
    assert (
        all(f"  {token:24}  yes" in out for token in ("b'\\xe2'", "b'\\x80'", "b'\\x99'", "'\\n'"))
        and "\ufffd" not in out
    )
    assert "line 1, response:" in run(monkeypatch, capsys, show, "--sft-data", sft_file(here / "s.jsonl"))[1]
    assert (
        "line 1, completion (disliked):"
        in run(monkeypatch, capsys, show, "--data", feedback_file(here / "f.jsonl"))[1]
    )
