"""Heat maps of matrices with names: layers and heads, layers and tokens, each panel with a scale of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .colour import BAD, colour_bar, palette
from .fitting import cut, inches, legible
from .frame import MARGIN, Sheet, sheet
from .numbers import number
from .scale import Array, array_of, scaled

__all__ = ["Panel", "draw_heat"]

CELL, LEAST, MOST = 0.34, 0.24, 0.55  # inches of a cell: usually, at least, at most
LEFT, FOOT, TOP, GAP = 0.75, 0.6, 0.3, 0.35
SIZE, LONGEST = 8.0, 0.95  # points of a name, and inches


@dataclass(frozen=True, eq=False)
class Panel:
    """A matrix with the names of its rows and columns.

    Attributes:
        signed: whether values have a sign; others are drawn from zero in shades of one colour.
        down, across: what rows and columns are.
    """

    values: Tensor
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    title: str
    signed: bool = True
    down: str = ""
    across: str = ""


def draw_heat(panels: Sequence[Panel], heading: str, words: str = "", width: float = 7.0) -> Figure:
    """The panels below each other where they are wide, beside each other where they are narrow, each with its colour bar.

    Args:
        heading, words: the title, and what it is about.
        width: of the figure, in inches; long rows make it wider.
    """
    columns = max(len(panel.columns) for panel in panels)
    beside = len(panels) if columns * CELL + LEFT + GAP <= (width - MARGIN) / len(panels) else 1
    room = (max(width, columns * LEAST + LEFT + 2 * MARGIN) - MARGIN) / beside
    cell = min(MOST, (room - LEFT - GAP) / columns)
    size = cell * columns, max(len(panels[0].rows) * min(cell, CELL), 0.5)
    longest = max((inches(cut(name, LONGEST, SIZE), SIZE) for panel in panels for name in panel.columns), default=0.0)
    names = longest + 0.1 if longest > cell else 0.2
    below = names + (0.2 if panels[0].across else 0.0)
    tall = TOP + size[1] + below + FOOT
    page = sheet(MARGIN + room * beside, tall * (len(panels) // beside), (heading, words) if words else (heading,))
    for i, panel in enumerate(panels):
        left, down = MARGIN + room * (i % beside) + LEFT, (i // beside) * tall + TOP
        axes = page.axes(left, down, *size)
        bar = page.axes(left, down + size[1] + below + 0.1, max(min(size[0], 2.6), 1.9), 0.11)
        _draw(page, panel, axes, bar)
        if longest > cell:
            axes.tick_params(axis="x", rotation=90)
    return legible(page.figure)


def _draw(page: Sheet, panel: Panel, axes: Axes, bar: Axes) -> None:
    values = array_of(panel.values)
    if panel.signed:
        shown, used = scaled(values, "all", 0), palette("all")
        axes.imshow(shown.values, cmap=used.colours, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        found = colour_bar(page.figure, bar, shown, used, "", "horizontal")
        ends = [-shown.unit, 0.0, shown.unit] if shown.unit else [0.0]  # the bar has no room for more
        found.set_ticks(ends, labels=[number(end, 2) for end in ends])
    else:
        _shades(page, axes, bar, values)
    axes.set_title(panel.title, fontsize=9.5, loc="left", pad=4)
    axes.set_xticks(range(len(panel.columns)), labels=[cut(name, LONGEST, SIZE) for name in panel.columns], fontsize=SIZE)
    axes.set_yticks(range(len(panel.rows)), labels=[cut(name, 0.5, SIZE) for name in panel.rows], fontsize=SIZE)
    axes.set_ylabel(panel.down, fontsize=9)
    axes.set_xlabel(panel.across, fontsize=9)
    axes.tick_params(length=0, axis="both")
    for side in axes.spines.values():
        side.set_linewidth(0.4)


def _shades(page: Sheet, axes: Axes, bar: Axes, values: Array) -> None:
    """From zero, white, to the largest."""
    most = float(np.nanmax(values, initial=0.0)) or 1.0
    colours = matplotlib.colormaps["Purples"].with_extremes(bad=BAD)
    drawn = axes.imshow(values, cmap=colours, vmin=0, vmax=most, aspect="auto", interpolation="nearest")
    found = page.figure.colorbar(drawn, cax=bar, orientation="horizontal")
    found.set_ticks([0, most / 2, most], labels=[number(v, 2) for v in (0, most / 2, most)])
    found.ax.tick_params(labelsize=8.5)
    found.outline.set_linewidth(0.4)
