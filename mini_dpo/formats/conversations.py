"""Conversations, in the ways in which files hold them, as turns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile

from mini_dpo.data import Demonstration, Feedback, Preference, Prompt, Turn, turns
from mini_dpo.errors import UserError
from mini_dpo.formats.files import LONGEST_TEXT, json_kind, says_something

# What files call the roles.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
# What a message can hold beside its text, and would be lost.
BESIDE = ("tool_calls", "function_call", "tools", "images", "image", "audio", "audios", "videos", "video")


def check_text(place: str, text: object, may_be_empty: bool = False) -> str:
    """The text. Raises UserError unless it is a string that can be encoded and, for a response, says
    something.
    """
    if not isinstance(text, str):
        raise UserError(f"{place} must be a string, not {json_kind(text)}")
    if not may_be_empty and not text.strip():
        raise UserError(f"{place} is empty; a response needs at least one visible character")
    if len(text) > LONGEST_TEXT:
        raise UserError(
            f"{place} has {len(text):,} characters; more than {LONGEST_TEXT:,} fit no context here"
        )
    if re.search("[\ud800-\udfff]", text):
        raise UserError(
            f"{place} holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; remove it"
        )
    return text


def read_messages(place: str, value: object) -> list[Turn]:
    """A list of {"role", "content"} or of {"from", "value"}, or one such object, as turns.
    place: names it in messages. Raises UserError for a role that is none of ROLES, and for what is no text.
    """
    messages = [value] if isinstance(value, Mapping) else value
    if not isinstance(messages, list) or not messages:
        raise UserError(
            f"{place} must be a list of messages, not {'an empty one' if value == [] else json_kind(value)}"
        )
    return [read_message(f"{place}, message {i}", message) for i, message in enumerate(messages, 1)]


def read_message(place: str, message: object) -> Turn:
    """One {"role", "content"} or {"from", "value"}. Raises UserError as `read_messages` does."""
    held: Mapping = message if isinstance(message, Mapping) else {}
    role_key, text_key = ("from", "value") if "from" in held else ("role", "content")
    if role_key not in held:
        found = (
            f"one with {', '.join(map(repr, list(message)[:4]))}"
            if isinstance(message, Mapping)
            else json_kind(message)
        )
        raise UserError(
            f'{place} must be an object with "role" and "content" (or "from" and "value"), not {found}'
        )
    role = held[role_key]
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise UserError(
            f"{place} has the role {str(role)[:40]!r}; only system, user and assistant can be learned from, "
            "so take such conversations out"
        )
    if extra := [name for name in BESIDE if says_something(held.get(name))]:
        raise UserError(f"{place} has {extra[0]!r} beside its text, which cannot be learned from")
    text = held.get(text_key)
    if isinstance(text, list) and all(
        isinstance(part, Mapping) and part.get("type") == "text" for part in text
    ):
        text = "".join(
            str(part.get("text", "")) for part in text
        )  # as the interfaces of chat services have it
    return Turn(
        ROLES[role.lower()], check_text(f"{place}: {text_key!r}", text, ROLES[role.lower()] != "assistant")
    )


def read_transcript(place: str, text: object) -> list[Turn]:
    """A text like "\\n\\nHuman: ...\\n\\nAssistant: ..." as turns; a last "Assistant:" with nothing after it
    is where the response would be, and no turn. Raises UserError if it does not begin like that.
    """
    head, *parts = re.split(r"(?:^|\n\n)(Human|Assistant|System):", check_text(place, text))
    if head.strip() or not parts:
        raise UserError(f'{place} must begin with "\\n\\nHuman:", not {str(text)[:40]!r}')
    said = list(zip(parts[::2], parts[1::2], strict=True))
    if said[-1][0] == "Assistant" and not said[-1][1].strip():
        said.pop()
    return [
        Turn(ROLES[name.lower()], check_text(f"{place}, turn {i}", words.strip(), name != "Assistant"))
        for i, (name, words) in enumerate(said, 1)
    ]


def check_order(place: str, said: Sequence[Turn], last: str) -> None:
    """Raise UserError unless user and assistant take turns, the user first, perhaps after a system message,
    and the last turn is that of `last`.
    """
    spoken = said[1:] if said and said[0].role == "system" else said
    for i, turn in enumerate(spoken, 1 + len(said) - len(spoken)):
        expected = "user" if (i - (len(said) - len(spoken))) % 2 else "assistant"
        if turn.role != expected:
            raise UserError(f"{place}, message {i} is the {turn.role}'s, where the {expected}'s turn is")
    if not spoken or spoken[-1].role != last:
        raise UserError(f"{place} must end with a turn of the {last}")


def as_prompt(place: str, said: Sequence[Turn], system: object = None) -> Prompt:
    """Turns as a prompt. system: a system message from elsewhere in the row, which goes first.
    Raises UserError if the turns are not in order, or if there are two different system messages.
    """
    if says_something(system):
        message = Turn("system", check_text("'system'", system))
        if said and said[0].role == "system" and said[0] != message:
            raise UserError(f"{place} has a system message, and 'system' is another one; keep one of them")
        said = [message, *(turn for turn in said if turn.role != "system")]
    check_order(place, said, "user")
    return said[0].text if len(said) == 1 else tuple(said)


def read_prompt(place: str, value: object, system: object = None) -> Prompt:
    """A text or a list of messages as a prompt. Raises UserError for what is neither."""
    return as_prompt(place, read_turns(place, value, "user"), system)


def read_turns(place: str, value: object, role: str) -> list[Turn]:
    """A list of messages as turns; a text as the one turn of this role. Raises UserError for anything
    else.
    """
    if isinstance(value, (list, Mapping)):
        return read_messages(place, value)
    return [Turn(role, check_text(place, value, may_be_empty=role == "user"))]


def is_transcript(value: object) -> bool:
    """Whether a text is a transcript in the form of Anthropic's HH data."""
    return isinstance(value, str) and bool(re.match(r"(\n\n)?Human:.*\n\nAssistant:", value, re.DOTALL))


def read_response(place: str, value: object) -> str:
    """A text, or the only message of a list, as a response. Raises UserError for anything else."""
    said = read_turns(place, value, "assistant")
    if len(said) != 1 or said[0].role != "assistant":
        roles = ", ".join(turn.role for turn in said[:6])
        raise UserError(f"{place} must be one message of the assistant's, not {len(said)} ({roles})")
    return said[0].text


def last_answer(place: str, said: Sequence[Turn], system: object = None) -> tuple[Prompt, str]:
    """A whole conversation as a prompt and its last response. Raises UserError if it does not end in one."""
    if not said or said[-1].role != "assistant":
        raise UserError(f"{place} must end with a turn of the assistant, which is the response")
    return as_prompt(place, said[:-1], system), said[-1].text


def common_beginning(
    chosen: Sequence[Turn], rejected: Sequence[Turn], system: object = None
) -> tuple[Prompt, str, str]:
    """Two conversations that begin alike, as their prompt and the two responses: they are split between
    turns, never inside one. Raises UserError unless each has just one more turn, the assistant's.
    """
    for name, said in (("'chosen'", chosen), ("'rejected'", rejected)):
        if said[-1].role != "assistant":
            raise UserError(f"{name} must end with a turn of the assistant, which is the response")
    n = len(list(takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False))))
    n = min(n, len(chosen) - 1, len(rejected) - 1)  # the same response twice is a response still
    for name, said in (("'chosen'", chosen), ("'rejected'", rejected)):
        if len(said) != n + 1:
            raise UserError(
                f"chosen and rejected begin with the same {n} messages, and then {name} has "
                f"{len(said) - n} more; "
                "they must have the same prompt, and one answer of the assistant each"
            )
    return as_prompt("the common beginning", chosen[:n], system), chosen[n].text, rejected[n].text


def as_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as files hold it: the text, or a list of messages."""
    return prompt if isinstance(prompt, str) else [{"role": r, "content": text} for r, text in prompt]


def texts_of(example: Preference | Feedback | Demonstration) -> list[str]:
    """All that is said in an example: the turns of its prompt, then the responses."""
    responses = [
        value for name, value in vars(example).items() if name != "prompt" and isinstance(value, str)
    ]
    return [*(turn.text for turn in turns(example.prompt)), *responses]
