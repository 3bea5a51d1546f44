"""Examples as tiles of a figure: a caption, and under it a picture, a text or a row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ..gallery import Thing
from .fitting import LINE, SIZE, cut, inches, legible, lines
from .frame import MARGIN, Sheet, sheet
from .numbers import literal
from .picture import bare

__all__ = ["Shown", "tiled"]

INK, SOFT, PAPER = "#222222", "#5a5a5a", "#f4f4f2"
GAP, INSET = 0.16, 0.09  # inches between tiles, and between the edge of a tile and its text
HEADING = 0.3  # inches


@dataclass(frozen=True, eq=False)
class Shown:
    """An example, a heading in bold, and pairs of what is said about it."""

    thing: Thing
    heading: str
    said: Sequence[tuple[str, str]] = ()


def tiled(groups: Sequence[tuple[str, Sequence[Shown]]], width: float, words: Sequence[str], notes: Sequence[str] = ()) -> Figure:
    """Groups of examples one under the other, each with its heading; the tiles of all are as wide.

    Args:
        width: of the figure, in inches; words: its title and what is said under it; notes: below.
    """
    every = [shown for _, group in groups for shown in group]
    most = max(len(group) for _, group in groups)
    room, columns = _columns(width, most, all(isinstance(shown.thing, np.ndarray) for shown in every))
    rows = [
        _Row(heading if not start else "", [_tile(shown, room) for shown in group[start : start + columns]])
        for heading, group in groups
        for start in range(0, len(group), columns)
    ]
    return _gallery(rows, room, width, words, notes)


class _Line(NamedTuple):
    """A line of a caption: a key, and words so many inches right of where it begins."""

    key: str
    words: str
    shift: float


@dataclass(frozen=True, eq=False)
class _Tile:
    """An example: a caption, and under it a picture, or lines of a name and a value."""

    caption: Sequence[_Line]
    body: NDArray[np.uint8] | Sequence[tuple[str, str]]

    def height(self, room: float) -> float:
        """Inches that the body takes."""
        if isinstance(self.body, np.ndarray):
            return room * min(len(self.body) / len(self.body[0]), 1.5)
        return LINE * len(self.body) + 0.12


def _columns(width: float, tiles: int, pictures: bool) -> tuple[float, int]:
    """How wide a tile is, and how many stand side by side; the last row is as full as can be."""
    whole, usual = width - 2 * MARGIN + GAP, 1.32 if pictures else 2.75
    most = max(1, round(whole / usual))
    columns = math.ceil(tiles / math.ceil(tiles / most))
    return min(whole / columns, 1.5 * usual) - GAP, columns


@dataclass(frozen=True, eq=False)
class _Row:
    """Tiles side by side, under a heading."""

    heading: str
    tiles: Sequence[_Tile]

    @property
    def above(self) -> float:
        """Inches of the captions."""
        return LINE * max(len(tile.caption) for tile in self.tiles) + 0.06

    def below(self, room: float) -> float:
        """Inches of the bodies."""
        return max(tile.height(room) for tile in self.tiles)

    def height(self, room: float) -> float:
        """Inches of everything."""
        return (HEADING if self.heading else 0) + self.above + self.below(room) + GAP


def _tile(shown: Shown, room: float) -> _Tile:
    return _Tile([_Line("", cut(shown.heading, room), 0.0), *_caption(shown.said, room)], _body(shown.thing, room))


def _caption(said: Sequence[tuple[str, str]], room: float) -> Iterator[_Line]:
    for key, words in said:
        shift = inches(key + " ")
        yield from (_Line(key if not i else "", line, shift) for i, line in enumerate(lines(words, room - shift, 2)))


def _body(thing: Thing, room: float) -> NDArray[np.uint8] | list[tuple[str, str]]:
    """A picture as it is, a text in lines, a row as names and values."""
    if isinstance(thing, np.ndarray):
        return thing
    if isinstance(thing, str):
        return [("", line) for line in lines(thing, room - 2 * INSET, 7)] or [("(empty)", "")]
    rows = [_row(str(name), value, room - 2 * INSET - 0.12) for name, value in thing.items()] or [("(empty)", "")]
    return rows if len(rows) < 10 else [*rows[:8], (f"… and {len(rows) - 8} more", "")]


def _row(name: str, value: str, room: float) -> tuple[str, str]:
    """Each has what the other leaves, and a good half if it needs that."""
    value = cut(value, max(0.5 * room, room - inches(name[:200], SIZE)))
    return cut(name, room - inches(value, SIZE)), value


def _gallery(rows: Sequence[_Row], room: float, width: float, words: Sequence[str], notes: Sequence[str]) -> Figure:
    page = sheet(width, sum(row.height(room) for row in rows) + 0.06, words, notes)
    tall = page.figure.get_figheight() - page.top - page.bottom
    ground = page.axes(0, 0, width, tall)
    ground.set(xlim=(0, width), ylim=(tall, 0))
    ground.set_axis_off()
    down = 0.08
    for row in rows:
        if row.heading:
            ground.text(MARGIN, down + HEADING / 3, row.heading, fontsize=10, va="center", color=INK, weight="bold")
            down += HEADING
        for column, tile in enumerate(row.tiles):
            left = MARGIN + column * (room + GAP)
            _print(ground, tile.caption, left, down + row.above - 0.06 - LINE * len(tile.caption))
            _show(page, ground, tile, (left, down + row.above, room, row.below(room)))
        down += row.above + row.below(room) + GAP
    return legible(page.figure)


def _show(page: Sheet, ground: Axes, tile: _Tile, at: tuple[float, float, float, float]) -> None:
    left, down, wide, tall = at
    if isinstance(tile.body, np.ndarray):
        axes = page.axes(left, down, wide, tall)
        small = max(tile.body.shape[:2]) <= 96
        axes.imshow(tile.body, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if small else None)
        axes.set_anchor("NW")
        bare(axes)
        axes.spines[:].set(color="#b5b5b5", linewidth=0.6)
        return
    ground.add_patch(Rectangle((left, down), wide, tall, facecolor=PAPER, edgecolor="#dcdcdc", linewidth=0.6))
    for i, (name, value) in enumerate(tile.body):
        middle = down + 0.06 + LINE * (i + 0.5)
        ground.text(left + INSET, middle, literal(name or value), fontsize=SIZE, va="center", color=SOFT if name else INK)
        if name:
            ground.text(left + wide - INSET, middle, literal(value), fontsize=SIZE, va="center", ha="right", color=INK)


def _print(ground: Axes, lines: Sequence[_Line], left: float, down: float) -> None:
    """A caption: keys soft, what they say in ink, the index in bold."""
    for i, line in enumerate(lines):
        middle = down + LINE * (i + 0.5)
        ground.text(left, middle, line.key, fontsize=SIZE, va="center", color=SOFT)
        ground.text(left + line.shift, middle, literal(line.words), fontsize=SIZE, va="center", color=INK, weight="normal" if i else "bold")
