"""Real processes, really killed: SIGKILL at random moments, and `--resume` finishes with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mini_dpo.saving.checkpoint import load_checkpoint
from tests.commands import SMALL, preference_file

ROOT = Path(__file__).resolve().parent.parent
MOMENTS = 100 if os.environ.get("MINI_DPO_TESTS") == "thorough" else 4
# a checkpoint at every step: much of the time is spent saving, so many of the kills fall into it
JOB = [
    *SMALL,
    "--dropout",
    "0.1",
    "--optimizer",
    "muon",
    "--save-every",
    "1",
    "--eval-every",
    "7",
    "--sft-steps",
    "60",
    "--steps",
    "60",
    "--data",
    "mine.jsonl",
]


def start(folder, *args):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mini_dpo.train", *args]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process):
    out, _ = process.communicate(timeout=300)
    return process.returncode, out


def wait_for(path, process):
    """Until the file is there or the process is gone."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.005)


def result(run):
    """What must not differ: weights to the bit, and the bytes of the log and the samples."""
    models = [load_checkpoint(run / f"{stage}.pt")["model"] for stage in ("sft", "dpo")]
    return models, [(run / name).read_bytes() for name in ("metrics.jsonl", "samples.jsonl")]


def same(a, b):
    return a[1] == b[1] and all(torch.equal(x[k], y[k]) for x, y in zip(a[0], b[0], strict=True) for k in x)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbs, and how long it takes from its first file to its end."""
    folder = tmp_path_factory.mktemp("whole")
    preference_file(folder / "mine.jsonl", n=40)
    process = start(folder, *JOB, "--out", "run")
    wait_for(folder / "run" / "config.json", process)
    begun = time.monotonic()
    status, out = finish(process)
    assert status == 0, out
    return folder, result(folder / "run"), time.monotonic() - begun


def test_sigkill_at_random_moments(whole):
    folder, expected, seconds = whole
    rng = random.Random(0)

    def kill_and_resume(i, delay):
        process = start(folder, *JOB, "--out", f"run{i}")
        wait_for(folder / f"run{i}" / "config.json", process)
        time.sleep(delay)
        process.kill()
        process.communicate()
        places = sorted(path.name for path in (folder / f"run{i}").iterdir())
        status, out = finish(start(folder, "--resume", f"run{i}"))
        assert status == 0, out
        assert same(result(folder / f"run{i}"), expected), f"killed after {delay:.2f} s, with {places} there"
        return places

    delays = [rng.uniform(0, seconds) for _ in range(MOMENTS)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(kill_and_resume, range(MOMENTS), delays))
    stages = {("dpo.pt" in places) + ("sft.pt" in places) for places in found}
    assert len(stages) >= 2, f"the kills all fell into one stage: {found}"


def test_ctrl_c_says_how_to_go_on(whole):
    folder, expected, _ = whole
    process = start(folder, *JOB, "--out", "stopped")
    wait_for(folder / "stopped" / "sft.pt", process)
    process.send_signal(signal.SIGINT)
    status, out = finish(process)
    assert (
        status == 130
        and "go on with: python -m mini_dpo.train --resume stopped" in out
        and "Traceback" not in out
    )
    status, out = finish(start(folder, "--resume", "stopped"))
    assert status == 0 and same(result(folder / "stopped"), expected), out


def test_two_runs_at_once_get_folders_of_their_own(tmp_path):
    preference_file(tmp_path / "mine.jsonl")
    args = [*SMALL, "--sft-steps", "1", "--steps", "1", "--data", "mine.jsonl"]
    for process in [start(tmp_path, *args) for _ in range(2)]:
        assert finish(process)[0] == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["1", "2"]
