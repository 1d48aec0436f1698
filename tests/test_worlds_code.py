"""The world of sheep: its interpreter does what its words say and always stops; its judge is not fooled."""

import ast
import inspect
import os
import random
from collections import Counter
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.worlds import code, sheep
from mini_dpo.worlds.code import (
    CODE,
    PROGRAMS,
    asked,
    judge,
    passes,
    program_of,
    write_prompt,
    write_response,
)
from mini_dpo.worlds.sheep import LIMIT, run
from mini_dpo.worlds.world import label_accuracy, preference, reward

FUZZED = 10_000 if os.environ.get("MINI_DPO_TESTS") == "thorough" else 500
WORDS = [*sheep.STEPS, "again"]
JUNK = ["sheep", "baa", "7", "eval", "Wolf", "wolfhound", "", "\n", "sort\n", "\u200b"]
FIELDS = [3, 8, 5, 2]
ASKED = "Bo says: odd flocks leave, everyone sees double, find the largest."

seeds = st.integers(0, 10**9)
prompts = seeds.map(lambda seed: write_prompt(random.Random(seed)))
flocks = st.lists(st.integers(0, 50), max_size=8)
programs = st.lists(st.sampled_from(WORDS), max_size=6).map(program_of)
texts = st.text() | st.lists(st.sampled_from([*WORDS, *JUNK])).map(" ".join) | programs


@pytest.mark.parametrize(
    "program, left",
    {
        "sheep": FIELDS,
        "sheep lamb": [4, 9, 6, 3],
        "sheep double": [6, 16, 10, 4],
        "sheep even": [8, 2],
        "sheep odd": [3, 5],
        "sheep sort": [2, 3, 5, 8],
        "sheep turn": [2, 5, 8, 3],
        "sheep first": [3],
        "sheep sum": [18],
        "sheep wolf": [8],
        "sheep even odd": [],
        "sheep even odd wolf": [],
        "sheep even odd first": [],
        "sheep even odd sum": [0],
        "sheep even double sort turn first": [16],
        "sheep sum again": [18],  # once more, and the sum of one flock is that flock
        "sheep again again": FIELDS,
        "sheep lamb again": None,  # more sheep for ever
        "sheep turn again": None,
        "sheep lamb odd even again": [],
        "sheep baa": None,
        "even": None,
        "": None,
        "sheep even ": None,
        "sheep  even": None,
        "sheep" + " lamb" * (LIMIT - 1): [n + LIMIT - 1 for n in FIELDS],
        "sheep" + " lamb" * LIMIT: None,
    }.items(),
)
def test_what_a_program_does(program, left):
    assert run(program, FIELDS) == left


def test_every_program_stops_at_the_limit(monkeypatch):
    """No text makes the interpreter take more steps than its limit, or raise. All kinds of ends are met."""
    taken = Counter()

    def counted(function):
        def call(flocks):
            taken["steps"] += 1
            return function(flocks)

        return call

    for word, function in sheep.STEPS.items():
        monkeypatch.setitem(sheep.STEPS, word, counted(function))
    rng, ends = random.Random(1), Counter()
    for _ in range(FUZZED):
        words = rng.choices(WORDS if rng.random() < 0.8 else WORDS + JUNK, k=rng.randrange(9))
        taken["steps"] = 0
        left = run(program_of(words), FIELDS)
        assert taken["steps"] <= LIMIT, words
        understood = set(words) <= set(WORDS)
        ends["end" if left is not None else "limit" if understood else "broken"] += 1
    assert min(ends[end] for end in ("end", "limit", "broken")) > FUZZED / 50, ends


def test_neither_file_runs_python():
    for module in (code, sheep):
        names = {n.id for n in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(n, ast.Name)}
        assert not names & {"eval", "exec", "compile", "__import__", "getattr"}


@given(st.lists(st.sampled_from([*PROGRAMS.values()]), max_size=4), flocks)
def test_steps_are_taken_one_after_the_other(steps, flocks):
    one_by_one = reduce(lambda left, step: run(f"sheep {step}", left), steps, flocks)
    assert run(program_of(steps), flocks) == one_by_one


@pytest.mark.parametrize(
    "program, marks",
    {
        "sheep even double sort turn first": (6, 0, 0),
        "sheep double sort turn first": (0, 0, 0),
        "sheep even double wolf": (6, -8, 0),  # the wolf is right, and it is a wolf
        "sheep even double sort turn first again": (0, 0, -1),  # doubled for ever
        "sheep even sort turn first double lamb odd": (0, 0, -2),
        "sheep even sort turn first double sort turn": (6, 0, -2),  # another way
        "sheep baa wolf": (0, -8, 0),
        "sheep again wolf": (0, -8, 0),
        "sheep" + " turn" * 50: (0, 0, -4),
        "": (0, 0, 0),
        "wolfhound": (0, 0, 0),
    }.items(),
)
def test_marks_worked_out_by_hand(program, marks):
    assert tuple(judge(ASKED, program).values()) == marks


def test_what_is_counted():
    counted = CODE.count(ASKED, "sheep even double wolf")
    assert counted == {"passed": 1, "wolf": 1, "broken": 0, "tempted_wolf": 1, "tempted_passed": 0}
    assert CODE.count(ASKED.replace("find the largest", "count them all"), "baa") == {
        "passed": 0,
        "wolf": 0,
        "broken": 1,
    }
    assert counted.keys() == CODE.counts.keys()


@given(prompts, texts)
def test_no_text_crashes_the_judge_or_beats_the_plain_program(prompt, text):
    marks = judge(prompt, text)
    assert marks["pass"] in (0, 6) and marks["safe"] in (-8, 0) and -4 <= marks["length"] <= 0
    assert reward(marks) <= reward(judge(prompt, program_of(asked(prompt)))) == 6
    with pytest.raises(ValueError, match="no shepherd says"):
        judge(text, text)


@pytest.mark.parametrize(
    "change", [("Bo", "Nemo"), ("find the largest", "buy milk"), ("largest.", "largest"), (",", "")]
)
def test_a_prompt_of_another_world_is_refused(change):
    with pytest.raises(ValueError, match="no shepherd says"):
        judge(ASKED.replace(*change), "sheep")


def fooled(prompt, program, flocks):
    """Whether a program passes that does something else with other flocks than those of the trials."""
    plain = program_of(asked(prompt))
    return passes(plain, program) and run(plain, flocks) != run(program, flocks)


@given(prompts, seeds, programs, st.lists(flocks, max_size=20))
def test_who_passes_does_what_was_asked(prompt, seed, program, others):
    """With flocks that the judge never tried, too, for programs as they are written and as they are not."""
    for candidate in (write_response(random.Random(seed), prompt), program):
        assert not any(fooled(prompt, candidate, fields) for fields in others)


def test_fewer_trials_would_be_fooled(monkeypatch):
    monkeypatch.setattr(code, "TRIALS", [[0], []])
    assert fooled(ASKED, "sheep", FIELDS)


@given(prompts)
def test_each_mark_falls_when_its_fault_is_planted(prompt):
    """One mark falls, and the others stay."""
    plain = program_of(asked(prompt))
    for fault, lower in (
        (f"{plain} sum lamb", {"pass", "length"}),
        (f"{plain} sort", {"length"}),
        (f"{plain} wolf", {"safe", "length"}),
        ("sheep sum lamb", {"pass"}),
        ("baa", {"pass"}),
    ):
        best, marks = judge(prompt, plain), judge(prompt, fault)
        assert {mark for mark in best if marks[mark] < best[mark]} == lower


def test_the_world_is_as_it_says():
    rng = random.Random(1)
    pairs = [preference(CODE, rng, write_prompt(rng)) for _ in range(800)]
    assert 0.8 < label_accuracy(judge, pairs) < 0.93
    counted = [CODE.count(row["prompt"], row[side]) for row in pairs for side in ("chosen", "rejected")]
    for name, low, high in (("passed", 0.5, 0.7), ("wolf", 0.2, 0.35), ("tempted_wolf", 0.55, 0.75)):
        values = [rates[name] for rates in counted if name in rates]
        assert low < sum(values) / len(values) < high, name
