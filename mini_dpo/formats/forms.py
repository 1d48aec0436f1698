"""What a form of rows is, and what several of them share. The forms are in `pairs` and in `singles`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mini_dpo.data import Prompt, Turn
from mini_dpo.errors import UserError
from mini_dpo.formats.conversations import as_prompt, read_turns
from mini_dpo.formats.files import Row, says_something

Fields = dict[str, Any]  # of an example, but for its line
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
        return all(name in row for name in self.needs) and self.only(row)


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
    return next((row[name] for name in SYSTEM if says_something(row.get(name))), None)


def has_messages(*names: str) -> Callable[[Row], bool]:
    """Whether one of these columns of a row holds messages."""
    return lambda row: any(isinstance(row.get(name), (list, dict)) for name in names)


def alpaca_prompt(row: Row) -> Prompt:
    """An instruction, and below it, after an empty line, what it is about."""
    said = read_turns("'instruction'", row["instruction"], "user")
    if says_something(row.get("input")):
        said += read_turns("'input'", row["input"], "user")
        said = [Turn("user", "\n\n".join(turn.text for turn in said))]
    return as_prompt(
        "'history' and 'instruction'", [*earlier_rounds(row.get("history")), *said], system_of(row)
    )


def earlier_rounds(history: object) -> Iterator[Turn]:
    """[[instruction, response], ...] as turns."""
    for i, both in enumerate(history if isinstance(history, list) else [], 1):
        if not isinstance(both, list) or len(both) != 2:  # noqa: PLR2004 (a round)
            raise UserError(f"'history', round {i} must be a list of an instruction and its response")
        yield from read_turns(f"'history', round {i}", both[0], "user")
        yield from read_turns(f"'history', round {i}", both[1], "assistant")
