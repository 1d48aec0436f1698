"""Run a chapter: every code block in order, one namespace, and what each prints.

    python -m tutorials.chapters 4            run chapter 4 and show its code with what it prints
    python -m tutorials.chapters 4 --write    put what it prints into the chapter, where it has changed

In a chapter, a block marked `python` is executed, one marked `python mine.py` is saved as that file, and one
marked `sh` holds commands, `python -m ...` each. A block marked `text` that follows shows what they print:
`...` stands for whatever is there, and numbers may differ by one in their last digit. After `text about`
(float32 training, which differs from machine to machine) numbers may differ by a quarter, and a third of the
words and a third of the numbers altogether.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mini_dpo.cli import run_command
from mini_dpo.errors import UserError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PICTURES = "python -m tutorials.pictures"


@dataclass
class Block:
    """A fenced block of a chapter. kind and rest: the words after the fence. first: the number of its first
    line, from 0.
    """

    kind: str
    rest: str
    first: int
    lines: list[str]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@dataclass
class Step:
    """A block that was run, what it printed, and the block that shows it, if there is one."""

    code: Block
    printed: str
    shown: Block | None

    @property
    def as_shown(self) -> bool:
        return self.shown is None or same(self.shown.text, self.printed, self.shown.rest == "about")


def chapter_paths() -> dict[int, Path]:
    """All chapters by number."""
    return {int(path.name[:2]): path for path in sorted(HERE.glob("[0-9][0-9]-*.md"))}


def find_chapter(number: int) -> Path:
    paths = chapter_paths()
    if number not in paths:
        raise UserError(f"there is no chapter {number}; there are {min(paths)} to {max(paths)}")
    return paths[number]


# --- reading


def read_blocks(path: Path) -> list[Block]:
    """The fenced blocks of a chapter in order. Raises ValueError for a fence that is never closed."""
    blocks, open_block = [], None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        if open_block is None and line.startswith("```"):
            kind, _, rest = line[3:].partition(" ")
            open_block = Block(kind, rest, number + 1, [])
        elif line == "```":
            blocks.append(open_block)
            open_block = None
        elif open_block is not None:
            open_block.lines.append(line)
    if open_block is not None:
        raise ValueError(f"{path.name}, line {open_block.first}: this block is never closed")
    return blocks


def code_blocks(path: Path) -> Iterator[tuple[Block, Block | None]]:
    """Each block to run, with the block that shows what it prints."""
    blocks = read_blocks(path)
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block.kind in ("python", "sh"):
            yield block, after if after is not None and after.kind == "text" else None


# --- running


def run_chapter(path: Path, draw: Callable[[dict], str] | None = None) -> Iterator[Step]:
    """Run a chapter's blocks in order, in a folder of its own that is gone afterwards.

    draw: what to do at the command `python -m tutorials.pictures N`, given the chapter's variables: it draws
    from them, so the chapter is not run a second time. If a chapter shows the command several times, all
    pictures are drawn at the last one. None leaves that command out.
    """
    namespace: dict = {"__name__": "chapter"}
    drawn = [code for code, _ in code_blocks(path) if code.text.startswith(PICTURES)][-1:]
    with tempfile.TemporaryDirectory() as folder, inside(folder):
        for code, shown in code_blocks(path):
            if code.rest:  # `python mine.py`: a file of the reader's
                printed = ""
                Path(code.rest).write_text(code.text + "\n", encoding="utf-8")
            elif code.kind == "python":
                printed = run_python(code, path, namespace)
            elif code.text.startswith(PICTURES):
                printed = draw(namespace) if draw and code in drawn else ""
            else:
                printed = "".join(run_shell(line) for line in code.lines)
            yield Step(code, printed.rstrip(), shown)


@contextlib.contextmanager
def inside(folder: str) -> Iterator[None]:
    """The working directory, for a while. (contextlib.chdir is new in Python 3.11.)"""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_python(code: Block, path: Path, namespace: dict) -> str:
    """Execute a block in the chapter's namespace; returns what it printed. An error names the chapter's own
    line.
    """
    source = "\n" * code.first + code.text
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(source, str(path), "exec"), namespace)
    return printed.getvalue()


def run_shell(line: str) -> str:
    """Run one command of the project; returns all that it printed. It may fail: that can be what a chapter
    shows.
    """
    program, *arguments = shlex.split(line)
    if program != "python":
        raise ValueError(f"a chapter's commands begin with python, not {program}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    return done.stdout


# --- comparing

TOKEN = re.compile(r"\.\.\.|(?<!\w)-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?|\w+|[^\w\s]|\n")


def same(shown: str, printed: str, about: bool = False) -> bool:
    """Whether a block shows what was printed; the module's first lines say how closely."""
    shown_tokens, tokens = TOKEN.findall(shown.strip()), TOKEN.findall(printed.strip())
    if about:
        return similar(shown_tokens, tokens)
    first, *others = split_at_dots(shown_tokens)
    if not others:
        return len(first) == len(tokens) and stands_at(first, tokens, 0)
    if not stands_at(first, tokens, 0):
        return False
    place = len(first)
    for segment in others[:-1]:
        place = next(
            (at for at in range(place, len(tokens)) if stands_at(segment, tokens, at)), len(tokens) + 1
        ) + len(segment)
    at = len(tokens) - len(others[-1])
    return place <= at and stands_at(others[-1], tokens, at)


def split_at_dots(tokens: list[str]) -> list[list[str]]:
    """The stretches before, between and after the `...`."""
    stretches: list[list[str]] = [[]]
    for token in tokens:
        if token == "...":
            stretches.append([])
        else:
            stretches[-1].append(token)
    return stretches


def stands_at(segment: list[str], tokens: list[str], at: int) -> bool:
    """Whether a stretch of tokens stands at a place, its decimals to one unit of their last digit."""
    there = tokens[at : at + len(segment)]
    return len(there) == len(segment) and all(
        a == b or close(a, b) for a, b in zip(segment, there, strict=True)
    )


def close(shown: str, printed: str) -> bool:
    """Whether two tokens are decimal numbers that differ by no more than one unit of the shown one's last
    digit.
    """
    a, b = number(shown), number(printed)
    if a is None or b is None or not set(shown) & set(".e"):
        return False
    mantissa, _, exponent = shown.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(a - b) <= 1.001 * unit


def number(token: str) -> float | None:
    try:
        return float(token.replace(",", ""))
    except ValueError:
        return None


def similar(shown: list[str], printed: list[str]) -> bool:
    """Whether at least two thirds of the words that are shown, and two thirds of the numbers, to a quarter,
    were printed in the same order. Many words do not make up for wrong numbers.
    """
    shown = [token for token in shown if token != "..."]
    words, others = (
        ["#" if number(token) is not None else token for token in tokens] for tokens in (shown, printed)
    )
    matches = difflib.SequenceMatcher(None, words, others, autojunk=False).get_matching_blocks()
    pairs = [(shown[a + i], printed[b + i]) for a, b, n in matches for i in range(n)]
    asked = [number(token) is not None for token in shown]  # True for a number, False for a word
    right = [number(a) is not None for a, b in pairs if a == b or roughly(a, b)]
    return all(right.count(kind) >= 2 / 3 * asked.count(kind) for kind in (True, False))


def roughly(shown: str, printed: str) -> bool:
    """Whether two tokens are numbers that differ by no more than a quarter, or a quarter of one."""
    a, b = number(shown), number(printed)
    return a is not None and b is not None and abs(a - b) <= 0.25 * max(abs(a), abs(b), 1)


# --- the command


def write_outputs(path: Path, steps: list[Step]) -> int:
    """Put what was printed into the chapter, in the blocks that show something else; returns how many were
    changed.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    changed = [step for step in steps if step.shown and not step.as_shown]
    for step in reversed(changed):
        lines[step.shown.first : step.shown.first + len(step.shown.lines)] = [
            line.rstrip() for line in step.printed.splitlines()
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return len(changed)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tutorials.chapters",
        description="Run a chapter's code and show what it prints.",
        allow_abbrev=False,
    )
    parser.add_argument("chapter", type=int, help="its number")
    parser.add_argument(
        "--write", action="store_true", help="put what is printed into the chapter, where it has changed"
    )
    settings = parser.parse_args()
    path = find_chapter(settings.chapter)
    steps = []
    for step in run_chapter(path):
        steps.append(step)
        print(
            f"{path.name}, line {step.code.first + 1}:\n",
            *(f"    {line}\n" for line in step.code.lines),
            sep="",
        )
        print(step.printed, end="\n\n" if step.printed else "", flush=True)
        if not step.as_shown:
            print(f"(the chapter shows something else here, from line {step.shown.first + 1})\n")
    if settings.write:
        print(f"{path}: {write_outputs(path, steps)} blocks written")


if __name__ == "__main__":
    run_command(main)
