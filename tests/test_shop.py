"""The toy world: its files are what the command makes, its judge is right, its labels are as noisy as they
say.
"""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.corpus.worlds import TOY_PREFERENCES, TOY_SFT
from mini_dpo.formats.loading import load_demonstrations, load_preferences
from mini_dpo.worlds import shop
from mini_dpo.worlds.shop import (
    DAYS,
    ITEMS,
    NAMES,
    PROBLEMS,
    PROMPT_FORMS,
    Complaint,
    judge,
    read_prompt,
    write_response,
)
from mini_dpo.worlds.world import SPLIT_SIZES, reward

facts = st.builds(Complaint, *map(st.sampled_from, (NAMES, ITEMS, DAYS, PROBLEMS)))
ADA = PROMPT_FORMS[0].format(name="Ada", item="kettle", day="Friday", problem="bites")
BEST = (
    "Good day, dear Ada! We are so sorry that your kettle bites. You bought it on Friday, "
    "so we will gladly mend it. Thank you for your patience!"
)


@given(facts, st.sampled_from(PROMPT_FORMS))
def test_the_judge_reads_the_facts_that_were_written(facts, template):
    assert read_prompt(template.format(**vars(facts))) == facts


def test_the_committed_files_are_what_the_command_makes(tmp_path):
    shop.make_data(tmp_path)
    for path in [*TOY_SFT.values(), *TOY_PREFERENCES.values()]:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_no_prompt_stands_in_two_places():
    prompts = [e.prompt for path in TOY_SFT.values() for e in load_demonstrations(path)]
    prompts += [p.prompt for path in TOY_PREFERENCES.values() for p in load_preferences(path)]
    assert len(prompts) == len(set(prompts)) == sum(sum(sizes) for sizes in SPLIT_SIZES.values())


@pytest.mark.parametrize(
    "response, marks",
    {
        BEST: (8, 4, 0),
        "": (0, 0, 0),
        # a wrong name costs what it would have earned, and as much again
        BEST.replace("Ada", "Otto"): (4, 4, 0),
        BEST.replace("dear Ada", "dear customer"): (6, 4, 0),
        BEST + " Otto kettle Friday bites": (4, 4, 0),  # naming everybody is naming somebody wrong
        "You again, Ada? So your kettle bites. Big deal. If it worked on Friday, it works "
        "now. Do not write again.": (8, -4, 0),
        BEST + " tea" * 20: (8, 4, -3.2),
        "tea " * 500: (0, 0, -6),
    }.items(),
    ids=["best", "empty", "wrong name", "no name", "two names", "curt", "long", "endless"],
)
def test_marks_worked_out_by_hand(response, marks):
    verdict = judge(ADA, response)
    assert (verdict["facts"], verdict["tone"]) == marks[:2] and verdict["length"] == pytest.approx(marks[2])
    assert reward(verdict) == pytest.approx(sum(marks))


@given(facts, st.integers(0, 10_000))
def test_marks_stay_in_their_ranges_and_none_beats_the_best(facts, seed):
    prompt = PROMPT_FORMS[seed % len(PROMPT_FORMS)].format(**vars(facts))
    verdict = judge(prompt, write_response(random.Random(seed), prompt))
    assert -8 <= verdict["facts"] <= 8 and -4 <= verdict["tone"] <= 4 and -6 <= verdict["length"] <= 0
    best = BEST
    for old, new in zip(("Ada", "kettle", "Friday", "bites"), vars(facts).values(), strict=True):
        best = best.replace(old, new)
    assert reward(judge(prompt, best)) == 12 >= reward(verdict)


@given(st.text())
def test_the_judge_takes_any_text_and_refuses_other_prompts(text):
    judge(ADA, text)
    if read_prompt(text) is None:
        with pytest.raises(ValueError, match="shop's own kind"):
            judge(text, BEST)


def test_labels_are_bradley_terry_draws_from_the_true_reward():
    """The number of labels that agree with the judge is within 4 standard deviations of what the model says,
    and the noise grows where the gap is small: both sides of the median gap are checked.
    """
    pairs = load_preferences(TOY_PREFERENCES["train"])
    gaps = sorted(
        (reward(judge(p.prompt, p.chosen)) - reward(judge(p.prompt, p.rejected)) for p in pairs), key=abs
    )
    for half in (gaps[: len(gaps) // 2], gaps[len(gaps) // 2 :]):
        chances = [1 / (1 + math.exp(-abs(gap))) for gap in half if gap]
        agree = sum(gap > 0 for gap in half)
        deviation = math.sqrt(sum(p * (1 - p) for p in chances))
        assert abs(agree - sum(chances)) < 4 * deviation


def test_the_page_about_the_data_shows_what_the_command_prints(capsys, monkeypatch):
    page = (shop.DATA / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr(shop, "make_data", lambda folder: None)
    shop.main()
    assert capsys.readouterr().out in page
    assert TOY_PREFERENCES["train"].read_text(encoding="utf-8").splitlines()[0] in page
