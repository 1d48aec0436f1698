"""Files with losses of the user's own: run once, set apart, and one clear line for whatever comes out of
them.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mini_dpo.check import __main__ as check
from mini_dpo.losses import LOSSES
from tests.commands import SHORT, SMALL, preference_file, run
from tests.test_properties import MINE

ROOT = Path(__file__).resolve().parent.parent
HEAD = MINE[: MINE.index("@loss(")].lstrip()
BODY = (
    '@loss(paper="mine")\ndef mine(logps: PairLogps, *, beta: float = 0.1) -> '
    'torch.Tensor:\n    """One.\n\n        L = -log sigma(beta h)\n\n    beta: price\n    """\n   '
    ' require(beta > 0, "beta must be positive")\n    return '
    "-torch.nn.functional.logsigmoid(beta * logps.h)\n"
)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a file, and returns what to give to check."""
    known = dict(LOSSES)
    monkeypatch.chdir(tmp_path)

    def write(text):
        Path("mine.py").write_text(text, encoding="utf-8")
        return "mine.py:mine"

    yield write
    LOSSES.clear()
    LOSSES.update(known)


@pytest.mark.parametrize(
    "text, message",
    [
        (HEAD + "import sys\nsys.exit(3)\n" + BODY, "mine.py, line 7: SystemExit: 3"),
        (HEAD + BODY.replace("    return", "    exit()\n    return"), "mine.py, line 15: SystemExit"),
        (HEAD + BODY.replace("def mine", "async def mine"), "@loss stands above a plain function"),
        (HEAD + '@loss(paper="mine")\nclass mine:\n    pass\n', "@loss stands above a plain function"),
        ("import torch\n" + BODY, "mine.py, line 2: NameError: name 'loss' is not defined"),
        ("import nothing_like_it\n" + BODY, "mine.py, line 1: ModuleNotFoundError"),
        (HEAD + BODY.replace("return -", "return - -)"), "mine.py, line 15: SyntaxError"),
        (
            HEAD + BODY.replace("beta * logps.h)", "beta * logps.h).mean()"),
            "must return one value an example",
        ),
        (
            HEAD + BODY.replace("return", "yield"),
            "must return one value an example, a tensor of shape (2,), not generator",
        ),
    ],
)
def test_a_file_that_is_no_loss_is_one_line(written, monkeypatch, capsys, text, message):
    status, out, err = run(monkeypatch, capsys, check, written(text))
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


def test_what_a_file_prints_is_kept_from_the_page(written, monkeypatch, capsys):
    text = HEAD + 'print("hello", "there")\n' + BODY.replace("    return", '    print("called")\n    return')
    status, out, err = run(monkeypatch, capsys, check, written(text), "--examples", 1)
    assert status == 0 and "called" not in out and "lines of its own" in out
    assert "mine.py prints 1 lines when it is run; the first: 'hello there'" in err


def test_a_file_is_run_once_for_a_command(written, tmp_path):
    written(HEAD + 'open("runs.txt", "a").write("run\\n")\n' + BODY)
    preference_file(tmp_path / "mine.jsonl")
    for number, command in enumerate(
        (
            ["check", "mine.py:mine", "--examples", "1"],
            ["train", "--data", "mine.jsonl", "--loss", "mine.py:mine", *SMALL, *SHORT],
        ),
        1,
    ):
        done = subprocess.run(
            [sys.executable, "-m", f"mini_dpo.{command[0]}", *command[1:]],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert Path("runs.txt").read_text() == "run\n" * number


@pytest.mark.parametrize(
    "endless, line",
    [
        (HEAD + "while True: pass\n" + BODY, 6),
        (
            HEAD
            + BODY.replace("    return", "    while logps.h.sum() > 0.6 or beta > 0.2: pass\n    return"),
            15,
        ),
    ],
)
def test_ctrl_c_says_where_an_endless_loss_was(written, endless, line):
    name = written(endless)
    # whoever runs the tests in the background has had SIGINT ignored, and a child inherits that
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"sys.argv = ['check', {name!r}]; from mini_dpo.check.__main__ import main; from mini_dpo.cli "
        "import run_command; print('loaded', flush=True); run_command(main)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while "loaded" not in process.stdout.readline():
            pass
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and err.strip() == f"interrupted in mine.py, line {line}", err
