"""Check your answers.

python -m tutorials.exercises 4      those of chapter 4
python -m tutorials.exercises        how far you are
"""

from __future__ import annotations

import argparse
import importlib
import sys
import textwrap
from pathlib import Path

from mini_dpo.cli import run_command
from mini_dpo.errors import UserError
from tutorials.exercises.checking import Verdict, judge, load_checks

HERE = Path(__file__).resolve().parent
CHAPTERS = sorted(int(path.stem[-2:]) for path in HERE.glob("chapter_*.py"))


def judge_chapter(chapter: int, package: str = "tutorials.exercises") -> dict[str, Verdict]:
    """The verdict on each exercise of a chapter. package: where the answers are."""
    path = HERE / f"chapter_{chapter:02}.py"
    try:
        answers = importlib.import_module(f"{package}.chapter_{chapter:02}")
    except Exception as error:  # the reader's file
        line = getattr(error, "lineno", None)
        raise UserError(
            f"{path}{f', line {line}' if line else ''}: cannot be read ({type(error).__name__}: {error})"
        ) from error
    verdicts = {}
    for name, properties in load_checks(chapter).items():
        if not hasattr(answers, name):
            raise UserError(
                f"{path}: there is no function {name}; put it back (git diff shows what was there)"
            )
        verdicts[name] = judge(getattr(answers, name), properties)
    return verdicts


def show_chapter(chapter: int) -> bool:
    """Print a chapter's verdicts; returns whether all are right."""
    verdicts = judge_chapter(chapter)
    path = f"tutorials/exercises/chapter_{chapter:02}.py"
    for i, (name, verdict) in enumerate(verdicts.items(), 1):
        state = {
            "right": f"right, {verdict.text}",
            "wrong": "WRONG",
            "empty": f"nothing there yet; write it in {path}",
        }[verdict.state]
        print(f"{chapter}.{i}  {name}: {state}")
        if verdict.state == "wrong":
            print(textwrap.indent(verdict.text, "       "))
    return all(verdict.state == "right" for verdict in verdicts.values())


def show_all() -> None:
    """A line a chapter."""
    print("+ right, ! wrong, . nothing there yet; python -m tutorials.exercises 1 tells more of chapter 1")
    for chapter in CHAPTERS:
        states = [verdict.state for verdict in judge_chapter(chapter).values()]
        signs = "".join({"right": "+", "wrong": "!", "empty": "."}[state] for state in states)
        print(f"chapter {chapter:2}  {signs}  {states.count('right')} of {len(states)} right")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tutorials.exercises",
        description="Check your answers to a chapter's exercises.",
        allow_abbrev=False,
    )
    parser.add_argument("chapter", type=int, nargs="?", help="its number (default: an overview)")
    chapter = parser.parse_args().chapter
    if chapter is None:
        show_all()
    elif chapter not in CHAPTERS:
        raise UserError(
            f"there are exercises for chapters {CHAPTERS[0]} to {CHAPTERS[-1]}, not for {chapter}"
        )
    elif not show_chapter(chapter):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
