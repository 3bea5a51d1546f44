"""What a generated text rests on in its prompt: a heat map of tokens by units, bars, words on colours, lines on a terminal."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.text import Text

from ..errors import InputError, OptionError
from .colour import AGAINST, FOR, colour_bar, ink_on, palette, paper
from .fitting import cut, inches, legible
from .frame import Sheet, sheet
from .label import labels, rests_on
from .numbers import count, literal, number, percent
from .scale import Scaled, array_of, one_of, scaled
from .table import OTHERS, Bar, plot_bars
from .terminal import SHOWN, Terminal
from .terminal import terminal as terminal_of
from .text import draw_text

if TYPE_CHECKING:
    from ..language.result import Generated

__all__ = ["DRAWN", "bars", "draw", "heat_map", "terminal"]

WIDEST, TALLEST = 15.0, 12.0  # inches, of the cells together
CLOSE, SLANTED = 0.13, 0.2  # inches from one label to the next, of rows and of columns
LABEL = 1.7  # inches of a label at most
MOST_NUMBERS = 240
LINES = 12


def _heading(told: Generated, what: str) -> tuple[str, str]:
    said = "".join(" " * (label.spaced and i > 0) + label.text for i, label in enumerate(labels(told.tokens)))
    sizes = f"{count(len(told.tokens), 'generated token')} · {count(len(told.units), 'unit')} of the prompt"
    return f"{what} “{cut(said, 4.5)}”", f"{told.method.replace('_', ' ')} · {sizes}"


def draw(told: Generated, kind: str | None = None, **options: Any) -> Figure:
    """A figure that belongs to nobody else.

    Raises:
        OptionError: an unknown kind or option, a heat map without a matrix.
    """
    kind = ("sequence" if told.matrix is None else "tokens") if kind is None else kind
    picture = DRAWN[one_of(kind, DRAWN, "kind")]
    known = list(inspect.signature(picture).parameters)[1:]
    for name in options:
        if name not in known:
            raise OptionError(f"a picture of kind {kind!r} has no option {name!r}; it has {', '.join(known)}")
    return picture(told, **options)


def _tokens(told: Generated, outliers: float = 2, titled: bool = True, sequence: bool = True) -> Figure:
    words = _heading(told, "What each token rests on:") if titled else ()
    return legible(heat_map(told, lambda wide, tall, notes: sheet(wide, tall, words, notes), outliers, sequence)[0])


def _sequence(told: Generated, top: int = 30, width: float = 7.0, titled: bool = True) -> Figure:
    words = _heading(told, "What it rests on:") if titled else ()
    return legible(bars(told, lambda wide, tall, notes: sheet(wide, tall, words, notes), top, width)[0])


def _words(told: Generated, token: int | None = None, outliers: float = 2, width: float = 7.0, titled: bool = True) -> Figure:
    return draw_text(told.explanation(token), outliers=outliers, width=width, titled=titled)


DRAWN: Mapping[str, Callable[..., Figure]] = {"tokens": _tokens, "sequence": _sequence, "words": _words}
Room = Callable[[float, float, Sequence[str]], Sheet]


@dataclass(frozen=True)
class _Grid:
    """Where the cells stand: inches at the left and above them, of a cell across and down."""

    left: float
    above: float
    across: float
    down: float
    rows: int
    columns: int

    @property
    def every(self) -> tuple[int, int]:
        """The distance of the labels that are written: in rows, and in columns."""
        return math.ceil(CLOSE / self.down), math.ceil(SLANTED / self.across)

    @property
    def size(self) -> tuple[float, float]:
        """Of all cells, inches across and down."""
        return self.across * self.columns, self.down * self.rows

    @property
    def numbered(self) -> bool:
        """Whether there is room for numbers in the cells."""
        return self.across >= 0.5 and self.down >= 0.18


def _grid(rows: Sequence[str], columns: Sequence[str]) -> _Grid:
    wanted = 0.62 if len(rows) * len(columns) <= MOST_NUMBERS else 0.3
    across, down = min(wanted, WIDEST / len(columns)), min(0.27, TALLEST / len(rows))
    left, above = max([0.6, *map(inches, rows)]) + 0.2, 0.72 * max(map(inches, columns)) + 0.2
    return _Grid(left, above, across, down, len(rows), len(columns))


def heat_map(told: Generated, room: Room, outliers: float = 2, sequence: bool = True) -> tuple[Figure, Axes]:
    """Generated tokens down, units of the prompt across; at the right the tokens' probabilities, below bars of the whole text.

    Args:
        room: makes a sheet with so many inches across and down, and notes.
        outliers: the percentage of the total magnitude that may lie beyond the ends of the colour scale.
        sequence: whether to draw the bars.

    Raises:
        OptionError: there is no matrix. InputError: there are no tokens or no units.
    """
    if told.matrix is None:
        raise OptionError(f"{told.method} gave no attributions of single tokens; draw the whole text: kind 'sequence'")
    values = array_of(told.matrix)
    if not values.size:
        raise InputError(f"there is nothing to draw in a matrix of shape {values.shape}; give one token and one unit at least")
    shown = scaled(values, outliers=outliers)
    rows, columns = ([cut(label.text, LABEL) or "␣" for label in labels(each)] for each in (told.tokens, told.units))
    grid = _grid(rows, columns)
    wide, tall = grid.size
    right = max(0.8 if told.probabilities is not None else 0.1, 0.72 * inches(columns[-1]) - grid.across / 2 + 0.1)
    below = 0.62 * sequence
    page = room(max(grid.left + wide + right, 3.6), grid.above + tall + below + 0.75, shown.notes)
    axes = page.axes(grid.left, grid.above, wide, tall)
    _cells(axes, values, shown, grid)
    _named(axes, rows, columns, grid)
    if told.probabilities is not None:
        _beside(axes, array_of(told.probabilities).tolist(), grid)
    if sequence:
        _below(page.axes(grid.left, grid.above + tall + 0.1, wide, 0.5), told)
    bar = page.axes(max(0.2, grid.left + (wide - 3.2) / 2), grid.above + tall + below + 0.2, min(3.2, max(wide, 2.6)), 0.12)
    colour_bar(page.figure, bar, shown, palette("all"), f"attribution to the token's {told.measure}", "horizontal")
    return page.figure, axes


def _cells(axes: Axes, values: Any, shown: Scaled, grid: _Grid) -> None:
    used = palette("all")
    axes.imshow(shown.values, cmap=used.colours, vmin=used.low, vmax=used.high, aspect="auto", interpolation="nearest")
    axes.spines[:].set_visible(False)
    if grid.across > 0.1 and grid.down > 0.1:
        axes.set_xticks(np.arange(grid.columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(grid.rows + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
    if grid.numbered:
        for (row, column), value in np.ndenumerate(values):
            ink = ink_on(paper(float(shown.values[row, column])))
            axes.text(column, row, _short(value, shown.unit), ha="center", va="center", fontsize=7.5, color=ink)


def _short(value: float, unit: float) -> str:
    """A number with the decimals that matter at the scale of the colours; all cells have as many."""
    places = 2 - math.floor(math.log10(unit)) if unit else 0
    if not math.isfinite(value) or places > 5:
        return number(value, 2)
    found = f"{value:.{max(places, 0)}f}"
    return found.replace("-", "\N{MINUS SIGN}") if float(found) else "0"


def _named(axes: Axes, rows: Sequence[str], columns: Sequence[str], grid: _Grid) -> None:
    every_row, every_column = grid.every
    axes.set_xticks(range(0, len(columns), every_column), list(map(literal, columns[::every_column])))
    axes.set_yticks(range(0, len(rows), every_row), list(map(literal, rows[::every_row])))
    axes.tick_params(which="both", length=0, labelsize=8.5, top=True, bottom=False, labeltop=True, labelbottom=False)
    for text in axes.get_xticklabels():
        text.set(rotation=45, ha="left", rotation_mode="anchor")


def _beside(axes: Axes, probabilities: Sequence[float], grid: _Grid) -> None:
    """The tokens' probabilities, as far as they are named."""
    place = grid.columns - 0.5 + 0.08 / grid.across
    for row in range(0, grid.rows, grid.every[0]):
        axes.text(place, row, percent(probabilities[row]), va="center", fontsize=7.5, color="#555555", clip_on=False)
    axes.text(place, grid.rows - 0.4, "probability", va="top", fontsize=7, color="#555555", clip_on=False)


def _below(axes: Axes, told: Generated) -> None:
    """The whole text's attributions, under the columns."""
    values = np.nan_to_num(array_of(told.sequence), nan=0.0, posinf=0.0, neginf=0.0)
    axes.bar(range(len(values)), values, width=0.82, color=[FOR if value > 0 else AGAINST for value in values])
    axes.axhline(0, color="#444444", linewidth=0.8)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    ends = sorted({float(values.min()), 0.0, float(values.max())})
    ends = [end for end in ends if not end or abs(end) > 0.3 * (ends[-1] - ends[0])]
    axes.set_yticks(ends, [number(end, 2) for end in ends])
    axes.tick_params(labelsize=7, length=0)
    axes.set_ylabel("whole\ntext", fontsize=8, rotation=0, ha="right", va="center", labelpad=4)


def bars(told: Generated, room: Room, top: int = 30, width: float = 7.0) -> tuple[Figure, Axes]:
    """Bars of the whole text's attributions in the order of the prompt: of the `top` strongest units, and of all others together.

    Raises:
        OptionError: top is not positive. InputError: there are no units.
    """
    if top < 1:
        raise OptionError(f"top={top!r} shows no bar; give at least 1")
    values = array_of(told.sequence)
    if not values.size:
        raise InputError("there is nothing to draw: the prompt has no units")
    order = np.argsort(-np.where(np.isfinite(values), np.abs(values), np.inf), kind="stable")
    kept, rest = (order, order[:0]) if len(order) <= top + 1 else (order[:top], order[top:])
    names = [label.text for label in labels(told.units)]
    found = [Bar(names[i] or "␣", float(values[i]), FOR if values[i] > 0 else AGAINST) for i in sorted(kept.tolist())]
    found += [Bar(count(len(rest), "weaker one") + " (net)", float(values[rest].sum()), OTHERS)] if len(rest) else []
    lost = int((~np.isfinite(values)).sum())
    notes = [f"{lost} of {len(values)} attributions are NaN or infinite; they have no bar and are in no sum"] if lost else []
    notes += ["all attributions are zero"] if not values.any() else []
    page = room(width, 0.25 * len(found) + 0.65, notes)
    axes = page.rows(1)[0]
    plot_bars(axes, found, f"{_unit(told)}; all together {number(sum(bar.length for bar in found), signed=True)}")
    return page.figure, axes


def _unit(told: Generated) -> str:
    return f"attribution to the text's {told.measure}"


def terminal(told: Generated) -> Terminal:
    """The prompt on colours by the whole text, and what each token rests on, as far as there is room for it.

    >>> import torch; from pellucid.language.result import Generated
    >>> print(str(terminal(Generated(("a", "b"), ("c",), torch.tensor([0.5, 0.0]), torch.tensor([[0.5, 0.0]])))).splitlines()[1])
    attribution · 1 generated token · 2 units of the prompt
    """
    shown = terminal_of(told.explanation())
    head = tuple(Text(line.translate(SHOWN), style) for line, style in zip(_heading(told, "generated:"), ("bold", "dim"), strict=True))
    rows = labels(told.tokens) if told.matrix is not None else ()
    lines = [Text(f"{label.text}{_chance(told, i)} ← {rests_on(told, i, 3)}".translate(SHOWN)) for i, label in enumerate(rows[:LINES])]
    more = [Text(f"… and {count(len(rows) - LINES, 'token')} more", "dim")] if len(rows) > LINES else []
    return replace(shown, head=head, foot=(*lines, *more, *(shown.foot if told.health else ())))


def _chance(told: Generated, token: int) -> str:
    return "" if told.probabilities is None else f" ({percent(float(told.probabilities[token]))})"
