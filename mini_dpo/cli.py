"""What all commands share: flags made from a dataclass, and errors that end in one clear line.

A command's settings are one frozen dataclass whose fields are made by `option`; `parser_for` turns it into argparse.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, NoReturn

from mini_dpo.devices import one_line, out_of_memory
from mini_dpo.errors import TrainingFailed, UserError, did_you_mean
from mini_dpo.parallel import leave_processes, speaks, wait_for_all

# What other trainers call a flag, where our name is not like it: TRL's names.
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


class Parser(argparse.ArgumentParser):
    """argparse's, but that a mistake is a UserError, one line, which names the flag that may be meant."""

    def parse_known_args(self, *args: Any, **kwargs: Any) -> tuple[argparse.Namespace, list[str]]:
        """Refuses what is not known; a sub-command's parser is asked by this name too."""
        found, unknown = super().parse_known_args(*args, **kwargs)
        if unknown:
            word = next((word for word in unknown if word.startswith("-")), unknown[0]).split("=")[0]
            here = ELSEWHERE.get(word.lstrip("-").replace("-", "_"), word)
            near = did_you_mean(here, self._option_string_actions)
            problem = f"there is no flag {word}{near}" if word.startswith("-") else f"{word!r} belongs to no flag"
            raise UserError(f"{problem}; {self.prog} --help shows what there is")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; {self.prog} --help says more")


def option(kind: type, help: str, default: Any = None, choices: tuple = (), metavar: str | None = None, group: str = "options") -> Any:
    """A field of a settings dataclass that is also a flag: `sft_lr` becomes `--sft-lr`. kind=bool makes a switch;
    metavar: what stands for the value in the help; group: the heading that it stands under."""
    return field(default=default, metadata=dict(kind=kind, help=help, choices=choices, metavar=metavar, group=group))


def parser_for(settings: type, command: str, description: str, epilog: str = "", arguments: str = "") -> Parser:
    """An argument parser with a flag for every `option` of a settings dataclass. A flag not given is absent.
    arguments: what comes before the flags."""
    parser = Parser(
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
    """Add `--name` (`-n` for a single letter) to a parser or a group of it, with the default in the help where there is one."""
    flag = ("-" if len(name) == 1 else "--") + name.replace("_", "-")
    help = help.replace("%", "%%")
    if kind is bool:
        parser.add_argument(flag, action="store_true", help=help)
        return
    if not choices:
        metavar = metavar or {int: "N", float: "X", str: "TEXT"}[kind]
    shown = "" if default is None else f" (default: {default})"

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):  # no flag means infinity either
            raise UserError(f"{flag} must be a finite number, not {text}")
        return value

    parser.add_argument(flag, type=number if kind is float else kind, choices=choices or None, metavar=metavar, help=help + shown)


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
    finally:
        leave_processes()


def fail(error: Exception | str, status: int) -> int:
    """Say what is wrong. Of several processes the first speaks for all, and the others, if they are still together, wait
    until it has: torchrun ends everybody as soon as one has ended."""
    if speaks():
        print(f"error: {error}", file=sys.stderr)
    wait_for_all()
    return status
