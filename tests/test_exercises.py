"""The tutorial's exercises: the checks accept the solutions, and say of wrong answers what is wrong with
them.
"""

import inspect
import sys
from dataclasses import replace

import pytest
import torch

from mini_dpo.corpus.worlds import world_corpus
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.saving.checkpoint import save_checkpoint
from tests.commands import run
from tests.wrong_answers import WRONG
from tutorials.exercises import __main__ as exercises
from tutorials.exercises.checking import close, judge, load_checks
from tutorials.exercises.ladder import PIECES, RUNGS, SURE, Pieces, climb, distance, train_in_the_tea_house

CHAPTERS = exercises.CHAPTERS
ALL = [(chapter, name) for chapter in CHAPTERS for name in load_checks(chapter)]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_solutions_are_right(chapter):
    verdicts = exercises.judge_chapter(chapter, "tutorials.exercises.solutions")
    assert {name: verdict.state for name, verdict in verdicts.items()} == dict.fromkeys(
        load_checks(chapter), "right"
    ), verdicts


@pytest.mark.parametrize(
    "chapter, name, i", [(*key, i) for key, wrong in WRONG.items() for i in range(len(wrong))]
)
def test_a_typical_wrong_answer_is_rejected_and_its_mistake_named(chapter, name, i):
    answer, phrase = WRONG[chapter, name][i]
    verdict = judge(answer, load_checks(chapter)[name])
    assert verdict.state == "wrong" and phrase in verdict.text, verdict.text


def test_every_exercise_has_wrong_answers_and_every_property_rejects_one():
    assert set(WRONG) == set(ALL) and len(ALL) >= 22 and all(len(wrong) >= 2 for wrong in WRONG.values())
    for chapter, name in ALL:
        texts = [judge(answer, load_checks(chapter)[name]).text for answer, _ in WRONG[chapter, name]]
        idle = [p.says for p in load_checks(chapter)[name] if not any(p.says in text for text in texts)]
        assert len(idle) <= 1, (name, idle)  # the last, most general property may be a safety net


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_what_is_to_be_filled_in_agrees_with_its_solution(chapter):
    modules = [
        __import__(f"tutorials.exercises.{where}chapter_{chapter:02}", fromlist=["x"])
        for where in ("", "solutions.")
    ]
    for number, name in enumerate(load_checks(chapter), 1):
        stub, solution = (getattr(module, name) for module in modules)
        assert inspect.signature(stub) == inspect.signature(solution)
        assert stub.__doc__.startswith(f"{chapter}.{number}  "), name


@pytest.mark.parametrize("chapter, name", ALL)
def test_answers_that_are_no_answers_are_never_right(chapter, name):
    """Nothing returned, zero, an error: one clear verdict each."""

    def empty(*arguments):
        raise NotImplementedError

    def broken(*arguments):
        raise KeyError("oops")

    properties = load_checks(chapter)[name]
    assert judge(empty, properties).state == "empty"
    assert judge(broken, properties).state == "wrong"
    for value in (None, 0):
        assert judge(lambda *arguments: value, properties).state == "wrong"


def write(monkeypatch, chapter, source):
    """Put other answers in the place of a chapter's."""
    module = type(sys)(f"tutorials.exercises.chapter_{chapter:02}")
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_the_command_tells_right_wrong_and_empty_apart(monkeypatch, capsys):
    source = """
def mean_loss(sums, counts): return sum(sums) / sum(counts)
def learning_rate(step, steps, warmup, peak): return 1 / 0
def mean_change(ref_logps, policy_logps): raise NotImplementedError
"""
    write(monkeypatch, 6, source)
    status, out, _ = run(monkeypatch, capsys, exercises, 6)
    assert status == 1 and "6.1  mean_loss: right, 3 properties hold" in out
    assert "6.2  learning_rate: WRONG" in out and "ZeroDivisionError" in out and "must hold:" in out
    assert "6.3  mean_change: nothing there yet" in out
    status, out, _ = run(monkeypatch, capsys, exercises)
    assert status == 0 and "chapter  6  +!.  1 of 3 right" in out


def test_a_function_of_another_chapter_that_is_missing_is_named(monkeypatch, capsys):
    source = """
from tutorials.exercises.chapter_03 import draw
def batch_logps(logits, ids, mask): raise NotImplementedError
def adam_step(value, gradient, m, v, t, lr): raise NotImplementedError
def respond(said, prompt, end, longest, uniforms): return [draw(said(prompt), next(uniforms))]
"""
    write(monkeypatch, 22, source)
    _, out, _ = run(monkeypatch, capsys, exercises, 22)
    assert "22.3  respond: nothing there yet; write draw in tutorials/exercises/chapter_03.py" in out


def test_a_slip_of_type_is_told_and_is_not_taken_for_nothing(monkeypatch, capsys):
    """torch, too, raises NotImplementedError: for a tensor of whole numbers, say."""

    def slip(logits, ids, mask):
        return ids.softmax(-1)

    verdict = judge(slip, load_checks(22)["batch_logps"])
    assert verdict.state == "wrong" and "NotImplementedError" in verdict.text


def test_the_ladder_keeps_its_rungs_and_a_wrong_piece_is_felt():
    """With right pieces training ends where the package's does, and with a wrong one elsewhere."""
    mine = Pieces(**exercises.right_pieces("tutorials.exercises.solutions"))
    assert None not in mine
    (_, alone), *rungs = climb(mine, steps=30)
    assert [title for title, _ in rungs] == list(RUNGS.values())
    assert all(value == pytest.approx(alone, rel=1e-6) for _, value in rungs[:-1]) and rungs[-1][1] < SURE
    for name in list(PIECES)[:-1]:
        felt = []
        for answer, _ in WRONG[PIECES[name][0], name]:
            try:
                gap = distance(train_in_the_tea_house(mine._replace(**{name: answer}), 30))
            except Exception:  # it cannot even be run
                gap = float("nan")
            felt.append(gap != pytest.approx(alone, rel=1e-6))
        assert any(felt), name
    never = mine._replace(respond=lambda p, prompt, end, longest, uniforms: [end])
    assert list(climb(never, steps=2))[-1][1] > SURE


def test_the_ladder_s_command(monkeypatch, capsys, tmp_path):
    """It stands on right answers only, says which is missing, and aligns the shop with all of them."""
    monkeypatch.setattr(exercises, "climb", lambda mine: climb(mine, steps=2))
    status, out, _ = run(monkeypatch, capsys, exercises, "ladder")
    assert status == 1 and "the next rung: your mask (chapter 2)" in out
    status, _, err = run(monkeypatch, capsys, exercises, "ladder", "--shop", tmp_path)
    assert status == 2 and "these are not right yet: your mask" in err
    pieces = exercises.right_pieces("tutorials.exercises.solutions")
    monkeypatch.setattr(exercises, "right_pieces", lambda: pieces)
    out = run(monkeypatch, capsys, exercises, "ladder")[1]
    assert out.count("MISSES") == 6 and "lands   your sampler" in out, "two steps do not lead far"
    monkeypatch.setattr(exercises, "world_corpus", lambda *where: few(world_corpus(*where)))
    torch.manual_seed(0)
    shape = GPTConfig(vocab_size=667, context=128, n_layer=1, n_head=2, n_embd=16)
    save_checkpoint(tmp_path / "sft.pt", GPT(shape), "toy")
    status, out, _ = run(monkeypatch, capsys, exercises, "ladder", "--shop", tmp_path)
    assert status == 0 and out.index("before:") < out.index("step 2/2") < out.index("after:")


def few(corpus):
    """Two batches of pairs and two prompts."""
    kept = replace(corpus.held_out, prompts=corpus.held_out.prompts[:2])
    return replace(corpus, preferences=corpus.preferences[:64], held_out=kept)


def test_the_command_s_errors(monkeypatch, capsys):
    write(monkeypatch, 6, "def mean_loss(sums, counts): return 0")
    status, _, err = run(monkeypatch, capsys, exercises, 6)
    assert status == 2 and "chapter_06.py: there is no function learning_rate" in err
    status, _, err = run(monkeypatch, capsys, exercises, 99)
    assert status == 2 and f"chapters 1 to {CHAPTERS[-1]}, and ladder" in err


def test_close_is_close_and_nothing_is_close_to_nan():
    assert close([1.0, 2.0], [1.0, 2.0 + 1e-9]) and not close([1.0], [1.0, 1.0]) and not close(1.0, 1.001)
    assert not close(float("nan"), float("nan")) and not close(None, 0.0)


def test_the_teacher_s_page_has_a_variant_of_each_exercise():
    page = (exercises.HERE.parent / "teaching.md").read_text(encoding="utf-8")
    for chapter in CHAPTERS:
        for number, name in enumerate(load_checks(chapter), 1):
            assert f"\n| {chapter}.{number} `{name}` | " in page
