"""What is typed wrong is answered in one line, with what may be meant."""

import sys
from dataclasses import fields

import pytest

from mini_dpo import __main__ as listing
from mini_dpo import compare, exact, sample, show
from mini_dpo.bench import __main__ as bench
from mini_dpo.check import __main__ as check
from mini_dpo.claims import __main__ as claims
from mini_dpo.cli import ELSEWHERE, parser_for
from mini_dpo.errors import UserError, did_you_mean
from mini_dpo.export import __main__ as export
from mini_dpo.losses import LOSSES, find_loss
from mini_dpo.plot import __main__ as plot
from mini_dpo.report import __main__ as report
from mini_dpo.rlhf import __main__ as rlhf
from mini_dpo.sample import SampleSettings
from mini_dpo.trace import __main__ as trace
from mini_dpo.train import __main__ as train
from mini_dpo.train.settings import Settings
from mini_dpo.worlds import __main__ as worlds
from tests.commands import run

COMMANDS = {
    "bench": bench,
    "check": check,
    "claims": claims,
    "compare": compare,
    "exact": exact,
    "plot": plot,
    "export": export,
    "report": report,
    "rlhf": rlhf,
    "sample": sample,
    "show": show,
    "trace": trace,
    "train": train,
    "worlds": worlds,
}
OPTIONS = [
    (settings, f.name) for settings in (Settings, SampleSettings) for f in fields(settings) if f.metadata
]


def dashed(name: str) -> str:
    return "--" + name.replace("_", "-")


def refusal(settings, *args) -> str:
    with pytest.raises(UserError) as error:
        parser_for(settings, "command", "").parse_args(args)
    return str(error.value)


@pytest.mark.parametrize("settings, name", [(settings, name) for settings, name in OPTIONS if "_" in name])
def test_a_flag_with_underscores_proposes_itself(settings, name):
    for typed in (f"--{name}", f"--{name}=1", f"--{name.upper()}"):
        assert f"there is no flag {typed.split('=')[0]} (did you mean {dashed(name)}?)" in refusal(
            settings, typed
        )


@pytest.mark.parametrize(
    "name", [name for settings, name in OPTIONS if settings is Settings and len(name) > 4]
)
def test_a_flag_with_a_letter_too_few_proposes_itself(name):
    missing = dashed(name[:-2] + name[-1])
    assert f"there is no flag {missing} (did you mean {dashed(name)}?)" in refusal(Settings, missing, "1")


@pytest.mark.parametrize("theirs", ELSEWHERE)
def test_another_trainer_s_name_proposes_ours(theirs):
    assert ELSEWHERE[theirs] in Settings.__dataclass_fields__
    for typed in (f"--{theirs}", dashed(theirs)):
        assert f"there is no flag {typed} (did you mean {dashed(ELSEWHERE[theirs])}?)" in refusal(
            Settings, typed, "1"
        )


@pytest.mark.parametrize("name", [name for loss in LOSSES.values() for name in (loss.name, *loss.aliases)])
def test_a_loss_is_proposed_whatever_its_case(name):
    for typed in {name.upper(), name.replace("_", "-")} - {name}:
        with pytest.raises(UserError) as error:
            find_loss(typed)
        assert (
            f"there is no loss {typed} (did you mean {name}?); `python -m mini_dpo.train --list-losses`"
            in str(error.value)
        )


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("simp", "simpo"),
        ("ipo_pair", "ipo"),
        ("kto_pair", "kto"),
        ("sigmoi", "sigmoid"),
        ("dppo", "dpo"),
        ("", None),
        ("cross_entropy", None),
    ],
)
def test_the_near_loss_is_proposed_and_no_far_one(typed, meant):
    assert did_you_mean(typed, LOSSES | {"sigmoid": None}) == (f" (did you mean {meant}?)" if meant else "")


@pytest.mark.parametrize(
    "name, args, message",
    [
        (
            "train",
            "--learning_rate 1e-4",
            "there is no flag --learning_rate (did you mean --lr?); python -m mini_dpo.train --help",
        ),
        ("train", "--loss simpo --gama 1", "there is no flag --gama (did you mean --gamma?)"),
        ("train", "--loss DPO --foo", "there is no loss DPO (did you mean dpo?)"),
        ("train", "--xyzzy", "there is no flag --xyzzy; python -m mini_dpo.train --help"),
        ("train", "mine.jsonl", "'mine.jsonl' belongs to no flag; python -m mini_dpo.train --help"),
        ("train", "--lr fast", "--lr must be a number, not 'fast'; python -m mini_dpo.train --help"),
        ("train", "--loss", "--loss: expected one argument; python -m mini_dpo.train --help"),
        ("train", "--stage both", "--stage: invalid choice: 'both'"),
        (
            "sample",
            "runs/1 --max_new_token 5",
            "(did you mean --max-new-tokens?); python -m mini_dpo.sample --help",
        ),
        ("sample", "", "required: RUN; python -m mini_dpo.sample --help"),
        ("show", "--lien 3", "(did you mean --line?)"),
        ("exact", "--step 3", "(did you mean --steps?)"),
        ("compare", "--loss dpo", "(did you mean --losses?)"),
        ("compare", "--losses dpo,IPO", "there is no loss IPO (did you mean ipo?)"),
        ("check", "dpo --example 5", "(did you mean --examples?); python -m mini_dpo.check --help"),
        ("check", "Simpo", "there is no loss Simpo (did you mean simpo?)"),
        ("plot", "compare a --outt b", "(did you mean --out?); python -m mini_dpo.plot compare --help"),
        ("plot", "compar a", "invalid choice: 'compar'"),
        ("bench", "--jsn x", "(did you mean --json?); python -m mini_dpo.bench --help"),
    ],
)
def test_every_command_answers_a_mistake_in_one_line(monkeypatch, capsys, tmp_path, name, args, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(monkeypatch, capsys, COMMANDS[name], *args.split())
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err and err.startswith("error: ")


# --- python -m mini_dpo


def list_commands(monkeypatch, capsys, *args) -> str:
    monkeypatch.setattr(sys, "argv", ["mini_dpo", *args])
    listing.main()
    return capsys.readouterr().out


def test_the_package_lists_its_commands(monkeypatch, capsys):
    out = list_commands(monkeypatch, capsys)
    assert list(listing.commands()) == sorted(COMMANDS)
    for name, module in COMMANDS.items():
        assert f"  {name:8}  {module.__doc__.splitlines()[0]}\n" in out
    assert list_commands(monkeypatch, capsys, "--help") == out


def test_the_package_runs_a_command_and_proposes_the_near_one(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        list_commands(monkeypatch, capsys, "trian", "--lr", "1")
    assert (
        capsys.readouterr().err
        == "error: there is no command trian (did you mean train?); python -m mini_dpo lists what there is\n"
    )
    sys.modules.pop("mini_dpo.show")  # runpy warns of a module that is imported before it is run
    with pytest.raises(SystemExit, match="2"):
        list_commands(monkeypatch, capsys, "show", "--lien", "3")
    assert "there is no flag --lien (did you mean --line?)" in capsys.readouterr().err
