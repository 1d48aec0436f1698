"""The commands, one line each.

    python -m mini_dpo

A command is a file of this folder, or the `__main__.py` of a folder in it, that passes its `main` to
`run_command`. The first line of its docstring says what it does.
"""

from __future__ import annotations

import ast
import os
import runpy
import sys
from pathlib import Path

from mini_dpo.errors import did_you_mean


def main() -> None:
    """List the commands. With the name of a command, run it."""
    there = commands()
    if len(sys.argv) == 1 or sys.argv[1] in ("-h", "--help"):
        lines = "\n".join(f"  {name:8}  {what}" for name, what in there.items())
        say(
            f"python -m mini_dpo.COMMAND [flags], where COMMAND is one of\n\n{lines}\n\n"
            "python -m mini_dpo.COMMAND --help shows its flags."
        )
    elif (name := sys.argv.pop(1)) in there:
        runpy.run_module(f"mini_dpo.{name}", run_name="__main__", alter_sys=True)
    else:
        print(
            f"error: there is no command {name}{did_you_mean(name, there)}; python -m "
            "mini_dpo lists what there is",
            file=sys.stderr,
        )
        sys.exit(2)


def say(text: str) -> None:
    """Print a text. A full disk ends in one line. (`cli` does the same for the commands, but loads torch.)"""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # drops what could not be written
        sys.exit(f"error: the output: {error.strerror}")


def commands() -> dict[str, str]:
    """The name of each command and what it does, read from the files without running them."""
    folder = Path(__file__).parent
    files = {path.stem: path for path in folder.glob("*.py")} | {
        path.parent.name: path for path in folder.glob("*/__main__.py")
    }
    sources = {name: files[name].read_text(encoding="utf-8") for name in sorted(files)}
    return {
        name: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        for name, text in sources.items()
        if text.endswith("\n    run_command(main)\n")
    }


if __name__ == "__main__":
    main()
