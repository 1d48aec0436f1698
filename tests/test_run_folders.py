"""Runs' folders that were damaged, shared or sent by somebody: refused in a line, with nothing changed on the
disk.
"""

import hashlib
import importlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from mini_dpo import compare, sample, show
from mini_dpo.__main__ import commands
from mini_dpo.cli import LONGEST_LINE, Escaped, checked, run_command
from mini_dpo.errors import UserError
from mini_dpo.files import (
    LARGEST_JSON,
    checksum,
    locked,
    read_archive,
    read_bytes,
    read_json,
    read_unchanged,
    write_json,
    write_whole,
)
from mini_dpo.losses import LOSSES
from mini_dpo.optimizers import LoopConfig, make_optimizer
from mini_dpo.plot import __main__ as plot
from mini_dpo.plot.runs import title_of
from mini_dpo.progress import Progress
from mini_dpo.report import __main__ as report
from mini_dpo.saving.checkpoint import load_checkpoint, load_model, versions
from mini_dpo.saving.metrics import read_metrics
from mini_dpo.train import __main__ as train
from mini_dpo.train.parsing import read_config
from mini_dpo.train.settings import Settings
from tests.commands import SHAPE, SHORT, SMALL, change_json, change_settings, preference_file, run

ROOT = Path(__file__).resolve().parent.parent
THOROUGH = os.environ.get("MINI_DPO_TESTS") == "thorough"
FLIPS, FUZZED_FILES, FUZZED_LINES = (400, 10_000, 2_500) if THOROUGH else (40, 300, 150)
LOSS = """
from pathlib import Path
from mini_dpo.losses import PairLogps, loss
Path("executed").touch()
@loss(paper="mine")
def mine(logps: PairLogps, *, beta: float = 0.1):
    \"\"\"One.

        L = beta h
    \"\"\"
    return beta * logps.h
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run in it, `run`, and its data."""
    folder = tmp_path_factory.mktemp("finished")
    preference_file(folder / "mine.jsonl")
    command = [sys.executable, "-m", "mini_dpo.train", "--data", "mine.jsonl", *SMALL, *SHORT, "--out", "run"]
    subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True
    )
    return folder


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """The same to change as one likes; the present folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    digests = {str(tmp_path / "mine.jsonl"): hashlib.sha256(Path("mine.jsonl").read_bytes()).hexdigest()}
    change_json(Path("run/config.json"), sha256=digests)
    change_settings(Path("run"), data=str(tmp_path / "mine.jsonl"))
    return tmp_path


@pytest.fixture
def go(monkeypatch, capsys, copied):
    return lambda module, *args: run(monkeypatch, capsys, module, *args)


def unfinish():
    """The run as it was when it was stopped between its stages."""
    for name in ("summary.json", "samples.jsonl", "dpo.pt"):
        (Path("run") / name).unlink()


def contents(folder="."):
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


# --- damage


READERS = {
    "config.json": read_json,
    "summary.json": read_json,
    "sft.pt": lambda path: flat(load_checkpoint(path)),
    "dpo.pt": lambda path: flat(load_checkpoint(path)),
    "metrics.jsonl": lambda path: read_metrics(path.parent),
    "samples.jsonl": lambda path: read_unchanged(path, read_json(path.with_name("summary.json"))),
    "words.jsonl": lambda path: read_unchanged(path, read_json(path.with_name("summary.json"))),
}


def flat(value):
    """A checkpoint with lists of numbers for tensors, to be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return {key: flat(inner) for key, inner in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_refused_or_harmless(copied, name):
    """Catches: a checkpoint without a look at its checksums, a log that is checked by its length."""
    path, rng = Path("run") / name, random.Random(0)
    whole, expected = path.read_bytes(), READERS[name](path)
    refused = 0
    for _ in range(FLIPS):
        bit = rng.randrange(8 * len(whole))
        path.write_bytes(whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
        try:
            assert READERS[name](path) == expected, f"bit {bit} makes another {name}"
        except UserError:
            refused += 1
    assert refused > 0.3 * FLIPS  # the others are harmless: padding between the numbers of a checkpoint


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("length", [0, 1, 100, -3])
def test_a_file_that_was_cut_short_is_refused(copied, name, length):
    path = Path("run") / name
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError):
        READERS[name](path)


def test_a_log_with_another_number_in_it_is_not_gone_on_with(go):
    """Of the same length, so that its length says nothing."""
    unfinish()
    path = Path("run/metrics.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"step": 1', b'"step": 7', 1))
    before = contents()
    status, _, err = go(train, "--resume", "run")
    assert (status, err) == (
        2,
        "error: run/metrics.jsonl: not what the checkpoint remembers; it was changed, and the "
        "run cannot go on\n",
    )
    assert contents() == before


def test_weights_that_are_no_numbers_are_refused(go):
    saved = load_checkpoint(Path("run/sft.pt"))
    saved["model"]["h.0.mlp.c_fc.bias"][3] = torch.nan
    torch.save(saved, "run/sft.pt")
    for command in (
        (sample, "run", "--prompt", "hello"),
        (train, "--stage", "dpo", "--init-from", "run", "--data", "mine.jsonl"),
    ):
        status, _, err = go(*command)
        assert status == 2 and "run/sft.pt: a weight is not a finite number" in err


def test_without_the_sft_model_nothing_is_touched(go):
    Path("run/summary.json").unlink()
    Path("run/sft.pt").unlink()
    before = contents()
    status, _, err = go(train, "--resume", "run")
    assert (
        status == 2
        and "run: sft.pt is missing, from which dpo.pt was trained" in err
        and contents() == before
    )


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A file with a few changes of the kinds that disks, editors and strangers make."""
    for _ in range(rng.randint(1, 4)):
        i, j = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        piece = rng.choice(
            [
                b"",
                content[i:j],
                b"null",
                b"[[",
                b'"',
                b"\0",
                b"1e999",
                b"-",
                b"NaN",
                b"{}",
                b"\xff\xfe",
                b"9" * 50,
                b"true",
                os.urandom(3),
            ]
        )
        content = content[:i] + piece + content[rng.choice([i, j, min(i + 1, len(content))]) :]
    return content


FUZZED = {
    "run/config.json": [
        (train, "--resume", "run"),
        (sample, "run", "--prompt", "hi", "--max-new-tokens", 2),
        (plot, "run", "run"),
        (report, "run"),
    ],
    "run/summary.json": [(train, "--resume", "run"), (report, "run")],
    "run/samples.jsonl": [(train, "--resume", "run"), (report, "run")],
    "run/words.jsonl": [(report, "run")],
    "run/metrics.jsonl": [(plot, "run", "run"), (report, "run")],
    "run/sft.pt": [(sample, "run/sft.pt", "--prompt", "hi", "--max-new-tokens", 2)],
    "mine.jsonl": [(show, "--data", "mine.jsonl"), (train, "--resume", "run")],
}


def test_fuzzed_files_end_in_a_line(go, monkeypatch):
    """With the right checksum and a wrong one: what is in a file, and what it was, are judged apart."""
    # all but the drawing
    monkeypatch.setattr(
        plot,
        "plot_run",
        lambda settings: print(title_of(Path(settings.run)), len(read_metrics(Path(settings.run)))),
    )
    rng = random.Random(1)
    for n in range(FUZZED_FILES):
        name = rng.choice(list(FUZZED))
        whole = Path(name).read_bytes()
        Path(name).write_bytes(mutated(whole, rng))
        if name.endswith(".json") and rng.random() < 0.7:
            try:
                value = json.loads(Path(name).read_bytes())
                write_json(Path(name), {key: inner for key, inner in value.items() if key != "checksum"})
            except (ValueError, AttributeError, RecursionError):
                pass
        status, _, err = go(*rng.choice(FUZZED[name]))
        assert status in (0, 2) and (status == 0 or err.startswith("error: ")) and err.count("\n") <= 9, (
            n,
            name,
            err,
        )
        Path(name).write_bytes(whole)


VALUES = [
    "",
    "-1",
    "0",
    "1",
    "3",
    "1e-3",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "9" * 30,
    "x",
    "é",
    "\x1b[2J",
    "a b",
    "--",
    "None",
    "true",
    "mine.jsonl",
    "run",
    "run/sft.pt",
    ".",
    "/dev/null",
    "toy",
    "gpt2",
    "dpo",
    "ipo",
    "all",
    "cpu",
    "float32",
    "0x10",
    "1_0",
    "x" * 5000,
]


def test_fuzzed_command_lines_end_in_a_line(go):
    """Every command that needs no training to say no, with flags of its own and of nobody's."""
    rng = random.Random(2)
    flags = {
        train: ["--" + f.name.replace("_", "-") for f in fields(Settings)]
        + ["--beta", "--gamma", "--colour", "--list-losses", "--help"],
        sample: [
            "--prompt",
            "--prompts",
            "-n",
            "--json",
            "--temperature",
            "--top-k",
            "--top-p",
            "--max-new-tokens",
            "--seed",
            "--colour",
        ],
        show: ["--data", "--sft-data", "--line", "--tokenizer", "--colour"],
    }
    first = {train: ["--data", "none.jsonl"], sample: ["run"], show: []}
    for n in range(FUZZED_LINES):
        module = rng.choice(list(flags))
        args = first[module] + [
            word
            for _ in range(rng.randint(0, 4))
            for word in rng.choice(
                [
                    [rng.choice(flags[module])],
                    [rng.choice(flags[module]), rng.choice(VALUES)],
                    [rng.choice(VALUES)],
                    [rng.choice(flags[module]) + "=" + rng.choice(VALUES)],
                ]
            )
        ]
        args = [word for word in args if word != "--out" and not word.startswith("--out=")] + (
            ["--prompt", "hi", "--max-new-tokens", "2"]
            if module is sample
            else ["--data", "none.jsonl"]
            if module is train
            else []
        )
        status, _, err = go(module, *args)
        assert status in (0, 2) and (status == 0 or err.startswith("error: ")) and err.count("\n") <= 9, (
            n,
            args,
            err,
        )


# --- two at once, and links


def test_a_run_has_one_process_at_a_time(go):
    unfinish()
    before = contents()
    with locked(Path("run")):
        status, _, err = go(train, "--resume", "run")
    assert (status, err) == (
        2,
        "error: run: another process is at work on this run; wait until it has ended, or stop it\n",
    )
    assert contents() == before
    assert go(train, "--resume", "run")[0] == 0 and (Path("run/summary.json")).exists()


def test_what_a_killed_process_left_half_written_is_cleared_away(go):
    unfinish()
    Path("run/.dpo.pt.0123456789abcdef.part").write_bytes(b"half")
    assert go(train, "--resume", "run")[0] == 0 and not [
        name for name in os.listdir("run") if name.startswith(".")
    ]


@pytest.mark.parametrize(
    "name",
    [
        "sft.pt",
        "dpo.pt",
        "metrics.jsonl",
        "samples.jsonl",
        "words.jsonl",
        "summary.json",
        "report.html",
        "curves.png",
        ".sft.pt.part",
        ".dpo.pt.part",
        ".samples.jsonl.part",
    ],
)
def test_no_link_leads_writing_out_of_the_folder(go, name):
    """Nor does one that leads nowhere make a file there. Catches: a name beside that can be known ahead,
    opened as it lies.
    """
    unfinish()
    for target in ("precious", "nowhere"):
        Path("precious").write_bytes(b"mine")
        path = Path("run") / name
        path.unlink(missing_ok=True)
        path.symlink_to(Path(target).resolve())
        go(train, "--resume", "run")
        write_whole(path, lambda file: file.write(b"new")) if name == "curves.png" else None
        assert Path("precious").read_bytes() == b"mine" and not Path("nowhere").exists()


def test_a_pipe_or_a_device_is_no_file(go):
    os.mkfifo("pipe")
    for command in (
        (train, "--data", "pipe"),
        (train, "--data", "/dev/zero"),
        (train, "--data", "."),
        (sample, "run", "--prompts", "pipe"),
    ):
        status, _, err = go(*command)
        assert status == 2 and "not a file but a" in err and err.count("\n") == 1


def test_a_name_beside_is_made_for_one_file_alone(tmp_path, monkeypatch):
    """Even if somebody guessed it: what lies there is not opened."""
    monkeypatch.setattr("secrets.token_hex", lambda n: "guessed")
    (tmp_path / ".a.guessed.part").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="cannot be written"):
        write_whole(tmp_path / "a", lambda file: file.write(b"new"))
    assert not (tmp_path / "precious").exists()


# --- a stranger's folder


@pytest.mark.parametrize("name", ["absolute", "relative"])
def test_a_stranger_s_loss_is_not_run(go, copied, name):
    """Its digest may be right: the sender ships both."""
    known = dict(LOSSES)
    unfinish()
    Path("theirs.py").write_text(LOSS)
    Path("c").mkdir()
    file = str(copied / "theirs.py") if name == "absolute" else "theirs.py"
    change_settings(Path("run"), loss=f"{file}:mine", loss_options={"beta": 0.1})
    change_json(
        Path("run/config.json"),
        sha256={
            **read_json(Path("run/config.json"))["sha256"],
            file: hashlib.sha256(LOSS.encode()).hexdigest(),
        },
    )
    shutil.copytree("run", "c/sft")
    for command in (
        (train, "--resume", "run"),
        (train, "--stage", "dpo", "--init-from", "run", "--data", "mine.jsonl", "--steps", 1),
        (sample, "run", "--prompt", "hi"),
        (plot, "run", "run"),
        (compare, "--out", "c", "--losses", "dpo"),
    ):
        go(*command)
        assert not Path("executed").exists(), command
    status, _, err = go(train, "--resume", "run")
    assert (
        status == 2
        and f"run trains with the loss {file}:mine, and to go on runs that file; if you know "
        f"it: python -m mini_dpo.train --resume run --loss {file}:mine"
        in err
    )
    if name == "absolute":
        status, _, err = go(train, "--resume", "run", "--loss", "theirs.py:mine")
        LOSSES.clear()
        LOSSES.update(known)
        assert (status, err) == (0, "") and Path("executed").exists()


KINDS = {
    "seed": [-1, 2**40, 1.5, True, "x", None, [], {}],
    "lr": ["x", -1, [1], True],
    "loss": [None, 3, "none", "a\0b", "x" * 10**5, []],
    "data": [3, [], "a\0b", "\ud800"],
    "tokenizer": ["gpt5", 3],
    "batch_size": [0, None, -1, 2**31, "many"],
    "stage": ["rlhf", None, []],
    "device": ["tpu", 0],
    "dtype": ["int8"],
    "loss_options": [[], 3, {"beta": "x"}, {"beta": []}, {"nothing": 1.0}, {"beta": 10**400}],
    "steps": [0, 2**31],
    "epochs": [0, 1e9],
    "accumulate": [0, 2**31],
    "context": [0, 2**40],
    "n_layer": [0, 10**6, 2],
    "n_embd": [10**9],
    "start": [3, []],
    "model": ["gpt9", None],
    "dropout": [2, None],
    "colour": ["red"],
    "max_new_tokens": [0, 2**63],
    "eval_examples": [0],
    "save_every": [0],
    "init_from": [3],
    "reference": [[], "somewhere"],
}
STRANGE = [(name, value) for name, values in KINDS.items() for value in values]


@pytest.mark.parametrize(
    "name, value", STRANGE, ids=[f"{name} {str(value)[:20]!r}" for name, value in STRANGE]
)
def test_a_strange_config_is_a_line(go, name, value):
    """As the command line takes it, or not at all. Catches: settings that nobody looks at after they were
    kept.
    """
    unfinish()
    settings = read_json(Path("run/config.json"))["settings"]
    change_settings(
        Path("run"),
        **{
            name: value
            if name != "loss_options" or not isinstance(value, dict)
            else {**settings["loss_options"], **value}
        },
    )
    status, _, err = go(train, "--resume", "run")
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and len(err) < 1200


ODD = [
    -1,
    0,
    2**31,
    10**400,
    1.5,
    -0.5,
    1e308,
    True,
    None,
    "",
    "x",
    "a\0b",
    "\ud800",
    "x" * 10**5,
    [],
    [[]],
    {},
    {"a": 1},
]


def test_every_setting_takes_every_odd_value_or_is_a_line(copied):
    """Some 800 configs. What is accepted has the type that its flag has. Catches: a setting that is kept and
    never looked at.
    """
    path = Path("run/config.json")
    config = read_json(path)
    for f in fields(Settings):
        for value in ODD:
            changed = {**config, "settings": {**config["settings"], f.name: value}}
            path.write_text(json.dumps({**changed, "checksum": checksum(changed)}))
            try:
                taken = getattr(read_config(Path("run"))[0], f.name)
            except UserError as error:
                assert len(str(error)) < LONGEST_LINE, (f.name, value)
            else:
                kinds = {
                    "str": str,
                    "int": int,
                    "float": float,
                    "bool": bool,
                    "dict": dict,
                    "None": type(None),
                }
                assert type(taken) in [kinds[kind] for kind in re.findall(r"\w+", f.type) if kind in kinds], (
                    f.name
                )


def test_odd_metrics_are_a_line(copied):
    """Some 80 rows: each entry of a step with each odd value, and rows that are no object."""
    row = {"stage": "dpo", "step": 1, "loss": 0.5, "rewards/margins": 0.1}
    odd = [{**row, name: value} for name in row for value in ODD]
    path = Path("run/metrics.jsonl")
    Path("run/summary.json").unlink()
    for found in [*odd, *({k: v for k, v in row.items() if k != name} for name in row), *ODD]:
        for checkpoint in Path("run").glob("*.pt"):
            checkpoint.unlink()
        path.write_text(json.dumps(found) + "\n")
        try:
            (read,) = read_metrics(Path("run"))
        except UserError as error:
            assert f"{path}, line 1: " in str(error) and len(str(error)) < LONGEST_LINE
        else:
            assert read["stage"] == "dpo" and type(read["step"]) is int
            assert all(type(read[name]) is float for name in row.keys() - {"stage", "step"} if name in read)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 10**5,
        b'{"a":' * 10**5,
        b"{" + b" " * LARGEST_JSON + b"}",
        b"[]",
        b"3",
        b"null",
        b'{"checksum": 3}',
        b"\xff",
    ],
    ids=lambda content: str(content[:6]),
)
def test_what_is_no_json_object_of_ours_is_a_line(go, content):
    for name, command in {
        "config.json": (train, "--resume", "run"),
        "summary.json": (train, "--resume", "run"),
        "metrics.jsonl": (plot, "run", "run"),
    }.items():
        kept = (Path("run") / name).read_bytes()
        (Path("run") / name).write_bytes(content)
        status, _, err = go(*command)
        assert status == 2 and err.count("\n") == 1 and len(err) < 600, name
        (Path("run") / name).write_bytes(kept)


def changed(**changes):
    return lambda saved: {**saved, **changes}


def model_of(**tensors):
    return lambda saved: {**saved, "model": {**saved["model"], **tensors}}


def config_of(**changes):
    return lambda saved: {**saved, "config": {**saved["config"], **changes}}


MODELS = {
    "layers": config_of(n_layer=10**6),
    "more layers": config_of(n_layer=4000),
    "channels": config_of(n_embd=10**9, n_head=1),
    "wide": config_of(n_embd=100_000),
    "heads": config_of(n_head=3.0),
    "tokens": config_of(vocab_size=10**12),
    "no dropout": config_of(dropout="none"),
    "colour": config_of(colour="red"),
    "another vocabulary": changed(tokenizer="gpt2"),
    "no tokenizer": changed(tokenizer="gpt5"),
    "tokenizer 3": changed(tokenizer=3),
    "stage": changed(stage=[]),
    "a list": changed(model=[1]),
    "no tensors": changed(model={}),
    "numbers": model_of(**{"wte.weight": 3}),
    "expanded": model_of(**{"wte.weight": torch.zeros(1, 1).expand(10**7, 16)}),
    "sparse": model_of(**{"ln_f.bias": torch.zeros(16).to_sparse()}),
    "complex": model_of(**{"ln_f.bias": torch.zeros(16, dtype=torch.complex64)}),
    "half": model_of(**{"ln_f.bias": torch.zeros(16, dtype=torch.float16)}),
    "one more": model_of(more=torch.zeros(3)),
    "small on the disk": lambda saved: {
        **saved,
        "config": {**saved["config"], "n_embd": 8192, "n_head": 1},
        "model": {
            name: torch.zeros(1).expand(w.shape)
            if w.dim() == 1
            else torch.zeros(1, 1).expand([8192 * (n > 16) + n * (n <= 16) for n in w.shape])
            for name, w in saved["model"].items()
        },
    },
}


@pytest.mark.parametrize("change", MODELS.values(), ids=MODELS)
def test_a_strange_checkpoint_is_a_line_before_memory_is_asked_for(go, change):
    torch.save(change(load_checkpoint(Path("run/sft.pt"))), "run/sft.pt")
    begun = time.perf_counter()
    for command in (
        (sample, "run", "--prompt", "hello"),
        (train, "--stage", "dpo", "--init-from", "run", "--data", "mine.jsonl", "--steps", 1),
    ):
        status, _, err = go(*command)
        assert status == 2 and err.count("\n") == 1 and len(err) < 1200
    # building a million blocks, even without numbers, takes many minutes
    assert time.perf_counter() - begun < 60


def turned(value):
    """A matrix with the same numbers, kept column by column."""
    return value.t().contiguous().t() if value.dim() == 2 else value


STATES = {
    "none": lambda state: None,
    "empty": lambda state: {},
    "a list": lambda state: {"state": [1]},
    "other shapes": lambda state: {
        "state": {i: {**s, "exp_avg": torch.zeros(3)} for i, s in state["state"].items()}
    },
    "single numbers": lambda state: {
        "state": {i: {name: torch.tensor(1.0) for name in s} for i, s in state["state"].items()}
    },
    "expanded": lambda state: {
        "state": {
            i: {name: torch.zeros(()).expand(value.shape) for name, value in s.items()}
            for i, s in state["state"].items()
        }
    },
    "turned": lambda state: {
        "state": {i: {name: turned(value) for name, value in s.items()} for i, s in state["state"].items()}
    },
    "sparse": lambda state: {
        "state": {
            i: {name: value.to_sparse() for name, value in s.items()} for i, s in state["state"].items()
        }
    },
    "one missing": lambda state: {
        "state": {
            i: {name: value for name, value in s.items() if name != "exp_avg_sq"}
            for i, s in state["state"].items()
        }
    },
}


@pytest.fixture
def stopped(copied):
    """The same run, stopped in its first stage; its checkpoint."""
    path, saved = Path("run/sft.pt"), load_checkpoint(Path("run/sft.pt"))
    unfinish()
    policy, _ = load_model(path)
    optimizer = make_optimizer(policy, LoopConfig(steps=5, lr=1e-3))
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    saved |= {"finished": False, "step": 5, "optimizer": optimizer.state_dict(), "owed": None}
    torch.save(saved, path)
    return saved


@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_a_strange_optimizer_is_a_line(go, stopped, change):
    """Catches: moments of another shape, which a fused kernel reads and writes beyond their end."""
    torch.save({**stopped, "optimizer": change(stopped["optimizer"])}, "run/sft.pt")
    status, _, err = go(train, "--resume", "run")
    assert (
        status == 2
        and err.startswith("error: run/sft.pt: not the state of an optimizer for this model (")
        and err.count("\n") == 1
    )


ENTRIES = [
    ("finished", None),
    ("finished", 1),
    ("step", None),
    ("step", -5),
    ("step", 10**9),
    ("step", 0),
    ("run", "another"),
    ("run", None),
    ("log_length", -5),
    ("log_length", 2**63),
    ("log_length", 10**30),
    ("log_length", 3 * 2**30),
    ("seconds", float("nan")),
    ("seconds", "x"),
    ("owed", "abc"),
    ("owed", [1]),
    ("owed", True),
    ("owed", {"loss": "x"}),
    ("owed", {"loss": float("inf")}),
    ("model", []),
    ("model", {}),
]


@pytest.mark.parametrize("name, value", ENTRIES, ids=str)
def test_a_strange_entry_of_a_checkpoint_is_a_line(go, stopped, name, value):
    changed = {**stopped, name: value}
    if value is None:
        del changed[name]
    torch.save(changed, "run/sft.pt")
    before = contents()
    status, _, err = go(train, "--resume", "run")
    assert (
        status == 2
        and err.startswith("error: run/")
        and err.count("\n") == 1
        and len(err) < 600
        and contents() == before
    )


def test_the_stopped_run_of_these_tests_goes_on(go, stopped):
    assert go(train, "--resume", "run")[0] == 0


@pytest.mark.parametrize("name", ["sft.pt", "dpo.pt", "config.json", "summary.json"])
def test_another_run_s_file_is_not_taken_for_its_own(go, name):
    """Of the same shape, so that nothing else tells them apart."""
    assert go(train, "--data", "mine.jsonl", *SMALL, *SHORT, "--seed", 1, "--out", "other")[0] == 0
    shutil.copy(f"other/{name}", f"run/{name}")
    if name != "summary.json":
        status, _, err = go(sample, "run", "--prompt", "hello")
        assert status == 2 and "another run" in err
        Path("run/summary.json").unlink()
    before = contents("run")
    status, _, err = go(train, "--resume", "run")
    assert status == 2 and "from another run than config.json beside it" in err and contents("run") == before


def test_a_log_from_another_run_is_not_sealed_into_the_summary(go):
    Path("run/summary.json").unlink()
    log = Path("run/metrics.jsonl")
    log.write_bytes(log.read_bytes().replace(b'"step": 1', b'"step": 7', 1))
    status, _, err = go(train, "--resume", "run")
    assert (
        status == 2
        and "run/metrics.jsonl: not what the run wrote" in err
        and not Path("run/summary.json").exists()
    )


@pytest.mark.parametrize("there", [("sft.pt", "dpo.pt"), ("sft.pt",)])
def test_a_changed_log_is_not_drawn_before_there_is_a_summary(go, there):
    """The last checkpoint knows it. What a stage has logged since then is drawn."""
    Path("run/summary.json").unlink()
    for name in {"sft.pt", "dpo.pt"} - set(there):
        Path("run", name).unlink()
    log = Path("run/metrics.jsonl")
    rows = read_metrics(Path("run"))
    log.write_bytes(log.read_bytes() + log.read_bytes().splitlines(True)[-1])
    assert len(read_metrics(Path("run"))) == len(rows) + 1
    log.write_bytes(log.read_bytes().replace(b'"step": 1', b'"step": 7', 1))
    status, _, err = go(plot, "run", "run")
    said = f"error: run/metrics.jsonl: not what {there[-1]} remembers; it was changed or damaged\n"
    assert (status, err) == (2, said) and not Path("run/curves.png").exists()


def test_sample_of_a_run_without_its_sft_model_is_one_clear_line(go):
    Path("run/sft.pt").unlink()
    status, out, err = go(sample, "run", "--prompt", "hello")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "run: dpo.pt is there and sft.pt is missing" in err and "run/dpo.pt" in err
    assert go(sample, "run/dpo.pt", "--prompt", "hello", "--max-new-tokens", 3)[0] == 0


def test_compare_s_log_follows_no_link_and_waits_for_no_pipe(go):
    Path("c").mkdir()
    Path("precious").write_bytes(b"mine")
    for make in (
        lambda path: path.symlink_to(Path("precious").resolve()),
        lambda path: path.symlink_to(Path("nowhere").resolve()),
        os.mkfifo,
    ):
        make(Path("c/sft.log"))
        status, _, err = go(compare, "--losses", "dpo", "--out", "c")
        assert status != 0 and "c/sft.log" in err and err.count("\n") == 1
        Path("c/sft.log").unlink()
    assert Path("precious").read_bytes() == b"mine" and not Path("nowhere").exists()


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**8))
    assert path.stat().st_size < 10**6
    with pytest.raises(
        UserError, match="bomb.pt: not a checkpoint of mini_dpo, or a damaged one .*compressed"
    ):
        read_archive(path)


# --- the terminal


def command(folder, *args, shell="", **environment):
    """A command in a process of its own: (status, standard output, standard error)."""
    line = " ".join([sys.executable, "-m", *map(str, args), shell])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_what_an_encoding_does_not_have_is_written_out(copied, encoding):
    preference_file(Path("mine.jsonl"), prompt="Überraschung → 日本")
    for args in (
        ("mini_dpo.show", "--data", "mine.jsonl"),
        ("mini_dpo.sample", "run", "--prompt", "'→ 日本 é'"),
    ):
        status, out, err = command(copied, *args, PYTHONIOENCODING=encoding)
        assert (status, err) == (0, b"")
    assert out.decode(encoding)


def test_nothing_from_outside_is_obeyed_by_the_terminal(go):
    evil = "\x1b[2J\x07\r\x9b31m\u202eabc\u2066"
    preference_file(Path("mine.jsonl"), chosen=evil)
    Path(evil).write_text("x")
    Path("evil.py").write_text(f"raise ValueError({evil!r} + chr(10) * 3 + 'x' * 10**5)")
    for args in (
        (train, "--data", evil),
        (plot, "run", evil),
        (train, "--loss", "evil.py:x"),
        (train, "--data", "mine.jsonl", *SMALL, *SHORT, "--held-out", evil),
        (sample, "run", "--prompt", evil),
    ):
        _status, out, err = go(*args)
        assert (
            not set(out + err) & set("\x1b\x07\r\x9b\u202e\u2066")
            and err.count("\n") <= 1
            and len(err) < 1200
        )
    assert "\\x1b[2J\\x07\\x0d\\x9b31m\\u202eabc\\u2066" in go(plot, "run", evil)[2]


def test_what_is_shown_is_what_was_written():
    stream = io.StringIO()
    print("plain text, é and 日本\n\tindented", file=Escaped(stream))
    assert stream.getvalue() == "plain text, é and 日本\n\tindented\n"


def test_output_that_nobody_reads_stops_the_run_aloud(copied):
    """And the run can be gone on with. Catches: status 0 in the middle of a run."""
    args = (
        "mini_dpo.train",
        "--data",
        "mine.jsonl",
        *SMALL,
        "--sft-steps",
        400,
        "--steps",
        3,
        "--out",
        "piped",
    )
    for shell, said in (("| head -1", b""), ("> /dev/full", b"error: the output: No space left on device")):
        shutil.rmtree("piped", ignore_errors=True)
        status, _, err = command(copied, *args, shell=shell)
        assert status != 0 and said in err and b"Traceback" not in err and b"Exception" not in err
        if Path("piped").exists():
            assert b"stopped; go on with: python -m mini_dpo.train --resume piped" in err
    assert command(copied, "mini_dpo.show", shell="| head -1")[2] == b""
    status, _, err = command(copied, "mini_dpo.train", "--help", shell="> /dev/full")
    assert status != 0 and err.startswith(b"error: the output: No space left") and err.count(b"\n") == 1


@pytest.mark.parametrize("name", commands())
def test_help_on_a_full_disk_is_an_error(monkeypatch, capfd, name):
    """Of every command. Catches: status 0, and nothing was written."""
    folder = ROOT / "mini_dpo" / name
    module = importlib.import_module(f"mini_dpo.{name}{'.__main__' if folder.is_dir() else ''}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stop:
            run_command(module.main)
    err = capfd.readouterr().err
    assert stop.value.code == 1 and err == "error: the output: No space left on device\n"


def test_the_list_of_commands_on_a_full_disk_is_an_error(copied):
    status, _, err = command(copied, "mini_dpo", shell="> /dev/full")
    assert status == 1 and err == b"error: the output: No space left on device\n"


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.6, 1.0])
def test_ctrl_c_while_it_loads_is_no_traceback(copied, seconds):
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, runpy, sys; signal.signal(signal.SIGINT, "
            "signal.default_int_handler); sys.argv = ['-m']; import mini_dpo; sys.argv = ['train', "
            f"'--data', 'mine.jsonl', {', '.join(map(repr, SMALL))}]; runpy.run_module('mini_dpo.train', "
            "run_name='__main__')",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(seconds)
    process.send_signal(2)
    _, err = process.communicate(timeout=60)
    # before the first line of the package nothing can be done
    assert process.returncode != 0 and (b"Traceback" not in err or seconds < 0.2)


def test_a_clock_that_stands_still(monkeypatch, capsys):
    monkeypatch.setattr(time, "perf_counter", lambda: 5.0)
    progress = Progress("sft", 0, 10)
    progress.report(1, {"loss": 1.0})
    assert "step  1/10  loss 1.000" in capsys.readouterr().out


# --- the command line


LINES = [
    "train --seed=--",
    "show --data=--",
    "plot losses --loss=--",
    "exact --seed=--",
    "compare --losses=--",
    "train --steps 2147483648",
    "train --steps 1" + "0" * 23,
    "train --epochs 1e9",
    "train --sft-epochs 1e300",
    "train --accumulate 2147483648",
    "train --n-embd 1000000000",
    "train --n-layer 100000000",
    "train --context 1000000000",
    "train --n-head 0",
    "train --batch-size 1" + "0" * 5000,
    "train --data " + "x" * 10_000,
    "train --out " + "x" * 10_000,
    "train --init-from " + "x" * 10_000,
    "train --loss " + "x" * 10_000,
    "train --resume " + "x" * 10_000,
    "sample run --temperature inf",
    "sample run --temperature nan",
    "sample run --max-new-tokens 9223372036854775807",
    "sample run --seed=--",
    "sample run -n 1e9",
    "sample " + "x" * 10_000,
    "bench --row x",
    "bench --batches 1e9",
    "bench --repeats -1",
    "check dpo --examples x",
    "check dpo --examples -5",
    "check " + "x" * 10_000,
    "plot losses --loss " + "x" * 10_000,
    "plot run " + "x" * 10_000,
    "show --line 99999999999999999999999",
    "show --data /dev/null",
    "exact --seed x",
    "exact --seed -1",
    "compare --epochs 1e99",
    "compare --losses ,",
    "compare --seed 1e3",
]


@pytest.mark.parametrize("line", LINES, ids=[line[:40] for line in LINES])
def test_a_value_out_of_all_reach_is_a_line(go, line):
    name, *args = line.split(" ")
    status, _, err = go(
        importlib.import_module(
            f"mini_dpo.{name}.__main__" if name in ("bench", "check", "plot", "train") else f"mini_dpo.{name}"
        ),
        *args,
    )
    assert status in (1, 2) and err.startswith("error: ") and err.count("\n") == 1 and len(err) < 1200


def test_processes_that_nobody_started_are_not_waited_for(copied):
    for world in ("2", "x", ""):
        status, _, err = command(
            copied, "mini_dpo.train", "--data", "mine.jsonl", *SMALL, *SHORT, WORLD_SIZE=world
        )
        assert status == 2 and err.startswith(b"error: WORLD_SIZE is set") and err.count(b"\n") == 1


def test_a_flag_s_value_is_checked_wherever_it_comes_from():
    assert checked("--seed", int, "7") == checked("--seed", int, 7) == 7 and checked("--lr", float, 1) == 1.0
    for kind, values in {
        int: [1.5, True, "1.5", 2**31, None],
        float: ["nan", float("inf"), 10**400, True, []],
        str: [3, "a\0"],
        bool: ["true", 1],
    }.items():
        for value in values:
            with pytest.raises(UserError):
                checked("--x", kind, value)


def test_a_text_that_fits_no_context_is_refused_before_it_is_encoded(go, monkeypatch):
    preference_file(Path("long.jsonl"), n=3)
    with open("long.jsonl", "a") as file:
        file.write(json.dumps({"prompt": "x" * 5 * 10**6, "chosen": "yes", "rejected": "no"}) + "\n")
    status, _, err = go(train, "--data", "long.jsonl", *SMALL)
    assert status == 2 and "long.jsonl, line 4: 'prompt' has 5,000,000 characters" in err


def test_a_gradient_that_is_infinite_from_the_first_step_on_is_not_the_learning_rate_s_fault(go):
    status, _, err = go(train, "--data", "mine.jsonl", *SMALL, *SHORT, "--loss", "ipo", "--beta", "1e-30")
    assert (
        status == 1 and "dpo, step 1" in err and "lower learning rate" not in err and "its own flags" in err
    )


def test_settings_that_a_run_keeps_are_what_it_was_begun_with(copied):
    settings, digests = read_config(Path("run"))
    assert isinstance(settings, Settings) and set(digests) == {str(copied / "mine.jsonl")}
    assert load_model(Path("run/sft.pt"))[1].name == "toy" and read_bytes("mine.jsonl")
    write_json(Path("x.json"), {"a": float("inf"), "b": [1, {"c": float("nan")}]})
    assert (
        read_json(Path("x.json")) == {"a": None, "b": [1, {"c": None}]}
        and "Infinity" not in Path("x.json").read_text()
    )


# --- a run that is moved


def test_a_run_is_moved_with_its_data_and_goes_on(tmp_path, monkeypatch, capsys):
    """Paths are kept relative to the run: the whole tree elsewhere ends with the same weights."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    preference_file(Path("mine.jsonl"))
    job = ("--data", "mine.jsonl", *SMALL, *SHORT)
    assert run(monkeypatch, capsys, train, *job, "--out", "whole")[0] == 0
    assert run(monkeypatch, capsys, train, *job, "--out", "run")[0] == 0
    for name in ("dpo.pt", "summary.json", "samples.jsonl"):
        Path("run", name).unlink()
    log = Path("run/metrics.jsonl")
    log.write_bytes(b"".join(line for line in log.read_bytes().splitlines(True) if b'"sft"' in line))
    config = json.loads(Path("run/config.json").read_text())
    assert config["settings"]["data"] == "./../mine.jsonl" and list(config["sha256"]) == ["./../mine.jsonl"]
    assert config["versions"] == versions() == load_checkpoint(Path("run/sft.pt"))["versions"]
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, capsys, train, "--resume", "there/run")[0] == 0
    ours, theirs = (load_checkpoint(Path("there", name, "dpo.pt"))["model"] for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_of_an_older_version_with_full_paths_is_still_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    preference_file(Path("mine.jsonl"))
    assert run(monkeypatch, capsys, train, "--data", "mine.jsonl", *SMALL, *SHORT, "--out", "run")[0] == 0
    path, full = Path("run/config.json"), str(tmp_path / "mine.jsonl")
    config = json.loads(path.read_text())
    config = {
        "settings": {**config["settings"], "data": full},
        "sha256": {full: config["sha256"].popitem()[1]},
    }
    path.unlink()
    write_json(path, config)
    settings, digests = read_config(Path("run"))
    assert settings.data == full and list(digests) == [full]
    assert run(monkeypatch, capsys, train, "--resume", "run")[0] == 0


@pytest.mark.parametrize("kept", [{"torch": "1.0"}, versions(), None, "1.0"])
def test_another_version_of_torch_is_said_and_no_error(go, kept):
    """The line is there only where torch differs: not for old folders, which do not say."""
    Path("run/summary.json").unlink()
    change_json(Path("run/config.json"), versions=kept)
    status, out, _ = go(train, "--resume", "run")
    assert status == 0 and ("begun with torch 1.0, goes on with torch" in out) == (kept == {"torch": "1.0"})


def test_a_checkpoint_of_an_older_version_loads(finished, tmp_path):
    saved = load_checkpoint(finished / "run" / "sft.pt")
    assert saved.pop("versions") == versions()
    torch.save(saved, tmp_path / "old.pt")
    assert load_model(tmp_path / "old.pt")[1].name == "toy"


def test_a_moved_run_finds_its_reference_and_its_loss(tmp_path, monkeypatch, capsys):
    """Every kind of path: --init-from, --reference, --held-out, a loss of one's own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    preference_file(Path("mine.jsonl"))
    preference_file(Path("apart.jsonl"), n=3)
    Path("mine.py").write_text(LOSS.replace('Path("executed").touch()', ""))
    job = ("--data", "mine.jsonl", "--held-out", "apart.jsonl", *SMALL[len(SHAPE) :])
    first = (*job, *SHAPE, "--stage", "sft", "--steps", 3, "--out", "first")
    assert run(monkeypatch, capsys, train, *first)[0] == 0
    more = (*job, "--stage", "dpo", "--init-from", "first", "--reference", "first/sft.pt", "--steps", 3)
    second = (*more, "--loss", "mine.py:mine", "--out", "runs/second")
    assert run(monkeypatch, capsys, train, *second)[0] == 0
    config = json.loads(Path("runs/second/config.json").read_text())
    assert str(tmp_path) not in json.dumps(config)
    whole = Path("runs/second/dpo.pt").read_bytes()
    for name in ("dpo.pt", "metrics.jsonl", "summary.json", "samples.jsonl"):
        Path("runs/second", name).unlink()
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    loss = f"{tmp_path}/there/mine.py:mine"
    assert run(monkeypatch, capsys, train, "--resume", "there/runs/second", "--loss", loss)[0] == 0
    again = load_checkpoint(Path("there/runs/second/dpo.pt"))
    Path("whole.pt").write_bytes(whole)
    before = load_checkpoint(Path("whole.pt"))
    assert all(torch.equal(again["model"][name], before["model"][name]) for name in before["model"])
    assert again["log_sha256"] == before["log_sha256"]
