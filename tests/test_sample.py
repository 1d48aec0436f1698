"""Talking to a run: many prompts at a time, answers as objects, and a conversation that ends when it is told
to.
"""

import io
import json
import sys
from dataclasses import asdict

import pytest
import torch

from mini_dpo import sample
from mini_dpo.files import write_json
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.sample import SampleSettings, load_models, reply
from mini_dpo.saving.checkpoint import save_checkpoint
from mini_dpo.tokenizer import load_tokenizer
from mini_dpo.train.parsing import parse
from mini_dpo.worlds.shop import judge
from mini_dpo.worlds.world import reward
from tests.commands import run

SHOP = "Ada here. On Friday you sold me a kettle, and now it bites."
PROMPTS = ["say yes", SHOP, "", "say no, and then say more"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose two models have never been trained."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = load_tokenizer("toy")
    for seed, name in enumerate(("sft", "dpo")):
        torch.manual_seed(seed)
        model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, context=60, n_layer=1, n_head=2, n_embd=16))
        save_checkpoint(folder / f"{name}.pt", model, "toy", step=0, finished=True, run="")
    write_json(folder / "config.json", {"settings": asdict(parse(["--loss", "aot_unpaired"])), "sha256": {}})
    return folder


@pytest.fixture
def go(monkeypatch, capsys, folder, tmp_path):
    """`go(...)` returns (status, out, err) of the command for that run, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "50")
    return lambda *args: run(monkeypatch, capsys, sample, folder, "--max-new-tokens", 12, *args)


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answered_together_is_answered_one_by_one(folder, n, temperature):
    """In float64, where rounding decides nothing. Catches: a row with its neighbour's prompt, numbers or
    seed.
    """
    models = {name: (model.double(), tokenizer) for name, (model, tokenizer) in load_models(folder).items()}
    settings = SampleSettings(n=n, temperature=temperature, max_new_tokens=12, seed=5)
    together = reply(models, PROMPTS, settings, 0)
    assert together == [reply(models, [prompt], settings, i)[0] for i, prompt in enumerate(PROMPTS)]
    flat = [row for of_prompt in together for row in of_prompt]
    assert [(row["prompt"], row["model"]) for row in flat] == [
        (p, m) for p in PROMPTS for m in ("SFT", "AOT-UNPAIRE") for _ in range(n)
    ]
    for row in flat:
        alone = reply(
            models,
            [row["prompt"]],
            SampleSettings(temperature=temperature, max_new_tokens=12, seed=row["seed"]),
            0,
        )
        assert row in alone[0]
    if temperature:
        assert len({(row["model"], row["response"]) for row in flat}) == len(flat), (
            "no two answers share their numbers"
        )


def test_a_file_of_prompts_as_text_and_as_json(go, tmp_path):
    """More prompts than are answered at a time; both forms, and a pipe one by one, give the same answers."""
    prompts = [f"say {i}" for i in range(20)] + [SHOP]
    (tmp_path / "p.txt").write_bytes(("\ufeff" + "\r\n\n".join(prompts) + "\r\n").encode())
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    (tmp_path / "p").write_text((tmp_path / "p.jsonl").read_text())
    status, out, err = go("--prompts", "p.txt", "-n", 3, "--json")
    found = rows(out)
    assert (status, err) == (0, "") and [row["prompt"] for row in found] == [
        prompt for prompt in prompts for _ in range(6)
    ]
    assert [row["seed"] for row in found if row["model"] == "SFT"] == list(range(63))
    for row in found:
        assert {"prompt", "model", "response", "finished", "tokens", "seed"} == row.keys() - {"marks"}
        assert ("marks" in row) == (row["prompt"] == SHOP) and row["tokens"] <= 12
        if "marks" in row:
            assert row["marks"]["reward"] == reward(judge(SHOP, row["response"]))
    for form in ("p.jsonl", "p"):
        assert go("--prompts", form, "-n", 3, "--json") == (0, out, "")
    assert go("--prompts", "p.jsonl", "-n", 3, "--out", "a.jsonl") == (
        0,
        "a.jsonl: 126 answers to 21 prompts\n",
        "",
    )
    assert rows((tmp_path / "a.jsonl").read_text()) == found


def test_a_file_that_is_there_is_not_written_over(go, tmp_path):
    (tmp_path / "a.jsonl").write_text("mine")
    for out in ("a.jsonl", "nowhere/a.jsonl"):
        status, _, err = go("--prompt", "say", "--out", out)
        assert status == 2 and f"--out {out}: cannot be made" in err and err.count("\n") == 1
    assert (tmp_path / "a.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("p.txt", b"fine\ncaf\xe9\n", "p.txt, line 2: not UTF-8"),
        ("p.txt", b"fine\n\n" + b"long " * 100, "p.txt, line 3: the prompt has"),
        ("p.txt", b"\n\n", "p.txt: the file is empty"),
        ("p.jsonl", b'{"prompt": "fine"}\n{"text": "what"}\n', "p.jsonl, line 2: no 'prompt'"),
        ("p.txt", b'{"prompt": "fine"}\nplain\n', "p.txt, line 2: not JSON"),
        ("p.jsonl", b'{"prompt": "\\ud800"}\n', "p.jsonl, line 1: "),
        ("p.json", b'[{"prompt": "fine"}\n', "p.json: the JSON array has no end"),
        ("p.json", b'[{"prompt": [{"role": "tool", "content": "x"}]}]', "has the role 'tool'"),
    ],
)
def test_a_bad_file_of_prompts_is_refused_before_the_first_answer(go, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    status, out, err = go("--prompts", name)
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err


@pytest.mark.parametrize(
    "args, message",
    [
        (["--prompts", "none"], "none: cannot be read"),
        (["--prompts", "p", "--prompt", "x"], "give --prompt or --prompts, not both"),
        (["--out", "a"], "--out needs --prompt or --prompts"),
        (["-n", "0"], "-n must be at least 1, not 0"),
    ],
)
def test_flags_that_make_no_sense_are_refused(go, args, message):
    status, out, err = go(*args)
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err


class Keyboard(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("word", ["exit", "quit", ""])
def test_a_conversation_ends_with_a_word(go, monkeypatch, word):
    monkeypatch.setitem(sys.modules, "readline", None)  # a system without it
    monkeypatch.setattr(sys, "stdin", Keyboard(f"hello\nagain\n{word}\nnever read\n"))
    status, out, err = go()
    assert (status, err) == (0, "") and out.count("SFT") == 2 and out.count("you >") == 3
    # in a pipe they are prompts like any other
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"hello\n{word or 'exit'}\n"))
    assert [row["prompt"] for row in rows(go("--json")[1])][::2] == ["hello", word or "exit"]


def test_a_keyboard_gets_history_and_arrow_keys(go, monkeypatch):
    pytest.importorskip("readline")
    for stdin, loaded in ((io.StringIO(""), False), (Keyboard(""), True)):
        monkeypatch.delitem(sys.modules, "readline", raising=False)
        monkeypatch.setattr(sys, "stdin", stdin)
        go()
        assert ("readline" in sys.modules) == loaded


def test_long_answers_are_wrapped_on_the_screen_and_only_there(go):
    status, out, _ = go("--prompt", SHOP, "--max-new-tokens", 40)
    lines = out.splitlines()
    assert status == 0 and max(map(len, lines)) <= 50 and sum("true reward" in line for line in lines) == 2
    raw = rows(go("--prompt", SHOP, "--max-new-tokens", 40, "--json")[1])
    assert max(len(row["response"]) for row in raw) > 50
    for row in raw:
        assert "".join(row["response"].split()) in "".join(out.split())
