"""The curves of one run, and of several runs side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mini_dpo.errors import UserError, expecting
from mini_dpo.files import read_json
from mini_dpo.plot.comparison import draw_frontier
from mini_dpo.plot.paper import DARK, DASHED, LIGHT, grid, new_figure, save
from mini_dpo.saving.metrics import PANELS, Series, change_since_start, read_metrics, series
from mini_dpo.train.parsing import read_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ONE_COLUMN = 13  # names that fit under each other in the legend


def plot_run(settings: argparse.Namespace) -> None:
    """The command `plot run`. settings: its arguments."""
    run = Path(settings.run)
    rows = read_metrics(run)
    figure = new_figure()
    draw_run(figure, rows)
    figure.suptitle(title_of(run))
    print(save(figure, Path(settings.out) if settings.out else run / "curves.png"))


def title_of(run: Path) -> str:
    """The run's folder, and its loss if there is one."""
    loss = loss_of(run)
    return f"{run}: {loss}" if loss else str(run)


def loss_of(run: Path) -> str | None:
    """The name of the loss of a run's preference stage; None if the run does not say."""
    if not (run / "config.json").exists():
        return None
    settings, _ = read_config(run)
    return settings.loss.rsplit(":", 1)[-1] if settings.stage != "sft" else None


def draw_run(figure: Figure, rows: Sequence[dict]) -> None:
    """One panel for each metric that the run has."""
    there = [
        (stage, names, label)
        for stage, names, label in PANELS
        if any(len(series(rows, stage, name).steps) for name in names)
    ]
    panels = grid(figure, len(there))
    for axes, (stage, names, label) in zip(panels, there, strict=True):
        for name, line, marker in zip(names, ("-", DASHED), "os", strict=False):
            draw_metric(axes, series(rows, stage, name), series(rows, stage, f"eval_{name}"), line, marker)
        axes.set_xlabel(f"{'SFT' if stage == 'sft' else 'preference training'} step")
        axes.set_ylabel(label)
        if names == ["rewards/accuracies"]:
            axes.set_ylim(0, 1.02)
        if len(names) > 1:
            lines = axes.get_lines()
            both = list(
                zip(lines[1::3], lines[2::3], strict=True)
            )  # a running mean with its held-out points, twice
            axes.legend(
                both,
                [name.removeprefix("logps/") for name in names],
                loc="lower left",
                bbox_to_anchor=(0, 1),
                ncols=2,
                borderpad=0,
            )
    figure.legend(
        panels[0].get_lines(),
        ["training batches", "their running mean", "held-out examples"],
        loc="outside lower center",
        ncols=3,
    )


def draw_metric(axes: Axes, train: Series, held_out: Series, line: str | tuple, marker: str) -> None:
    """The training steps as a pale line, their running mean as a dark line, the held-out examples as
    points.
    """
    axes.plot(train.steps, train.values, color=LIGHT, linewidth=0.8)
    axes.plot(train.steps, train.smooth, color=DARK, linewidth=2, linestyle=line)
    axes.plot(held_out.steps, held_out.values, marker, color=DARK, markerfacecolor="white", markersize=7)


def plot_compare(settings: argparse.Namespace) -> None:
    """The command `plot compare`. settings: its arguments."""
    runs = list(dict.fromkeys(Path(run) for run in settings.runs))
    names = names_of(runs)
    logs = {name: read_metrics(run) for name, run in zip(names, runs, strict=True)}
    for run, rows in zip(runs, logs.values(), strict=True):
        if not any(row["stage"] == "dpo" for row in rows):
            raise UserError(f"{run}: no step of preference training in it; leave it out")
    summaries = {
        name: read_json(run / "summary.json")
        for name, run in zip(names, runs, strict=True)
        if (run / "summary.json").exists()
    }
    figure = new_figure()
    with expecting(" or ".join(str(run / "summary.json") for run in runs), "the table of a run"):
        judged = all(
            summaries.get(name, {}).get("dpo", {}).get(key) is not None
            for name in names
            for key in ("reward", "kl")
        )
        draw_runs(figure, logs, summaries if judged else {})
    print(save(figure, Path(settings.out)))


def names_of(runs: Sequence[Path]) -> list[str]:
    """The name of each run: its loss; if another run has the same loss, the path and the loss."""
    losses = [loss_of(run) for run in runs]
    return [
        loss if loss and losses.count(loss) == 1 else title_of(run)
        for run, loss in zip(runs, losses, strict=True)
    ]


def draw_runs(figure: Figure, logs: dict[str, list[dict]], summaries: dict[str, dict]) -> None:
    """Margin, accuracy and the change of the log-probs; true reward against KL if there are summaries."""
    panels = figure.subplot_mosaic(
        [["margin", "accuracy", "right"], ["chosen", "rejected", "below" if summaries else "right"]]
    )
    for i, (name, rows) in enumerate(logs.items()):
        for panel, metric in (("margin", "rewards/margins"), ("accuracy", "rewards/accuracies")):
            found = series(rows, "dpo", metric)
            panels[panel].plot(found.steps, found.smooth, label=name, **line_style(i))
        for side in ("chosen", "rejected"):
            found = series(rows, "dpo", f"logps/{side}")
            panels[side].plot(found.steps, change_since_start(found), **line_style(i))
    for panel, label in {
        "margin": "reward margin, each loss's own unit",
        "accuracy": "accuracy, share of examples",
        "chosen": "change of the chosen log-prob, nats",
        "rejected": "change of the rejected log-prob, nats",
    }.items():
        panels[panel].set_xlabel("preference training step")
        panels[panel].set_ylabel(label)
        if panel in ("chosen", "rejected"):
            panels[panel].axhline(0, color=LIGHT, linewidth=0.8)
    panels["right"].axis("off")
    columns = 1 if len(logs) <= ONE_COLUMN else 2
    panels["right"].legend(
        *panels["margin"].get_legend_handles_labels(),
        loc="center",
        ncols=columns,
        fontsize=10,
        title="running means of",
    )
    if summaries:
        draw_frontier(figure, panels["below"], summaries, size=9)


def line_style(i: int) -> dict:
    """How to draw line number i: the first 26 differ without colour, by marker and dash."""
    # told apart by the colour-blind
    colour = ["black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"][i % 7]
    markers = {"marker": "os^vD<>pP*Xhd"[i % 13], "markersize": 5, "markevery": (i % 13 / 130, 0.1)}
    return {"color": colour, "linestyle": ("-", DASHED)[i // 13 % 2], "linewidth": 1.4, **markers}
