"""A picture of pictures: the first held-out ones of a world that is seen, with the captions of each model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mini_dpo.errors import UserError
from mini_dpo.evaluation.measuring import answer_prompts
from mini_dpo.evaluation.table import heading
from mini_dpo.pictures import VALUES
from mini_dpo.plot.paper import new_figure, save
from mini_dpo.saving.checkpoint import load_model
from mini_dpo.train.parsing import read_config
from mini_dpo.worlds import sight
from mini_dpo.worlds.gallery import look
from mini_dpo.worlds.world import rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 8  # pictures
LONGEST = 64  # tokens of a caption
INK = dict(
    zip(VALUES, [(1.0, 1.0, 1.0), (0.84, 0.24, 0.16), (0.2, 0.6, 0.3), (0.2, 0.35, 0.75)], strict=True)
)


def plot_pictures(settings: argparse.Namespace) -> None:
    """The command `plot pictures`. settings: its arguments."""
    runs = [Path(run) for run in settings.runs]
    models = {"SFT": runs[0] / "sft.pt"}
    for run in runs:
        begun, _ = read_config(run)
        if begun.world not in GALLERY:
            raise UserError(
                f"{run}: its prompts are no pictures; name runs of --world {' or '.join(GALLERY)}"
            )
        if not (run / "dpo.pt").exists():
            raise UserError(f"{run}: no preference training in it; leave it out")
        models[f"{heading(begun.loss)}, {begun.world}"] = run / "dpo.pt"
    figure = new_figure()
    draw_captions(figure, *captions_of(models, settings.seed))
    print(save(figure, Path(settings.out)))


def captions_of(models: dict[str, Path], seed: int) -> tuple[list[str], dict[str, list[str]]]:
    """(The first test pictures of the gallery, and the caption that each model writes to each of them.)"""
    prompts = [row["prompt"] for row in rows_of(sight.SIGHT)["test"][1][:SHOWN]]
    captions = {}
    for name, path in models.items():
        model, tokenizer = load_model(path, dropout=0.0)
        written = answer_prompts(model.eval(), tokenizer, prompts, LONGEST, seed)
        captions[name] = [tokenizer.decode_response(ids) for ids in written]
    return prompts, captions


GALLERY = [world.name for world in (sight.SIGHT, sight.SIGHT_ADDED, sight.SIGHT_SWAPPED)]


def draw_captions(figure: Figure, prompts: Sequence[str], captions: dict[str, list[str]]) -> None:
    """A row for each picture: the picture, and of each model (a key of captions) what it names. What is made
    up is bold and has a cross, what the picture has and the caption has not is pale.
    """
    panels = figure.subplots(
        len(prompts), 1 + len(captions), squeeze=False, width_ratios=[0.4, *[1] * len(captions)]
    )
    for picture, row in zip(prompts, panels, strict=True):
        row[0].imshow([[INK[pixel] for pixel in line] for line in picture.split("\n")])
        row[0].set(xticks=[], yticks=[])
        row[0].spines[:].set_visible(True)
    for column, (name, texts) in enumerate(captions.items(), 1):
        panels[0, column].set_title(name, loc="left")
        for picture, text, row in zip(prompts, texts, panels, strict=True):
            row[column].axis("off")
            write_caption(row[column], lines_of(picture, text))


def lines_of(picture: str, text: str) -> list[tuple[str, str]]:
    """What a caption names, a line each, and how it is drawn: "right", "wrong" in a detail, or "made up";
    then what it misses, "missed".
    """
    lines = []
    pairs = sight.matched(picture, text)
    for told, truth in pairs:
        thing = " ".join(filter(None, (told.size, told.colour, told.shape)))
        says = ", ".join(filter(None, (thing, told.place)))
        lines.append((says, "made up" if truth is None else "right" if told == truth else "wrong"))
    named = {truth.shape for _, truth in pairs if truth}
    missed = [(f"(no {thing.shape})", "missed") for thing in look(picture) if thing.shape not in named]
    return lines + missed


def write_caption(axes: Axes, lines: Sequence[tuple[str, str]]) -> None:
    """The lines below each other, each drawn as its kind asks."""
    looks: dict[str, dict[str, Any]] = {
        "right": {},
        "wrong": {"style": "italic"},
        "made up": {"weight": "bold", "color": "#b00020"},
        "missed": {"color": "0.6"},
    }
    for i, (says, kind) in enumerate(lines):
        says = f"\N{BALLOT X} {says}" if kind == "made up" else says
        axes.text(0, 0.95 - 0.2 * i, says, fontsize=8, va="top", transform=axes.transAxes, **looks[kind])
