"""The curves of a run as SVG: a metric over the steps of a stage, in panels of one size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mini_dpo.report.markup import Markup, element
from mini_dpo.saving.metrics import PANELS, Series, series

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 350, 26, 182  # of the frame
COLUMNS = 300  # more steps than this share a place: their least and their greatest value are drawn
LOOK = {  # what to look for, by the first metric of a panel
    ("sft", "loss"): "Look for dots that fall with the line. Dots that rise while the line falls mean that "
    "the model learns its examples by heart.",
    ("dpo", "loss"): "Look for a fall that slows down. Each loss has a scale of its own, so compare it with "
    "itself only.",
    ("dpo", "rewards/margins"): "How much more reward the policy implies for the chosen response. It begins "
    "at 0 where the reward is measured from the reference. Look for dots that keep up with the line.",
    ("dpo", "rewards/accuracies"): "How often the policy's reward agrees with the label. Half is chance, and "
    "noisy labels set a limit below 1.",
    ("dpo", "logps/chosen"): "Look at the distance between the two. Both may fall: most losses train the "
    "difference, and probability then goes to responses that are in no pair.",
    ("dpo", "drift"): "What the policy has left behind: the mean of log(reference / policy) over both "
    "responses of a pair. Where the pairs are the reference's own answers, this estimates KL(reference || "
    "policy).",
    ("dpo", "kl"): "How far the policy has left its reference, as the loss estimates it from responses to "
    "other prompts, and never below 0. Those often become less likely, and then it stays 0; the closing "
    "table has the KL divergence on the policy's own answers.",
}
# Where a policy that learned nothing would be.
USUAL = {"drift": 0.0, "rewards/margins": 0.0, "rewards/accuracies": 0.5}


class Line(NamedTuple):
    """A metric of a panel, on training batches and on held-out examples. kind: its look in page.css."""

    name: str
    train: Series
    held_out: Series
    kind: str


def panels(rows: Sequence[dict]) -> list[Markup]:
    """A figure for each panel that the run has numbers for."""
    figures = []
    for stage, names, label in PANELS:
        lines = [
            Line(name, series(rows, stage, name), series(rows, stage, f"eval_{name}"), kind)
            for name, kind in zip(names, ("one", "two"), strict=False)
        ]
        if any(len(line.train.steps) for line in lines):
            what = "SFT" if stage == "sft" else "preference training"
            drawing = draw(lines, label, f"step of {what}")
            figures.append(figure(drawing, LOOK[stage, names[0]]))
    return figures


def with_drift(rows: Sequence[dict], beta: float | None) -> list[dict]:
    """The rows, with how far the policy has left the responses of the pairs, in nats.
    beta: turns a reward into a log-ratio; None where the loss's rewards are no multiples of it.
    """
    found = []
    for row in rows:
        more: dict[str, float] = {}
        for prefix in ("", "eval_") if beta and row["stage"] == "dpo" else ():
            chosen, rejected = (row.get(f"{prefix}rewards/{side}") for side in ("chosen", "rejected"))
            if chosen is not None and rejected is not None:
                more[f"{prefix}drift"] = -(chosen + rejected) / (2 * beta)  # type: ignore[operator]
        found.append({**row, **more})
    return found


def figure(drawing: Markup, look: str) -> Markup:
    """A picture and the sentence below it."""
    return element("figure", drawing, element("figcaption", look))


def draw(lines: Sequence[Line], label: str, below: str) -> Markup:
    """One panel. label: what the upright axis shows, with its unit. below: what the other one shows."""
    low, high = span(lines)
    last = max(1.0, *(float(found.steps.max()) for line in lines for found in line[1:3] if len(found.steps)))

    def across(step: float) -> float:
        return LEFT + (RIGHT - LEFT) * (step - 1) / max(1.0, last - 1)

    def up(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)

    parts = [element("text", label, x=4, y=14, class_="title")]
    for value in ticks(low, high):
        y = f"{up(value):.1f}"
        parts += [
            element("path", d=f"M{LEFT} {y}H{RIGHT}", class_="grid"),
            element("text", shown(value), x=LEFT - 6, y=f"{up(value) + 4:.1f}", class_="left"),
        ]
    for step in ticks(1, last, whole=True):
        parts.append(element("text", shown(step), x=f"{across(step):.1f}", y=BOTTOM + 16, class_="middle"))
    parts.append(element("text", below, x=RIGHT, y=HEIGHT - 6, class_="left"))
    usual = USUAL.get(lines[0].name)
    if usual is not None and low <= usual <= high:
        parts.append(element("path", d=f"M{LEFT} {up(usual):.1f}H{RIGHT}", class_="usual"))
    for line in lines:
        steps, values = line.train.steps.tolist(), line.train.values.tolist()
        places = [(across(step), up(value)) for step, value in thinned(steps, values)]
        parts.append(element("path", d=path(places), class_=f"pale {line.kind}"))
    for line in lines:
        smooth = line.train.smooth.tolist()
        every = max(1, len(smooth) // COLUMNS)
        kept = list(zip(line.train.steps.tolist(), smooth, strict=True))[::every]
        parts.append(element("path", d=path((across(s), up(v)) for s, v in kept), class_=f"mean {line.kind}"))
        parts += [
            dot(across(step), up(value), line.kind)
            for step, value in zip(line.held_out.steps.tolist(), line.held_out.values.tolist(), strict=True)
            if math.isfinite(value)
        ]
    if len(lines) > 1:
        parts += names_of(lines)
    said = f"{label}, over the {below}"
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=said)


def dot(x: float, y: float, kind: str) -> Markup:
    """A point of held-out examples: a circle, or a square for the second line of a panel."""
    if kind == "two":
        place = f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z"
        return element("path", d=place, class_="dot two")
    return element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.5, class_=f"dot {kind}")


def names_of(lines: Sequence[Line]) -> list[Markup]:
    """The names of the lines of a panel, beside a piece of each, above the frame."""
    parts = []
    for line, x in zip(lines, (214, 284), strict=True):
        parts.append(element("path", d=f"M{x} 10h20", class_=f"mean {line.kind}"))
        parts.append(element("text", line.name.partition("/")[2], x=x + 24, y=14, class_="name"))
    return parts


def span(lines: Sequence[Line]) -> tuple[float, float]:
    """The least and the greatest value of a panel, with some room; all of the scale where it has two ends."""
    if lines[0].name == "rewards/accuracies":
        return 0.0, 1.0
    values = [v for line in lines for found in line[1:3] for v in found.values.tolist() if math.isfinite(v)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.04 * (high - low) or max(0.5, abs(high) / 10)
    return low - room, high + room


def ticks(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, about `most` of them. whole: no fractions."""
    rough = max((high - low) / most, 1.0 if whole else 0.0)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * n for n in (1, 2, 5, 10) if size * n >= rough * (1 - 1e-9))
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def shown(value: float) -> str:
    """A number for an axis."""
    return f"{value:,.6g}".replace("-", "\N{MINUS SIGN}")


def thinned(steps: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """The points of a curve. Of many that share a column, the least and the greatest: no spike is lost."""
    size = math.ceil(len(steps) / COLUMNS)
    if size <= 2:  # noqa: PLR2004 (two points stand for a column anyway)
        return list(zip(steps, values, strict=True))
    return [
        (steps[i], value)
        for i in range(0, len(steps), size)
        for value in (min(values[i : i + size]), max(values[i : i + size]))
    ]


def path(places: Iterable[tuple[float, float]]) -> str:
    """Points as the data of an SVG path. It is broken where a value is not finite."""
    written, begin = [], "M"
    for x, y in places:
        finite = math.isfinite(x) and math.isfinite(y)
        if finite:
            written.append(f"{begin}{x:.1f} {y:.1f}")
        begin = "L" if finite else "M"
    return "".join(written)
