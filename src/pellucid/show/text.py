"""Attributions of texts: words on a background of their colour, as HTML and as a figure."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import TextPath

from ..explanation import Explanation
from .colour import AGAINST, BAD, FOR, colour_bar, ink_on, palette, paper
from .example import Example, example_of, title, unit_of
from .frame import MARGIN, sheet
from .numbers import literal, number, shortened
from .scale import Array, Scaled, scaled

__all__ = ["draw_text", "highlighted", "words_of"]

FAINT = 0.04
SIZE = 12
ROW, GAP, PAD, BOX = 0.36, 0.07, 0.06, 0.28
LONGEST = 60


def words_of(one: Example, outliers: float = 2) -> tuple[tuple[str, ...], Array, Scaled]:
    """The words, the attribution of each (pooled over its embedding), and the same scaled.

    Raises:
        InputError: there are names, but not one for each word.
    """
    sums = one.pooled()
    return one.named(len(sums), "token"), sums, scaled(sums, outliers=outliers)


def highlighted(explanation: Explanation, example: int = 0, which: int = 0) -> str:
    """The words as one self-contained, escaped HTML paragraph; each word's attribution is in its tooltip.

    A dashed line marks what speaks against the score, a dotted one what is not finite, for readers who cannot tell
    the colours apart.
    """
    words, sums, shown = words_of(example_of(explanation, example, which))
    spans = (_span(*each) for each in zip(words, sums.tolist(), shown.values.tolist(), strict=True))
    return f'<p style="line-height:2;margin:.4em 0;overflow-wrap:anywhere">{" ".join(spans)}</p>'


def _span(word: str, value: float, share: float) -> str:
    shown = escape(word).replace("\n", "↵<br>")
    tip = f'title="{escape(number(value, signed=True))}"'
    if abs(share) < FAINT:
        return f"<span {tip}>{shown}</span>"
    return f'<span {tip} style="{_marked(share)}padding:.1em .25em;border-radius:.25em">{shown}</span>'


def _marked(share: float) -> str:
    """A see-through background, so that zero is the page's own ground, light or dark, and the text stays readable."""
    if share != share:
        return f"background:{BAD};color:#111111;border-bottom:2px dotted;"
    colour, opacity = to_rgb(FOR if share > 0 else AGAINST), abs(share)
    red, green, blue = (round(255 * channel) for channel in colour)
    seen = "#" + "".join(f"{round(255 - opacity * (255 - channel)):02x}" for channel in (red, green, blue))
    ink = "color:#ffffff;" if ink_on(seen) == "#ffffff" else ""
    line = "border-bottom:2px dashed;" if share < 0 else ""
    return f"background:rgba({red},{green},{blue},{opacity:.2f});{ink}{line}"


@dataclass(frozen=True)
class _Box:
    """Where a word stands, in inches from the top left corner of the text."""

    word: str
    share: float
    left: float
    row: int
    width: float


def _boxes(words: Sequence[str], shares: Sequence[float], width: float) -> Iterator[_Box]:
    """The words in rows, as wide as they are drawn; a line break in the text begins a new row."""
    left, row = 0.0, 0
    for word, share in zip(words, shares, strict=True):
        shown = shortened(word, LONGEST)
        size = _width(shown) + 2 * PAD
        if left and left + size > width:
            left, row = 0.0, row + 1
        yield _Box(shown, share, left, row, size)
        left, row = (0.0, row + 1) if "\n" in word else (left + size + GAP, row)


def _width(word: str) -> float:
    """Inches."""
    with warnings.catch_warnings():
        # A sign that the font lacks is as wide as the box drawn in its place.
        warnings.simplefilter("ignore")
        path = TextPath((0, 0), literal(word) or " ", size=SIZE)
    return max(float(path.get_extents().width), SIZE / 4) / 72 if len(path.vertices) else SIZE / 4 / 72


def draw_text(
    explanation: Explanation,
    example: int = 0,
    *,
    which: int = 0,
    outliers: float = 2,
    width: float = 7.0,
    titled: bool = True,
) -> Figure:
    """The words in boxes of their colour, wrapped, above a colour bar; dashed boxes speak against the score.

    Args:
        explanation: with attributions `(B, T, ...)`, pooled over all but the words.
        example, which: which example, and which of several inputs.
        outliers: the percentage of the total magnitude that may lie beyond the ends of the colour scale.
        width: of the figure, in inches.
        titled: whether to write a title.
    """
    words, _, shown = words_of(example_of(explanation, example, which), outliers)
    boxes = list(_boxes(words, shown.values.tolist(), width - 2 * MARGIN))
    tall = (boxes[-1].row + 1) * ROW
    page = sheet(width, tall + 0.85, title(explanation, example) if titled else (), shown.notes)
    axes = page.axes(MARGIN, 0.05, width - 2 * MARGIN, tall)
    axes.set(xlim=(0, width - 2 * MARGIN), ylim=(tall, 0))
    axes.set_axis_off()
    for box in boxes:
        _write(axes, box)
    bar = page.axes(MARGIN + 0.2, tall + 0.2, min(3.2, width - 1), 0.12)
    colour_bar(page.figure, bar, shown, palette("all"), f"{unit_of(explanation)}; dashed: negative", "horizontal")
    return page.figure


def _write(axes: Axes, box: _Box) -> None:
    top, faint = box.row * ROW + (ROW - BOX) / 2, abs(box.share) < FAINT
    colour = "#ffffff" if faint else paper(box.share)
    style = "dashed" if box.share < 0 else "dotted" if box.share != box.share else "solid"
    patch = FancyBboxPatch(
        (box.left, top), box.width, BOX, boxstyle="round,pad=0,rounding_size=0.05",
        facecolor=colour, edgecolor="none" if faint else "#555555", linestyle=style, linewidth=0.8, clip_on=False,
    )  # fmt: skip
    axes.add_patch(patch)
    axes.text(
        box.left + box.width / 2,
        top + BOX * 0.7,
        literal(box.word),
        ha="center",
        va="baseline",
        fontsize=SIZE,
        color=ink_on(colour),
    )
