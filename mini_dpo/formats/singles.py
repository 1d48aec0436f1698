"""The forms in which people keep single responses: liked or not (feedback), to imitate
(demonstrations); and prompts alone.

As in `pairs`, each function takes a row to the fields of its examples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from mini_dpo.data import Demonstration, Feedback, Prompt
from mini_dpo.errors import UserError
from mini_dpo.formats.conversations import has_text, last_answer, read_response, read_turns
from mini_dpo.formats.files import Row
from mini_dpo.formats.forms import Asked, Fields, alpaca_prompt, form, has_messages, prompt_in, system_of

# --- feedback


def liked(row: Row) -> bool:
    """The label of a row. Raises UserError unless it is true or false."""
    if not isinstance(row["label"], bool):
        raise UserError(f"'label' must be true or false, not {json.dumps(row['label'])[:40]}")
    return row["label"]


def answered(row: Row, name: str) -> tuple[Prompt, str]:
    """(the prompt, the response), each a text or messages. name: the column of the response."""
    said = read_turns("'prompt'", row["prompt"], "user")
    said += read_turns(repr(name), row[name], "assistant")
    return last_answer(f"'prompt' and {name!r}", said, system_of(row))


def whole(row: Row, name: str) -> tuple[Prompt, str]:
    """(the prompt, the response) of a whole conversation, which ends in the response. name: its column."""
    return last_answer(repr(name), read_turns(repr(name), row[name], "user"), system_of(row))


def texts_or_messages(kind: type, response: str, also_needs: str = "") -> Callable:
    """Enter a function for two forms of a prompt and a response: messages, tried first, and texts."""
    needs, messages = f"prompt {response} {also_needs}", has_messages("prompt", response)

    def enter(read: Callable) -> Callable:
        form(kind, "messages", "TRL's conversational form", needs, only=messages)(read)
        return form(kind, "texts", "plain texts", needs)(read)

    return enter


@texts_or_messages(Feedback, "completion", "label")
def labelled(row: Row) -> Iterator[Fields]:
    """A prompt, a response, and whether it is liked."""
    yield feedback(row, *answered(row, "completion"))


@form(Feedback, "messages", "conversations with a label", "messages label")
def labelled_messages(row: Row) -> Iterator[Fields]:
    """A conversation, and whether its last response is liked."""
    yield feedback(row, *whole(row, "messages"))


@form(Feedback, "sharegpt", "ShareGPT's form", "conversations label")
def labelled_sharegpt(row: Row) -> Iterator[Fields]:
    """The same under ShareGPT's name."""
    yield feedback(row, *whole(row, "conversations"))


def feedback(row: Row, prompt: Prompt, completion: str) -> Fields:
    """The fields of a single response with the row's label."""
    return {"prompt": prompt, "completion": completion, "label": liked(row)}


# --- demonstrations


@texts_or_messages(Demonstration, "response")
def demonstrated(row: Row) -> Iterator[Fields]:
    """A prompt and a response."""
    yield demonstration(*answered(row, "response"))


@texts_or_messages(Demonstration, "completion")
def completed(row: Row) -> Iterator[Fields]:
    """The same under TRL's name."""
    yield demonstration(*answered(row, "completion"))


@form(Demonstration, "messages", "TRL's conversational form", "messages", "prompt")
def conversation(row: Row) -> Iterator[Fields]:
    """A whole conversation. A prompt that stands apart is one of its turns."""
    said = read_turns("'messages'", row["messages"], "user")
    if has_text(row.get("prompt")) and read_turns("'prompt'", row["prompt"], "user")[-1] not in said:
        raise UserError("'prompt' is not in 'messages'")
    yield demonstration(*last_answer("'messages'", said, system_of(row)))


@form(Demonstration, "sharegpt", "ShareGPT's form", "conversations")
def sharegpt(row: Row) -> Iterator[Fields]:
    """The same under ShareGPT's name."""
    yield demonstration(*whole(row, "conversations"))


def demonstration(prompt: Prompt, response: str) -> Fields:
    """The fields of a response to imitate."""
    return {"prompt": prompt, "response": response}


@form(Demonstration, "alpaca", "Alpaca's form", "instruction output", "input history")
def alpaca(row: Row) -> Iterator[Fields]:
    """An instruction, perhaps with an input, and the response."""
    yield demonstration(alpaca_prompt(row), read_response("'output'", row["output"]))


@form(Demonstration, "orca", "Orca's form", "question response")
def question(row: Row) -> Iterator[Fields]:
    """A question and its answer."""
    yield demonstration(prompt_in(row, "question"), read_response("'response'", row["response"]))


# --- prompts alone


@form(Asked, "texts", "plain texts", "prompt")
def asked(row: Row) -> Iterator[Fields]:
    """A prompt."""
    yield {"prompt": prompt_in(row, "prompt")}


@form(Asked, "messages", "conversations", "messages")
def asked_messages(row: Row) -> Iterator[Fields]:
    """A conversation that waits for an answer."""
    yield {"prompt": prompt_in(row, "messages")}


@form(Asked, "sharegpt", "ShareGPT's form", "conversations")
def asked_sharegpt(row: Row) -> Iterator[Fields]:
    """The same under ShareGPT's name."""
    yield {"prompt": prompt_in(row, "conversations")}


@form(Asked, "alpaca", "Alpaca's form", "instruction", "input history")
def asked_alpaca(row: Row) -> Iterator[Fields]:
    """An instruction, perhaps with an input."""
    yield {"prompt": alpaca_prompt(row)}


@form(Asked, "orca", "Orca's form", "question")
def asked_question(row: Row) -> Iterator[Fields]:
    """A question."""
    yield {"prompt": prompt_in(row, "question")}
