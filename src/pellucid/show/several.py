"""Several inputs of one prediction in one picture: its words, its image, each with its part of the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ..explanation import Explanation
from .colour import colour_bar, palette
from .example import Example, example_of, title, unit_of
from .fonts import legible
from .frame import MARGIN, Sheet, sheet
from .image import photograph_of
from .numbers import number
from .picture import Layers, bare, map_of, paint
from .scale import finite, scaled
from .text import Block, words_of

__all__ = ["draw_several", "headings"]

HEAD, FOOT, GAP = 0.28, 0.62, 0.15  # inches of a heading, of a colour bar with its label, between two inputs
SIDE = 2.5


@dataclass(frozen=True, eq=False)
class _Row:
    """One input: how tall it is, what a reader must be told, and how it is drawn so many inches down."""

    tall: float
    notes: tuple[str, ...]
    draw: Callable[[Sheet, float], None]


def draw_several(explanation: Explanation, example: int = 0, *, outliers: float = 2, width: float = 7.0, titled: bool = True) -> Figure:
    """All inputs of one example below each other, each with a scale of its own.

    Args:
        explanation: of several inputs.
        example: which example.
        outliers: the percentage of the total magnitude that may lie beyond the ends of a colour scale.
        width: of the figure, in inches.
        titled: whether to write a title.
    """
    ones = [example_of(explanation, example, which) for which in range(len(explanation.attributions))]
    kinds = [explanation.display.of_input(which).kind for which in range(len(ones))]
    unit = unit_of(explanation)
    rows = [ROWS.get(kind, _strip)(one, outliers, width, unit) for kind, one in zip(kinds, ones, strict=True)]
    notes = tuple(dict.fromkeys(note for row in rows for note in row.notes))
    tall = sum(HEAD + row.tall + GAP for row in rows)
    page = sheet(width, tall, title(explanation, example) if titled else (), notes)
    down = 0.0
    for heading, row in zip(headings(explanation, example), rows, strict=True):
        across, up = page.figure.get_size_inches()
        text = page.figure.text(MARGIN / across, 1 - (page.top + down + HEAD / 2) / up, heading, fontsize=9.5, va="center")
        text.set_in_layout(False)
        row.draw(page, down + HEAD)
        down += HEAD + row.tall + GAP
    return legible(page.figure)


def headings(explanation: Explanation, example: int) -> list[str]:
    """What each input is called, and, where attributions add up, to how much."""
    count = len(explanation.attributions)
    names = [explanation.display.of_input(which).title or f"input {which}" for which in range(count)]
    if explanation.check("completeness") is None:
        return names
    sums = (float(finite(example_of(explanation, example, which).values).sum()) for which in range(count))
    return [f"{name}: adds up to {number(total, signed=True)}" for name, total in zip(names, sums, strict=True)]


def _words(one: Example, outliers: float, width: float, unit: str) -> _Row:
    words, _, shown = words_of(one, outliers)
    block = Block.of(words, shown, width - 2 * MARGIN)
    return _Row(block.tall + FOOT, shown.notes, lambda page, down: block.write(page, down, unit))


def _image(one: Example, outliers: float, width: float, unit: str) -> _Row:
    shown = scaled(map_of(one.values, 0, one.pooling), "all", outliers)
    layers = Layers(shown.values, photograph_of(one), palette("all"))
    height, across = shown.values.shape
    tall = SIDE * min(max(height / across, 0.4), 2.5)

    def draw(page: Sheet, down: float) -> None:
        panels = [page.axes(MARGIN + (SIDE + MARGIN) * i, down, SIDE, tall) for i in range(2)]
        for panel, method in zip(panels, ("heat_map" if layers.picture is None else "original_image", "overlay"), strict=True):
            bare(panel)
            paint(panel, layers, method)
        bar = page.axes((SIDE + MARGIN) * 2 + 0.15, down, 0.14, tall)
        colour_bar(page.figure, bar, shown, palette("all"), unit)

    return _Row(tall, shown.notes, draw)


def _strip(one: Example, outliers: float, width: float, unit: str) -> _Row:
    """Numbers of any other kind: one cell for each along the first axis."""
    shown = scaled(one.pooled(), "all", outliers)
    layers = Layers(shown.values[np.newaxis], None, palette("all"))

    def draw(page: Sheet, down: float) -> None:
        panel = page.axes(MARGIN, down, width - 2 * MARGIN, ROOM)
        paint(panel, layers, "heat_map")
        panel.set(aspect="auto", yticks=[])
        panel.tick_params(labelsize=8)
        bar = page.axes(MARGIN + 0.2, down + ROOM + 0.35, min(3.2, width - 1), 0.12)
        colour_bar(page.figure, bar, shown, palette("all"), unit, "horizontal")

    return _Row(ROOM + 0.2 + FOOT, shown.notes, draw)


ROOM = 0.3
ROWS: Mapping[str, Callable[[Example, float, float, str], _Row]] = {"text": _words, "image": _image}
