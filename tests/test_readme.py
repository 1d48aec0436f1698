"""What the README shows is run: its example of a loss, put where the README says."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mini_dpo import losses
from mini_dpo.losses import LOSSES
from tests import test_losses
from tests.commands import SHORT, SMALL, preference_file

ROOT = Path(__file__).resolve().parent.parent
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_loss_trains_from_the_command_line(tmp_path):
    """One function in losses.py and nothing else edited: a flag, its help, and training."""
    shutil.copytree(ROOT / "mini_dpo", tmp_path / "mini_dpo")
    (tmp_path / "data").symlink_to(ROOT / "data")
    with open(tmp_path / "mini_dpo" / "losses.py", "a", encoding="utf-8") as file:
        file.write("\n\n" + EXAMPLE)
    preference_file(tmp_path / "mine.jsonl")
    command = [sys.executable, "-m", "mini_dpo.train", "--data", "mine.jsonl", "--loss", "squared", "--beta", "0.3", *SMALL, *SHORT]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "dpo  step 1/5  loss 1.000" in done.stdout, "at the reference the squared loss is 1"


@pytest.mark.parametrize("lie", [None, ("2 * p - 1", "p"), ("monotone=False", "monotone=True"), ("lambda beta: 1.0", "lambda beta: 0.5")], ids=str)
def test_the_example_loss_keeps_what_it_declares_and_a_lie_is_found(lie, monkeypatch, tmp_path):
    source = EXAMPLE.replace(*lie) if lie else EXAMPLE
    (tmp_path / "example.py").write_text(source, encoding="utf-8")  # on disk, so that its source can be read
    monkeypatch.setitem(LOSSES, "squared", None)
    exec(compile(source, str(tmp_path / "example.py"), "exec"), dict(vars(losses)))
    squared = LOSSES["squared"]
    failures = []
    for name, test in inspect.getmembers(test_losses, inspect.isfunction):
        for mark in getattr(test, "pytestmark", []):
            if mark is test_losses.every_loss.mark:
                dtypes = [{"dtype": dtype} for m in test.pytestmark if m.args[0] == "dtype" for dtype in m.args[1]]
                for arguments in dtypes or [{}]:
                    try:
                        test(squared, **arguments)
                    except Exception:
                        failures.append(name)
    assert bool(failures) == bool(lie), failures
