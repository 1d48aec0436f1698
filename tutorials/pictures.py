"""Draw a chapter's pictures, from the very numbers that the chapter computes.

    python -m tutorials.pictures 4        run chapter 4 and draw its pictures into tutorials/pictures
    python -m tutorials.pictures          those of all chapters

The drawings are in tutorials/drawings. matplotlib is needed: pip install -r tutorials/requirements.txt
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from mini_dpo.cli import run_command
from mini_dpo.plot.paper import new_figure, save
from tutorials.chapters import HERE, PICTURES, chapter_paths, find_chapter, run_chapter
from tutorials.drawings import DRAWINGS

FOLDER = HERE / "pictures"


def draw(chapter: int, folder: Path, variables: dict) -> str:
    """Draw a chapter's pictures into a folder; returns what the command prints: where they are."""
    for function in DRAWINGS[chapter]:
        figure = new_figure()
        function(figure, variables)
        save(figure, folder / f"{function.__name__}.png")
    return "\n".join(f"tutorials/pictures/{function.__name__}.png" for function in DRAWINGS[chapter])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tutorials.pictures", description="Draw a chapter's pictures.", allow_abbrev=False
    )
    parser.add_argument("chapter", type=int, nargs="?", help="its number (default: all)")
    settings = parser.parse_args()
    new_figure()  # where matplotlib is missing, say so before the chapter runs
    for chapter in [settings.chapter] if settings.chapter is not None else chapter_paths():
        for step in run_chapter(find_chapter(chapter), partial(draw, chapter, FOLDER)):
            if step.code.text.startswith(PICTURES) and step.printed:
                print(step.printed, flush=True)


if __name__ == "__main__":
    run_command(main)
