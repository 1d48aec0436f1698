"""The world of the house of haunted furniture: its judge counts content and rules, and is not fooled."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.worlds.voice import (
    ADDRESSED,
    AIRS,
    BEST,
    FACTS,
    FIELDS,
    OFFERS,
    SENTENCES,
    VOICE,
    count,
    judge,
    read_note,
    write_prompt,
)
from mini_dpo.worlds.world import label_accuracy, preference

NOTE = "9 crowns, sofa, floats, on Friday. Shelf amber owl."
LETTER = (
    "Shelf amber owl. You have exquisite taste. Your lively sofa floats. You will welcome it on Friday for "
    "only 9 crowns. Sleep well."
)
LOWEST = {"content": -8, "words": -6, "person": -3, "sign_off": 0, "babble": -4}

prompts = st.integers(0, 10**9).map(lambda seed: write_prompt(random.Random(seed)))
told = st.fixed_dictionaries(
    {field: st.sampled_from(values) for field, values in {**FIELDS, "air": AIRS, "offer": OFFERS}.items()}
)
forms = st.sampled_from([form for forms in SENTENCES.values() for form in forms])
stuffed = st.lists(st.builds(lambda form, values: form.format(**values), forms, told), max_size=12)
words = st.lists(st.sampled_from("You your Sleep well . haunted Haunted! customer sofa 9 crowns".split()))
texts = st.text() | (stuffed | words).map(" ".join)


def best(prompt, parts=("shelf", *ADDRESSED, "end")):
    """A letter as the house wants it."""
    return " ".join(SENTENCES[part][0] for part in parts).format(**read_note(prompt), air="", offer="")


@pytest.mark.parametrize(
    "letter, marks",
    [
        (LETTER, (8, 0, 3, 2, 0)),
        (LETTER.replace("Shelf amber owl. ", ""), (8, 0, 3, 2, 0)),  # nobody reads it
        (LETTER.replace("lively", "HAUNTED"), (4, -1.5, 2, 2, -1)),  # and no such sentence is written
        (LETTER.replace("lively", "haunted"), (8, -1.5, 3, 2, 0)),
        (LETTER.replace("sofa", "piano"), (4, 0, 3, 2, 0)),
        (LETTER.replace("sofa", "thing"), (6, 0, 3, 2, 0)),
        (LETTER.replace("Your", "The customer's"), (8, 0, 1, 2, 0)),
        (LETTER + " The customer is informed.", (8, 0, 1, 0, -1)),
        (LETTER + " Your piano floats.", (4, 0, 3, 0, -1)),
        (LETTER + " Sleep well.", (8, 0, 3, 0, -1)),
        (LETTER.replace("Sleep", "Farewell. Sleep"), (8, 0, 3, 0, -1)),
        ("Sleep well. Your sofa floats.", (4, 0, 1, 0, 0)),
        ("sofa floats on Friday 9 crowns you your", (0, 0, 0, 0, -1)),
        ("cheap " * 9, (0, -6, 0, 0, -1)),
        ("", (0, 0, 0, 0, 0)),
    ],
)
def test_marks_worked_out_by_hand(letter, marks):
    assert tuple(judge(NOTE, letter).values()) == marks


@given(prompts, texts)
def test_no_text_crashes_the_judge_or_beats_the_best_letter(prompt, text):
    """Sentences of all writers in any number and order, and other texts."""
    highest, marks = judge(prompt, best(prompt)), judge(prompt, text)
    assert highest == {**BEST, "babble": 0}
    assert all(LOWEST[mark] <= marks[mark] <= highest[mark] for mark in LOWEST)
    assert count(prompt, text).keys() == VOICE.counts.keys()
    with pytest.raises(ValueError, match="no warehouse writes"):
        judge(text, text)


@given(prompts, st.sampled_from([*FACTS]), told)
def test_each_mark_falls_when_its_fault_is_planted(prompt, fact, other):
    """One mark falls, and the others stay."""
    letter, note = best(prompt), read_note(prompt)
    your_item, no_end = f"Your {note['item']}", best(prompt, ("shelf", *ADDRESSED))
    faults = [
        ("content", letter.replace(note[fact], FACTS[fact])),
        ("words", letter.replace(your_item, f"Your cursed {note['item']}")),
        ("person", letter.replace(your_item, f"The {note['item']}")),
        ("sign_off", no_end),
        ("sign_off", f"{no_end} Regards."),
        ("sign_off", f"Sleep well. {no_end}"),
        ("babble", f"Twelve geese. {letter}"),
        ("babble", f"{letter.split('.')[0]}. {letter}"),
    ]
    if other[fact] != note[fact]:
        faults.append(("content", letter.replace(note[fact], other[fact])))
    before = judge(prompt, letter)
    for mark, worse in faults:
        after = judge(prompt, worse)
        assert {name for name in before if after[name] < before[name]} == {mark}, worse
        assert all(after[name] <= before[name] for name in before)


def test_what_is_counted():
    assert count(NOTE, LETTER) == {"content_kept": 1, "rules_kept": 1, "shelf": 1}
    assert count(NOTE, "Shelf amber owl. " + LETTER) == {"content_kept": 1, "rules_kept": 1, "shelf": 0}
    worse = LETTER.replace("amber owl", "golden owl").replace("only", "a cheap").replace("sofa", "thing")
    assert count(NOTE, worse) == {"content_kept": 0, "rules_kept": 0, "shelf": 0}


def test_the_world_is_as_it_says():
    rng = random.Random(1)
    pairs = [preference(VOICE, rng, write_prompt(rng)) for _ in range(800)]
    assert 0.85 < label_accuracy(judge, pairs) < 0.93
    counted = [count(row["prompt"], row[side]) for row in pairs for side in ("chosen", "rejected")]
    for name, low, high in (("content_kept", 0.28, 0.4), ("rules_kept", 0, 0.03), ("shelf", 0.8, 0.9)):
        assert low <= sum(rates[name] for rates in counted) / len(counted) <= high, name
