"""The two errors that end a command with one clear line. Any other error is a bug of this project and keeps
its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """The input is wrong. The message names the place (file, line, flag) and the remedy. Exit status 2."""


class TrainingFailed(Exception):
    """The input was right and the run still failed (for example, the loss is not a number). Exit status 1."""


@contextmanager
def expecting(path: object, what: str) -> Iterator[None]:
    """Inside this context, the content of a file is used as if it were `what`. An error there becomes a
    UserError that says the file is not `what`.
    """
    try:
        yield
    except (
        AttributeError,
        IndexError,
        KeyError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
        UserError,
    ) as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path}: not {what} "
            f"({said if isinstance(error, (UserError, ValueError)) else f'{type(error).__name__}: {said}'})"
        ) from error


def flag(name: str) -> str:
    """A setting's name as it is typed: `sft_lr` is --sft-lr, `n` is -n."""
    return ("-" if len(name) == 1 else "--") + name.replace("_", "-")


def flags(names: Iterable[str]) -> str:
    """Several settings as they are typed, with commas between them."""
    return ", ".join(map(flag, names))


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """ " (did you mean NAME?)" with the name that is spelt most like a word, or "" if no name is near. Case
    and dashes do not count. A name that begins with the word, or with which the word begins, comes first.
    """
    spelt = {plain(name): name for name in names}
    begun = [name for name in spelt if name.startswith(plain(word)) or plain(word).startswith(name + "-")]
    near = get_close_matches(plain(word), begun or spelt, n=1, cutoff=0.3 if begun else 0.6)
    return f" (did you mean {spelt[near[0]]}?)" if near else ""


def plain(name: str) -> str:
    """A name without leading dashes, in lower case, with - for _."""
    return name.lstrip("-").replace("_", "-").lower()
