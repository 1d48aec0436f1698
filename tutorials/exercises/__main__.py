"""Check your answers.

python -m tutorials.exercises 4                  those of chapter 4
python -m tutorials.exercises                    how far you are
python -m tutorials.exercises ladder             your answers in the place of the package's pieces
python -m tutorials.exercises ladder --shop RUN  the shop, aligned by your pieces alone, from RUN's SFT model
"""

from __future__ import annotations

import argparse
import importlib
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from mini_dpo.cli import run_command
from mini_dpo.corpus.worlds import world_corpus
from mini_dpo.errors import UserError
from mini_dpo.saving.checkpoint import find_model, load_model
from tutorials.exercises.checking import Verdict, judge, load_checks
from tutorials.exercises.ladder import LANDED, PIECES, RUNGS, SURE, Pieces, align_the_shop, climb

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
    for i, (name, verdict) in enumerate(verdicts.items(), 1):
        state = {
            "right": f"right, {verdict.text}",
            "wrong": "WRONG",
            "empty": f"nothing there yet; write {verdict.text}",
        }[verdict.state]
        print(f"{chapter}.{i}  {name}: {state}")
        if verdict.state == "wrong":
            print(textwrap.indent(verdict.text, "       "))
    return all(verdict.state == "right" for verdict in verdicts.values())


def show_all() -> None:
    """A line a chapter, and the rungs of the ladder that can be stood on."""
    print("+ right, ! wrong, . nothing there yet; python -m tutorials.exercises 1 tells more of chapter 1")
    judged = {}
    for chapter in CHAPTERS:
        judged[chapter] = judge_chapter(chapter)
        states = [verdict.state for verdict in judged[chapter].values()]
        signs = "".join({"right": "+", "wrong": "!", "empty": "."}[state] for state in states)
        print(f"chapter {chapter:2}  {signs}  {states.count('right')} of {len(states)} right")
    print("the ladder of chapter 22")
    there = pieces_in(judged)
    for name, title in RUNGS.items():
        print(f"  {'+' if name in there else '.'} {title}")


def right_pieces(package: str = "tutorials.exercises") -> dict[str, Callable]:
    """Those answers of the reader that are pieces of the ladder and are right. package: where they are."""
    chapters = {chapter for chapter, _ in PIECES.values()}
    return pieces_in({chapter: judge_chapter(chapter, package) for chapter in chapters}, package)


def pieces_in(
    judged: dict[int, dict[str, Verdict]], package: str = "tutorials.exercises"
) -> dict[str, Callable]:
    """The same from the verdicts on chapters that are judged already."""
    return {
        name: getattr(importlib.import_module(f"{package}.chapter_{chapter:02}"), name)
        for name, (chapter, _) in PIECES.items()
        if judged[chapter][name].state == "right"
    }


def show_ladder(mine: Pieces) -> bool:
    """Climb, a line a rung; returns whether everything is the reader's and lands."""
    below = True
    for title, value in climb(mine):
        last = title == RUNGS["respond"]
        holds = value < SURE if last else value < LANDED
        what = f"{value:.1f} standard errors from the true mean" if last else f"{value:.1e} nats from pi*"
        print(f"{'lands' if holds else 'MISSES':7} {title:30} {what}", flush=True)
        below = below and holds
    missing = [name for name in RUNGS if getattr(mine, name) is None]
    if missing:
        print(
            f"the next rung: {RUNGS[missing[0]]}, which must be right first; "
            f"python -m tutorials.exercises {PIECES[missing[0]][0]} says what is missing"
        )
    return below and not missing


def show_shop(mine: Pieces, run: Path) -> None:
    """Align the shop. Raises UserError if a piece is missing."""
    if missing := [title for name, title in RUNGS.items() if getattr(mine, name) is None]:
        raise UserError(f"the shop needs all of your pieces; these are not right yet: {', '.join(missing)}")
    model, tokenizer = load_model(find_model(run), dropout=0.0)
    align_the_shop(mine, model, world_corpus("shop", tokenizer, model.config.context), tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tutorials.exercises",
        description="Check your answers to a chapter's exercises.",
        allow_abbrev=False,
    )
    parser.add_argument("chapter", nargs="?", help="its number, or ladder (default: an overview)")
    parser.add_argument("--shop", metavar="RUN", type=Path, help="with ladder: align the shop, from this SFT")
    asked = parser.parse_args()
    chapter = int(asked.chapter) if str(asked.chapter).isdecimal() else asked.chapter
    if chapter == "ladder":
        mine = Pieces(**right_pieces())
        if asked.shop:
            show_shop(mine, asked.shop)
        elif not show_ladder(mine):
            sys.exit(1)
    elif chapter is None:
        show_all()
    elif chapter not in CHAPTERS:
        raise UserError(
            f"there are exercises for chapters {CHAPTERS[0]} to {CHAPTERS[-1]}, and ladder, not for {chapter}"
        )
    elif not show_chapter(chapter):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
