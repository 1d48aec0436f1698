"""How a loss is found by its name; losses in files of the user's own are run once, and whatever comes out of
them becomes one clear line.
"""

from __future__ import annotations

import importlib.util
import io
import sys
import textwrap
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from mini_dpo.devices import out_of_memory
from mini_dpo.errors import UserError, did_you_mean, flag
from mini_dpo.losses.registry import LOSSES, Loss, shown


def find_loss(name: str) -> Loss:
    """The loss of that name or alias, or `function` of `file.py:function`. Raises UserError where there is
    none.
    """
    if ".py:" in name:
        return load_loss(*name.rsplit(":", 1))
    for found in LOSSES.values():
        if name == found.name or name in found.aliases:
            return found
    if name.endswith(".py"):
        raise UserError(f"{name}: name the function as well: {name}:my_loss")
    known = [word for found in LOSSES.values() for word in (found.name, *found.aliases)]
    raise UserError(
        f"there is no loss {name}{did_you_mean(name, known)}; `python -m mini_dpo.train "
        "--list-losses` shows what there is, and file.py:function takes one of your own"
    )


def list_losses() -> str:
    """Every registered loss: name, what it needs, formula, flags with their defaults, paper."""
    entries = []
    for loss in LOSSES.values():
        needs = (
            f"{'pairs' if loss.paired else 'single responses'}, "
            f"{'a reference' if loss.reference else 'no reference'}"
        )
        also = f" (also {', '.join(loss.aliases)})" if loss.aliases else ""
        own = "  ".join(f"{flag(name)} {shown(default)}" for name, default in loss.hyperparameters.items())
        entries.append(
            f"{loss.name}{also}: {needs}\n{textwrap.indent(loss.formula, '    ')}\n    "
            f"{own}\n    {loss.paper}"
        )
    return "\n\n".join(entries)


MODULE = "loss_file_"  # begins the name of the module that such a file is here
RUN: dict[tuple[Path, bytes], object] = {}  # the modules of files that were run, by what was in them


def load_loss(path: str, name: str) -> Loss:
    """One loss of a file of the user's own. Raises UserError, with the line, where that fails."""
    module = module_of(path, name)
    with in_a_line(path):
        found = vars(module).get(name) if name else None
        if not isinstance(found, Loss):
            there = ", ".join(key for key, value in vars(module).items() if isinstance(value, Loss)) or "none"
            problem = "is not a loss: put @loss(...) above it" if callable(found) else "is not in it"
            raise UserError(f"{path}: {name or 'the name of a function'} {problem} (losses there: {there})")
    LOSSES.update({loss.name: loss for loss in vars(module).values() if isinstance(loss, Loss)})
    return found


def module_of(path: str, name: str) -> object:
    """Run a file of the user's own, once for a process. name: what is wanted of it, for messages."""
    file = Path(path).resolve()
    if not file.is_file():
        raise UserError(f"{path}:{name}: there is no file {path}")
    key = file, file.read_bytes()
    if key not in RUN:
        RUN[key] = run_file(path, file)
    return RUN[key]


def run_file(path: str, file: Path) -> object:
    """Run a file as a module. What an earlier version of it left among the losses is not in its way."""
    spec = importlib.util.spec_from_file_location(MODULE + file.stem, file)
    assert spec and spec.loader, file  # a file that ends in .py has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before = {name: loss for name, loss in LOSSES.items() if loss.function.__module__ != spec.name}
    LOSSES.clear()
    LOSSES.update(before)
    try:
        with set_apart(path) as printed:
            spec.loader.exec_module(module)
    except BaseException:
        LOSSES.clear()
        LOSSES.update(before)
        raise
    if text := printed.getvalue():
        print(
            f"{path} prints {len(text.splitlines())} lines when it is run; the first: "
            f"{text.splitlines()[0][:200]!r}",
            file=sys.stderr,
        )
    return module


@contextmanager
def set_apart(path: str) -> Iterator[io.StringIO]:
    """As `in_a_line`; what the code prints is kept from the page."""
    with redirect_stdout(io.StringIO()) as printed, in_a_line(path):
        yield printed


@contextmanager
def in_a_line(path: str) -> Iterator[None]:
    """Inside, code of the user's file `path` runs: what it raises, whatever that is, becomes a UserError with
    the line. Ctrl-C says where it was, and goes on as Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        print(f"\ninterrupted in {path}, line {line_in(path, interrupt)}", file=sys.stderr)
        raise
    except UserError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) and out_of_memory(error):
            raise
        line = getattr(error, "lineno", None) or line_in(path, error)
        # which survives an error that cannot say what it is
        said = traceback.format_exception_only(error)[-1]
        raise UserError(f"{path}, line {line}: {' '.join(said[:300].split())}") from error


@contextmanager
def calling(loss: Loss) -> Iterator[None]:
    """Inside, a loss is called somewhere: an error that comes out of a file of the user's own becomes a
    UserError.
    """
    try:
        yield
    except BaseException as error:
        file = loss.function.__code__.co_filename
        if not loss.function.__module__.startswith(MODULE) or file not in {
            frame.filename for frame in traceback.extract_tb(error.__traceback__)
        }:
            raise
        with in_a_line(file):
            raise


def line_in(path: str, error: BaseException) -> int:
    """The last line of a file that an error came through; 1 if it came through none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = (f.lineno for f in reversed(frames) if Path(f.filename).resolve() == Path(path).resolve())
    return next(own, None) or 1
