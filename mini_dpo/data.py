"""What one can learn from: preferences, single responses with a verdict, and responses to imitate.

A prompt is a text, or a conversation so far: turns of the user and the assistant, the user's last, perhaps
after a system message. A text is the conversation whose only turn is the user's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar


class Turn(NamedTuple):
    """What somebody says. role: "system", "user" or "assistant"."""

    role: str
    text: str


Prompt = str | tuple[Turn, ...]


def turns(prompt: Prompt) -> tuple[Turn, ...]:
    """A prompt as a conversation."""
    return (Turn("user", prompt),) if isinstance(prompt, str) else prompt


def as_text(prompt: Prompt) -> str:
    """A prompt for people to read: the text, or a line for each turn, with its role."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{role}: {text}" for role, text in prompt)


@dataclass(frozen=True)
class Preference:
    """Two responses to a prompt and which of them people chose. line: its line in the file."""

    prompt: Prompt
    chosen: str
    rejected: str
    line: int = 0
    other: Prompt | None = None  # which the chosen response does not fit, where one is named


@dataclass(frozen=True)
class Feedback:
    """One response to a prompt and whether people liked it. line: its line in the file."""

    prompt: Prompt
    completion: str
    label: bool
    line: int = 0


@dataclass(frozen=True)
class Demonstration:
    """A prompt and a response to imitate. line: its line in the file."""

    prompt: Prompt
    response: str
    line: int = 0


Example = TypeVar("Example", Preference, Feedback, Demonstration)
