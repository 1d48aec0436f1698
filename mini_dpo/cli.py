"""What all commands share: flags made from a dataclass, and errors that end in one clear line.

A command's settings are one frozen dataclass whose fields are made by `option`; `parser_for` turns it into argparse.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any

from mini_dpo.devices import one_line, out_of_memory
from mini_dpo.errors import TrainingFailed, UserError


def option(kind: type, help: str, default: Any = None, choices: tuple = (), metavar: str | None = None, group: str = "options") -> Any:
    """A field of a settings dataclass that is also a flag: `sft_lr` becomes `--sft-lr`. kind=bool makes a switch;
    metavar: what stands for the value in the help; group: the heading that it stands under."""
    return field(default=default, metadata=dict(kind=kind, help=help, choices=choices, metavar=metavar, group=group))


def parser_for(settings: type, command: str, description: str, epilog: str = "", arguments: str = "") -> argparse.ArgumentParser:
    """An argument parser with a flag for every `option` of a settings dataclass. A flag not given is absent.
    arguments: what comes before the flags."""
    parser = argparse.ArgumentParser(
        prog=f"python -m mini_dpo.{command}",
        usage=f"%(prog)s {arguments}[flags]",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    groups = {"options": parser}
    for f in fields(settings):
        if "kind" in f.metadata:
            metadata = dict(f.metadata)
            heading = metadata.pop("group")
            if heading not in groups:
                groups[heading] = parser.add_argument_group(heading)
            add_flag(groups[heading], f.name, default=f.default, **metadata)
    return parser


def add_flag(parser: argparse._ActionsContainer, name: str, kind: type, help: str, choices: tuple = (), metavar: str | None = None, default: Any = None) -> None:  # fmt: skip
    """Add `--name` to a parser or a group of it, with the default in the help where there is one."""
    flag = "--" + name.replace("_", "-")
    help = help.replace("%", "%%")
    if kind is bool:
        parser.add_argument(flag, action="store_true", help=help)
        return
    if not choices:
        metavar = metavar or {int: "N", float: "X", str: "TEXT"}[kind]
    shown = "" if default is None else f" (default: {default})"
    parser.add_argument(flag, type=kind, choices=choices or None, metavar=metavar, help=help + shown)


def run_command(main: Callable[[], None]) -> None:
    """Run a command; whatever is the user's to mend becomes one line on standard error and an exit status."""
    try:
        main()
    except UserError as error:
        sys.exit(fail(error, 2))
    except TrainingFailed as error:
        sys.exit(fail(error, 1))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        sys.exit(fail(f"out of memory ({one_line(error)}); a smaller model, batch or context needs less", 1))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `... | head` has seen enough
        sys.stderr.close()


def fail(error: Exception | str, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status
