"""`python -m mini_dpo.compare` in small: what it makes, that it goes on, what it refuses."""

import json
from dataclasses import replace

import pytest

from mini_dpo import compare
from mini_dpo.compare import COLUMNS, SEARCH, comparison_table
from mini_dpo.corpus.worlds import TOY_PREFERENCES
from mini_dpo.evaluation import measuring
from mini_dpo.files import read_json, write_json
from mini_dpo.losses import LOSSES
from mini_dpo.train import __main__ as train
from mini_dpo.train import closing
from mini_dpo.train.parsing import TOY_DEFAULTS, parse
from tests.commands import change_json, change_settings, run

SMALL = ["--n-layer", "1", "--n-head", "2", "--n-embd", "16"]


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    """A comparison whose SFT model is there already, a small one of two steps that passes for the one that is
    asked for.
    """
    monkeypatch.chdir(tmp_path)
    few = lambda held_out: replace(held_out, prompts=held_out.prompts[:8])  # noqa: E731
    monkeypatch.setattr(
        closing, "evaluate", lambda *args: measuring.evaluate(*args[:5], few(args[5]), *args[6:])
    )
    assert run(monkeypatch, capsys, train, "--stage", "sft", *SMALL, "--steps", 2, "--out", "c/sft")[0] == 0
    change_settings(tmp_path / "c/sft", **vars(parse(["--stage", "sft"])))
    return tmp_path / "c"


def test_every_loss_is_a_run_and_a_line_and_is_not_trained_twice(folder, monkeypatch, capsys):
    status, out, err = run(
        monkeypatch, capsys, compare, "--losses", "dpo,simpo,kto", "--epochs", 0.01, "--out", folder
    )
    assert (status, err) == (0, "") and sum(
        line.startswith(("dpo ", "simpo ", "kto ")) for line in out.splitlines()
    ) == 3
    assert all(column in out for column in COLUMNS) and "(SFT)" in out
    before = {path: path.read_bytes() for path in folder.glob("*/*.pt")}
    assert len(before) == 1 + 3 * 2
    again = run(monkeypatch, capsys, compare, "--losses", "dpo,simpo,kto", "--epochs", 0.01, "--out", folder)[
        1
    ]
    assert (
        again.split("\n\n")[1] == out.split("\n\n")[1]
        and {path: path.read_bytes() for path in folder.glob("*/*.pt")} == before
    )


def test_what_lies_there_must_be_what_is_asked(folder, monkeypatch, capsys):
    """It is said which run, what differs and what to do, before anything is trained. Where the folder lies is
    no matter.
    """

    def once(*flags, out="c"):
        return run(
            monkeypatch, capsys, compare, "--out", out, "--losses", "dpo,ipo", "--epochs", 0.01, *flags
        )

    status, _, err = once("--losses", "simpo", "--seed", 7)
    assert (status, err) == (
        2,
        "error: c/sft is another run than the one asked for: --seed 0 there, 7 asked; choose another --out\n",
    )
    assert once("--losses", "ipo")[0] == 0
    before = sorted(folder.rglob("*"))
    status, _, err = once("--epochs", 50)
    assert (status, err) == (
        2,
        "error: c/ipo is another run than the one asked for: --epochs 0.01 there, 50.0 asked; "
        "choose another --out\n",
    )
    assert sorted(folder.rglob("*")) == before, "nothing is trained for a comparison that cannot be"
    (folder / "ipo/summary.json").unlink()  # stopped before its end: that run is not gone on with either
    assert once("--epochs", 50)[0] == 2
    assert once()[0] == 0
    change_json(folder / "ipo/summary.json", unfinished=True)  # stopped while it was measured
    assert once()[0] == 0 and "unfinished" not in json.loads((folder / "ipo/summary.json").read_text())
    folder.rename(folder.with_name("moved"))
    assert once(out="moved")[0] == 0


def test_another_s_run_is_not_taken_for_one_s_own(folder, monkeypatch, capsys):

    def once():
        return run(monkeypatch, capsys, compare, "--losses", "dpo", "--epochs", 0.01, "--out", "c")

    assert once()[0] == 0
    config, sft = folder / "dpo/config.json", folder / "sft/sft.pt"
    kept, weights, data = config.read_bytes(), sft.read_bytes(), str(TOY_PREFERENCES["test"])
    for changed, change in (
        ("--beta 0.7 there, 0.3 asked", lambda: change_settings(folder / "dpo", loss_options={"beta": 0.7})),
        ("--accumulate 2 there, 1 asked", lambda: change_settings(folder / "dpo", accumulate=2)),
        (f"{folder}/sft/sft.pt has changed since", lambda: sft.write_bytes(weights + b"more")),
        (
            f"{data} has changed since",
            lambda: change_json(config, sha256={**read_json(config)["sha256"], data: "0"}),
        ),
    ):
        change()
        assert once() == (
            2,
            "",
            f"error: c/dpo is another run than the one asked for: {changed}; choose another --out\n",
        )
        config.write_bytes(kept)
        sft.write_bytes(weights)
    write_json(config, {})
    status, _, err = once()
    assert status == 2 and "c/dpo/config.json: not the settings of a run of this version of mini_dpo" in err


def test_the_search_scores_each_setting_on_validation_prompts(folder, monkeypatch, capsys):
    monkeypatch.setitem(SEARCH, "dpo", [{"beta": 0.1}, {"beta": 2.0}])
    status, out, _ = run(
        monkeypatch, capsys, compare, "--tune", "--losses", "dpo", "--epochs", 0.01, "--out", folder
    )
    assert status == 0 and out.count("score") == 3 and '    "dpo": {' in out
    summary = json.loads((folder / "tune/dpo-1/summary.json").read_text())
    assert (summary["prompts"], summary["pairs"]) == (8, 200)
    assert json.loads((folder / "tune/dpo-1/config.json").read_text())["settings"]["loss_options"] == {
        "beta": 2.0
    }


def test_what_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(monkeypatch, capsys, compare, "--losses", "dpo,nonsense")
    assert status == 2 and "there is no loss nonsense" in err and not list(tmp_path.iterdir())


def test_defaults_on_the_toy_shop_are_settings_of_the_search():
    """Each is one that was tried, and the loss allows it."""
    assert set(TOY_DEFAULTS) == set(LOSSES) == set(SEARCH)
    for name, options in TOY_DEFAULTS.items():
        assert options in SEARCH[name], name
        assert parse(["--loss", name]).loss_options == {**LOSSES[name].hyperparameters, **options}
        assert parse(["--loss", name, "--data", "x"]).loss_options == LOSSES[name].hyperparameters, (
            "elsewhere the paper's"
        )


def test_the_table_puts_the_highest_reward_first():
    columns = {
        "reward": 1.0,
        "win_rate": 0.5,
        "kl": 0.1,
        "perplexity": 2.0,
        "logps/chosen": -3.0,
        "logps/rejected": -4.0,
        "response_tokens": 9.0,
        "training_seconds": 7.0,
    }
    sft = {**columns, "logps/chosen": -1.0}
    errors = {f"{name}_error": 0.25 for name in ("reward", "win_rate", "kl", "perplexity")}
    both = {
        "a": {"sft": sft, "dpo": columns | errors},
        "b": {"sft": sft, "dpo": columns | errors | {"kl_error": 0.5}},
    }
    assert comparison_table(both).endswith(
        "The largest standard errors: reward 0.250, win rate 0.250, KL 0.500, perplexity 0.250."
    )
    lines = comparison_table(
        {"a": {"sft": sft, "dpo": columns}, "b": {"sft": sft, "dpo": {**columns, "reward": 5.0}}}
    ).splitlines()
    assert lines[1].split() == ["b", "5.00", "0.500", "0.10", "2.000", "-2.0", "+0.0", "9.0", "7"] and lines[
        2
    ].startswith("a ")
