"""Several processes that share each batch train as one does. They meet over the CPU, so no GPU is needed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mini_dpo.batches import Batches, collate
from mini_dpo.cli import run_command
from mini_dpo.errors import UserError
from mini_dpo.feedback import MixedBatches, collate_for, split_pairs
from mini_dpo.losses import LOSSES
from mini_dpo.objectives import preference_objective, sft_objective
from mini_dpo.optimizers import LoopConfig, make_optimizer
from mini_dpo.processes import any_process, of_the_first, processes, rank, together
from mini_dpo.reference import freeze, precompute_reference
from mini_dpo.saving.checkpoint import load_checkpoint
from mini_dpo.saving.reference_cache import cached_reference
from mini_dpo.train import __main__ as train_command
from mini_dpo.train import stages as train_stages
from mini_dpo.training import fetch, score, train_step
from tests.commands import SHAPE, preference_file, run
from tests.strategies import tiny_gpt
from tests.test_packing import assert_equal_to_rounding
from tests.test_training import some_pairs, some_sequences

ROOT = Path(__file__).resolve().parent.parent
# micro-batches, two a step: of an even and an odd number of examples, and of a single one, at which a process
# idles
SIZES = {
    "sft": (5, 3, 4, 1, 1, 1),
    "muon": (5, 3, 4, 1, 1, 1),
    "dpo": (5, 2, 3, 1, 1, 1),
    "aot": (5, 2, 3, 1, 1, 1),
    "kto": (5, 2, 3, 7, 2, 4),
    "apo_zero_unpaired": (5, 3, 4, 1, 1, 1),
}
COMMAND = [*SHAPE, "--data", "mine.jsonl", "--accumulate", "2", "--save-every", "1"]
WHOLE = [*COMMAND, "--optimizer", "muon", "--batch-size", "3", "--sft-steps", "3", "--steps", "4"]
BROKEN = [*COMMAND, "--tokens-per-batch", "90", "--precompute-ref", "--sft-steps", "3", "--steps", "12"]
MISTAKES = {
    "no such flag": ["--learning-rate", "1"],
    "no such file": [*SHAPE, "--data", "none.jsonl"],
    "no such loss": ["--loss", "DPO"],
    "a folder that is there": [*WHOLE, "--out", "two"],
    "no such run": ["--resume", "none"],
    "a run that diverges": [*WHOLE, "--sft-lr", "1e30", "--out", "diverged"],
}
THOROUGH = os.environ.get("MINI_DPO_TESTS") == "thorough"


# --- what each process does


def steps_of(name: str) -> dict:
    """A few optimizer steps of an objective, in float64: weights, gradients and what is logged of the last of
    them, and a look at held-out data.
    """
    policy, reference = tiny_gpt(1), freeze(tiny_gpt(7))
    pairs, loss = some_pairs(20), LOSSES.get(name)
    if name in ("sft", "muon"):
        objective, examples, collate_them = sft_objective, some_sequences(20), collate
    else:
        objective = preference_objective(loss, loss.hyperparameters, reference)
        examples, collate_them = pairs if loss.paired else split_pairs(pairs), collate_for(loss, 12)
    ends = [sum(SIZES[name][: i + 1]) for i in range(len(SIZES[name]))]
    batches = [collate_them(examples[end - size : end]) for size, end in zip(SIZES[name], ends, strict=True)]
    config = LoopConfig(steps=4, lr=1e-2, accumulate=2, optimizer="muon" if name == "muon" else "adamw")
    optimizer = make_optimizer(policy, config)
    for group in optimizer.param_groups:
        # Adam would make full steps of gradients that are zero but for rounding (those of the keys' biases)
        group["eps"] = 1e-3
    for step in range(len(batches) // 2):
        record = train_step(policy, optimizer, objective, batches[2 * step : 2 * step + 2], config, step)
    (logged,) = fetch([record], name, 1)
    kind = MixedBatches if name in ("kto", "mdpo") else Batches
    held_out = score(policy, objective, kind(examples, collate_them, 3, seed=0), "float32")
    return {
        "weights": [p.detach() for p in policy.parameters()],
        "gradients": [p.grad for p in policy.parameters() if p.grad is not None],
        "logged": logged,
        "held out": held_out,
    }


def everything(folder: Path) -> dict:
    """Whatever can be compared between one process and two."""
    found = {name: steps_of(name) for name in SIZES}
    known = precompute_reference(freeze(tiny_gpt(7)), some_pairs(7), "float32", 3)
    kept = cached_reference(
        freeze(tiny_gpt(7)),
        some_pairs(7),
        folder / "some.jsonl",
        "toy",
        "float32",
        None,
        tokens=50,
        say=lambda line: None,
    )
    return {**found, "known": [pair.ref_logps for pair in known], "kept": [pair.ref_logps for pair in kept]}


def command(number: int, port: int, *args: str) -> None:
    """The command, as `torchrun` starts it in each of two processes."""
    os.environ.update(
        WORLD_SIZE="2",
        RANK=str(number),
        LOCAL_RANK=str(number),
        MASTER_ADDR="localhost",
        MASTER_PORT=str(port),
    )
    spoken, sys.argv = sys.stdout, ["train", *args]
    try:
        run_command(train_command.main)
    finally:
        sys.stdout = spoken


def press_ctrl_c(after: int) -> None:
    """Have this process interrupt itself in the middle of a step of preference training."""
    objective_of = train_stages.preference_objective

    def interrupting(*args):
        objective, calls = objective_of(*args), iter(range(1, 10**6))
        return lambda *batch: (
            next(calls) == after and signal.raise_signal(signal.SIGINT),
            objective(*batch),
        )[1]

    train_stages.preference_objective = interrupting


def fail_in_the_second(number: int) -> None:
    if number == 1:
        raise UserError("only the second sees it")


def work(number: int, folder: Path, ports: list[int]) -> None:
    """A process: the same as one alone would do; the command from its beginning to its end; the command
    again, until the second process, and only that, hears a Ctrl-C.
    """
    os.chdir(folder)
    sys.stdout = sys.stderr = open(f"out-{number}.txt", "w")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    assert (rank(), processes()) == (number, 2)
    assert of_the_first(number) == 0 and any_process(number == 1) and not any_process(False)
    with pytest.raises(UserError) as error:
        together(lambda: fail_in_the_second(number))
    Path(f"together-{number}.txt").write_text(str(error.value))
    assert together(lambda: number) == number
    torch.save(everything(folder), f"found-{number}.pt")
    dist.destroy_process_group()
    command(number, ports[0], *WHOLE, "--out", "two")
    if number == 1:
        press_ctrl_c(after=9)
    with pytest.raises(SystemExit, match="130"):
        command(number, ports[1], *BROKEN, "--out", "stopped")
    for port, what in zip(ports[2:], MISTAKES, strict=True):
        with open(f"{what}-{number}.txt", "w") as sys.stderr, pytest.raises(SystemExit):
            command(number, port, *MISTAKES[what])
    sys.stdout.flush()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which two processes have done their work."""
    folder = tmp_path_factory.mktemp("parallel")
    preference_file(folder / "mine.jsonl")
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2 + len(MISTAKES))]
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    mp.spawn(work, args=(folder, ports), nprocs=2)
    return folder


def assert_goes_on_alone(one, folder: Path, name: str) -> None:
    """One process finishes the run of that name as if nobody had stopped it."""
    assert (
        0 < load_checkpoint(folder / name / "dpo.pt")["step"] < 12
        and not (folder / name / "summary.json").exists()
    )
    status, out, err = one("--resume", name)
    assert (status, err) == (0, "") and "reference log-probs from " in out
    if not (folder / "unbroken").exists():
        assert one(*BROKEN, "--out", "unbroken")[0] == 0
    assert_same_numbers(rows(folder / name / "metrics.jsonl"), rows(folder / "unbroken/metrics.jsonl"), 1e-3)


@pytest.fixture
def one(monkeypatch, capsys, folder):
    """Run the command in this process alone, where the two have been."""
    monkeypatch.chdir(folder)
    return lambda *args: run(monkeypatch, capsys, train_command, *args)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_same_numbers(found: list[dict], expected: list[dict], tolerance: float) -> None:
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for a, b in zip(found, expected, strict=True):
        for name, value in b.items():
            assert a[name] == (
                value if isinstance(value, str) else pytest.approx(value, rel=tolerance, abs=tolerance)
            ), (name, b.get("step"))


# --- the step


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("name", SIZES)
def test_two_processes_take_the_step_of_one(folder, alone, name):
    """SFT, DPO, and losses that look at the batch as a whole: the log-probs of all responses in their order,
    each counted once, and the gradient of the whole batch's loss, not of each half's. Catches sums that are
    means, a share that is counted twice, and order statistics or a reference point of half a batch.
    """
    first, second = (torch.load(folder / f"found-{number}.pt")[name] for number in range(2))
    for what in ("weights", "gradients"):
        assert all(torch.equal(a, b) for a, b in zip(first[what], second[what], strict=True)), (
            "the processes must not drift apart"
        )
        assert_equal_to_rounding(first[what], alone[name][what])
    for what in ("logged", "held out"):
        assert_same_numbers([first[what]], [alone[name][what]], 1e-10)


def test_the_reference_is_scored_together_and_kept_once(folder, alone):
    first, second = (torch.load(folder / f"found-{number}.pt") for number in range(2))
    for what in ("known", "kept"):
        assert first[what] == second[what]
        torch.testing.assert_close(
            torch.tensor(first[what]), torch.tensor(alone[what]), rtol=1e-12, atol=1e-12
        )
    assert len(list(folder.glob("some.jsonl.ref-*"))) == 1


# --- the command


def test_the_command_makes_in_two_processes_what_it_makes_in_one(folder, one):
    """The same numbers, and one set of files that only one process has written: no line stands twice."""
    assert one(*WHOLE, "--out", "one")[0] == 0
    assert sorted(os.listdir(folder / "two")) == sorted(os.listdir(folder / "one"))
    assert_same_numbers(rows(folder / "two/metrics.jsonl"), rows(folder / "one/metrics.jsonl"), 1e-4)
    for stage in ("sft", "dpo"):
        a, b = (load_checkpoint(folder / run / f"{stage}.pt") for run in ("two", "one"))
        assert (a["step"], a["finished"], a["config"]) == (b["step"], b["finished"], b["config"])
        for weight, expected in zip(a["model"].values(), b["model"].values(), strict=True):
            torch.testing.assert_close(weight, expected, rtol=1e-3, atol=1e-4)
    spoken, silent = ((folder / f"out-{number}.txt").read_text() for number in range(2))
    of_this_run, _ = spoken.split("run stopped: ")
    assert (
        ", 2 processes, " in of_this_run
        and of_this_run.count("\nsft  step 3/3 ") == 1
        and "in all; talk to it" in of_this_run
    )
    assert not silent, "only the first process speaks"


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_said_once(folder, what):
    """Whichever process finds it: what only the first sees (the folder) must not leave the second waiting."""
    said, silent = ((folder / f"{what}-{number}.txt").read_text() for number in range(2))
    assert said.startswith("error: ") and said.count("\n") == 1 and not silent


def test_a_process_alone_is_heard(monkeypatch, one):
    """Whatever number a cluster has given it."""
    monkeypatch.setenv("RANK", "3")
    status, _, err = one("--loss", "DPO")
    assert status == 2 and err.startswith("error: there is no loss DPO")


def test_a_mistake_of_one_process_is_every_process_s(folder):
    """As with a file that only one machine has not got."""
    assert [(folder / f"together-{number}.txt").read_text() for number in range(2)] == [
        "only the second sees it"
    ] * 2


def test_what_two_processes_left_off_one_goes_on_with(folder, one):
    """A stop that only one of them has heard of is a stop of both, after the same step, with one checkpoint
    and one line that says how to go on. Reference log-probs that the two have kept are found again by the
    one.
    """
    assert (folder / "out-0.txt").read_text().count(
        "go on with: python -m mini_dpo.train --resume stopped"
    ) == 1
    assert len(list(folder.glob("mine.jsonl.ref-*"))) == 1
    assert_goes_on_alone(one, folder, "stopped")


@pytest.mark.skipif(not THOROUGH, reason="starts Python three times more: MINI_DPO_TESTS=thorough")
def test_torchrun_and_ctrl_c_in_a_terminal(folder, one):
    """The terminal sends Ctrl-C to everybody at once, and torchrun sends it to its processes once more."""
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "mini_dpo.train",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*torchrun, *BROKEN, "--out", "broken"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while not (folder / "broken/dpo.pt").exists() and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert out.count("go on with: python -m mini_dpo.train --resume broken") == 1 and process.returncode, out
    assert_goes_on_alone(one, folder, "broken")
