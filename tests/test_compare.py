"""`python -m mini_dpo.compare` in small: what it makes, that it goes on, what it refuses."""

import json

import pytest

from mini_dpo import compare, train
from mini_dpo.compare import COLUMNS, SEARCH, table
from mini_dpo.losses import LOSSES
from mini_dpo.settings import TOY_DEFAULTS, parse
from tests.commands import run

SMALL = ["--n-layer", "1", "--n-head", "2", "--n-embd", "16"]


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    """A comparison whose SFT model is there already, a small one of two steps."""
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, capsys, train, "--stage", "sft", *SMALL, "--steps", 2, "--out", "c/sft")[0] == 0
    return tmp_path / "c"


def test_every_loss_is_a_run_and_a_line_and_is_not_trained_twice(folder, monkeypatch, capsys):
    status, out, err = run(monkeypatch, capsys, compare, "--losses", "dpo,simpo,kto", "--epochs", 0.01, "--out", folder)
    assert (status, err) == (0, "") and sum(line.startswith(("dpo ", "simpo ", "kto ")) for line in out.splitlines()) == 3
    assert all(column in out for column in COLUMNS) and "(SFT)" in out
    before = {path: path.read_bytes() for path in folder.glob("*/*.pt")}
    assert len(before) == 1 + 3 * 2
    again = run(monkeypatch, capsys, compare, "--losses", "dpo,simpo,kto", "--epochs", 0.01, "--out", folder)[1]
    assert again.split("\n\n")[1] == out.split("\n\n")[1] and {path: path.read_bytes() for path in folder.glob("*/*.pt")} == before


def test_the_search_scores_each_setting_on_validation_prompts(folder, monkeypatch, capsys):
    monkeypatch.setitem(SEARCH, "dpo", [{"beta": 0.1}, {"beta": 2.0}])
    status, out, _ = run(monkeypatch, capsys, compare, "--tune", "--losses", "dpo", "--epochs", 0.01, "--out", folder)
    assert status == 0 and out.count("score") == 3 and '    "dpo": {' in out
    summary = json.loads((folder / "tune/dpo-1/summary.json").read_text())
    assert summary["prompts"] == 200
    assert json.loads((folder / "tune/dpo-1/config.json").read_text())["settings"]["loss_options"] == {"beta": 2.0}


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
        assert parse(["--loss", name, "--data", "x"]).loss_options == LOSSES[name].hyperparameters, "elsewhere the paper's"


def test_the_table_puts_the_highest_reward_first():
    columns = {"reward": 1.0, "win_rate": 0.5, "kl": 0.1, "perplexity": 2.0, "logps/chosen": -3.0, "logps/rejected": -4.0, "response_tokens": 9.0, "training_seconds": 7.0}
    sft = {**columns, "logps/chosen": -1.0}
    lines = table({"a": {"sft": sft, "dpo": columns}, "b": {"sft": sft, "dpo": {**columns, "reward": 5.0}}}).splitlines()
    assert lines[1].split() == ["b", "5.00", "0.500", "0.10", "2.000", "-2.0", "+0.0", "9.0", "7"] and lines[2].startswith("a ")
