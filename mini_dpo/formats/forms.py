"""What a form of rows is, and what several of them share. The forms are in `pairs` and in `singles`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mini_dpo.data import Prompt, Turn
from mini_dpo.errors import UserError
from mini_dpo.formats.conversations import as_prompt, has_text, read_prompt, read_turns, spells_messages
from mini_dpo.formats.files import Row, says_something

Fields = dict[str, Any]  # of an example, but for its line


@dataclass(frozen=True)
class Asked:
    """A prompt that is to be answered. line: its line in the file."""

    prompt: Prompt
    line: int = 0


SYSTEM = ("system", "system_prompt", "system_message")


@dataclass(frozen=True)
class Form:
    """A form of rows.
    kind: what they become. needs: the columns that a row must have. also: columns that are read if
    they are there. only: what else marks a row of this form. read: a row to the fields of its examples.
    """

    name: str
    about: str
    kind: type
    needs: tuple[str, ...]
    also: tuple[str, ...]
    only: Callable[[Row], bool]
    read: Callable[[Row], Iterable[Fields]]

    def fits(self, row: Row) -> bool:
        """Whether a row looks as if it had this form."""
        return all(row.get(name) is not None and row[name] != [] for name in self.needs) and self.only(row)


FORMS: list[Form] = []  # in the order in which they are tried


def form(
    kind: type,
    name: str,
    about: str,
    needs: str,
    also: str = "",
    only: Callable[[Row], bool] = lambda row: True,
) -> Callable:
    """Enter a function into FORMS. needs, also: names of columns, with blanks between them."""

    def enter(read: Callable[[Row], Iterable[Fields]]) -> Callable:
        FORMS.append(Form(name, about, kind, tuple(needs.split()), (*also.split(), *SYSTEM), only, read))
        return read

    return enter


def system_of(row: Row) -> object:
    """The system message that a row has in a column of its own, None without."""
    found = {str(row[name]): row[name] for name in SYSTEM if has_text(row.get(name))}
    if len(found) > 1:
        raise UserError("two columns have different system messages; keep one of them")
    return next(iter(found.values()), None)


def prompt_in(row: Row, name: str) -> Prompt:
    """The prompt in a column of a row, below the row's system message."""
    return read_prompt(repr(name), row[name], system_of(row))


def has_messages(*names: str) -> Callable[[Row], bool]:
    """Whether one of these columns of a row holds messages."""
    return lambda row: any(
        isinstance(row.get(name), (list, dict)) or spells_messages(row.get(name)) for name in names
    )


def alpaca_prompt(row: Row) -> Prompt:
    """An instruction, and below it, after an empty line, what it is about."""
    said = read_turns("'instruction'", row["instruction"], "user")
    if has_text(row.get("input")):
        if len(said) > 1:
            raise UserError("'instruction' is a conversation, and 'input' says something as well; keep one")
        texts = [said[0].text, *(turn.text for turn in read_turns("'input'", row["input"], "user"))]
        said = [Turn("user", "\n\n".join(text for text in texts if text.strip()))]
    return as_prompt(
        "'history' and 'instruction'", [*earlier_rounds(row.get("history")), *said], system_of(row)
    )


def earlier_rounds(history: object) -> Iterator[Turn]:
    """[[instruction, response], ...] as turns; also as a JSON text, as a table has it."""
    if not says_something(history):
        return
    if isinstance(history, str):
        try:
            history = json.loads(history)
        except (ValueError, RecursionError):
            history = None
    if not isinstance(history, list) or not all(
        isinstance(both, list) and len(both) == 2  # noqa: PLR2004 (a round)
        for both in history
    ):
        raise UserError("'history' must be a list of rounds, [[instruction, response], ...]")
    for i, both in enumerate(history, 1):
        yield from read_turns(f"'history', round {i}", both[0], "user")
        yield from read_turns(f"'history', round {i}", both[1], "assistant")
