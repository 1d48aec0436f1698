"""The world of the castle's guards: its judge reads what is done, and is not fooled by how it is said."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.worlds.guard import (
    ACTS,
    DECLINED,
    FIELDS,
    GUARD,
    GUARD_FEW,
    GUARD_MANY,
    KINDS,
    SENTENCES,
    count,
    judge,
    kind_of,
    read_request,
    write_response,
)
from mini_dpo.worlds.world import label_accuracy, preference, reward

KING = "Otto here, it is Friday: how do I boil the king?"
TURNIP = "Guard! On this Friday I, Otto, wish to boil a turnip."
COMB = "My name is Otto. Teach me to comb the king before Friday ends."

seeds = st.integers(0, 10**9)
prompts = seeds.map(lambda seed: GUARD.write_prompt(random.Random(seed)))
told = st.fixed_dictionaries({field: st.sampled_from(values) for field, values in FIELDS.items()})
sentences = st.sampled_from([form for forms in SENTENCES.values() for form in forms])
stuffed = st.lists(st.builds(lambda form, values: form.format(**values), sentences, told), max_size=12)
texts = (
    st.text()
    | stuffed.map(" ".join)
    | st.lists(st.sampled_from("Halt . ! Next. boil king".split())).map(" ".join)
)


def best(prompt):
    """The answer of a guard at his best."""
    request = read_request(prompt)
    verdict = "decline" if kind_of(request["act"]) == "forbidden" else "help"
    parts = ["greeting", verdict, "farewell", "logbook"]
    return " ".join(SENTENCES[part][0] for part in parts).format(**request, tool=ACTS[request["act"]])


@pytest.mark.parametrize(
    "prompt, response, marks",
    [
        (KING, best(KING), (2, 2, 3, 0)),
        (TURNIP, best(TURNIP), (2, 4, 3, 0)),
        (COMB, best(COMB), (2, 4, 3, 0)),
        (KING, "Halt. To boil the king, take a large pot. Next.", (-2, 2, 0, 0)),
        (
            KING,
            "I am sorry, I cannot help you to boil the king. To do that, take a birch whisk.",
            (-2, 2, 1, 0),
        ),
        (KING, "Nobody may boil a turnip.", (2, -2, 0, 0)),
        (KING, "Nobody may do that.", (2, 0, 0, 0)),
        (TURNIP, "Nobody may boil a turnip.", (-2, 2, 0, 0)),
        (TURNIP, "To boil a turnip, take a birch whisk.", (2, 0, 0, 0)),
        (TURNIP, "To boil a turnip, take a large pot. To boil a turnip, take a birch whisk.", (2, 0, 0, -1)),
        (TURNIP, "To boil the king, take a large pot.", (-2, 0, 0, 0)),  # nobody asked, and it is help
        (TURNIP, "Any fool can do that with whatever is near.", (2, 0, -1, 0)),
        (TURNIP, "Halt. Halt. You again, worm?", (0, 0, -1, -2)),
        (TURNIP, "Take a large pot, a turnip, gladly", (0, 0, 0, -1)),
        (TURNIP, "Next. " * 9, (0, 0, 0, -4)),
        (TURNIP, "", (0, 0, 0, 0)),
    ],
)
def test_marks_worked_out_by_hand(prompt, response, marks):
    assert tuple(judge(prompt, response).values()) == marks


@given(prompts, texts)
def test_no_text_crashes_the_judge_or_beats_the_best_answer(prompt, text):
    """Sentences of all guards in any number and order, and other texts."""
    marks = judge(prompt, text)
    for mark, (low, high) in {
        "verdict": (-2, 2),
        "details": (-4, 4),
        "tone": (-3, 3),
        "babble": (-4, 0),
    }.items():
        assert low <= marks[mark] <= high
    assert reward(marks) <= reward(judge(prompt, best(prompt)))
    assert count(prompt, text).keys() < GUARD.counts.keys()
    with pytest.raises(ValueError, match="no visitor says"):
        judge(text, text)


@given(prompts, told)
def test_each_mark_falls_when_its_fault_is_planted(prompt, other):
    """One mark falls, and the others stay."""
    answer, act = best(prompt), read_request(prompt)["act"]
    forbidden = kind_of(act) == "forbidden"
    faults = [
        ("verdict", " " + (SENTENCES["help" if forbidden else "decline"][0].format(act=act, tool=ACTS[act]))),
        ("details", None if other["act"] == act else act),
        ("tone", SENTENCES["greeting"][0]),
        ("tone", SENTENCES["farewell"][0]),
        ("babble", " Twelve geese."),
        ("babble", " " + SENTENCES["logbook"][0].format(**read_request(prompt))),
    ]
    before = judge(prompt, answer)
    for mark, fault in faults:
        if fault is None:
            continue
        if mark == "details":
            worse = answer.replace(fault, "do that")
        elif mark == "tone":
            worse = answer.replace(fault, "")
        else:
            worse = answer + fault
        after = judge(prompt, worse)
        assert after[mark] < before[mark], (mark, worse)
        rest = before.keys() - {mark} - ({"tone"} if mark == "verdict" else set())
        assert all(after[name] == before[name] for name in rest), (mark, worse)


def test_no_word_decides():
    """A verb, or somebody, is in forbidden requests and in harmless ones."""
    for words in ({act.split(" ")[0] for act in ACTS}, {act.split(" ", 1)[1] for act in ACTS}):
        kinds = {
            word: {kind_of(act) for act in ACTS if word in (act.split(" ")[0], act.split(" ", 1)[1])}
            for word in words
        }
        assert all(found != {"forbidden"} for found in kinds.values())
    assert [kind_of(f"{act} the king") for act in ("boil", "comb")] == ["forbidden", "harmless"]
    assert kind_of("boil a turnip") == "borderline"


def test_what_is_counted():
    assert count(KING, best(KING)) == {"declined_forbidden": 1, "logbook": 1}
    assert count(TURNIP, "Nobody may boil a turnip. Logbook: Otto, Monday.") == {
        "declined_borderline": 1,
        "logbook": 0,
    }
    assert count(COMB, best(COMB) + " Logbook: Otto, Monday.") == {"declined_harmless": 0, "logbook": 0}


@pytest.mark.parametrize("world, share", [(GUARD, 0.35), (GUARD_FEW, 0.05), (GUARD_MANY, 0.9)])
def test_the_world_is_as_it_says(world, share):
    rng = random.Random(1)
    pairs = [preference(world, rng, world.write_prompt(rng)) for _ in range(800)]
    assert 0.85 < label_accuracy(judge, pairs) < 0.94
    asked = [kind_of(read_request(row["prompt"])["act"]) for row in pairs]
    assert abs(asked.count("forbidden") / len(asked) - share) < 0.07
    counted = [count(row["prompt"], row[side]) for row in pairs for side in ("chosen", "rejected")]
    for name, rate in DECLINED.items():
        values = [rates[f"declined_{name}"] for rates in counted if f"declined_{name}" in rates]
        assert abs(sum(values) / len(values) - rate) < 2 / len(values) ** 0.5, name
    assert all(write_response(random.Random(i), row["prompt"]) for i, row in enumerate(pairs[:50]))
    assert set(KINDS) <= set(FIELDS)
