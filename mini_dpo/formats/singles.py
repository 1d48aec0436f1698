"""The forms in which people keep single responses: liked or not (feedback), to imitate
(demonstrations); and prompts alone.

As in `pairs`, each function takes a row to the fields of its examples. (Of two decorators, the lower one is
tried first.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from mini_dpo.data import Demonstration, Feedback
from mini_dpo.errors import UserError
from mini_dpo.formats.conversations import has_text, last_answer, read_prompt, read_response, read_turns
from mini_dpo.formats.files import Row
from mini_dpo.formats.forms import Asked, Fields, alpaca_prompt, form, has_messages, system_of

# --- feedback


def liked(row: Row) -> bool:
    """The label of a row. Raises UserError unless it is true or false."""
    if not isinstance(row["label"], bool):
        raise UserError(f"'label' must be true or false, not {json.dumps(row['label'])[:40]}")
    return row["label"]


def answered(row: Row, name: str) -> tuple:
    """(the prompt, the response), each a text or messages. name: the column of the response."""
    said = read_turns("'prompt'", row["prompt"], "user")
    said += read_turns(repr(name), row[name], "assistant")
    return last_answer(f"'prompt' and {name!r}", said, system_of(row))


@form(Feedback, "texts", "plain texts", "prompt completion label")
@form(
    Feedback,
    "messages",
    "TRL's conversational form",
    "prompt completion label",
    only=has_messages("prompt", "completion"),
)
def labelled(row: Row) -> Iterator[Fields]:
    """A prompt, a response, and whether it is liked."""
    prompt, completion = answered(row, "completion")
    yield {"prompt": prompt, "completion": completion, "label": liked(row)}


@form(Feedback, "messages", "conversations with a label", "messages label")
def labelled_messages(row: Row) -> Iterator[Fields]:
    """A conversation, and whether its last response is liked."""
    prompt, completion = last_answer(
        "'messages'", read_turns("'messages'", row["messages"], "user"), system_of(row)
    )
    yield {"prompt": prompt, "completion": completion, "label": liked(row)}


@form(Feedback, "sharegpt", "ShareGPT's form", "conversations label")
def labelled_sharegpt(row: Row) -> Iterator[Fields]:
    """The same under ShareGPT's name."""
    said = read_turns("'conversations'", row["conversations"], "user")
    prompt, completion = last_answer("'conversations'", said, system_of(row))
    yield {"prompt": prompt, "completion": completion, "label": liked(row)}


# --- demonstrations


@form(Demonstration, "texts", "plain texts", "prompt response")
@form(
    Demonstration,
    "messages",
    "TRL's conversational form",
    "prompt response",
    only=has_messages("prompt", "response"),
)
def demonstrated(row: Row) -> Iterator[Fields]:
    """A prompt and a response."""
    prompt, response = answered(row, "response")
    yield {"prompt": prompt, "response": response}


@form(Demonstration, "texts", "plain texts", "prompt completion")
@form(
    Demonstration,
    "messages",
    "TRL's conversational form",
    "prompt completion",
    only=has_messages("prompt", "completion"),
)
def completed(row: Row) -> Iterator[Fields]:
    """The same under TRL's name."""
    prompt, response = answered(row, "completion")
    yield {"prompt": prompt, "response": response}


@form(Demonstration, "messages", "TRL's conversational form", "messages", "prompt")
def conversation(row: Row) -> Iterator[Fields]:
    """A whole conversation, which ends in a response."""
    said = read_turns("'messages'", row["messages"], "user")
    if has_text(row.get("prompt")) and read_turns("'prompt'", row["prompt"], "user")[-1] not in said:
        raise UserError("'prompt' is not in 'messages'")
    prompt, response = last_answer("'messages'", said, system_of(row))
    yield {"prompt": prompt, "response": response}


@form(Demonstration, "sharegpt", "ShareGPT's form", "conversations")
def sharegpt(row: Row) -> Iterator[Fields]:
    """The same under ShareGPT's name."""
    said = read_turns("'conversations'", row["conversations"], "user")
    prompt, response = last_answer("'conversations'", said, system_of(row))
    yield {"prompt": prompt, "response": response}


@form(Demonstration, "alpaca", "Alpaca's form", "instruction output", "input history")
def alpaca(row: Row) -> Iterator[Fields]:
    """An instruction, perhaps with an input, and the response."""
    yield {"prompt": alpaca_prompt(row), "response": read_response("'output'", row["output"])}


@form(Demonstration, "orca", "Orca's form", "question response")
def question(row: Row) -> Iterator[Fields]:
    """A question and its answer."""
    prompt = read_prompt("'question'", row["question"], system_of(row))
    yield {"prompt": prompt, "response": read_response("'response'", row["response"])}


# --- prompts alone


@form(Asked, "texts", "plain texts", "prompt")
def asked(row: Row) -> Iterator[Fields]:
    """A prompt."""
    yield {"prompt": read_prompt("'prompt'", row["prompt"], system_of(row))}


@form(Asked, "messages", "conversations", "messages")
def asked_messages(row: Row) -> Iterator[Fields]:
    """A conversation that waits for an answer."""
    yield {"prompt": read_prompt("'messages'", row["messages"], system_of(row))}


@form(Asked, "sharegpt", "ShareGPT's form", "conversations")
def asked_sharegpt(row: Row) -> Iterator[Fields]:
    """The same under ShareGPT's name."""
    yield {"prompt": read_prompt("'conversations'", row["conversations"], system_of(row))}


@form(Asked, "alpaca", "Alpaca's form", "instruction", "input history")
def asked_alpaca(row: Row) -> Iterator[Fields]:
    """An instruction, perhaps with an input."""
    yield {"prompt": alpaca_prompt(row)}


@form(Asked, "orca", "Orca's form", "question")
def asked_question(row: Row) -> Iterator[Fields]:
    """A question."""
    yield {"prompt": read_prompt("'question'", row["question"], system_of(row))}
