"""What the losses look like: value and slope against the margin."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mini_dpo.losses import LOSSES, Loss, find_loss
from mini_dpo.plot.numbers import FARTHEST, LARGEST_MARGIN, Curve, curve, in_units_of_the_start
from mini_dpo.plot.paper import DARK, DASHED, LIGHT, compact, grid, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_losses(settings: argparse.Namespace) -> None:
    """The command `plot losses`. settings: its arguments."""
    losses = [find_loss(name) for name in settings.loss or LOSSES]
    figure = new_figure()
    if len(losses) == 1:
        draw_one_loss(figure, losses[0])
    else:
        draw_losses(figure, losses)
    print(save(figure, Path(settings.out)))


VALUE, SLOPE, MARGIN = (
    "loss L",
    "slope dL/dm",
    "margin m: implicit reward of the chosen response minus that of the rejected one",
)


def draw_losses(figure: Figure, losses: Sequence[Loss]) -> None:
    """One panel for each loss, each in units of its slope at the reference, so that they can be compared."""
    curves = [in_units_of_the_start(curve(variant)) for variant in losses]
    panels = grid(figure, len(losses))
    for axes, variant, found in zip(panels, losses, curves, strict=True):
        draw_curve(axes, found)
        axes.set_ylim(-6, 6)
        axes.set_title(
            variant.name + ("" if variant.paired else " *"), loc="left", fontsize=11, fontweight="bold", pad=3
        )
        axes.tick_params(labelsize=9)
        axes.locator_params(nbins=4, steps=[1, 2, 5, 10])
    figure.supxlabel(MARGIN, fontsize=13)
    figure.supylabel("L (0 at the reference) and dL/dm (−1 at the reference)", fontsize=13)
    note = f"default hyperparameters{notes(losses, curves)}"
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=2,
        fontsize=13,
        title=note,
        title_fontsize=11,
    )


def notes(losses: Sequence[Loss], curves: Sequence[Curve]) -> str:
    """What the legend says about losses that are not like DPO."""
    short = [variant.name for variant, found in zip(losses, curves, strict=True) if not complete(found)]
    text = (
        f"; {', '.join(short)}: as far as the margin gets while each log-prob moves by "
        f"{FARTHEST / 2:.0f} nats"
        if short
        else ""
    )
    return text + (
        ""
        if all(variant.paired for variant in losses)
        else "; *: a liked response and a disliked one together"
    )


def complete(found: Curve) -> bool:
    """Whether the curve reaches about the end of the axis."""
    return bool(found.margin.max() > 0.9 * LARGEST_MARGIN)


def draw_one_loss(figure: Figure, variant: Loss) -> None:
    """One large panel, with the formula and its source below."""
    found = curve(variant)
    axes = figure.subplots()
    draw_curve(axes, found)
    hyperparameters = ", ".join(f"{name} = {default}" for name, default in variant.hyperparameters.items())
    axes.set_title(f"{variant.name}{'' if variant.paired else ' *'}   {hyperparameters}", fontsize=18)
    axes.set_xlabel(MARGIN + notes([variant], [found]).replace("; ", "\n"), fontsize=14)
    axes.set_ylabel(f"{VALUE}  and  {SLOPE}", fontsize=14)
    axes.tick_params(labelsize=13)
    axes.legend(fontsize=14)
    lines = [*variant.formula.splitlines(), variant.paper]
    size = min(16, 1500 / max(map(len, lines)))  # a letter is 0.6 of its size wide, and the page 960 points
    figure.supxlabel(
        "\n".join(lines), fontsize=size, linespacing=1.5, multialignment="left", family="monospace"
    )


def draw_curve(axes: Axes, found: Curve) -> None:
    """A loss and its slope over the margin, with thin lines through the origin."""
    axes.axvline(0, color=LIGHT, linewidth=0.8)
    axes.axhline(0, color=LIGHT, linewidth=0.8)
    axes.plot(found.margin, found.value, color=DARK, linewidth=2, label=VALUE)
    axes.plot(found.margin, found.slope, color=DARK, linewidth=1.5, linestyle=DASHED, label=SLOPE)
    edge = LARGEST_MARGIN if complete(found) else float(found.margin.max())
    axes.set_xlim(-edge, edge)
    axes.yaxis.set_major_formatter(compact)
