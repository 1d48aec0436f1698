"""Each form of file becomes ids and a mask written by hand, or a line that says why not."""

import csv
import gzip
import io
import json
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mini_dpo import sample
from mini_dpo.batches import collate
from mini_dpo.corpus.fitting import OwnFile, encode_example
from mini_dpo.corpus.remarks import remarks
from mini_dpo.corpus.shortening import without_oldest_turns
from mini_dpo.corpus.splits import read_own, same_prompt, split_by_prompt
from mini_dpo.data import Demonstration, Feedback, Preference, Turn
from mini_dpo.errors import UserError
from mini_dpo.formats.conversations import as_json
from mini_dpo.formats.files import read_table
from mini_dpo.formats.forms import FORMS
from mini_dpo.formats.loading import (
    FORMATS,
    load_demonstrations,
    load_feedback,
    load_preferences,
    load_prompts,
)
from mini_dpo.tokenizer import load_tokenizer
from mini_dpo.train import __main__ as train
from tests.commands import SHORT, run

TOY = load_tokenizer("toy")
END, U, A, S = TOY.end_of_text, TOY.user, TOY.assistant, TOY.system
LOAD = {Preference: load_preferences, Feedback: load_feedback, Demonstration: load_demonstrations}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def ids(*parts):
    """Ids by hand: a letter is its byte, a marker is a number already."""
    return [part if isinstance(part, int) else ord(part) for part in parts]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


# --- preferences: the prompt's ids, the chosen response's, the rejected one's

ONE = ids(U, "p", A)
WITH_SYSTEM = ids(S, "s", U, "p", A)
TWO_ROUNDS = ids(U, "p", A, "x", END, U, "q", A)
ALL_OF_IT = ids(S, "s", U, "p", A, "x", END, U, "q", A)
PAIRS = {
    "messages as a text": (
        {
            "prompt": "p",
            "chosen": json.dumps([user("p"), assistant("c")]),
            "rejected": json.dumps([user("p"), assistant("r")]),
        },
        ONE,
        "messages",
    ),
    "HH, the prompt in front of both": (
        {
            "prompt": "\n\nHuman: p\n\nAssistant:",
            "chosen": "\n\nHuman: p\n\nAssistant: c",
            "rejected": "\n\nHuman: p\n\nAssistant: r",
        },
        ONE,
        "transcripts",
    ),
    "HH, other line ends": (
        {"prompt": "Human: p\r\nAssistant: x\r\nHuman: q\r\nAssistant:", "chosen": "c", "rejected": "r"},
        TWO_ROUNDS,
        "transcripts",
    ),
    "Alpaca, an input that looks empty": (
        {"instruction": "p", "input": "0", "chosen": "c", "rejected": "r"},
        ids(U, "p", *TOY.encode("\n\n"), "0", A),
        "alpaca",
    ),
    "Alpaca, no instruction": (
        {"instruction": "", "input": "p", "chosen": "c", "rejected": "r"},
        ONE,
        "alpaca",
    ),
    "Alpaca, a history as a text": (
        {"system": "s", "history": '[["p", "x"]]', "instruction": "q", "chosen": "c", "rejected": "r"},
        ALL_OF_IT,
        "alpaca",
    ),
    "an instruction, and conversations": (
        {"instruction": "p", "chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
        ONE,
        "messages",
    ),
    "columns of another form, empty": (
        {
            "prompt": "p",
            "conversations": None,
            "question": None,
            "chosen": "c",
            "rejected": "r",
            "responses": None,
            "scores": None,
        },
        ONE,
        "texts",
    ),
    "ranks beside a choice": (
        {"prompt": "p", "chosen": "c", "rejected": "r", "responses": ["c", "r"], "scores": [1, 2]},
        ONE,
        "texts",
    ),
    "SafeRLHF, numbers as texts": (
        {"prompt": "p", "response_0": "r", "response_1": "c", "better_response_id": "1"},
        ONE,
        "saferlhf",
    ),
    "keys of two ways, one of them empty": (
        {"prompt": [{**user("p"), "from": None, "value": None}], "chosen": "c", "rejected": "r"},
        ONE,
        "messages",
    ),
    "texts": ({"prompt": "p", "chosen": "c", "rejected": "r"}, ONE, "texts"),
    "texts, with extra columns": (
        {"id": 7, "prompt": "p", "chosen": "c", "rejected": "r", "x": None},
        ONE,
        "texts",
    ),
    "texts, with a system message": (
        {"system": "s", "prompt": "p", "chosen": "c", "rejected": "r"},
        WITH_SYSTEM,
        "texts",
    ),
    "texts, with an empty system message": (
        {"system": "", "prompt": "p", "chosen": "c", "rejected": "r"},
        ONE,
        "texts",
    ),
    "messages, a prompt of their own": (
        {"prompt": [user("p")], "chosen": [assistant("c")], "rejected": [assistant("r")]},
        ONE,
        "messages",
    ),
    "messages, a longer prompt": (
        {
            "prompt": [system("s"), user("p"), assistant("x"), user("q")],
            "chosen": [assistant("c")],
            "rejected": assistant("r"),
        },
        ALL_OF_IT,
        "messages",
    ),
    "messages, the responses as texts": (
        {"prompt": [system("s"), user("p")], "chosen": "c", "rejected": "r"},
        WITH_SYSTEM,
        "messages",
    ),
    "messages, the system message in a column": (
        {"system": "s", "prompt": [user("p")], "chosen": [assistant("c")], "rejected": [assistant("r")]},
        WITH_SYSTEM,
        "messages",
    ),
    "messages, the prompt in both": (
        {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
        ONE,
        "messages",
    ),
    "messages, several rounds in both": (
        {
            "chosen": [system("s"), user("p"), assistant("x"), user("q"), assistant("c")],
            "rejected": [system("s"), user("p"), assistant("x"), user("q"), assistant("r")],
        },
        ALL_OF_IT,
        "messages",
    ),
    "UltraFeedback, binarized": (
        {
            "prompt": "p",
            "prompt_id": "7",
            "chosen": [user("p"), assistant("c")],
            "rejected": [user("p"), assistant("r")],
            "messages": [user("p"), assistant("c")],
            "score_chosen": 8.5,
        },
        ONE,
        "messages",
    ),
    "messages, parts of text": (
        {
            "prompt": [user([{"type": "text", "text": "p"}])],
            "chosen": assistant("c"),
            "rejected": assistant("r"),
        },
        ONE,
        "messages",
    ),
    "HH": (
        {"chosen": "\n\nHuman: p\n\nAssistant: c", "rejected": "\n\nHuman: p\n\nAssistant: r"},
        ONE,
        "transcripts",
    ),
    "HH, two rounds": (
        {
            "chosen": "\n\nHuman: p\n\nAssistant: x\n\nHuman: q\n\nAssistant: c",
            "rejected": "\n\nHuman: p\n\nAssistant: x\n\nHuman: q\n\nAssistant: r",
        },
        TWO_ROUNDS,
        "transcripts",
    ),
    "HH, the prompt apart": (
        {
            "prompt": "\n\nHuman: p\n\nAssistant: x\n\nHuman: q\n\nAssistant:",
            "chosen": " c",
            "rejected": " r",
        },
        TWO_ROUNDS,
        "transcripts",
    ),
    "ShareGPT": ({"conversations": [human("p")], "chosen": gpt("c"), "rejected": gpt("r")}, ONE, "sharegpt"),
    "ShareGPT, several rounds": (
        {
            "conversations": [{"from": "system", "value": "s"}, human("p"), gpt("x"), human("q")],
            "chosen": gpt("c"),
            "rejected": [gpt("r")],
        },
        ALL_OF_IT,
        "sharegpt",
    ),
    "Alpaca": (
        {"instruction": "p", "input": "", "output": "c", "chosen": "c", "rejected": "r"},
        ONE,
        "alpaca",
    ),
    "Alpaca, with an input": (
        {"instruction": "p", "input": "i", "chosen": "c", "rejected": "r"},
        ids(U, "p", *TOY.encode("\n\n"), "i", A),
        "alpaca",
    ),
    "Alpaca, with a history": (
        {
            "system": "s",
            "history": [["p", "x"]],
            "instruction": "q",
            "input": "",
            "chosen": "c",
            "rejected": "r",
        },
        ALL_OF_IT,
        "alpaca",
    ),
    "Orca": ({"system": "s", "question": "p", "chosen": "c", "rejected": "r"}, WITH_SYSTEM, "orca"),
    "StackExchange": (
        {"qid": 1, "question": "p", "response_j": "c", "response_k": "r"},
        ONE,
        "stackexchange",
    ),
    "SafeRLHF": (
        {
            "prompt": "p",
            "response_0": "r",
            "response_1": "c",
            "better_response_id": 1,
            "safer_response_id": 0,
        },
        ONE,
        "saferlhf",
    ),
    "ranked": ({"prompt": "p", "responses": ["r", "c"], "scores": [1, 2.5]}, ONE, "ranked"),
    "UltraFeedback, raw": (
        {
            "instruction": "p",
            "completions": [{"response": "r", "overall_score": 3.0}, {"response": "c", "overall_score": 8.0}],
        },
        ONE,
        "ranked",
    ),
}


@pytest.mark.parametrize("row, prompt, name", PAIRS.values(), ids=PAIRS)
def test_a_pair_of_each_form_has_the_ids_and_the_mask_written_by_hand(tmp_path, row, prompt, name):
    said = []
    (pair,) = load_preferences(write(tmp_path / "mine.jsonl", row), said.append)
    tokens = encode_example(TOY, pair)
    for side, letter in ((tokens.chosen, "c"), (tokens.rejected, "r")):
        assert side.ids == ids(*prompt, letter, END)
        assert collate([side]).index.targets.tolist() == ids(letter, END)
        assert collate([side]).index.rows.tolist() == [len(prompt) - 1, len(prompt)]
    about = next(form.about for form in FORMS if form.name == name and form.kind is Preference)
    assert said[-1].endswith(f"mine.jsonl: 1 pair, read as {about}")


SINGLES = {
    "UltraChat": (
        Demonstration,
        {"prompt": "p", "prompt_id": "7", "messages": [user("p"), assistant("c")]},
        ONE,
        "c",
    ),
    "texts": (Feedback, {"prompt": "p", "completion": "c", "label": True}, ONE, "c"),
    "messages": (
        Feedback,
        {"prompt": [system("s"), user("p")], "completion": [assistant("c")], "label": True},
        WITH_SYSTEM,
        "c",
    ),
    "a conversation with a label": (
        Feedback,
        {"messages": [user("p"), assistant("c")], "label": True},
        ONE,
        "c",
    ),
    "ShareGPT with a label": (Feedback, {"conversations": [human("p"), gpt("c")], "label": True}, ONE, "c"),
    "to imitate": (Demonstration, {"prompt": "p", "response": "c"}, ONE, "c"),
    "to imitate, TRL's": (Demonstration, {"prompt": "p", "completion": "c", "system": "s"}, WITH_SYSTEM, "c"),
    "to imitate, TRL's messages": (
        Demonstration,
        {"prompt": [user("p")], "completion": [assistant("c")]},
        ONE,
        "c",
    ),
    "to imitate, a conversation": (
        Demonstration,
        {"messages": [system("s"), user("p"), assistant("c")]},
        WITH_SYSTEM,
        "c",
    ),
    "to imitate, ShareGPT": (Demonstration, {"conversations": [human("p"), gpt("c")]}, ONE, "c"),
    "to imitate, Alpaca": (Demonstration, {"instruction": "p", "input": "", "output": "c"}, ONE, "c"),
    "to imitate, Orca": (
        Demonstration,
        {"system_prompt": "s", "question": "p", "response": "c"},
        WITH_SYSTEM,
        "c",
    ),
}


@pytest.mark.parametrize("kind, row, prompt, letter", SINGLES.values(), ids=SINGLES)
def test_a_single_response_of_each_form_has_the_ids_written_by_hand(tmp_path, kind, row, prompt, letter):
    (found,) = LOAD[kind](write(tmp_path / "mine.jsonl", row), say=lambda line: None)
    tokens = encode_example(TOY, found)
    sequence = tokens.sequence if kind is Feedback else tokens
    assert sequence.ids == ids(*prompt, letter, END)
    assert collate([sequence]).index.targets.tolist() == ids(letter, END)
    assert kind is Demonstration or found.label is True


@pytest.mark.parametrize("sft_on, trained", [("all", ids("x", END, "y", END)), ("last", ids("y", END))])
def test_every_answer_of_a_conversation_is_imitated_or_the_last_alone(tmp_path, sft_on, trained):
    """The same ids; the user's words, the system's and the markers are never trained on."""
    said = [system("s"), user("p"), assistant("x"), user("q"), assistant("y")]
    (found,) = load_demonstrations(write(tmp_path / "chat.jsonl", {"messages": said}), say=lambda line: None)
    tokens = encode_example(TOY, found, sft_on)
    assert tokens.ids == ids(S, "s", U, "p", A, "x", END, U, "q", A, "y", END)
    batch = collate([tokens])
    assert batch.index.targets.tolist() == trained and batch.lengths.tolist() == [len(trained)] == [
        batch.n_targets
    ]
    assert [batch.ids[row + 1].item() for row in batch.index.rows.tolist()] == trained, "predicted one before"


def test_ranked_responses_become_pairs_of_the_best_or_of_every_two(tmp_path):
    """Responses with the same score are no pair."""
    row = {"prompt": "p", "responses": ["b", "a", "c", "a2"], "scores": [2, 3, 1, 3]}
    path = write(tmp_path / "ranked.jsonl", row)
    best = [(p.chosen, p.rejected, p.line) for p in load_preferences(path, say=lambda line: None)]
    assert best == [("a", "b", 1), ("a", "c", 1)]
    every = load_preferences(path, say=lambda line: None, form="ranked-all")
    assert {(p.chosen, p.rejected) for p in every} == {
        ("a", "b"),
        ("a", "c"),
        ("a2", "b"),
        ("a2", "c"),
        ("b", "c"),
    }


def test_the_safer_response_is_taken_where_that_is_asked_for(tmp_path):
    path = write(tmp_path / "safe.jsonl", PAIRS["SafeRLHF"][0])
    (pair,) = load_preferences(path, say=lambda line: None, form="saferlhf-safer")
    assert (pair.chosen, pair.rejected) == ("r", "c")


def test_a_form_can_be_asked_for_and_one_that_does_not_exist_is_named(tmp_path):
    both = {"prompt": "p", "question": "q", "chosen": "c", "rejected": "r"}
    with pytest.raises(UserError, match="'prompt' .* would change what an answer means"):
        load_preferences(write(tmp_path / "x.jsonl", both), form="orca")
    with pytest.raises(
        UserError, match="--format alpaca is not a form of single responses; these are messages"
    ):
        load_feedback(write(tmp_path / "x.jsonl", both), form="alpaca")
    assert {form.name for form in FORMS} == set(FORMATS)


# --- what is refused, by line

HH = "\n\nHuman: p\n\nAssistant:"
REFUSED = {
    "messages as Python writes them": (
        {"prompt": "p", "chosen": str([assistant("c")]), "rejected": "r"},
        "looks like messages and is not JSON",
    ),
    "a prompt that HH's pair does not begin with": (
        {"prompt": "\n\nHuman: z\n\nAssistant:", "chosen": HH + " c", "rejected": HH + " r"},
        "'prompt' is not what",
    ),
    "a history that is a text": (
        {"instruction": "q", "history": "User: hi", "chosen": "c", "rejected": "r"},
        "'history' must be a list of rounds",
    ),
    "a system message in the middle": (
        {
            "system": "s",
            "conversations": [human("p"), gpt("x"), {"from": "system", "value": "t"}, human("q")],
            "chosen": gpt("c"),
            "rejected": gpt("r"),
        },
        "is the system's",
    ),
    "two system messages in the messages": (
        {"system": "s", "prompt": [system("s"), system("t"), user("p")], "chosen": "c", "rejected": "r"},
        "is the system's",
    ),
    "two system columns": (
        {"system": "s", "system_prompt": "t", "prompt": "p", "chosen": "c", "rejected": "r"},
        "two columns have different system messages",
    ),
    "messages that say more than the prompt": (
        {
            "prompt": "q",
            "messages": [user("p"), assistant("x"), user("q")],
            "chosen": [assistant("c")],
            "rejected": [assistant("r")],
        },
        "'messages' is not the conversation",
    ),
    "a prompt that goes on": (
        {
            "prompt": [user("p"), assistant("x"), user("q")],
            "chosen": [user("p"), assistant("c")],
            "rejected": [user("p"), assistant("r")],
        },
        "'prompt' is not what",
    ),
    "a part without text": (
        {"prompt": [user([{"type": "text", "text": None}])], "chosen": "c", "rejected": "r"},
        "must be a string, not a list",
    ),
    "a part under another name": (
        {"prompt": [user([{"type": "text", "content": "p"}])], "chosen": "c", "rejected": "r"},
        "must be a string, not a list",
    ),
    "no part": ({"prompt": [user([])], "chosen": "c", "rejected": "r"}, "must be a string, not a list"),
    "a message that is not to be learned": (
        {"prompt": [user("p")], "chosen": [{**assistant("c"), "weight": 0}], "rejected": "r"},
        "'weight' beside its text",
    ),
    "thoughts": (
        {"prompt": [user("p")], "chosen": [{**assistant("c"), "reasoning_content": "hm"}], "rejected": "r"},
        "'reasoning_content' beside its text",
    ),
    "two ways at once": (
        {"conversations": [{**human("p"), **user("q")}], "chosen": gpt("c"), "rejected": gpt("r")},
        "must be an object with",
    ),
    "an empty message": ({"prompt": [{}], "chosen": "c", "rejected": "r"}, "not an empty one"),
    "an instruction and an input": (
        {"instruction": [user("p"), assistant("x"), user("q")], "input": "i", "chosen": "c", "rejected": "r"},
        "'instruction' is a conversation",
    ),
    "prompt and instruction": (
        {"prompt": "t", "instruction": "p", "responses": ["a", "b"], "scores": [1, 2]},
        "and not both",
    ),
    "two lists of responses": (
        {
            "prompt": "t",
            "completions": [{"response": "a", "score": 1}],
            "responses": ["a", "b"],
            "scores": [1, 2],
        },
        "keep one form",
    ),
    "a score that is NaN": (
        {"prompt": "p", "responses": ["a", "b"], "scores": [1, float("nan")]},
        "must be a number, not nan",
    ),
    "a tool": (
        {"prompt": [user("p"), {"role": "tool", "content": "4"}], "chosen": "c", "rejected": "r"},
        "role 'tool'",
    ),
    "a function": (
        {
            "conversations": [human("p"), {"from": "function_call", "value": "f"}],
            "chosen": gpt("c"),
            "rejected": gpt("r"),
        },
        "role 'function_call'",
    ),
    "two users": (
        {"prompt": [user("p"), user("q")], "chosen": "c", "rejected": "r"},
        "message 2 is the user's, where the assistant's turn is",
    ),
    "two answers": (
        {"prompt": [user("p"), assistant("x"), assistant("y"), user("q")], "chosen": "c", "rejected": "r"},
        "message 3 is the assistant's, where the user's turn is",
    ),
    "the assistant begins": (
        {"prompt": [assistant("x"), user("q")], "chosen": "c", "rejected": "r"},
        "message 1 is the assistant's, where the user's turn is",
    ),
    "a late system message": (
        {"prompt": [user("p"), system("s")], "chosen": "c", "rejected": "r"},
        "message 2 is the system's",
    ),
    "nobody asks": (
        {"prompt": [system("s")], "chosen": "c", "rejected": "r"},
        "must end with a turn of the user",
    ),
    "an answer in the prompt": (
        {"prompt": [user("p"), assistant("x")], "chosen": "c", "rejected": "r"},
        "must end with a turn of the user",
    ),
    "other prompts": (
        {"chosen": [user("p"), assistant("c")], "rejected": [user("q"), assistant("r")]},
        "begin with the same 0 messages",
    ),
    "an answer is missing": ({"chosen": [user("p"), assistant("c")], "rejected": [user("p")]}, "'rejected' "),
    "one goes on": (
        {
            "chosen": [user("p"), assistant("c"), user("q"), assistant("d")],
            "rejected": [user("p"), assistant("r")],
        },
        "'chosen' has 3 more",
    ),
    "the prompt is another one": (
        {
            "prompt": [user("z")],
            "chosen": [user("p"), assistant("c")],
            "rejected": [user("p"), assistant("r")],
        },
        "'prompt' is not what",
    ),
    "two system messages": (
        {"system": "t", "prompt": [system("s"), user("p")], "chosen": "c", "rejected": "r"},
        "'system' is another one",
    ),
    "an empty answer": ({"prompt": [user("p")], "chosen": [assistant(" ")], "rejected": "r"}, "is empty"),
    "a tool call": (
        {"prompt": [user("p")], "chosen": [{**assistant("c"), "tool_calls": [1]}], "rejected": "r"},
        "'tool_calls' beside its text",
    ),
    "a picture": (
        {"prompt": [user([{"type": "image"}])], "chosen": "c", "rejected": "r"},
        "must be a string, not a list",
    ),
    "no role": ({"prompt": [{"content": "p"}], "chosen": "c", "rejected": "r"}, '"role" and "content"'),
    "no messages": (
        {"prompt": [], "chosen": [assistant("c")], "rejected": [assistant("r")]},
        "must end with a turn of the user",
    ),
    "HH, other prompts": (
        {"chosen": "\n\nHuman: p\n\nAssistant: c", "rejected": "\n\nHuman: q\n\nAssistant: r"},
        "begin with the same 0 messages",
    ),
    "a score is missing": (
        {"prompt": "p", "responses": ["a", "b"], "scores": [1]},
        "as many scores as responses",
    ),
    "a score is no number": (
        {"prompt": "p", "responses": ["a", "b"], "scores": [1, None]},
        "must be a number, not None",
    ),
    "neither is better": (
        {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 2},
        "must be 0 or 1",
    ),
}


@pytest.mark.parametrize("row, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_learned_from_is_one_line_with_its_place(tmp_path, row, message):
    path = write(tmp_path / "mine.jsonl", row)
    with pytest.raises(UserError) as caught:
        load_preferences(path, say=lambda line: None)
    assert str(caught.value).startswith(f"{path}, line 1: ") and message in str(caught.value), caught.value
    assert "\n" not in str(caught.value) and "--skip-bad" not in str(caught.value), "nothing would be left"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "type", "text", "response", "score"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
COLUMNS = sorted({name for form in FORMS for name in (*form.needs, *form.also)})


@given(st.dictionaries(st.sampled_from(COLUMNS), json_values, max_size=6))
@example({"chosen": [], "rejected": []})
@example({"prompt": None, "completions": [None, {}]})
@example({"instruction": 3, "history": [[1, 2], 3], "chosen": "c", "rejected": "r"})
def test_any_row_is_read_or_refused_with_its_line(tmp_path_factory, row):
    path = write(tmp_path_factory.mktemp("fuzz") / "f.jsonl", row)
    for load in LOAD.values():
        for form in (None, "texts", "messages"):
            try:
                assert load(path, say=lambda line: None, form=form)
            except UserError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)


turn_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)


@given(st.lists(turn_texts, min_size=2, max_size=7), st.booleans(), turn_texts)
def test_a_conversation_is_read_as_it_was_written(tmp_path_factory, said, with_system, other):
    """Whichever of TRL's two ways holds it: its turns come back, and the ids decode to them, turn by turn."""
    said = said[: len(said) - len(said) % 2]
    turns = [Turn("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(said)]
    turns = ([Turn("system", "be kind")] if with_system else []) + turns
    messages = as_json(tuple(turns))
    rows = (
        {"prompt": messages[:-1], "chosen": messages[-1:], "rejected": [assistant(other + "!")]},
        {"chosen": messages, "rejected": [*messages[:-1], assistant(other + "!")]},
    )
    folder = tmp_path_factory.mktemp("chat")
    for i, row in enumerate(rows):
        if messages[-1]["content"] != other + "!":
            (pair,) = load_preferences(write(folder / f"{i}.jsonl", row), say=lambda line: None)
            whole = tuple(turns[:-1])
            assert (
                pair.prompt == (whole if len(whole) > 1 else whole[0].text) and pair.chosen == turns[-1].text
            )
            sequence = encode_example(TOY, pair).chosen
            markers = {"user": U, "assistant": A, "system": S}
            by_hand = [
                token
                for role, text in turns
                for token in [markers[role], *TOY.encode(text), *([END] if role == "assistant" else [])]
            ]
            assert sequence.ids == by_hand


# --- the files around the rows

ROWS = [{"prompt": f"p{i}, said", "chosen": "c\nd", "rejected": 'r "q"'} for i in range(3)]


def as_csv(delimiter=","):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ROWS[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


CONTENTS = {
    "JSON lines": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "an array": json.dumps(ROWS).encode(),
    "an array, laid out": b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2).encode(),
    "objects, laid out": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
    "wrapped": json.dumps({"version": 1, "data": ROWS}).encode(),
    "wrapped, laid out": json.dumps({"data": ROWS}, indent=2).encode(),
    "CSV": as_csv(),
    "CSV with semicolons": as_csv(";"),
    "TSV": as_csv("\t"),
    "CSV, columns without a name": b"".join(
        b"," + line + b"\r\n" for line in as_csv().replace(b"c\nd", b"c d").split(b"\r\n") if line
    ).replace(b"c d", b"c\nd"),
    "CSV, after empty lines": b"\n\n" + as_csv(),
    "CSV, a blank after each comma": as_csv().replace(b"prompt,chosen,rejected", b"prompt, chosen, rejected"),
    "wrapped, in two lines": b'{"version": 1,\n"data": ' + json.dumps(ROWS).encode() + b"}",
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_the_same_rows_come_from_any_file(tmp_path, content, packed):
    path = tmp_path / "mine.data"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert list(read_table(path).rows.values()) == ROWS
    assert [p.prompt for p in load_preferences(path, say=lambda line: None)] == [
        row["prompt"] for row in ROWS
    ]


def test_parquet_is_read_where_its_package_is_installed(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    rows = [{"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "mine.parquet")
    (pair,) = load_preferences(tmp_path / "mine.parquet", say=lambda line: None)
    assert (pair.prompt, pair.chosen, pair.rejected) == ("p", "c", "r")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="not a Parquet file that can be read"):
        load_preferences(tmp_path / "broken.parquet")


def test_without_the_package_parquet_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "mine.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="pip install pyarrow"):
        load_preferences(tmp_path / "mine.parquet")


BROKEN = {
    "an array and another": (
        json.dumps(ROWS).encode() + b"\n" + json.dumps(ROWS).encode(),
        "line 1: the JSON array ends there, and more follows",
    ),
    "column by column": (
        b'{"prompt": {"0": "p"}, "chosen": {"0": "c"}, "rejected": {"0": "r"}}',
        "a table column by column",
    ),
    "an array cut off": (json.dumps(ROWS).encode()[:-1], "the JSON array has no end"),
    "an array cut inside": (json.dumps(ROWS, indent=1).encode()[:-30], "line 12: not JSON"),
    "an array of lists": (b"[[1]]", "line 1: a list, not an object"),
    "an array with a key twice": (b'[{"a": 1, "a": 2}]', "the key 'a' stands there twice"),
    "an array without end": (b"[" * 100_000, "not JSON"),
    "damaged gzip": (gzip.compress(as_csv())[:-9], "a damaged gzip file"),
    "CSV, a cell too many": (as_csv() + b"a,b,c,d\r\n", "4 cells, and the header has 3"),
    "CSV, a name twice": (b"prompt,chosen,chosen\na,b,c\n", "two columns have the same name"),
    "CSV, an open quote": (as_csv() + b'"a,b', "not a row of a table"),
    "CSV, Python for JSON": (
        b"prompt,chosen,rejected\n\"[{'role': 'user', 'content': 'p'}]\",c,r\n",
        "looks like messages and is not JSON",
    ),
    "not UTF-8": (b"[\n\xff]", "line 2: not UTF-8"),
}


@pytest.mark.parametrize("content, message", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "mine"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_preferences(path)
    assert str(path) in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mini_dpo.formats.files.MOST_UNPACKED", 1000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b" " * 1001))
    with pytest.raises(UserError, match="unpacks to more than 1,000 bytes"):
        load_preferences(tmp_path / "bomb.gz")


def test_cells_of_a_table_are_texts_but_for_labels_and_messages(tmp_path):
    (tmp_path / "t.csv").write_text(
        'prompt,completion,label\n1,2,True\n"[{""role"": ""user"", ""content"": ""p""}]",4,0\n'
    )
    found = load_feedback(tmp_path / "t.csv", say=lambda line: None)
    assert found == [Feedback("1", "2", True, line=2), Feedback("p", "4", False, line=3)]


# --- conversations in a corpus


def test_a_longer_conversation_is_never_trained_on_where_its_beginning_is_held_out():
    """Of each conversation, every beginning is an example, as in HH."""
    examples = []
    for i in range(20):
        said = (Turn("user", f"question {i}"), Turn("assistant", "answer"), Turn("user", "and then?"))
        examples += [
            Demonstration(said[0].text, "answer", line=2 * i),
            Demonstration(said, "that", line=2 * i + 1),
        ]
    ((train, held_out),) = split_by_prompt(examples)
    assert held_out and not {same_prompt(e.prompt) for e in train} & {same_prompt(e.prompt) for e in held_out}
    assert {e.line // 2 for e in train}.isdisjoint({e.line // 2 for e in held_out})


def test_the_oldest_turns_are_left_out_only_where_that_helps_and_is_asked_for(capsys):
    said = (Turn("system", "s"), Turn("user", "x" * 9), Turn("assistant", "y"), Turn("user", "q"))
    fits = Preference("p", "c", "r", line=1)
    long = Preference(said, "c", "r", line=2)
    hopeless = Preference(
        (Turn("user", "x"), Turn("assistant", "y"), Turn("user", "z" * 30)), "c", "r", line=3
    )
    examples = [fits, long, hopeless]
    file = OwnFile("mine.jsonl", examples, [encode_example(TOY, e) for e in examples], 3)
    (shorter,) = without_oldest_turns([file], TOY, 12, "all")
    assert shorter.examples == [fits, Preference((said[0], said[3]), "c", "r", line=2), hopeless]
    assert [e.chosen.ids for e in shorter.encoded] == [
        encode_example(TOY, e).chosen.ids for e in shorter.examples
    ]
    assert shorter.encoded[1].chosen.ids == ids(S, "s", U, "q", A, "c", END)
    assert capsys.readouterr().out == (
        "mine.jsonl: 1 of 3 conversations lost their oldest turns, "
        "2 in all, to fit the context of 12 tokens\n"
    )


def test_what_is_shortened_never_begins_as_a_prompt_of_the_other_side():
    """Without its oldest round, the long conversation would be a prompt that is held out, or trained on."""
    long = (Turn("user", "x" * 30), Turn("assistant", "y"), Turn("user", "q"))
    for n_train in (0, 1):
        examples = [Demonstration(long, "c"), Demonstration("Q ", "c")][:: 1 if n_train else -1]
        file = OwnFile("m", examples, [encode_example(TOY, e) for e in examples], 1)
        assert without_oldest_turns([file], TOY, 12, "all")[0].examples == examples
        alone = OwnFile("m", [examples[0 if n_train else 1]], [file.encoded[0 if n_train else 1]], n_train)
        assert without_oldest_turns([file, alone], TOY, 12, "all")[1].examples == alone.examples
        assert without_oldest_turns([alone], TOY, 12, "all")[0].examples == [Demonstration("q", "c")]


def test_a_long_conversation_is_shortened_in_a_moment():
    """Each turn is encoded once, however many rounds have to go."""
    said = tuple(Turn("user" if i % 2 == 0 else "assistant", "x" * 9) for i in range(20_001))
    example = Demonstration(said, "c")
    file = OwnFile("m", [example], [encode_example(TOY, example)], 1)
    (shorter,) = without_oldest_turns([file], TOY, 40, "all")
    assert len(shorter.examples[0].prompt) == 3 and shorter.encoded[0].n_tokens <= 40


def test_only_demonstrations_have_all_their_answers_imitated(tmp_path):
    """Of pairs and of liked responses nobody chose the earlier turns."""
    said = [user("p"), assistant("AWFUL"), user("q")]
    path = write(
        tmp_path / "kto.jsonl",
        *[
            {"prompt": [user(f"{i}"), *said[1:]], "completion": [assistant("c")], "label": True}
            for i in range(3)
        ],
    )
    _, demonstrations = read_own(str(path), None, TOY, paired=False)
    assert {tuple(collate([e]).index.targets.tolist()) for e in demonstrations.encoded} == {
        tuple(ids("c", END))
    }


def test_conversations_train_and_are_sampled_from_the_command_line(monkeypatch, capsys, tmp_path):
    """The whole way, with a system message, on a tiny model; then a conversation with the run."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "prompt": [system("be kind"), user(f"say {i}"), assistant("why?"), user("please")],
            "chosen": [assistant(f"gladly {i}")],
            "rejected": [assistant("no")],
        }
        for i in range(12)
    ]
    write(tmp_path / "chat.jsonl", *rows)
    shape = [*"--n-layer 1 --n-head 2 --n-embd 16 --tokenizer toy".split(), *SHORT]
    status, said, _ = run(monkeypatch, capsys, train, "--data", "chat.jsonl", *shape, "--out", "run")
    assert (
        status == 0 and "12 pairs, read as TRL's conversational form" in said and "> system: be kind" in said
    )
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert samples[0]["prompt"][0] == system("be kind")
    assert "be kind" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nand?\nnew\nhello\n"))
    flags = ["--json", "--system", "be kind", "--max-new-tokens", "3"]
    status, said, _ = run(monkeypatch, capsys, sample, "run", *flags)
    answers = [json.loads(line) for line in said.splitlines()]
    once, twice = ["system", "user"], ["system", "user", "assistant", "user"]
    roles = [[message["role"] for message in answer["prompt"]] for answer in answers]
    assert status == 0 and roles == [once, once, twice, twice, once, once]
    assert [answers[i + 2]["prompt"][2]["content"] for i in (0, 1)] == [
        answers[i]["response"] for i in (0, 1)
    ]


def test_a_file_of_feedback_is_no_file_to_imitate(tmp_path):
    path = write(tmp_path / "kto.jsonl", {"prompt": "p", "completion": "c", "label": False})
    with pytest.raises(UserError, match="responses that are liked or not are for --data, with --loss kto"):
        load_demonstrations(path)


def test_the_form_is_that_of_most_rows(tmp_path):
    """A stray first row is a fault, and not the measure of all others."""
    stray = {"question": "q", "chosen": "c", "rejected": "r"}
    path = write(
        tmp_path / "x.jsonl", stray, *[{"prompt": f"{i}", "chosen": "c", "rejected": "r"} for i in range(3)]
    )
    with pytest.raises(UserError, match="line 1: no 'prompt'"):
        load_preferences(path, say=lambda line: None)
    assert len(load_preferences(path, say=lambda line: None, skip_bad=True)) == 3


def test_rows_without_a_pair_are_counted(tmp_path):
    rows = [{"prompt": "p", "responses": ["a", "b"], "scores": [1, second]} for second in (1, 2)]
    said = []
    assert len(load_preferences(write(tmp_path / "x.jsonl", *rows), said.append)) == 1
    assert said[0].endswith("1 rows give no pair, because all scores are the same")


def test_a_column_s_name_cannot_fake_a_line(tmp_path):
    said = []
    load_preferences(
        write(tmp_path / "x.jsonl", {"prompt": "p", "chosen": "c", "rejected": "r", "a\nb": 1}), said.append
    )
    assert said[0].endswith("not read: a b")


def test_no_pattern_takes_long_on_blanks(tmp_path):
    """A quarter of a million of them: what is quadratic takes minutes."""
    long = "x" + "\n" * 250_000 + "y"
    remarks([Preference("", long, "b")])
    rows = [{"prompt": "[" + " " * 250_000, "chosen": long, "rejected": "Human:" + long}]
    assert load_preferences(write(tmp_path / "x.jsonl", *rows), say=lambda line: None)


def test_dates_in_parquet_are_not_looked_at(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table = arrow.table(
        {
            "prompt": ["p"],
            "chosen": ["c"],
            "rejected": ["r"],
            "t": arrow.array([2**50], arrow.timestamp("ms")),
        }
    )
    parquet.write_table(table, tmp_path / "mine.parquet")
    assert len(load_preferences(tmp_path / "mine.parquet", say=lambda line: None)) == 1


def test_prompts_are_read_in_every_form(tmp_path):
    for row, prompt in (
        ({"prompt": "p", "system_prompt": "s"}, (Turn("system", "s"), Turn("user", "p"))),
        ({"prompt": "\n\nHuman: p\n\nAssistant:"}, "p"),
        ({"instruction": "p", "input": "i", "history": []}, "p\n\ni"),
        (
            {"messages": [user("p"), assistant("x"), user("q")]},
            (Turn("user", "p"), Turn("assistant", "x"), Turn("user", "q")),
        ),
    ):
        assert [e.prompt for e in load_prompts(write(tmp_path / "x.jsonl", row))] == [prompt]
    (tmp_path / "x.csv").write_text("prompt\nHello\n")
    assert [e.prompt for e in load_prompts(tmp_path / "x.csv")] == ["Hello"]
