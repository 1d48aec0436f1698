"""Conversations, in the ways in which files hold them, as turns."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile

from mini_dpo.data import Demonstration, Feedback, Preference, Prompt, Turn, turns
from mini_dpo.errors import UserError
from mini_dpo.formats.files import LONGEST_TEXT, each_key_once, json_kind, says_something

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
# What a message can hold beside its text, and would be lost. A weight of 0 says that it is not to be learned.
BESIDE = set(
    "tool_calls tool_call_id function_call tools images image audio audios videos video reasoning_content "
    "thinking refusal".split()
)
LOOK = 300  # characters in which messages that are written as a text show themselves


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
        found = "an empty one" if value == [] else json_kind(value)
        raise UserError(f"{place} must be a list of messages, not {found}")
    return [read_message(f"{place}, message {i}", message) for i, message in enumerate(messages, 1)]


def read_message(place: str, message: object) -> Turn:
    """One {"role", "content"} or {"from", "value"}. Raises UserError as `read_messages` does."""
    held = {k: v for k, v in message.items() if v is not None} if isinstance(message, Mapping) else {}
    role_key, text_key = ("role", "content") if "role" in held else ("from", "value")
    if role_key not in held or {"role", "from"} <= held.keys():
        keys = ", ".join(map(repr, list(held)[:4]))
        found = f"one with {keys}" if keys else "an empty one" if held == message else json_kind(message)
        raise UserError(
            f'{place} must be an object with "role" and "content" (or "from" and "value"), not {found}'
        )
    role = ROLES.get(str(held[role_key]).lower())
    if role is None:
        raise UserError(
            f"{place} has the role {str(held[role_key])[:40]!r}; only system, user and assistant can be "
            "learned from, so take such conversations out"
        )
    extra = [name for name in held if name in BESIDE and says_something(held[name])]
    extra += [name for name in ("weight", "train") if name in held and not held[name]]
    if extra:
        raise UserError(f"{place} has {extra[0]!r} beside its text, which cannot be read here")
    text = joined_parts(held.get(text_key))
    return Turn(role, check_text(f"{place}: {text_key!r}", text, may_be_empty=role != "assistant"))


def joined_parts(content: object) -> object:
    """What the interfaces of chat services write as a list of {"type": "text", "text": ...}, as one text.
    Other content stays as it is.
    """
    if not isinstance(content, list) or not content:
        return content
    texts = [p.get("text") if isinstance(p, Mapping) and p.get("type") == "text" else None for p in content]
    said = [text for text in texts if isinstance(text, str)]
    return "".join(said) if len(said) == len(content) else content


def is_transcript(value: object) -> bool:
    """Whether a text is a transcript in the form of Anthropic's HH data."""
    if not isinstance(value, str):
        return False
    text = value.replace("\r\n", "\n")
    return text.lstrip().startswith("Human:") and "\nAssistant:" in text


def read_transcript(place: str, text: str) -> list[Turn]:
    """A text like "\\n\\nHuman: ...\\n\\nAssistant: ..." as turns. A last "Assistant:" with nothing
    after it is where the response would be, and no turn.
    """
    text = text.replace("\r\n", "\n").lstrip()
    end = "\n\n" if "\n\nAssistant:" in text else "\n"  # of a turn
    _, *parts = re.split(rf"(?:\A|{end})(Human|Assistant|System):", text)
    said = [(ROLES[name.lower()], words) for name, words in zip(parts[::2], parts[1::2], strict=True)]
    if said[-1][0] == "assistant" and not said[-1][1].strip():
        said.pop()
    return [
        Turn(role, check_text(f"{place}, turn {i}", words.removeprefix(" ").rstrip(), role != "assistant"))
        for i, (role, words) in enumerate(said, 1)
    ]


def spells_messages(value: object) -> bool:
    """Whether a text looks like messages."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return False
    head = value.lstrip()[:LOOK]
    return all(re.search(rf"""["']({names})["']\s*:""", head) for names in ("role|from", "content|value"))


def written_out(place: str, text: str) -> object:
    """The messages that a text spells, as a table or a wrong export has them; the text if it spells none.
    Raises UserError where they are not JSON.
    """
    if not spells_messages(text):
        return text
    try:
        return json.loads(text, object_pairs_hook=each_key_once)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{place} looks like messages and is not JSON; write it with json.dumps, not str"
        ) from error


def read_turns(place: str, value: object, role: str) -> list[Turn]:
    """Messages or a transcript as turns; any other text as the one turn of this role. Raises UserError for
    anything else.
    """
    if isinstance(value, str):
        value = written_out(place, value)
    if isinstance(value, (list, Mapping)):
        return read_messages(place, value)
    text = check_text(place, value, may_be_empty=role == "user")
    return read_transcript(place, text) if is_transcript(text) else [Turn(role, text)]


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
    if has_text(system):
        message = Turn("system", check_text("'system'", system))
        if said and said[0].role == "system" and said[0] != message:
            raise UserError(f"{place} has a system message, and 'system' is another one; keep one of them")
        said = [message, *(said[1:] if said and said[0] == message else said)]
    check_order(place, said, "user")
    return said[0].text if len(said) == 1 else tuple(said)


def has_text(value: object) -> bool:
    """Whether a column holds something: not null, NaN, an empty list or blanks."""
    return not (
        value is None or value == [] or value != value or (isinstance(value, str) and not value.strip())
    )


def read_prompt(place: str, value: object, system: object = None) -> Prompt:
    """A text or a list of messages as a prompt. Raises UserError for what is neither."""
    return as_prompt(place, read_turns(place, value, "user"), system)


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
