"""A sheet to draw on: a heading above, what a reader must be told below, and between them room measured in inches."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .numbers import literal

__all__ = ["MARGIN", "Picture", "Sheet", "sheet"]

MARGIN = 0.12
FIRST, LINE = 0.24, 0.17


class Picture(Figure):
    """A figure that a notebook shows as it is, whether or not pyplot was set up."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100)
        return file.getvalue()


@dataclass(frozen=True, eq=False)
class Sheet:
    """A figure whose heading and notes are written already.

    Attributes:
        figure: the figure.
        top, bottom: inches that the heading and the notes take.
    """

    figure: Figure
    top: float
    bottom: float

    def axes(self, left: float, down: float, width: float, height: float) -> Axes:
        """Axes at so many inches from the left and down from the heading."""
        across, up = self.figure.get_size_inches()
        return self.figure.add_axes((left / across, 1 - (self.top + down + height) / up, width / across, height / up))

    def rows(self, number: int, right: float = 0.0) -> list[Axes]:
        """Axes above each other that share their x-axis and keep clear of heading, notes, labels and the right."""
        across, up = self.figure.get_size_inches()
        room = (0.0, self.bottom / up, 1 - right / across, 1 - (self.top + self.bottom) / up)
        self.figure.set_layout_engine("constrained", rect=room, h_pad=0.03, w_pad=MARGIN, hspace=0)
        return list(self.figure.subplots(number, sharex=True, squeeze=False)[:, 0])


def sheet(width: float, height: float, words: Sequence[str], notes: Sequence[str] = ()) -> Sheet:
    """A sheet of this width with this much room.

    Args:
        width, height: of the room, in inches.
        words: the heading: the first line in bold, the others small. Lines that are too long are wrapped.
        notes: what a reader must be told below the picture.
    """
    first, rest = _wrapped(words[:1], width, 8.5), _wrapped(words[1:], width, 12)
    told = _wrapped([f"⚠ {note}" for note in notes], width, 12)
    top = MARGIN + FIRST * len(first) + LINE * len(rest) + (0.08 if words else 0)
    bottom = LINE * len(told) + (2 * MARGIN if told else 0)
    figure = Picture(figsize=(width, top + height + bottom))
    for lines, down, style in (
        (first, MARGIN, {"fontsize": 11.5, "fontweight": "bold"}),
        (rest, MARGIN + FIRST * len(first), {"fontsize": 9, "color": "#444444"}),
        (told, top + height + MARGIN, {"fontsize": 9}),
    ):
        at = (MARGIN / width, 1 - down / figure.get_figheight())
        text = figure.text(*at, "\n".join(map(literal, lines)), ha="left", va="top", linespacing=1.25, **style)
        text.set_in_layout(False)
    return Sheet(figure, top, bottom)


def _wrapped(words: Sequence[str], width: float, per_inch: float) -> list[str]:
    return [line.strip(" ·") for text in words for line in textwrap.wrap(text, int(width * per_inch))]
