"""What all commands share: flags made from a dataclass, and errors that end in one clear line.

A command's settings are one frozen dataclass whose fields are made by `option`; `parser_for` turns it into argparse.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import MISSING, field, fields
from typing import Any

from mini_dpo.errors import TrainingFailed, UserError


def option(kind: type, help: str, default: Any = None, choices: tuple = ()) -> Any:
    """A field of a settings dataclass that is also a flag: `sft_lr` becomes `--sft-lr`. kind=bool makes a switch."""
    return field(default=default, metadata={"kind": kind, "help": help, "choices": choices})


def parser_for(settings: type, command: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """An argument parser with a flag for every `option` of a settings dataclass. A flag not given is absent."""
    parser = argparse.ArgumentParser(
        prog=f"python -m mini_dpo.{command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for f in fields(settings):
        if "kind" in f.metadata:
            add_flag(parser, f.name, f.metadata["kind"], f.metadata["help"], f.metadata["choices"], f.default)
    return parser


def add_flag(parser: argparse.ArgumentParser, name: str, kind: type, help: str, choices: tuple = (), default: Any = None) -> None:
    """Add `--name` to a parser, with its default in the help where there is one."""
    flag = "--" + name.replace("_", "-")
    help = help.replace("%", "%%")
    if kind is bool:
        parser.add_argument(flag, action="store_true", help=help)
        return
    shown = "" if default is None or default is MISSING else f" (default: {default})"
    metavar = None if choices else {int: "N", float: "X", str: "TEXT"}[kind]
    parser.add_argument(flag, type=kind, choices=choices or None, metavar=metavar, help=help + shown)


def run_command(main: Callable[[], None]) -> None:
    """Run a command; whatever is the user's to mend becomes one line on standard error and an exit status."""
    try:
        main()
    except UserError as error:
        sys.exit(fail(error, 2))
    except TrainingFailed as error:
        sys.exit(fail(error, 1))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `... | head` has seen enough
        sys.stderr.close()


def fail(error: Exception, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status
