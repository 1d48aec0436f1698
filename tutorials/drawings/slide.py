"""What several drawings share: the list of all, boxes and arrows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from mini_dpo.plot.paper import DARK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWINGS: dict[int, list[Callable]] = {}
# behind a text that lies on lines
WHITE = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
FRAME = {"boxstyle": "round,pad=0.35", "facecolor": "0.93", "edgecolor": DARK}  # a box of a diagram
ARROW = {"arrowstyle": "->", "linewidth": 1.5}
CIRCLE = {"boxstyle": "circle,pad=0.1", "facecolor": "white", "edgecolor": DARK}


def drawing(chapter: int) -> Callable[[Callable], Callable]:
    """Register the function below as a picture of a chapter; its name is the file's."""

    def register(function: Callable) -> Callable:
        DRAWINGS.setdefault(chapter, []).append(function)
        return function

    return register


def box(corner: tuple[float, float], width: float, height: float, **style) -> object:
    """A rectangle to put into a panel."""
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, **style)


def chain(axes: Axes, boxes: list[tuple[float, float, str]]) -> None:
    """Boxes with words, and an arrow from each to the next."""
    half = [0.12 + 0.1 * (words.count("\n") + 1) for _, _, words in boxes]
    for i, ((x, y, _), (to_x, to_y, _)) in enumerate(itertools.pairwise(boxes)):
        axes.annotate("", (to_x, to_y + half[i + 1]), (x, y - half[i]), arrowprops=ARROW)
    for x, y, words in boxes:
        axes.text(x, y, words, ha="center", va="center", fontsize=14, bbox=FRAME)
