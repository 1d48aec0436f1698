"""`python -m mini_dpo.train` as people use and misuse it."""

import json
import math
import os

import pytest
import torch

from mini_dpo import dpo, sample, show, train
from mini_dpo.checkpoint import load_checkpoint, load_model
from mini_dpo.losses import LOSSES
from mini_dpo.settings import Settings, parse
from tests.commands import SHAPE, SHORT, SMALL, preference_file, run, sft_file


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


# ------------------------------------------------------------------------------------------------------ it works


def test_the_main_job_in_small(go, here):
    status, out, err = go(*SMALL, "--context", 128, *SHORT)
    assert (status, err) == (0, "")
    folder = here / "runs" / "1"
    assert sorted(os.listdir(folder)) == ["config.json", "dpo.pt", "metrics.jsonl", "samples.jsonl", "sft.pt", "summary.json"]
    log = rows(folder / "metrics.jsonl")
    assert [(row["stage"], row["step"]) for row in log] == [(s, i) for s in ("sft", "dpo") for i in range(1, 6)]
    names = "loss rewards/chosen rewards/rejected rewards/margins rewards/accuracies logps/chosen logps/rejected grad_norm learning_rate"
    assert set(names.split()) <= log[-1].keys() and {"eval_loss", "eval_rewards/accuracies"} <= log[-1].keys()
    summary = json.loads((folder / "summary.json").read_text())
    assert {"reward", "facts", "tone", "length", "win_rate", "kl", "perplexity", "reward_accuracy", "logps/chosen", "logps/rejected"} <= summary["dpo"].keys()
    assert summary["dpo"]["kl"] > -4 * summary["dpo"]["kl_error"]
    samples = rows(folder / "samples.jsonl")
    assert len(samples) == 256 and samples[0].keys() == {"prompt", "sft", "dpo"}
    for words in ("tokens/s", "left", "true reward", "win rate", "KL(policy || reference)", "perplexity", "python -m mini_dpo.sample runs/1"):
        assert words in out


def test_own_data_a_second_run_and_a_second_seed(go, here, own):
    assert go("--data", own, *SMALL, *SHORT)[0] == 0
    first = {path.name: path.read_bytes() for path in (here / "runs/1").iterdir()}
    assert go("--data", own, *SMALL, *SHORT)[0] == 0
    assert {path.name: path.read_bytes() for path in (here / "runs/1").iterdir()} == first
    again = {path.name: path.read_bytes() for path in (here / "runs/2").iterdir()}
    assert all(again[name] == first[name] for name in ("metrics.jsonl", "samples.jsonl")), "one seed, one result"
    assert go("--data", own, *SMALL, *SHORT, "--seed", 1)[0] == 0
    assert (here / "runs/3/metrics.jsonl").read_bytes() != first["metrics.jsonl"]


def test_own_data_has_no_true_reward(go, here, own):
    status, out, _ = go("--data", own, *SMALL, *SHORT)
    assert status == 0 and "true reward" not in out and "win rate" not in out
    assert "SFT imitates its chosen responses" in out and "held out by prompt: 1 of 12 pairs" in out


def test_stages_apart_make_what_they_make_together(go, here, own):
    assert go("--data", own, *SMALL, *SHORT, "--out", "both")[0] == 0
    assert go("--stage", "sft", "--data", own, *SMALL, "--steps", 5, "--out", "first")[0] == 0
    status, out, _ = go("--stage", "dpo", "--data", own, "--init-from", "first", "--steps", 5, "--batch-size", 4, "--out", "second")
    assert status == 0
    for stage in ("sft", "dpo"):
        (a, _), (b, _) = load_model(here / "both" / f"{stage}.pt"), load_model(here / "second" / f"{stage}.pt")
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("flags", [[], ["--sft-weight", "0.5", "--precompute-ref"], ["--accumulate", "2", "--dtype", "bfloat16"]], ids=str)
def test_every_loss_trains(go, here, own, loss, flags):
    if not LOSSES[loss].reference or LOSSES[loss].facts["mismatched"]:
        flags = [flag for flag in flags if flag != "--precompute-ref"]
    status, out, err = go("--data", own, *SMALL, "--sft-steps", 1, "--steps", 2, "--loss", loss, *flags)
    assert (status, err) == (0, "") and f"\n{loss}" in out and LOSSES[loss].name.upper().replace("_", "-")[:11] in out
    assert all(math.isfinite(value) for row in rows(here / "runs/1/metrics.jsonl") for name, value in row.items() if name != "stage")
    assert ("looks at a batch as a whole" in out) == ("--accumulate" in flags and not LOSSES[loss].facts["decomposes"])


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if not loss.reference])
def test_a_reference_free_loss_never_makes_or_runs_a_reference(go, here, own, loss, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a reference was asked for")

    monkeypatch.setattr(train, "freeze", never)
    monkeypatch.setattr(dpo, "score_reference", never)
    with pytest.raises(AssertionError, match="a reference was asked for"):
        go("--data", own, *SMALL, *SHORT)
    monkeypatch.setattr(train, "evaluate", lambda *args: pytest.skip("trained to its end"))  # measuring may look at the SFT model
    with pytest.raises(pytest.skip.Exception, match="trained to its end"):
        go("--data", own, *SMALL, *SHORT, "--loss", loss)


def test_trl_s_names_are_aliases(go, own):
    for alias, name in {"sigmoid": "dpo", "robust": "rdpo", "exo_pair": "exo", "nca_pair": "nca", "bco_pair": "bco", "sppo_hard": "sppo", "sigmoid_norm": "dpo_norm"}.items():
        assert parse(["--data", "x", "--loss", alias]).loss == name


def test_list_losses(go):
    status, out, _ = go("--list-losses")
    assert status == 0
    for loss in LOSSES.values():
        needs = f"{'pairs' if loss.paired else 'single responses'}, {'a reference' if loss.reference else 'no reference'}"
        assert f"{needs}\n    {loss.formula.splitlines()[0]}" in out and loss.paper in out


# ----------------------------------------------------------------------------------------------- single responses


def feedback_file(path, n=12, **change):
    """A file of single responses, liked and not."""
    lines = [json.dumps({"prompt": f"say {i}", "completion": "yes " * (1 + i % 3), "label": i % 3 > 0, **change}) for i in range(n)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if not loss.paired])
def test_truly_unpaired_data_trains(go, here, loss):
    status, out, err = go("--data", feedback_file(here / "f.jsonl"), *SMALL, *SHORT, "--loss", loss)
    assert (status, err) == (0, "") and "SFT imitates its liked responses" in out and "held out by prompt: 1 of 12 single responses" in out
    log = [row for row in rows(here / "runs/1/metrics.jsonl") if row["stage"] == "dpo"]
    assert all({"rewards/accuracies", "logps/chosen"} & row.keys() for row in log) and all(("kl" in row) == (loss == "kto") for row in log)


def test_a_paired_file_is_split_in_two(go, own):
    status, out, _ = go("--data", own, *SMALL, *SHORT, "--loss", "kto")
    assert status == 0 and "each of 11 pairs is split into a liked and a disliked one" in out


def test_kto_refuses_a_batch_of_one(go, here, own):
    status, _, err = go("--data", own, *SMALL, *SHORT, "--loss", "kto", "--batch-size", 1)
    assert status == 2 and "use --batch-size 2 or more" in err and err.count("\n") == 1
    status, _, err = go("--data", feedback_file(here / "f.jsonl", n=2, label=True), *SMALL, *SHORT, "--loss", "kto")
    assert status == 2 and "needs at least two examples" in err and err.count("\n") == 1
    assert not (here / "runs").exists()


def test_feedback_of_one_kind_only(go, here):
    path = feedback_file(here / "f.jsonl", label=False)
    status, _, err = go("--data", path, *SMALL, *SHORT, "--loss", "kto")
    assert status == 2 and "no liked response for SFT to imitate; give --sft-data" in err and not (here / "runs").exists()
    status, out, err = go("--data", path, "--sft-data", sft_file(here / "s.jsonl"), *SMALL, *SHORT, "--loss", "kto")
    assert (status, err) == (0, "") and "every response to train on is disliked" in out


@pytest.mark.parametrize("loss, message", [("dpo", "no 'chosen'"), ("kto", "'label' must be true or false, not \"yes\"")])
def test_feedback_that_does_not_fit(go, here, loss, message):
    path = feedback_file(here / "f.jsonl", label="yes")
    status, _, err = go("--data", path, *SMALL, *SHORT, "--loss", loss)
    assert status == 2 and f"{path}, line 1: " in err and message in err
    assert loss == "kto" or "single responses are for the losses kto and apo_zero_unpaired" in err


# --------------------------------------------------------------------------------------------- a loss of one's own

MINE = '''
from typing import Literal

import torch
from mini_dpo.losses import PairLogps, loss

@loss(paper="mine", at_reference=lambda beta, power, side: 1.0)
def mine(logps: PairLogps, *, beta: float = 0.1, power: int = 2, side: Literal["left", "right"] = "left") -> torch.Tensor:
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
    assert config["settings"]["loss"] == f"{here}/mine.py:mine" and f"{here}/mine.py" in config["sha256"]
    assert go("--resume", "runs/1")[0] == 0
    (here / "mine.py").write_text(MINE + "\n# another mind\n")
    status, _, err = go("--resume", "runs/1")
    assert status == 2 and "mine.py has changed since runs/1 was begun" in err


def test_help_has_the_words_of_one_s_own_loss(go, mine):
    status, out, _ = go("--loss", mine, "--help")
    assert status == 0 and "the loss mine" in out and "price of a nat, as I see it (default: 0.1)" in " ".join(out.split())
    assert "how steep (default: 2)" in " ".join(out.split()) and "--side {left,right}" in out


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("-> torch.Tensor:", "-> torch.Tensor", "mine.py, line 8: SyntaxError"),
        ("import torch", "import torcch", "mine.py, line 4: ModuleNotFoundError"),
        ("beta: float = 0.1", "beta: float", "mine's beta must be a keyword argument with a default"),
        ("logps: PairLogps, *,", "logps, *,", "the first argument of mine must be `logps: PairLogps`"),
        ("power: int = 2", "power: bool = True", "mine's power must be a number"),
        ("** power\n", "** power).mean()\n", "must return one value an example, a tensor of shape (2,), not shape ()"),
        ("logps.h)", "logps.hh)", "fails on a batch of two, "),
        ('@loss(paper="mine", at_reference=lambda beta, power, side: 1.0)', "", "mine is not a loss: put @loss(...) above it"),
        ("def mine(", "def dpo(", "'dpo' is the name of a loss already, in "),
        ("power", "help", "its hyperparameter help has the name of a flag of train"),
        ("** power", "** power + 0 * logps.h.double()", "must return values in the type of the log-probs, torch.float32, not torch.float64"),
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
    assert not (here / "runs").exists() and LOSSES["dpo"].function.__module__ == "mini_dpo.losses"


def test_accumulating_equals_a_larger_batch(go, here, own):
    assert go("--data", own, *SMALL, "--sft-steps", 2, "--steps", 2, "--batch-size", 11, "--out", "large")[0] == 0
    assert go("--data", own, *SMALL, "--sft-steps", 2, "--steps", 2, "--batch-size", 11, "--precompute-ref", "--out", "ahead")[0] == 0
    (a, _), (b, _) = load_model(here / "large/dpo.pt"), load_model(here / "ahead/dpo.pt")
    for x, y in zip(a.parameters(), b.parameters()):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_memory_is_saved_without_a_trace(go, here, own):
    """Blocks that are computed again for the gradient, with dropout, train to the same weights."""
    for name, flags in (("plain", []), ("again", ["--checkpoint-activations"])):
        assert go("--data", own, *SMALL, *SHORT, "--dropout", 0.1, *flags, "--out", name)[0] == 0
    assert (here / "plain/metrics.jsonl").read_bytes() == (here / "again/metrics.jsonl").read_bytes()


def test_reference_log_probs_are_kept_for_the_next_run(go, here, own):
    """Beside the data. A run that finds them is the run that made them, to the byte, and so is one whose batches are of tokens."""
    for size in (["--batch-size", 4], ["--tokens-per-batch", 90]):
        logs = []
        for _ in range(2):
            status, out, err = go("--data", own, *SHAPE, *SHORT, *size, "--precompute-ref")
            assert (status, err) == (0, "")
            logs.append(max((here / "runs").iterdir(), key=lambda run: int(run.name)) / "metrics.jsonl")
        assert "reference log-probs from " in out and "scoring" not in out
        assert logs[0].read_bytes() == logs[1].read_bytes()
    assert len(list(here.glob("mine.jsonl.ref-*.pt"))) == 2, "the two kinds of batches have made two SFT models"


def test_sft_data_of_one_s_own(go, here, own):
    status, out, _ = go("--data", own, "--sft-data", sft_file(here / "sft.jsonl"), *SMALL, *SHORT)
    assert status == 0 and "1 of 12 pairs, 1 of 12 responses" in out
    status, out, _ = go("--stage", "sft", "--sft-data", here / "sft.jsonl", *SMALL, "--steps", 2)
    assert status == 0 and "DPO" not in out


def test_prompts_held_out_as_preferences_are_no_sft_examples(go, here, own):
    lines = [json.dumps({"prompt": f"say {i}", "response": "well"}) for i in range(12)]
    (here / "sft.jsonl").write_text("\n".join(lines))
    status, out, _ = go("--data", own, "--sft-data", "sft.jsonl", *SMALL, *SHORT)
    assert status == 0 and "their prompts are held-out preferences" in out or "1 of 12 responses" in out
    held_out = {row["prompt"] for row in rows(here / "runs/1/samples.jsonl")}
    assert len(held_out) == 1


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


def test_a_finished_run_can_be_resumed_and_measures_the_same(go, here, own):
    go("--data", own, *SMALL, *SHORT)
    before = {name: (here / "runs/1" / name).read_bytes() for name in ("metrics.jsonl", "samples.jsonl", "sft.pt", "dpo.pt")}
    assert go("--resume", "runs/1")[0] == 0
    assert before == {name: (here / "runs/1" / name).read_bytes() for name in before}


# --------------------------------------------------------------------------------------------- it refuses, clearly


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
        "--label-smoothing 0.1": "--loss dpo does not read --label-smoothing (cdpo, rdpo, exo, aot and others do)",
        "--loss simpo --tau 0.1": "--loss simpo does not read --tau (discopop reads it)",
        "--loss dppo": "there is no loss dppo; `python -m mini_dpo.train --list-losses` shows what there is",
        "--loss none.py:mine": "none.py:mine: there is no file none.py",
        "--loss simpo --precompute-ref": "--loss simpo has no reference; leave out --precompute-ref",
        "--loss kto --precompute-ref": "--loss kto needs the reference in every step",
        "--sft-weight -1": "--sft-weight must be at least 0, not -1.0",
        "--stage sft --sft-weight 1": "--stage sft does not read --sft-weight",
        "--loss cdpo --label-smoothing 0.7": "label_smoothing must be in [0, 0.5), not 0.7",
        "--beta 0": "beta must be positive, not 0.0",
        "--beta nan": "beta must be positive, not nan",
        "--beta inf": "--beta must be a finite number",
        "--steps 0": "--steps must be at least 1, not 0",
        "--steps 3 --epochs 2": "--steps and --epochs say the same thing twice",
        "--tokens-per-batch 0": "--tokens-per-batch must be at least 1, not 0",
        "--tokens-per-batch 100 --batch-size 8": "--batch-size and --tokens-per-batch both say how large a batch is; give one",
        "--lr -1": "--lr must be a positive number, not -1.0",
        "--lr nan": "--lr must be a positive number, not nan",
        "--epochs inf": "--epochs must be a positive number, not inf",
        "--dropout 1": "--dropout must be in [0, 1)",
        "--seed -1": "--seed must be in [0, 2^31)",
        "--n-head 3": "n_embd (128) must be a multiple of n_head (3)",
        "--device cuda": "--device cuda: this machine, or this build of torch, has none",
        "--resume none": "none/config.json: cannot be read",
        "--resume none --beta 1": "leave out --beta, or start a new run",
    }.items(),
    ids=str,
)
def test_flags_that_make_no_sense_are_one_clear_line(go, here, monkeypatch, args, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, out, err = go(*args.split())
    assert status == 2 and message in err and err.startswith("error: ") and err.count("\n") == 1
    assert not list(here.iterdir()), "nothing may be left behind"


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
    assert status == 2 and "every example is longer than the context of 40 tokens" in err


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_too_few_tokens_for_a_batch_are_refused_with_the_number_to_give(go, here, own, loss):
    """That number is enough, and one less is not; KTO, which sets two examples against each other, needs two of the longest."""
    status, _, err = go("--data", own, *SHAPE, *SHORT, "--loss", loss, "--tokens-per-batch", 5)
    assert status == 2 and "--tokens-per-batch 5 does not hold the longest of the examples; give " in err and err.count("\n") == 1
    needed = int(err.split("give ")[1].split()[0])
    status, _, err = go("--data", own, *SHAPE, *SHORT, "--loss", loss, "--tokens-per-batch", needed - 1)
    assert status == 2 and f"give {needed} or more" in err and not (here / "runs").exists()
    assert go("--data", own, *SHAPE, *SHORT, "--loss", loss, "--tokens-per-batch", needed)[0] == 0


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
    config = here / "runs/1/config.json"
    config.write_text(config.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, err = go("--resume", "runs/1")
    assert status == 2 and "runs/1 was begun on cuda" in err


def test_a_config_of_another_version_is_refused(go, here):
    (here / "old").mkdir()
    for config in ('{"settings": {"colour": "red"}, "sha256": {}}', "[]", "{}", '{"settings": {}}'):
        (here / "old/config.json").write_text(config)
        status, _, err = go("--resume", "old")
        assert status == 2 and "old/config.json: not from this version of mini_dpo" in err, config


def test_nonsense_learning_rate_ends_in_one_line_and_status_1(go, here, own):
    status, _, err = go("--data", own, *SMALL, "--sft-steps", 60, "--steps", 2, "--sft-lr", 1e30)
    assert status == 1 and err.startswith("error: ") and "start again with a lower learning rate" in err and err.count("\n") == 1
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
    """A setting that nothing reads would be a lie: each field's name must stand in the wiring as `settings.NAME`."""
    import inspect

    from mini_dpo import settings as settings_module

    source = inspect.getsource(train) + inspect.getsource(settings_module.model_config)
    by_name = ("n_layer", "n_head", "n_embd", "context")  # read in a loop over their names
    for name in Settings.__dataclass_fields__:
        assert f"settings.{name}" in source or name in by_name, name


def test_settings_survive_config_json(here):
    settings = parse(["--data", "x.jsonl", "--loss", "cdpo", "--beta", "0.3", "--steps", "7"])
    assert settings.loss_options == {"beta": 0.3, "label_smoothing": 0.1}
    assert parse(["--data", "x.jsonl"]).loss_options == {"beta": 0.1} and parse([]).loss_options == {"beta": 0.3}
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
    """Muon only where a narrow model learns the toy shop's talk, larger steps only for its single pass of preferences."""
    found = []
    monkeypatch.setattr(train, "train", lambda policy, objective, batches, config, *rest: found.append((config.optimizer, config.lr, config.steps)))
    monkeypatch.setattr(train, "precompute_reference", lambda reference, examples, *rest: examples)
    go("--n-layer", 1, *flags.split())
    assert found == expected


# ------------------------------------------------------------------------------------------------- sample and show


def test_sample_talks_to_both_models(go, monkeypatch, capsys, here, own):
    go("--data", own, *SMALL, *SHORT)
    status, out, err = run(monkeypatch, capsys, sample, "runs/1", "--prompt", "say 3", "--max-new-tokens", 5)
    assert (status, err) == (0, "") and out.splitlines()[0].startswith("  SFT  ") and "  DPO  " in out
    assert run(monkeypatch, capsys, sample, "runs/1", "--prompt", "say 3", "--max-new-tokens", 5)[1] == out
    status, out, _ = run(monkeypatch, capsys, sample, "runs/1/sft.pt", "--prompt", "say 3", "--temperature", 0)
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
    assert "true reward" in run(monkeypatch, capsys, sample, "runs/1", "--prompt", prompt, "--max-new-tokens", 5)[1]


@pytest.mark.parametrize(
    "args, message",
    {
        "none": "none: no model there",
        "run --temperature -1": "--temperature must be at least 0",
        "run --top-p 2": "--top-p must be in (0, 1]",
        "run --max-new-tokens 0": "--max-new-tokens must be at least 1",
        "run --seed 99999999999999999999": "--seed must be in [0, 2^31)",
    }.items(),
    ids=str,
)
def test_sample_refuses_clearly(monkeypatch, capsys, here, args, message):
    status, _, err = run(monkeypatch, capsys, sample, *args.split())
    assert status == 2 and message in err and err.count("\n") == 1


def test_show_says_which_tokens_are_trained_on(monkeypatch, capsys, here, own):
    status, out, _ = run(monkeypatch, capsys, show, "--data", own, "--line", 4)
    assert status == 0 and "line 4, chosen:" in out and "line 4, rejected:" in out
    lines = out.splitlines()[2:]
    assert lines[0].split()[2:] == ["'<|user|>'", "no"]
    marker = next(i for i, line in enumerate(lines) if "<|assistant|>" in line)
    end = next(i for i, line in enumerate(lines) if "<|endoftext|>" in line)
    assert all(line.endswith("no") for line in lines[: marker + 1])
    assert [line.split("position ")[1] for line in lines[marker + 1 : end + 1]] == [str(i) for i in range(marker, end)]
    assert lines[end + 1] == f"{end - marker} of {end + 1} tokens are trained on"
    assert run(monkeypatch, capsys, show, "--data", own, "--line", 99)[0] == 2
    assert "line 1, response:" in run(monkeypatch, capsys, show, "--sft-data", sft_file(here / "s.jsonl"))[1]
    assert "line 1, completion (disliked):" in run(monkeypatch, capsys, show, "--data", feedback_file(here / "f.jsonl"))[1]
