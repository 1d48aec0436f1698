"""What the README shows is run: its example of a loss, right and wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mini_dpo.check import PROPERTIES, examine
from mini_dpo.check import __main__ as check
from mini_dpo.losses import LOSSES, find_loss
from tests.commands import SHORT, SMALL, preference_file, run
from tests.wrong_losses import WRONG

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURED = (ROOT / "tutorials" / "measured" / "README.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Writes the example, changed or not, where the README says, and returns what to give to --loss."""
    known = dict(LOSSES)
    monkeypatch.chdir(tmp_path)

    def write(old="", new=""):
        assert EXAMPLE.count(old) == 1 or not old
        Path("mine.py").write_text(EXAMPLE.replace(old, new) if old else EXAMPLE, encoding="utf-8")
        return "mine.py:squared"

    yield write
    LOSSES.clear()
    LOSSES.update(known)


def test_the_example_loss_trains_from_the_command_line(example, tmp_path):
    """One function in one file and nothing else edited: a flag, its help, and training."""
    preference_file(tmp_path / "mine.jsonl")
    command = [
        sys.executable,
        "-m",
        "mini_dpo.train",
        "--data",
        "mine.jsonl",
        "--loss",
        example(),
        "--beta",
        "0.3",
        *SMALL,
        *SHORT,
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "dpo  step 1/5  loss 1.000" in done.stdout, "at the reference the squared loss is 1"


def test_the_example_loss_keeps_what_it_declares(example):
    squared = find_loss(example())
    assert not [name for name, claim in PROPERTIES.items() if examine(squared, claim, 20).held is False]


@pytest.mark.parametrize(
    "truth, lie, claim",
    [
        ("2 * p - 1", "p", "population minimiser"),
        ("monotone=False", "monotone=True", "monotone"),
        ("lambda beta: 1.0", "lambda beta: 0.5", "value at the reference"),
        ("lambda beta: -4", "lambda beta: -2", "antisymmetry"),
    ],
)
def test_what_the_example_loss_declares_falsely_is_found(example, truth, lie, claim):
    assert examine(find_loss(example(truth, lie)), PROPERTIES[claim], shrink=False).held is False


def test_check_says_of_the_wrong_sign_what_the_readme_shows(example, monkeypatch, capsys):
    (change,) = re.findall(r"with `\(1 (\+) beta \* logps.h\) \*\* 2`", README)
    status, out, _ = run(
        monkeypatch, capsys, check, example("(1 - beta * logps.h)", f"(1 {change} beta * logps.h)")
    )
    (shown,) = re.findall(r"```\n(BROKEN.*?)```", README, re.DOTALL)
    assert status == 1
    for part in shown.strip().split("\n\n"):
        assert part.strip("\n. ") in out, part


def test_the_readme_counts_right_and_is_short():
    for text in (f"{len(WRONG)} wrong versions", f"{len(PROPERTIES)} properties", f"{len(LOSSES)} losses"):
        assert text in README, text
    assert len(README.encode()) < 12_000


def test_the_table_of_all_losses_has_each_of_them():
    table = MEASURED.split("measure losses --show` prints")[1].split("```")[1]
    assert {line.split()[0] for line in table.splitlines() if line} >= set(LOSSES)
