"""The picture of `compare`: true reward against KL divergence, and the change of log-probs, for
every loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from mini_dpo.plot.paper import DARK, LIGHT, compact, new_figure, place_labels, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FAR = 5  # times the median is far away


def draw_compare(summaries: dict[str, dict], path: Path) -> None:
    """Draw the picture of `python -m mini_dpo.compare` from the summaries of one run for each loss: true
    reward against KL, with the errors that the summaries have, and the change of the log-probs of held-out
    pairs. A loss has the same number on both sides. Writes a PNG file and prints its path.
    """
    ranked = sorted(summaries, key=lambda name: -summaries[name]["dpo"]["reward"])
    figure = new_figure()
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    draw_changes(right, {f"{name}  {i}": summaries[name] for i, name in enumerate(ranked, 1)})
    draw_frontier(figure, left, {str(i): summaries[name] for i, name in enumerate(ranked, 1)}, size=12)
    print(save(figure, path))


def draw_changes(axes: Axes, summaries: dict[str, dict]) -> None:
    """One row for each loss, the highest true reward first: the change of the chosen and of the rejected
    log-prob.
    """
    names = sorted(summaries, key=lambda name: -summaries[name]["dpo"]["reward"])
    moves = {
        side: [summaries[n]["dpo"][f"logps/{side}"] - summaries[n]["sft"][f"logps/{side}"] for n in names]
        for side in ("chosen", "rejected")
    }
    set_scale(axes, moves["chosen"] + moves["rejected"], "change of log-prob since SFT, nats per response")
    axes.axvline(0, color=LIGHT, linewidth=0.8)
    axes.hlines(range(len(names)), moves["chosen"], moves["rejected"], color=LIGHT)
    axes.plot(moves["chosen"], range(len(names)), "o", color=DARK, label="chosen")
    axes.plot(
        moves["rejected"], range(len(names)), "o", color=DARK, markerfacecolor="white", label="rejected"
    )
    axes.set_yticks(range(len(names)), names, fontsize=11)
    axes.invert_yaxis()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def draw_frontier(figure: Figure, axes: Axes, summaries: dict[str, dict], size: float) -> None:
    """True reward against KL: a point with a name for each run, and the SFT model, where all began. A run
    that is much farther away than the others is named in a corner: the others would be one dot beside it.
    size: of the names, in points.
    """
    sft = next(iter(summaries.values()))["sft"]["reward"]
    places_of = {name: (s["dpo"]["kl"], s["dpo"]["reward"]) for name, s in summaries.items()}
    far_away = max(1.0, FAR * median(kl for kl, _ in places_of.values()))
    near = {name: place for name, place in places_of.items() if place[0] <= far_away}
    if far := [f"{name} ({x:.0f} nats, {y:.1f})" for name, (x, y) in places_of.items() if name not in near]:
        axes.text(0.98, 0.02, "not shown: " + ", ".join(far), ha="right", transform=axes.transAxes)
    summaries = {name: summaries[name] for name in near}
    points = {"SFT": (0.0, sft)} | near
    kl, reward = zip(*points.values(), strict=True)
    axes.set_xlabel("KL(policy || SFT), nats per response")
    axes.plot(kl[1:], reward[1:], "o", color=DARK, markersize=6, zorder=4)  # above the lines to the names
    errors = [[s["dpo"].get(f"{key}_error") or 0.0 for s in summaries.values()] for key in ("kl", "reward")]
    axes.errorbar(kl[1:], reward[1:], errors[1], errors[0], fmt="none", ecolor=LIGHT, zorder=1)
    axes.plot(0, sft, "s", color=DARK, markerfacecolor="white", markersize=8, zorder=4)
    axes.set_ylabel("true reward")
    axes.margins(0.12)
    figure.draw_without_rendering()  # only now is it known where the panel lies
    to_points = 72 / figure.dpi
    places = [tuple(xy) for xy in axes.transData.transform(list(points.values())) * to_points]
    left, bottom, right, top = axes.bbox.extents
    frame = left * to_points, bottom * to_points, right * to_points, top * to_points
    corners = place_labels(places, [0.62 * size * len(name) for name in points], 1.2 * size, frame)
    for name, point, (x, y), (left, bottom) in zip(points, points.values(), places, corners, strict=True):
        line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.8}
        axes.annotate(
            name,
            point,
            (left - x, bottom - y),
            textcoords="offset points",
            va="bottom",
            fontsize=size,
            arrowprops=line,
        )


def set_scale(axes: Axes, values: Sequence[float], label: str) -> None:
    """Name the x axis. If a few values are far larger than the median, the axis is logarithmic there."""
    sizes = torch.tensor(values).abs()
    usual = float(sizes.median())
    if sizes.max() > FAR * usual > 0:
        usual = 10 ** math.ceil(math.log10(usual))
        axes.set_xscale("symlog", linthresh=usual, linscale=2)
        axes.set_xticks(
            sorted({sign * far * usual for far in (0, 0.5, 1, 10, 100, 1000) for sign in (-1, 1)})
        )
        axes.xaxis.set_major_formatter(compact)
        label += f"\n(logarithmic beyond {usual:g})"
    axes.set_xlabel(label)
