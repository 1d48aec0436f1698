"""Files are whole or not there: full disks, kills in the middle of writing, foreign and hostile files, taken
folders.
"""

import json
import os
import pickle
import resource
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.errors import UserError
from mini_dpo.files import read_json, write_json
from mini_dpo.saving import checkpoint
from mini_dpo.saving.checkpoint import (
    MetricsLog,
    find_model,
    load_checkpoint,
    load_model,
    new_run,
    save_checkpoint,
)
from mini_dpo.tokenizer import load_tokenizer
from tests.strategies import tiny_gpt


def test_a_model_survives_the_round_trip(tmp_path):
    model = tiny_gpt(3, dropout=0.1, vocab_size=load_tokenizer("toy").vocab_size).float()
    save_checkpoint(tmp_path / "m.pt", model, "toy", step=4)
    loaded, tokenizer = load_model(tmp_path / "m.pt", dropout=0.0)
    assert tokenizer.name == "toy" and loaded.config.dropout == 0.0
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert load_checkpoint(tmp_path / "m.pt")["step"] == 4


def test_a_full_disk_leaves_the_old_checkpoint_and_one_clear_line(tmp_path):
    """The process may write no more than 20 kB to a file, so the system itself refuses half-way."""
    path = tmp_path / "m.pt"
    save_checkpoint(path, tiny_gpt(), "toy", step=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(
            UserError, match=r"m.pt: cannot be written .*the file that was there is kept; make room"
        ):
            save_checkpoint(path, tiny_gpt(n_embd=64), "toy", step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path)["step"] == 1
    assert os.listdir(tmp_path) == ["m.pt"]


@pytest.mark.parametrize("moment", ["open", "fsync", "replace"])
def test_a_kill_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch, moment):
    class Killed(BaseException):
        pass

    def die(*args):
        raise Killed

    path = tmp_path / "m.pt"
    save_checkpoint(path, tiny_gpt(), "toy", step=1)
    if moment == "open":
        monkeypatch.setattr(torch, "save", lambda payload, file: (file.write(b"half"), die()))
    else:
        monkeypatch.setattr(os, moment, die)
    with pytest.raises(Killed):
        save_checkpoint(path, tiny_gpt(), "toy", step=2)
    monkeypatch.undo()
    assert load_checkpoint(path)["step"] == 1
    save_checkpoint(path, tiny_gpt(), "toy", step=3)  # what the dead process left behind is in nobody's way
    assert load_checkpoint(path)["step"] == 3


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path(os.environ["BOMB"]),))


def test_nothing_in_a_checkpoint_is_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "went-off"))
    torch.save({"model": Bomb(), "config": {}, "tokenizer": "toy"}, tmp_path / "m.pt")
    (tmp_path / "p.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("m.pt", "p.pt"):
        with pytest.raises(UserError, match="not a checkpoint of mini_dpo"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "went-off").exists()


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_a_checkpoint(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "m.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="m.pt: not a checkpoint"):
        load_checkpoint(path)


def test_damaged_and_unfitting_checkpoints_are_refused(tmp_path):
    path = tmp_path / "m.pt"
    save_checkpoint(path, tiny_gpt(), "toy")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(path)
    payload = {
        "model": tiny_gpt().state_dict(),
        "config": {**vars(tiny_gpt().config), "n_layer": 3},
        "tokenizer": "toy",
        "stage": "sft",
    }
    torch.save(payload, path)
    with pytest.raises(UserError, match="weights do not fit"):
        load_model(path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="no model, config, tokenizer and stage"):
        load_model(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="none.pt: cannot be read"):
        load_checkpoint(tmp_path / "none.pt")
    for place in (tmp_path, tmp_path / "none.pt"):
        with pytest.raises(UserError, match="no model there"):
            find_model(place)


def test_a_run_s_folder_stands_for_its_sft_model(tmp_path):
    """A second preference run from the same folder must start where the first did, not where it ended."""
    (tmp_path / "sft.pt").touch()
    (tmp_path / "dpo.pt").touch()
    assert find_model(tmp_path) == tmp_path / "sft.pt" == find_model(tmp_path / "sft.pt")
    assert find_model(tmp_path / "dpo.pt") == tmp_path / "dpo.pt"


def test_runs_are_numbered_and_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "notes").mkdir(parents=True)
    assert [str(new_run(None, {"n": n})) for n in range(3)] == ["runs/1", "runs/2", "runs/3"]
    (tmp_path / "runs" / "41").mkdir()
    assert str(new_run(None, {})) == "runs/42"
    assert read_json(Path("runs/2/config.json")) == {"n": 1}
    named = new_run(Path("deep/er/mine"), {"n": 9})
    for taken in (named, Path("runs"), Path("runs/41")):
        with pytest.raises(
            UserError, match=f"{taken} exists; choose another --out, or go on with it: --resume"
        ):
            new_run(taken, {})
    assert read_json(named / "config.json") == {"n": 9}
    assert not [p for p in (tmp_path / "runs").iterdir() if p.name.startswith(".")]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        new_run(tmp_path / "file" / "run", {})


def test_json_that_is_none_is_refused(tmp_path):
    (tmp_path / "c.json").write_bytes(b"{")
    with pytest.raises(UserError, match="c.json: not JSON"):
        read_json(tmp_path / "c.json")
    write_json(tmp_path / "c.json", {"a": 1})
    assert read_json(tmp_path / "c.json") == {"a": 1}


def test_the_log_is_cut_back_to_where_it_was(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, {})
    log.write({"step": 1})
    saved = log.state()
    log.write({"step": 2})
    with open(path, "ab") as file:
        file.write(b'{"step"')
    log = MetricsLog(path, saved)
    log.write({"step": 2})
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [{"step": 1}, {"step": 2}]
    for wrong in ({**saved, "log_length": 1000}, {**saved, "log_sha256": "0"}):
        with pytest.raises(UserError, match="not what the checkpoint remembers"):
            MetricsLog(path, wrong)
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [{"step": 1}, {"step": 2}]


def test_the_module_s_list_of_files_is_what_a_run_leaves(tmp_path):
    names = "config.json sft.pt dpo.pt metrics.jsonl samples.jsonl words.jsonl summary.json report.html"
    for name in names.split():
        assert name in checkpoint.__doc__
