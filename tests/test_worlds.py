"""Worlds and judges of one's own: drawn, named, trained on, measured; what is wrong with one is a line."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo import sample, show
from mini_dpo.corpus.worlds import context_of, words_of, world_corpus
from mini_dpo.errors import UserError
from mini_dpo.rlhf import __main__ as rlhf
from mini_dpo.theory.bradley_terry import preference_probability
from mini_dpo.tokenizer import load_tokenizer
from mini_dpo.train import __main__ as train
from mini_dpo.train.parsing import TOY_DEFAULTS, parse
from mini_dpo.vocabularies import name_of_words
from mini_dpo.worlds import __main__ as gallery
from mini_dpo.worlds import world
from mini_dpo.worlds.finding import WORLDS, find_world
from mini_dpo.worlds.world import SPLIT_SIZES, label_accuracy, reward, rows_of
from tests.commands import SHORT, SMALL, preference_file, run

PARROT = """
from mini_dpo.worlds.world import World, choose

FRUIT = "apple pear plum fig nut seed corn grape melon cherry".split()


def write_prompt(rng):
    return " ".join(choose(rng, FRUIT) for _ in range(4))


def write_response(rng, prompt):
    return " ".join(choose(rng, FRUIT) if rng.random() < 0.4 else word for word in prompt.split())


def judge(prompt, response):
    asked, said = prompt.split(), response.split()
    if len(asked) != 4 or not set(asked) <= set(FRUIT):
        raise ValueError("a parrot is told four fruits")
    return {"right": 2.0 * sum(map(str.__eq__, asked, said)), "chatter": -abs(len(said) - 4)}


def count(prompt, response):
    return {"figs": response.count("fig")} if "fig" in prompt else {}


PARROT = World(
    "parrot",
    "says what it hears",
    write_prompt,
    write_response,
    judge,
    marks={"right": "right words, 0 to 8", "chatter": "words too many or too few"},
    count=count,
    counts={"figs": "figs, where one was said"},
)
"""


@pytest.fixture
def parrot(tmp_path, monkeypatch):
    """A world in a file, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    Path("parrot.py").write_text(PARROT)
    return "parrot.py:PARROT"


def test_a_world_in_a_file_is_trained_on_and_measured(parrot, monkeypatch, capsys):
    """The marks and the counts are lines of the table, with errors; sampling runs no code of the file, and
    going on wants its name.
    """
    flags = ["--n-layer", 1, "--n-embd", 32, "--sft-steps", 4, "--steps", 3, "--eval-examples", 32]
    status, out, err = run(monkeypatch, capsys, train, "--world", parrot, *flags)
    assert (status, err) == (0, "") and "the world PARROT" in out
    for label in ("true reward", "right words, 0 to 8", "words too many", "figs, where one was said"):
        line = next(line for line in out.splitlines() if line.strip().startswith(label))
        assert line.count("(") == 2, line
    summary = json.loads(Path("runs/1/summary.json").read_text())
    for name in ("sft", "dpo"):
        column = summary[name]
        assert column["reward"] == pytest.approx(column["right"] + column["chatter"], abs=1e-6)
    Path("parrot.py").write_text("raise SystemExit('executed')")
    assert run(monkeypatch, capsys, sample, "runs/1", "--prompt", "fig nut", "--max-new-tokens", 3)[0] == 0
    Path("parrot.py").write_text(PARROT)
    Path("runs/1/summary.json").unlink()
    status, _, err = run(monkeypatch, capsys, train, "--resume", "runs/1")
    assert status == 2 and f"train --resume runs/1 --world {Path('parrot.py').resolve()}:PARROT" in err
    assert "--run-code" in run(monkeypatch, capsys, rlhf, "runs/1")[2]
    assert run(monkeypatch, capsys, train, "--resume", "runs/1", "--world", parrot)[0] == 0


def test_its_rows_are_always_the_same_and_no_prompt_is_in_two_splits(parrot):
    world = find_world(parrot)
    rows = rows_of(world)
    rows_of.cache_clear()
    assert rows_of(world) == rows
    prompts = [row["prompt"] for split in rows.values() for kind in split for row in kind]
    assert len(set(prompts)) == len(prompts) == 8912
    tokenizer = load_tokenizer(words_of(parrot))
    corpus = world_corpus(parrot, tokenizer, context_of(parrot, tokenizer))
    assert len(corpus.preferences) == 4000 and len(corpus.held_out.pairs) == 256
    assert all(len(p.chosen.response) == 5 for p in corpus.preferences), "a word is a token"


def test_a_world_may_have_hyperparameters_of_its_own(parrot):
    """Those of the command line come first, those of the shop last."""
    Path("parrot.py").write_text(
        PARROT.replace("    judge,\n", "    judge,\n    loss_options={'ipo': {'beta': 9.0}},\n")
    )
    for flags, beta in (([], 9.0), (["--beta", "2"], 2.0), (["--loss", "dpo"], TOY_DEFAULTS["dpo"]["beta"])):
        assert parse(["--world", parrot, "--loss", "ipo", *flags]).loss_options["beta"] == beta


def test_labels_are_bradley_terry_draws(parrot):
    """The share of labels that agree with the judge is the mean of max(p, 1 - p), to four deviations. Catches
    labels that are never wrong, and those that are as often wrong as right.
    """
    world = find_world(parrot)
    pairs = rows_of(world)["train"][1]
    chosen, rejected = (
        torch.tensor([reward(world.judge(row["prompt"], row[side])) for row in pairs])
        for side in ("chosen", "rejected")
    )
    p = preference_probability(torch.maximum(chosen, rejected), torch.minimum(chosen, rejected))  # (N,)
    deviation = float((p * (1 - p)).sum()) ** 0.5 / len(p)
    assert abs(label_accuracy(world.judge, pairs) - float(p.mean())) < 4 * deviation


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("PARROT = World(", "PARROT = ((", "SyntaxError"),
        ("PARROT = World(", "OTHER = World(", "parrot.py: PARROT is not a World"),
        ('"right": 2.0', '"reward": 2.0', "numbers by name"),
        ('marks={"right"', 'marks={"reward"', "a mark cannot be called reward"),
        ("2.0 * sum", 'float("nan") * sum', "which is not a finite number"),
        ('"chatter": -abs', '"chatter": [], "x": -abs', "and not numbers by name"),
        (
            'return " ".join(choose(rng, FRUIT) if',
            "return ' ' * int(1 + 8 * rng.random()) or (0 if",
            "is empty",
        ),
        ('return " ".join(choose(rng, FRUIT) for _', "return 'fig' or (0 for _", "has 1 different prompts"),
        ('return " ".join(choose(rng, FRUIT) if', "return 'a fig' or (0 if", "writes one response only"),
        ('return " ".join(choose(rng, FRUIT) if', "return 1 / 0 or (0 if", "line 12: ZeroDivisionError"),
    ],
)
def test_what_is_wrong_with_a_world_is_a_line(parrot, monkeypatch, capsys, old, new, message):
    assert old in PARROT
    Path("parrot.py").write_text(PARROT.replace(old, new))
    status, _, err = run(monkeypatch, capsys, train, "--world", parrot, "--n-embd", 32, "--steps", 1)
    assert status == 2 and message in err and err.count("\n") == 1, err
    assert not Path("runs").exists()


def test_a_judge_of_one_s_own(tmp_path, monkeypatch, capsys):
    """It gives one number, or marks; the table has them. Where it fails, the run says the line."""
    monkeypatch.chdir(tmp_path)
    preference_file(tmp_path / "mine.jsonl", 40)
    flags = ["--data", "mine.jsonl", *SMALL, *SHORT]
    for body, labels in (
        ("len(answer)", []),
        ("{'long': len(answer), 'y': answer.count('y')}", ["long", "y"]),
    ):
        Path("judge.py").write_text(f"def mine(prompt, answer):\n    return {body}\n")
        status, out, err = run(monkeypatch, capsys, train, *flags, "--judge", "judge.py:mine")
        assert (status, err) == (0, "") and "true reward" in out and "win rate" in out
        assert all(f"\n  {label} " in out for label in labels) and "judged" not in out
    Path("judge.py").write_text("def mine(prompt, answer):\n    return 1 / 0\n")
    status, _, err = run(monkeypatch, capsys, train, *flags, "--judge", "judge.py:mine")
    assert status == 2 and "judge.py, line 2: ZeroDivisionError" in err and not Path("runs/3").exists()
    for wrong, message in (
        (("--judge", "judge.py:yours"), "there is no function yours in it"),
        (("--judge", "shop"), "--judge wants file.py:function"),
        (("--judge", "nowhere.py:mine"), "nowhere.py:mine: there is no file"),
        (("--world", "shop"), "leave out --world, or --data"),
    ):
        status, _, err = run(monkeypatch, capsys, train, *flags, *wrong)
        assert status == 2 and message in err, err
    assert "a world has one" in run(monkeypatch, capsys, train, "--judge", "judge.py:mine")[2]
    assert "did you mean shop?" in run(monkeypatch, capsys, train, "--world", "shoop")[2]


def test_the_gallery_shows_every_world(parrot, monkeypatch, capsys):
    few = {split: (sft // 20, pairs // 20) for split, (sft, pairs) in SPLIT_SIZES.items()}
    with monkeypatch.context() as less:
        less.setattr(gallery, "rows_of", rows_of.__wrapped__)  # which keeps nothing
        less.setattr(world, "SPLIT_SIZES", few)
        out = run(monkeypatch, capsys, gallery)[1]
    for shown in WORLDS.values():
        assert f"{shown.name}: {shown.about}" in out
    status, out, _ = run(monkeypatch, capsys, gallery, parrot, "--examples", 1)
    assert status == 0 and out.count("chosen:") == 1 and "of 4,000 labels agree" in out
    status, out, _ = run(monkeypatch, capsys, show, "--world", parrot)
    assert status == 0 and out.count("yes, predicted") == 10


@given(st.lists(st.text(min_size=1)), st.text())
def test_a_vocabulary_of_words_gives_every_text_back(texts, text):
    """A known word is one token; a text of other words, and of markers, comes back too, and is no marker."""
    tokenizer = load_tokenizer(name_of_words(texts))
    ids = tokenizer.encode(text + "<|user|>")
    assert tokenizer.decode(ids) == text + "<|user|>" and max(ids) < tokenizer.end_of_text
    for piece in json.loads(tokenizer.name.removeprefix("words ")):
        assert len(tokenizer.encode(piece)) == 1 or not piece.isascii()  # elsewhere \\w differs


@pytest.mark.parametrize("words", ['{"a": 1}', "[1]", '["ab", "ab"]', "[", '[""]', '["a"]'])
def test_a_strange_vocabulary_is_a_line(words):
    with pytest.raises(UserError, match="the name of the vocabulary: not a list of words"):
        load_tokenizer(f"words {words}")
