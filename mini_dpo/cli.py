"""What all commands share: flags made from a dataclass, and errors that end in one clear line.

The settings of a command are one frozen dataclass. Its fields are made by `option`, and `parser_for` makes
the command line of them.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import field, fields
from typing import Any, NoReturn

from mini_dpo.devices import one_line, out_of_memory
from mini_dpo.errors import TrainingFailed, UserError, did_you_mean, flag
from mini_dpo.processes import leave_processes, speaks, wait_for_all

# TRL's names of flags that have another name here.
ELSEWHERE = {
    "learning_rate": "lr",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulate",
    "max_length": "context",
    "model_name_or_path": "init_from",
    "dataset_name": "data",
    "output_dir": "out",
    "loss_type": "loss",
    "rpo_alpha": "sft_weight",
    "bf16": "dtype",
    "gradient_checkpointing": "checkpoint_activations",
    "eval_steps": "eval_every",
    "save_steps": "save_every",
}


class WrongKind(UserError):
    """A value has another type than its flag takes: --help names the types."""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are a UserError of one line, which names the flag that may be meant."""

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write the help. (argparse hides an error here, for example a full disk.)"""
        (file or sys.stderr).write(message)

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """As argparse, but raises UserError for what is not known. argparse calls this for sub-
        commands too.
        """
        try:
            found, unknown = super().parse_known_args(*args, **kwargs)
        except WrongKind as error:
            self.error(str(error))
        if unknown:
            word = next((word for word in unknown if word.startswith("-")), unknown[0]).split("=")[0]
            here = ELSEWHERE.get(word.lstrip("-").replace("-", "_"), word)
            near = did_you_mean(here, self._option_string_actions)
            problem = (
                f"there is no flag {word}{near}" if word.startswith("-") else f"{word!r} belongs to no flag"
            )
            raise UserError(f"{problem}; {self.prog} --help shows what there is")
        # what argparse makes of --seed=--
        if empty := [name for name, value in vars(found).items() if value == []]:
            raise UserError(f"{flag(empty[0])} needs a value; {self.prog} --help says more")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Raise UserError with what argparse says."""
        raise UserError(f"{message.removeprefix('argument ')}; {self.prog} --help says more")


def option(
    kind: type,
    about: str,
    default: Any = None,
    choices: tuple = (),
    metavar: str | None = None,
    group: str = "options",
) -> Any:
    """A field of a settings dataclass that is also a flag: `sft_lr` becomes `--sft-lr`.
    kind: the type of the value; bool makes a switch without a value.
    metavar: the word for the value in the help.
    group: the heading above the flag in the help.
    """
    return field(
        default=default, metadata=dict(kind=kind, about=about, choices=choices, metavar=metavar, group=group)
    )


def parser_for(
    settings: type, command: str, description: str, epilog: str = "", arguments: str = ""
) -> Parser:
    """A parser with a flag for every `option` of a settings dataclass. A flag that is not given is absent
    from the result.
    arguments: what the usage line shows before the flags.
    """
    parser = Parser(
        prog=f"python -m mini_dpo.{command}",
        usage=f"%(prog)s {arguments}[flags]",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    groups: dict[str, argparse._ActionsContainer] = {"options": parser}
    for f in fields(settings):
        if "kind" in f.metadata:
            metadata = dict(f.metadata)
            heading = metadata.pop("group")
            if heading not in groups:
                groups[heading] = parser.add_argument_group(heading)
            add_flag(groups[heading], f.name, default=f.default, **metadata)
    return parser


def add_flag(
    parser: argparse._ActionsContainer,
    name: str,
    kind: type,
    about: str,
    choices: tuple = (),
    metavar: str | None = None,
    default: Any = None,
) -> None:
    """Add `--name` (`-n` for a single letter) to a parser or a group. The help ends with the default, if
    there is one.
    """
    typed = flag(name)
    about = about.replace("%", "%%")
    if kind is bool:
        parser.add_argument(typed, action="store_true", help=about)
        return
    if not choices:
        metavar = metavar or {int: "N", float: "X", str: "TEXT"}[kind]
    shown = "" if default is None else f" (default: {default})"
    parser.add_argument(
        typed,
        type=lambda text: checked(typed, kind, text),
        choices=choices or None,
        metavar=metavar,
        help=about + shown,
    )


LONGEST_LINE = 1000  # characters of an error, before its middle is left out
WHAT: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
# the largest seed that torch takes everywhere, and more than any number of steps or tokens here
LARGEST_NUMBER = 2**31 - 1


def checked(flag: str, kind: Any, given: Any) -> Any:
    """The value of a flag, from the command line (a text) or from a config.json (any JSON value).
    Raises UserError if the value has another type, or is a number that no run can use.
    """
    value: Any = given
    shown = str(given)[:40]
    try:
        if (type(given) is str and kind is not bool) or (type(given) is int and kind is float):
            value = kind(given)
        if type(value) is not kind:
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise WrongKind(f"{flag} must be {WHAT[kind]}, not {repr(given)[:40]}") from error
    if kind is str and "\0" in value:
        raise UserError(f"{flag}: there is a null byte in it")
    if kind is float and not math.isfinite(value):  # no flag means infinity either
        raise UserError(f"{flag} must be a finite number, not {shown}")
    if kind is int and abs(value) > LARGEST_NUMBER:
        raise UserError(f"{flag} {shown} is out of all reach; {LARGEST_NUMBER:,} is the largest number here")
    return value


def run_command(main: Callable[[], None]) -> None:
    """Run a command. A user's mistake, or a run that fails, ends in one line on standard error and an exit
    status.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # so set by mini_dpo/__init__.py, while it loads
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # None: the stream is closed
    with (
        redirect_stdout(Escaped(sys.stdout or open(os.devnull, "w"))),
        redirect_stderr(Escaped(sys.stderr or open(os.devnull, "w"))),
    ):
        status = status_of(main)
    if status:
        sys.exit(status)


def status_of(main: Callable[[], None]) -> int:
    """Run a command and print what went wrong. Returns the exit status: 0, 1 (the run failed), 2 (wrong
    input), 130 (Ctrl-C), 141 (a closed pipe).
    """
    try:
        try:
            main()
        except SystemExit:  # from --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return 0
    except UserError as error:
        return fail(error, 2)
    except TrainingFailed as error:
        return fail(error, 1)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return fail(f"out of memory ({one_line(error)}); a smaller model, batch or context needs less", 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `... | head` has ended
        return drop_output(141)
    except OSError as error:  # a full disk below the standard output, a name that is too long
        return fail(
            f"{error.filename or 'the output'}: {error.strerror or error}",
            1 if error.filename else drop_output(1),
        )
    finally:
        leave_processes()


def drop_output(status: int) -> int:
    """Standard output cannot be written any more: drop what is still in its buffer. Returns `status`."""
    with suppress(OSError):  # not every stream is a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def fail(error: Exception | str, status: int) -> int:
    """Print an error; returns `status`. Of several processes only the first prints. The others wait for it,
    because torchrun ends all processes as soon as one has ended.
    """
    if speaks():
        lines = f"error: {error}".split("\n")[:10]
        print(
            "\n".join(
                line if len(line) <= LONGEST_LINE else f"{line[:600]} ... {line[-300:]}" for line in lines
            ),
            file=sys.stderr,
        )
    wait_for_all()
    return status


LAST_BYTE = 0xFF
# Characters that control a terminal: control characters, and marks that turn the direction of a line.
OBEYED = [*range(32), *range(127, 160), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
ESCAPES = {
    code: f"\\x{code:02x}" if code <= LAST_BYTE else f"\\u{code:04x}"
    for code in OBEYED
    if chr(code) not in "\n\t"
}


class Escaped:
    """A stream for text of any origin: characters that control a terminal, and characters that the encoding
    of the stream does not have, are written as escapes.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text with its escapes; returns the number of characters written."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return self.stream.write(
            text.translate(ESCAPES).encode(encoding, "backslashreplace").decode(encoding)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
