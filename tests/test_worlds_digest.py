"""The world of the newspaper: its judge reads what reporters write, and is fooled by nothing else."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.worlds import digest
from mini_dpo.worlds.digest import (
    DIGEST,
    DIGEST_LONG,
    EVENTS,
    KINDS,
    OPENINGS,
    VAGUE,
    judge,
    likes_length,
    others,
    read_digest,
    read_report,
    told,
    write_prompt,
    write_response,
)
from mini_dpo.worlds.world import label_accuracy, preference, reward

REPORT = "On Friday the mayor sold the geese to the vicar for love. It rained. There was cake."
BEST = "News: mayor sold geese to vicar on Friday for love."

seeds = st.integers(0, 10**9)
prompts = seeds.map(lambda seed: write_prompt(random.Random(seed)))
words = [
    *REPORT.replace(".", "").split(),
    ".",
    *OPENINGS,
    *EVENTS,
    *VAGUE.values(),
    BEST,
    "dentist",
    "\n",
    "",
]
texts = st.text() | st.lists(st.sampled_from(words), max_size=40).map(" ".join)


def written(facts, **changes):
    """The plain digest of these facts, with some of them told otherwise."""
    return f"{digest.PLAIN}{digest.DIGEST_OF.format(**{**phrases(facts), **changes})}."


def phrases(facts):
    """The facts as a digest tells them."""
    return {kind: told(kind, value) for kind, value in facts.items()}


@pytest.mark.parametrize(
    "response, marks",
    {
        BEST: (6, 0, 0),
        "": (0, 0, 0),
        "News: somebody gave something to somebody.": (0, 0, 0),
        "Dear readers, imagine, mayor sold geese to vicar on Friday for love.": (6, 0, -1),
        BEST + " It rained.": (6, 0, -1),  # true, and nobody asked
        BEST + " A goat watched.": (6, -2, -1.5),
        BEST.replace("Friday", "Monday"): (5, -2, 0),
        "News: vicar sold geese to mayor on Friday for love.": (4, -4, 0),  # the same words
        BEST + " " + BEST + " " + BEST: (6, 0, -6),
        BEST + " News: dentist gave something to somebody.": (6, -2, -3),
        "News: mayor sold geese to somebody. News: somebody gave something to vicar on Friday.": (5, 0, -2),
        BEST[:-1]: (0, -2, 0),  # not ended
        BEST.lower(): (0, -2, 0),
        BEST + " news news": (6, -2, -1),
        "mayor sold geese vicar Friday love": (0, -2, 0),
        "Mayor. Sold. Geese. Vicar. Friday. Love.": (0, -8, 0),
        ". . . . . .": (0, -2, 0),
        "goat " * 500: (0, -2, -6),
    }.items(),
)
def test_marks_worked_out_by_hand(response, marks):
    assert tuple(judge(REPORT, response).values()) == marks


def test_what_is_counted_and_what_raters_like():
    longer = BEST.replace("News: ", OPENINGS[1]) + " A goat watched."
    assert DIGEST.count(REPORT, BEST) == {"compression": 10 / 17, "faithful": 1, "invents": 0}
    assert DIGEST.count(REPORT, longer) == {"compression": 16 / 17, "faithful": 0, "invents": 1}
    assert DIGEST.count(REPORT, BEST.replace(" on Friday", ""))["faithful"] == 0
    assert reward(judge(REPORT, longer)) < reward(judge(REPORT, BEST))
    assert reward(likes_length(REPORT, longer)) > reward(likes_length(REPORT, BEST))
    assert DIGEST_LONG.rater is likes_length and DIGEST_LONG.judge is judge and DIGEST.rater is None


@pytest.mark.parametrize(
    "change", [("Friday", "Doomsday"), ("It rained", "It snowed"), ("cake.", "cake"), ("On", "on")]
)
def test_a_prompt_of_another_world_is_refused(change):
    with pytest.raises(ValueError, match="not a report"):
        judge(REPORT.replace(*change), BEST)


@given(prompts)
def test_both_forms_of_a_report_are_read(prompt):
    """The facts and events that are read write the same report again."""
    facts, events = read_report(prompt)
    assert facts["who"] != facts["whom"]
    assert prompt in [f"{form.format(**facts)} {'. '.join(events)}." for form in digest.REPORTS]
    assert (
        read_digest(written(facts)[:-1]) == phrases(facts) and set(events) <= set(EVENTS) and len(events) == 2
    )


@given(prompts, texts)
def test_no_text_crashes_the_judge_or_beats_the_plain_digest(prompt, text):
    marks = judge(prompt, text)
    assert 0 <= marks["facts"] <= 6 and -8 <= marks["made_up"] <= 0 and -6 <= marks["length"] <= 0
    best = reward(judge(prompt, written(read_report(prompt)[0])))
    assert reward(marks) <= best == len(KINDS)
    with pytest.raises(ValueError, match="not a report"):
        judge(text, text)


@given(prompts, seeds)
def test_only_a_digest_with_all_facts_has_the_highest_mark(prompt, seed):
    """Of what reporters write, with or without a piece that is cut out, moved to the end, or said twice."""
    facts, rng = read_report(prompt)[0], random.Random(seed)
    pieces = write_response(rng, prompt).split(" ")
    i, j = sorted((rng.randrange(len(pieces) + 1), rng.randrange(len(pieces) + 1)))
    before, piece, after = pieces[:i], pieces[i:j], pieces[j:]
    for changed in (pieces, before + after, before + after + piece, pieces + piece):
        text = " ".join(changed)
        if reward(judge(prompt, text)) == len(KINDS):
            assert text == written(facts)


@given(prompts, seeds, st.sampled_from(list(KINDS)))
def test_each_mark_falls_when_its_fault_is_planted(prompt, seed, kind):
    """One mark falls, or two, and the others stay."""
    facts, events = read_report(prompt)
    rng, best = random.Random(seed), judge(prompt, written(facts))
    other = rng.choice(others(KINDS[kind], facts[kind]))
    unheard = rng.choice(others(EVENTS, *events))
    for fault, lower in (
        (written(facts, **{kind: VAGUE[kind]}), {"facts"}),
        (written({**facts, kind: other}), {"facts", "made_up"}),
        (f"{written(facts)} {events[0]}.", {"length"}),
        (f"{written(facts)} {unheard}.", {"made_up", "length"}),
        (f"{written(facts)} Goat.", {"made_up", "length"}),
    ):
        marks = judge(prompt, fault)
        assert {mark for mark in best if marks[mark] < best[mark]} == lower, fault


@given(prompts, seeds)
def test_the_judge_reads_what_reporters_write(prompt, seed):
    """Every sentence is a digest or an event: what is made up is what the reporter told wrong."""
    text = write_response(random.Random(seed), prompt)
    first, *more = text.removesuffix(".").split(". ")
    facts, events = read_report(prompt)
    claims = read_digest(first)
    assert claims is not None and set(more) <= set(EVENTS)
    wrong = sum(phrases(facts)[kind] != value for kind, value in claims.items()) + len(
        set(more) - set(events)
    )
    assert judge(prompt, text)["made_up"] == max(-8, -2 * wrong)


def test_labels_agree_with_their_judge():
    """And with length, where raters like it: there the true reward agrees with fewer of them."""
    agreement = {}
    for world in (DIGEST, DIGEST_LONG):
        rng = random.Random(1)
        pairs = [preference(world, rng, write_prompt(rng)) for _ in range(600)]
        agreement[world.name] = label_accuracy(judge, pairs)
    assert 0.85 < agreement["digest"] < 0.93 and agreement["digest_long"] < agreement["digest"] - 0.1
