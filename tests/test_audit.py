"""What is remarkable about a file is counted and said, and what is not is passed over in silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.batches import Encoded
from mini_dpo.corpus.remarks import LONG_BEGINNING, proposed_weights, remarks
from mini_dpo.data import Demonstration, Feedback, Preference
from mini_dpo.feedback import EncodedFeedback

few = st.sampled_from(["a", "b", "c"])


def pairs(*rows):
    return [Preference(*row, line=line) for line, row in enumerate(rows, 1)]


def test_of_ordinary_examples_nothing_is_said():
    assert (
        remarks(
            pairs(
                ("Who are you?", "A clerk: at your service.", "Human."), ("", "Once upon a time", "Once more")
            )
        )
        == []
    )
    assert remarks([Demonstration("p", "r", 1), Demonstration("p", "s", 2)]) == remarks([]) == []


@pytest.mark.parametrize(
    "mark",
    [
        "<|im_start|>user\n",
        "[INST] ",
        "<<SYS>>",
        "<|start_header_id|>user",
        "\n\nHuman: ",
        "<start_of_turn>",
        "### Instruction:\n",
    ],
)
@pytest.mark.parametrize("field", ["prompt", "chosen", "rejected"])
def test_marks_of_another_template_are_counted(mark, field):
    rows = pairs(("p", "c", "r"), ("p", "d", "r"), ("q", "c", "r"))
    marked = Preference(**{**vars(rows[1]), field: f"x{mark}hello"})
    (remark,) = remarks([rows[0], marked, rows[2]])
    assert (
        remark.startswith("1 of 3 lines (first: line 2) hold marks of another chat template")
        and "take them out" in remark
    )
    assert remarks([Demonstration("p", f"x{mark}hello", 1)])


def test_transcripts_without_a_prompt_are_counted():
    turns = "Human: hello\nAssistant: "
    found = remarks(
        pairs(("p", turns + "a", turns + "b"), (" ", turns + "a" + "!" * 200, turns + "a" + "!" * 201))
    )
    assert [
        f
        for f in found
        if "first: line 2) have an empty prompt and a transcript as a response" in f
        and "put all but the last answer into the prompt" in f
    ]
    assert not any("the same 100 characters" in f for f in found), "that they begin alike is said already"


@given(st.integers(0, 3 * LONG_BEGINNING), st.integers(1, 3 * LONG_BEGINNING))
def test_a_long_common_beginning_is_counted(common, rest):
    found = remarks(pairs(("p", "." * common + "c" * rest, "." * common + "r" * rest)))
    assert bool(found) == (common >= LONG_BEGINNING and common >= rest)
    assert not found or "if that is a conversation, put it into the prompt" in found[0]


@given(st.lists(st.tuples(few, few, few).filter(lambda row: row[1] != row[2]), max_size=12))
def test_copies_and_contradictions_are_counted(rows):
    found = remarks(pairs(*rows))
    copies = len(rows) - len(set(rows))
    opposed = [
        line for line, (prompt, chosen, rejected) in enumerate(rows, 1) if (prompt, rejected, chosen) in rows
    ]
    assert any(
        f.startswith(f"{copies} of {len(rows)} lines") and "repeat another line" in f for f in found
    ) == bool(copies)
    assert any(
        f.startswith(
            f"{len(opposed)} of {len(rows)} lines (first: line {min(opposed, default=0)}) contradict"
        )
        for f in found
    ) == bool(opposed)


def test_a_response_that_is_liked_and_disliked_contradicts_itself():
    feedback = [Feedback("p", "c", True, 1), Feedback("p", "d", True, 2), Feedback("p", "c", False, 3)]
    (remark,) = remarks(feedback)
    assert remark.startswith("2 of 3 lines (first: line 1) contradict")


@given(st.integers(1, 100), st.integers(1, 100))
def test_the_proposed_weights_balance_and_are_proposed_only_where_needed(liked, disliked):
    """Either end of what is proposed brings the weighted numbers between 1:1 and 4:3, to two digits."""
    examples = [EncodedFeedback(Encoded([1], [2]), i < liked) for i in range(liked + disliked)]
    proposal = proposed_weights(examples, 1.0, 1.0)
    assert (proposal is None) == (0.9 <= liked / disliked <= 1.1 * 4 / 3)
    if proposal:
        low, high = (float(word.strip(",")) for word in proposal.split("between ")[1].split()[0:3:2])
        for weight in (low, high):
            ratio = (
                weight * liked / disliked if "--desirable-weight" in proposal else liked / (weight * disliked)
            )
            assert 1 / 1.1 <= ratio <= 1.1 * 4 / 3
        given_weights = (high, 1.0) if "--desirable-weight" in proposal else (1.0, low)
        assert proposed_weights(examples, *given_weights) is None


def test_ninety_liked_responses_to_ten():
    examples = [EncodedFeedback(Encoded([1], [2]), i < 90) for i in range(100)]
    assert proposed_weights(examples, 1.0, 1.0).startswith(
        "90 liked and 10 disliked responses: --undesirable-weight between 6.8 and 9"
    )
    assert proposed_weights(examples[:90], 1.0, 1.0) is None, "of one kind alone another line speaks"
