"""Pictures: what the losses look like, how a run went, and several runs side by side.

    python -m mini_dpo.plot losses                    value and slope of every loss, one panel each
    python -m mini_dpo.plot losses --loss dpo         one loss on a page of its own, with its formula
    python -m mini_dpo.plot run runs/1                the curves of a run
    python -m mini_dpo.plot compare runs/1 runs/2     the preference stages of several runs, named by their loss

The numbers come first and need nothing but torch; matplotlib is asked for where a picture begins (`new_figure`). All
pictures have the shape of a slide and can be read without colour.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mini_dpo.cli import Parser, run_command
from mini_dpo.errors import UserError, expecting
from mini_dpo.files import LARGEST_LOG, read_bytes, read_json, read_unchanged, write_whole
from mini_dpo.losses import LOSSES, Loss, find_loss
from mini_dpo.probe import along_margin, margin, one_by_one, value
from mini_dpo.settings import read_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def main() -> None:
    settings = parser().parse_args()
    settings.command(settings)


def parser() -> Parser:
    """One sub-command a picture."""
    parser = Parser(prog="python -m mini_dpo.plot", description="Draw losses and runs as PNG pictures.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="PICTURE")
    losses = commands.add_parser("losses", help="value and slope of every loss against the margin", allow_abbrev=False)
    losses.add_argument("--loss", nargs="+", metavar="NAME", help="only these; also file.py:function (default: all)")
    losses.add_argument("--out", default="losses.png", metavar="PATH", help="the picture (default: %(default)s)")
    losses.set_defaults(command=plot_losses)
    run = commands.add_parser("run", help="the curves of one run", allow_abbrev=False)
    run.add_argument("run", metavar="RUN", help="a run's folder")
    run.add_argument("--out", metavar="PATH", help="the picture (default: RUN/curves.png)")
    run.set_defaults(command=plot_run)
    compare = commands.add_parser("compare", help="the preference stages of several runs", allow_abbrev=False)
    compare.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    compare.add_argument("--out", default="compare.png", metavar="PATH", help="the picture (default: %(default)s)")
    compare.set_defaults(command=plot_compare)
    return parser


# ---------------------------------------------------------------------------------------- the numbers: losses

FARTHEST = 118.0  # nats of h: the chosen response gains half of them, and its log-prob stays negative
LARGEST = 6.0  # the margin at which a curve ends


class Curve(NamedTuple):
    """A loss along the margin: (N,) each, in float64. margin: m, rising. value: L. slope: dL/dm."""

    margin: Tensor
    value: Tensor
    slope: Tensor


def curve(loss: Loss, points: int = 401) -> Curve:
    """A loss with its default hyperparameters along a path that begins at the reference, in both directions: the chosen
    response gains h/2 nats and the rejected one loses as many, until the margin is 6 or the chosen one is nearly certain.

    Margins differ between losses by their beta, so slopes are per unit of margin: dL/dh divided by dm/dh. Where the
    margin stands still there is none (nan). Raises UserError for a loss of the user's own that fails.
    """
    hyper = loss.hyperparameters
    ask = value if loss.fact("decomposes", **hyper) else one_by_one
    try:
        h = torch.linspace(-FARTHEST, FARTHEST, 20_001, dtype=torch.float64)
        reach = h[margin(loss, along_margin(h), hyper).abs() <= LARGEST].abs().max()
        h = torch.linspace(-1, 1, points, dtype=torch.float64).mul(reach).requires_grad_()  # (N,)
        m, values = margin(loss, along_margin(h), hyper), ask(loss, along_margin(h), hyper)
        (dm,) = torch.autograd.grad(m.sum(), h)
        (dL,) = torch.autograd.grad(values.sum(), h)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UserError(f"--loss {loss.name}: no curve can be drawn ({type(error).__name__}: {error})") from error
    return Curve(m.detach(), values.detach(), dL / dm)


# ------------------------------------------------------------------------------------------ the numbers: runs


class Series(NamedTuple):
    """A metric over a stage: steps (N,) and values (N,), float64, at those steps that have it."""

    steps: Tensor
    values: Tensor

    @property
    def smooth(self) -> Tensor:
        """The running mean over a fifteenth of the stage: (N,)."""
        return running_mean(self.values, max(1, len(self.values) // 30))


def running_mean(values: Tensor, radius: int) -> Tensor:
    """The mean of each value and its neighbours up to `radius` away, fewer at the two ends: (N,) -> (N,)."""
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])  # (N + 1,)
    here = torch.arange(len(values))
    first, end = (here - radius).clamp(min=0), (here + radius + 1).clamp(max=len(values))
    return (sums[end] - sums[first]) / (end - first)


def read_metrics(run: Path) -> list[dict]:
    """The rows of a run's metrics.jsonl. Raises UserError where there are none, or for a line that is no such row."""
    path = run / "metrics.jsonl"
    if not run.is_dir():
        raise UserError(f"{run}: there is no such folder; name a run's, like runs/1")
    if not path.exists():
        raise UserError(f"{path}: cannot be read (no such file); name the folder of a run that has begun to train")
    summary = read_json(run / "summary.json") if (run / "summary.json").exists() else {}
    lines = (read_unchanged(path, summary) if "sha256" in summary else read_bytes(path, LARGEST_LOG).decode(errors="replace")).splitlines()
    if not lines:
        raise UserError(f"{path}: no step in it yet; wait for the run, or go on with it: python -m mini_dpo.train --resume {run}")
    return [read_row(line, f"{path}, line {i}") for i, line in enumerate(lines, 1)]


def read_row(line: str, where: str) -> dict:
    """One step: its stage, its number and its metrics."""
    try:
        row = json.loads(line)
        stage = row.pop("stage")
        row = {name: math.nan if value is None else float(value) for name, value in row.items()}  # None: it was infinite
        if stage in ("sft", "dpo") and math.isfinite(row["step"]) and "loss" in row:
            return {"stage": stage, **row, "step": int(row["step"])}
        raise ValueError
    except (ValueError, OverflowError, RecursionError, AttributeError, KeyError, TypeError):
        what = 'not the metrics of a step, {"stage": "sft" or "dpo", "step": ..., "loss": ...}'
        raise UserError(f"{where}: {what}; if the run was stopped while it wrote, --resume it; else take the line out") from None


def series(rows: Sequence[dict], stage: str, name: str) -> Series:
    """A metric ("loss", or "eval_loss" on held-out examples) over a stage ("sft" or "dpo"); empty where nothing has it.

    Losses of single responses log no margins: there they are the mean reward of the liked less that of the disliked.
    """
    chosen, rejected = (name.replace("margins", side) for side in ("chosen", "rejected"))
    found = []
    for row in rows:
        if row["stage"] == stage and name in row:
            found.append((row["step"], row[name]))
        elif row["stage"] == stage and name.endswith("rewards/margins") and {chosen, rejected} <= row.keys():
            found.append((row["step"], row[chosen] - row[rejected]))
    steps, values = torch.tensor(found, dtype=torch.float64).view(-1, 2).unbind(1)
    return Series(steps, values)


def change(metric: Series) -> Tensor:
    """The smoothed metric, less where it began: (N,)."""
    return metric.smooth - metric.smooth[:1]


# ------------------------------------------------------------------------------------------------- the paper

SLIDE = (13.33, 7.5)  # inches: 16 to 9
LIGHT, DARK = "0.72", "black"
DASHED = (0, (4, 2))
STYLE = {
    "figure.dpi": 144,
    "savefig.dpi": 144,
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-4, 5),
    "legend.frameon": False,
}


def new_figure() -> Figure:
    """An empty slide. Raises UserError where matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.figure import Figure  # without pyplot it is drawn by Agg, which needs no screen
    except ImportError as error:
        raise UserError("matplotlib draws the pictures and is not installed: pip install -r tutorials/requirements.txt") from error
    matplotlib.rcdefaults()  # a user's own style would change the picture
    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=SLIDE, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.07, h_pad=0.07)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write the picture, the same bytes for the same numbers; returns where it is."""
    if path.suffix != ".png" or path.is_dir():
        raise UserError(f"--out {path}: the picture is a PNG file; give it a name that ends in .png")
    from PIL import Image  # matplotlib needs it, so it is there

    drawn = io.BytesIO()
    with expecting(path, "a picture that can be drawn"):  # numbers of 1e308 have no axis
        figure.savefig(drawn, format="png")
    few_colours = Image.open(drawn).convert("RGB").quantize(128)  # a third of the size, to the eye the same
    write_whole(path, lambda file: few_colours.save(file, format="png", optimize=True))
    return path


def grid(figure: Figure, n: int) -> list[Axes]:
    """n panels in rows, about as wide as high."""
    rows = max(1, round(math.sqrt(n * SLIDE[1] / SLIDE[0])))
    axes = list(figure.subplots(rows, math.ceil(n / rows), squeeze=False).flat)
    for unused in axes[n:]:
        unused.remove()
    return axes[:n]


def compact(number: float, position: int | None = None) -> str:
    """A number on an axis, of which matplotlib also tells the position: 20000 -> "20k"."""
    size, letter = next(((size, letter) for size, letter in ((1e6, "M"), (1e3, "k")) if abs(number) >= size), (1, ""))
    return f"{number / size:g}{letter}".replace("-", "\N{MINUS SIGN}")


# ------------------------------------------------------------------------------------------------ the losses


def plot_losses(settings: argparse.Namespace) -> None:
    """`plot losses`."""
    losses = [find_loss(name) for name in settings.loss or LOSSES]
    figure = new_figure()
    if len(losses) == 1:
        draw_one_loss(figure, losses[0])
    else:
        draw_losses(figure, losses)
    print(save(figure, Path(settings.out)))


VALUE, SLOPE, MARGIN = "loss L", "slope dL/dm", "margin m: implied reward of the chosen response, less that of the rejected one"


def draw_losses(figure: Figure, losses: Sequence[Loss]) -> None:
    """A panel a loss, each on a scale of its own."""
    curves = [curve(loss) for loss in losses]
    panels = grid(figure, len(losses))
    for axes, loss, found in zip(panels, losses, curves):
        draw_curve(axes, found)
        axes.set_title(loss.name + ("" if loss.paired else " *"), loc="left", fontsize=11, fontweight="bold", pad=3)
        axes.tick_params(labelsize=9)
        axes.locator_params(nbins=4, steps=[1, 2, 5, 10])
    figure.supxlabel(MARGIN, fontsize=13)
    figure.supylabel("L and dL/dm", fontsize=13)
    note = f"default hyperparameters{notes(losses, curves)}"
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=13, title=note, title_fontsize=11)


def notes(losses: Sequence[Loss], curves: Sequence[Curve]) -> str:
    """What must be said where not every loss is like DPO."""
    short = [loss.name for loss, found in zip(losses, curves) if not complete(found)]
    text = f"; {', '.join(short)}: as far as the margin gets while each log-prob moves by {FARTHEST / 2:.0f} nats" if short else ""
    return text + ("" if all(loss.paired for loss in losses) else "; *: a liked response and a disliked one together")


def complete(found: Curve) -> bool:
    """Whether the margin gets about as far as the axis."""
    return bool(found.margin.max() > 0.9 * LARGEST)


def draw_one_loss(figure: Figure, loss: Loss) -> None:
    """One large panel, the formula and its source beneath."""
    found = curve(loss)
    axes = figure.subplots()
    draw_curve(axes, found)
    hyperparameters = ", ".join(f"{name} = {default}" for name, default in loss.hyperparameters.items())
    axes.set_title(f"{loss.name}{'' if loss.paired else ' *'}   {hyperparameters}", fontsize=18)
    axes.set_xlabel(MARGIN + notes([loss], [found]).replace("; ", "\n"), fontsize=14)
    axes.set_ylabel(f"{VALUE}  and  {SLOPE}", fontsize=14)
    axes.tick_params(labelsize=13)
    axes.legend(fontsize=14)
    lines = [*loss.formula.splitlines(), loss.paper]
    size = min(16, 1500 / max(map(len, lines)))  # a letter is 0.6 of its size wide, and the page 960 points
    figure.supxlabel("\n".join(lines), fontsize=size, linespacing=1.5, multialignment="left", family="monospace")


def draw_curve(axes: Axes, found: Curve) -> None:
    """A loss and its slope over the margin, with thin lines through the origin."""
    axes.axvline(0, color=LIGHT, linewidth=0.8)
    axes.axhline(0, color=LIGHT, linewidth=0.8)
    axes.plot(found.margin, found.value, color=DARK, linewidth=2, label=VALUE)
    axes.plot(found.margin, found.slope, color=DARK, linewidth=1.5, linestyle=DASHED, label=SLOPE)
    edge = LARGEST if complete(found) else float(found.margin.max())
    axes.set_xlim(-edge, edge)
    axes.yaxis.set_major_formatter(compact)


# ------------------------------------------------------------------------------------------------------ one run


def plot_run(settings: argparse.Namespace) -> None:
    """`plot run`."""
    run = Path(settings.run)
    rows = read_metrics(run)
    figure = new_figure()
    draw_run(figure, rows)
    figure.suptitle(title_of(run))
    print(save(figure, Path(settings.out) if settings.out else run / "curves.png"))


def title_of(run: Path) -> str:
    """The run's folder, and its loss if it had one."""
    loss = loss_of(run)
    return f"{run}: {loss}" if loss else str(run)


def loss_of(run: Path) -> str | None:
    """The name of the loss that a run's preference stage has; None where the run does not say."""
    if not (run / "config.json").exists():
        return None
    settings, _ = read_config(run)
    return settings.loss.rsplit(":", 1)[-1] if settings.stage != "sft" else None


PANELS = [  # stage, metrics, what the axis says
    ("sft", ["loss"], "SFT loss, nats a token"),
    ("dpo", ["loss"], "preference loss"),
    ("dpo", ["rewards/margins"], "reward margin"),
    ("dpo", ["rewards/accuracies"], "accuracy, share of examples"),
    ("dpo", ["logps/chosen", "logps/rejected"], "log-prob, nats a response"),
]


def draw_run(figure: Figure, rows: Sequence[dict]) -> None:
    """A panel a metric that the run has."""
    there = [(stage, names, label) for stage, names, label in PANELS if any(len(series(rows, stage, name).steps) for name in names)]
    panels = grid(figure, len(there))
    for axes, (stage, names, label) in zip(panels, there):
        for name, line, marker in zip(names, ("-", DASHED), "os"):
            draw_metric(axes, series(rows, stage, name), series(rows, stage, f"eval_{name}"), line, marker)
        axes.set_xlabel(f"{'SFT' if stage == 'sft' else 'preference training'} step")
        axes.set_ylabel(label)
        if names == ["rewards/accuracies"]:
            axes.set_ylim(0, 1.02)
        if len(names) > 1:
            lines = axes.get_lines()
            both = list(zip(lines[1::3], lines[2::3]))  # a running mean with its held-out points, twice
            axes.legend(both, [name.removeprefix("logps/") for name in names], loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
    figure.legend(panels[0].get_lines(), ["training batches", "their running mean", "held-out examples"], loc="outside lower center", ncols=3)


def draw_metric(axes: Axes, train: Series, held_out: Series, line: str | tuple, marker: str) -> None:
    """Each training step faintly, their running mean over it, and the held-out examples as points."""
    axes.plot(train.steps, train.values, color=LIGHT, linewidth=0.8)
    axes.plot(train.steps, train.smooth, color=DARK, linewidth=2, linestyle=line)
    axes.plot(held_out.steps, held_out.values, marker, color=DARK, markerfacecolor="white", markersize=7)


# -------------------------------------------------------------------------------------------------- several runs


def plot_compare(settings: argparse.Namespace) -> None:
    """`plot compare`."""
    runs = list(dict.fromkeys(Path(run) for run in settings.runs))
    names = names_of(runs)
    logs = {name: read_metrics(run) for name, run in zip(names, runs)}
    for run, rows in zip(runs, logs.values()):
        if not any(row["stage"] == "dpo" for row in rows):
            raise UserError(f"{run}: no step of preference training in it; leave it out")
    summaries = {name: read_json(run / "summary.json") for name, run in zip(names, runs) if (run / "summary.json").exists()}
    figure = new_figure()
    with expecting(" or ".join(str(run / "summary.json") for run in runs), "the table of a run"):
        judged = all(summaries.get(name, {}).get("dpo", {}).get(key) is not None for name in names for key in ("reward", "kl"))
        draw_runs(figure, logs, summaries if judged else {})
    print(save(figure, Path(settings.out)))


def names_of(runs: Sequence[Path]) -> list[str]:
    """What each run is called: its loss; where that is another's too, the run's path and the loss."""
    losses = [loss_of(run) for run in runs]
    return [loss if loss and losses.count(loss) == 1 else title_of(run) for run, loss in zip(runs, losses)]


def draw_runs(figure: Figure, logs: dict[str, list[dict]], summaries: dict[str, dict]) -> None:
    """Margin, accuracy and what became of the log-probs; true reward against KL where there are summaries."""
    panels = figure.subplot_mosaic([["margin", "accuracy", "right"], ["chosen", "rejected", "below" if summaries else "right"]])
    for i, (name, rows) in enumerate(logs.items()):
        for panel, metric in (("margin", "rewards/margins"), ("accuracy", "rewards/accuracies")):
            found = series(rows, "dpo", metric)
            panels[panel].plot(found.steps, found.smooth, label=name, **line_style(i))
        for side in ("chosen", "rejected"):
            found = series(rows, "dpo", f"logps/{side}")
            panels[side].plot(found.steps, change(found), **line_style(i))
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
    columns = 1 if len(logs) <= 13 else 2
    panels["right"].legend(*panels["margin"].get_legend_handles_labels(), loc="center", ncols=columns, fontsize=10, title="running means of")
    if summaries:
        draw_frontier(figure, panels["below"], summaries, size=9)


def line_style(i: int) -> dict:
    """How to draw line number i: the first 26 differ without their colour, by marker and dash."""
    colour = ["black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"][i % 7]  # told apart by the colour-blind
    markers = {"marker": "os^vD<>pP*Xhd"[i % 13], "markersize": 5, "markevery": (i % 13 / 130, 0.1)}
    return {"color": colour, "linestyle": ("-", DASHED)[i // 13 % 2], "linewidth": 1.4, **markers}


# ------------------------------------------------------------------------------------------- the table's picture


def draw_compare(summaries: dict[str, dict], path: Path) -> None:
    """The picture of `python -m mini_dpo.compare`, from the summaries of one run a loss: what was gained at which price,
    and what became of the log-probs of held-out pairs. Writes a PNG file and prints its path."""
    figure = new_figure()
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    draw_changes(right, summaries)
    draw_frontier(figure, left, summaries, size=11)
    print(save(figure, path))


def draw_changes(axes: Axes, summaries: dict[str, dict]) -> None:
    """A row a loss, the highest true reward first: how far the chosen and the rejected log-prob have moved."""
    names = sorted(summaries, key=lambda name: -summaries[name]["dpo"]["reward"])
    moves = {side: [summaries[n]["dpo"][f"logps/{side}"] - summaries[n]["sft"][f"logps/{side}"] for n in names] for side in ("chosen", "rejected")}
    set_scale(axes, moves["chosen"] + moves["rejected"], "change of log-prob since SFT, nats a response")
    axes.axvline(0, color=LIGHT, linewidth=0.8)
    axes.hlines(range(len(names)), moves["chosen"], moves["rejected"], color=LIGHT)
    axes.plot(moves["chosen"], range(len(names)), "o", color=DARK, label="chosen")
    axes.plot(moves["rejected"], range(len(names)), "o", color=DARK, markerfacecolor="white", label="rejected")
    axes.set_yticks(range(len(names)), names, fontsize=11)
    axes.invert_yaxis()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def draw_frontier(figure: Figure, axes: Axes, summaries: dict[str, dict], size: float) -> None:
    """True reward against KL, a named point a run, and the SFT model, from which all began. size: of the names, points."""
    sft = next(iter(summaries.values()))["sft"]["reward"]
    points = {"SFT": (0.0, sft)} | {name: (s["dpo"]["kl"], s["dpo"]["reward"]) for name, s in summaries.items()}
    kl, reward = zip(*points.values())
    set_scale(axes, kl, "KL(policy || SFT), nats a response")
    axes.plot(kl[1:], reward[1:], "o", color=DARK, markersize=6, zorder=4)  # above the lines to the names
    axes.plot(0, sft, "s", color=DARK, markerfacecolor="white", markersize=8, zorder=4)
    axes.set_ylabel("true reward")
    axes.margins(0.12)
    figure.draw_without_rendering()  # only now is it known where the panel lies
    to_points = 72 / figure.dpi
    places = [tuple(xy) for xy in axes.transData.transform(list(points.values())) * to_points]
    frame = tuple(axes.bbox.extents * to_points)
    corners = place_labels(places, [0.62 * size * len(name) for name in points], 1.2 * size, frame)
    for name, point, (x, y), (left, bottom) in zip(points, points.values(), places, corners):
        line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.8}
        axes.annotate(name, point, (left - x, bottom - y), textcoords="offset points", va="bottom", fontsize=size, arrowprops=line)


def set_scale(axes: Axes, values: Sequence[float], label: str) -> None:
    """Name the x axis; where a few of the values lie far out, let it be logarithmic beyond what is usual."""
    sizes = torch.tensor(values).abs()
    usual = float(sizes.median())
    if sizes.max() > 10 * usual > 0:
        usual = 10 ** math.ceil(math.log10(usual))
        axes.set_xscale("symlog", linthresh=usual, linscale=2)
        axes.set_xticks(sorted({sign * far * usual for far in (0, 0.5, 1, 10, 100, 1000) for sign in (-1, 1)}))
        axes.xaxis.set_major_formatter(compact)
        label += f"\n(logarithmic beyond {usual:g})"
    axes.set_xlabel(label)


Box = tuple[float, float, float, float]  # left, bottom, right, top
AWAY = (8, 14, 24, 36, 50, 70)  # how far from its point a label may stand, in points


def place_labels(points: Sequence[tuple[float, float]], widths: Sequence[float], height: float, frame: Box) -> list[tuple[float, float]]:
    """The lower left corner of each point's label: near its point, inside the frame, and clear of the other points, the
    other labels and the lines that lead to them, as far as there is room. All in one unit, say typographic points."""
    taken: list[Box] = [(x - 8, y - 8, x + 8, y + 8) for x, y in points]  # far enough off to see whose label it is
    corners = {}
    for i in sorted(range(len(points)), key=lambda i: -widths[i]):  # the long ones first, while there is room
        (x, y), width = points[i], widths[i]
        others = taken[:i] + taken[i + 1 :]

        def cost(boxes: list[Box]) -> float:
            covered = sum(overlap(box, other) for box in boxes for other in others)
            return covered + 10 * (width * height - overlap(boxes[0], frame))

        best = label_and_line(x, y, width, height, 0, AWAY[0])
        for away in AWAY:
            if cost(best) > 1e-6:  # not clear yet: look farther off
                best = min([best, *(label_and_line(x, y, width, height, turn, away) for turn in range(16))], key=cost)
        taken += best
        corners[i] = best[0][:2]
    return [corners[i] for i in range(len(points))]


def label_and_line(x: float, y: float, width: float, height: float, turn: int, away: float) -> list[Box]:
    """A label's box beside a point, `turn` sixteenths of a circle on, its edge so far away, and the line between them as
    a row of small boxes."""
    right, up = math.cos(turn * math.pi / 8) * (away + width / 2), math.sin(turn * math.pi / 8) * (away + height / 2)  # to its middle
    left, bottom = x + right - width / 2, y + up - height / 2
    label = (left, bottom, left + width, bottom + height)
    length = math.hypot(right, up)
    places = [(x + right * far / length, y + up * far / length) for far in range(8, int(length), 4)]
    return [label, *(box for x, y in places if not overlap(box := (x - 2, y - 2, x + 2, y + 2), label))]


def overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


if __name__ == "__main__":
    run_command(main)
