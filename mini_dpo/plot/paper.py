"""What all pictures share: the shape of a slide, lines that differ without colour, labels that do not
overlap.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mini_dpo.errors import UserError, expecting
from mini_dpo.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SLIDE = (13.33, 7.5)  # inches: 16 to 9
LIGHT, DARK = "0.72", "black"
DASHED: Any = (0, (4, 2))
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

CLEAR = 1e-6  # square points that may be covered


def new_figure() -> Figure:
    """An empty slide. Raises UserError where matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.figure import Figure  # without pyplot it is drawn by Agg, which needs no screen
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise UserError(
            "matplotlib draws the pictures and is not installed: pip install -r tutorials/requirements.txt"
        ) from error
    matplotlib.rcdefaults()  # a user's own style would change the picture
    matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]
    return Figure(figsize=SLIDE, layout=ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07))


def save(figure: Figure, path: Path) -> Path:
    """Write the picture; the same numbers give the same bytes. Returns the path."""
    if path.suffix != ".png" or path.is_dir():
        raise UserError(f"--out {path}: the picture is a PNG file; give it a name that ends in .png")
    from PIL import Image  # matplotlib needs it, so it is there

    drawn = io.BytesIO()
    with expecting(path, "a picture that can be drawn"):  # fails for numbers such as 1e308
        figure.savefig(drawn, format="png")
    few_colours = Image.open(drawn).convert("RGB").quantize(128)  # a third of the size, and looks the same
    write_whole(path, lambda file: few_colours.save(file, format="png", optimize=True))
    return path


def grid(figure: Figure, n: int) -> list[Axes]:
    """n panels in rows, each about as wide as high. Where the last row has fewer panels, they are wider."""
    columns = math.ceil(n / max(1, round(math.sqrt(n * SLIDE[1] / SLIDE[0]))))
    rows = math.ceil(n / columns)
    lines = figure.add_gridspec(rows, 1)
    axes = []
    for row in range(rows):
        in_row = min(columns, n - row * columns)
        places = lines[row].subgridspec(1, in_row)
        axes += [figure.add_subplot(places[0, i]) for i in range(in_row)]
    return axes


def compact(number: float, position: float | None = None) -> str:
    """A number for an axis: 20000 -> "20k". position: matplotlib gives it, and it is not used."""
    size, letter = next(
        ((size, letter) for size, letter in ((1e6, "M"), (1e3, "k")) if abs(number) >= size), (1, "")
    )
    return f"{number / size:g}{letter}".replace("-", "\N{MINUS SIGN}")


Box = tuple[float, float, float, float]  # left, bottom, right, top
AWAY = (8, 14, 24, 36, 50, 70)  # how far from its point a label may stand, in points


def place_labels(
    points: Sequence[tuple[float, float]], widths: Sequence[float], height: float, frame: Box
) -> list[tuple[float, float]]:
    """The lower left corner of the label of each point: near the point, inside the frame, and away from other
    points, labels and their lines, as far as there is room. All numbers have one unit, for example points.
    widths: of the labels; all have one height.
    """
    # boxes around the points, so that labels keep a distance
    taken: list[Box] = [(x - 8, y - 8, x + 8, y + 8) for x, y in points]
    corners = {}
    for i in sorted(range(len(points)), key=lambda i: -widths[i]):  # the long ones first, while there is room
        (x, y), width = points[i], widths[i]
        others = taken[:i] + taken[i + 1 :]

        def cost(boxes: list[Box]) -> float:
            covered = sum(overlap(box, other) for box in boxes for other in others)
            return covered + 10 * (width * height - overlap(boxes[0], frame))

        best = label_and_line(x, y, width, height, 0, AWAY[0])
        for away in AWAY:
            if cost(best) > CLEAR:  # something is covered: look farther off
                best = min(
                    [best, *(label_and_line(x, y, width, height, turn, away) for turn in range(16))], key=cost
                )
        taken += best
        corners[i] = best[0][:2]
    return [corners[i] for i in range(len(points))]


def label_and_line(x: float, y: float, width: float, height: float, turn: int, away: float) -> list[Box]:
    """The box of a label beside a point, and small boxes along the line from the point to the label.
    turn: the direction, in sixteenths of a circle. away: the distance of the label's edge from the point.
    """
    # from the point to the middle of the label
    right = math.cos(turn * math.pi / 8) * (away + width / 2)
    up = math.sin(turn * math.pi / 8) * (away + height / 2)
    left, bottom = x + right - width / 2, y + up - height / 2
    label = (left, bottom, left + width, bottom + height)
    length = math.hypot(right, up)
    places = [(x + right * far / length, y + up * far / length) for far in range(8, int(length), 4)]
    return [label, *(box for x, y in places if not overlap(box := (x - 2, y - 2, x + 2, y + 2), label))]


def overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
