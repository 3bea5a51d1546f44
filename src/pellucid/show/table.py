"""Attributions of named features as horizontal bars, the strongest first, the rest in one so that nothing is lost."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import OptionError
from ..explanation import Explanation
from .colour import AGAINST, FOR
from .example import Example, rows_of, title, unit_of
from .fonts import legible
from .frame import sheet
from .numbers import count, literal, number, shortened
from .scale import Array, finite

if TYPE_CHECKING:
    from ..tables import Importance

__all__ = ["Bar", "bars", "draw_importance", "draw_table", "listed", "plot_bars", "ranking"]

OTHERS, STRENGTH = "#8a8a8a", "#5b4a8a"
IMPORTANCE = {"mean_abs": "mean of absolute attributions", "normlime": "NormLIME importance"}
WIDEST = 44
EQUALS = "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Bar:
    """One bar: what it stands for, how long it is (NaN and infinities kept), its colour, its standard error if it is known, its sign."""

    name: str
    value: float
    colour: str
    error: float | None = None
    signed: bool = True

    @property
    def length(self) -> float:
        """The value, or nothing if it is not finite."""
        return self.value if np.isfinite(self.value) else 0.0

    @property
    def words(self) -> str:
        """The value, and how far it may be off."""
        own = number(self.value, signed=self.signed)
        return own if self.error is None else f"{own} ± {number(self.error, 2 if self.error < 100 else 3)}"


def bars(explanation: Explanation, example: int = 0, top: int = 10) -> list[Bar]:
    """The `top` strongest features and the sum of all others: together they add up to all finite attributions.

    Gradients do not add up to anything, so there the others are left out.

    Raises:
        OptionError: top is not positive. InputError: there are names, but not one for each feature.
    """
    if top < 1:
        raise OptionError(f"top={top!r} shows no bar; give at least 1")
    names, values = _named(rows_of(explanation, example), explanation.display.names, _cells(explanation, example))
    # What is not finite comes first, because it must be seen.
    order = np.argsort(-np.where(np.isfinite(values), np.abs(values), np.inf), kind="stable")
    shown = order if len(order) <= top + 1 else order[:top]
    errors = _errors(explanation, example, len(values))
    found = [Bar(names[i], values[i], FOR if values[i] > 0 else AGAINST, errors[i]) for i in shown.tolist()]
    rest = values[order[len(shown) :]]
    others = Bar(count(len(rest), "other") + " (net)", float(finite(rest).sum()), OTHERS)
    return [*found, others] if len(rest) and adds_up(explanation) else found


def _errors(explanation: Explanation, example: int, wanted: int) -> Sequence[float | None]:
    """The standard error of every number; none where they are not known, or numbers were pooled."""
    if explanation.errors is None:
        return [None] * wanted
    found = [float(error) for errors in explanation.errors for error in errors[min(example, len(errors) - 1)].flatten()]
    return found if len(found) == wanted else [None] * wanted


def adds_up(explanation: Explanation) -> bool:
    """Whether a sum of attributions means something; a sum of gradients does not."""
    return explanation.display.pooling != "norm"


def _cells(explanation: Explanation, example: int) -> Sequence[str]:
    cells = explanation.display.cells
    return cells[example] if example < len(cells) else ()


def _named(inputs: Sequence[Example], names: Sequence[str], cells: Sequence[str] = ()) -> tuple[list[str], Array]:
    """Every number of every input, with the name of its feature and the feature's value, in words if there are any."""
    flat = [_columns(one, names) for one in inputs]
    values = np.concatenate([value for _, value, _ in flat])
    features = np.concatenate([feature for _, _, feature in flat])
    several = len(inputs) > 1 and len(names) != len(values)
    words = [f"input {i}: {word}" if several else word for i, (each, _, _) in enumerate(flat) for word in each]
    if names and not several:
        words = list(inputs[0].named(len(values)))
    if len(cells) == len(words):
        return [f"{word}{EQUALS}{cell}" for word, cell in zip(words, cells, strict=True)], values
    return list(map(_labelled, words, features.tolist())), values


def _labelled(word: str, feature: float) -> str:
    return word if np.isnan(feature) else f"{word}{EQUALS}{number(feature)}"


def _columns(one: Example, names: Sequence[str]) -> tuple[list[str], Array, Array]:
    """Names, attributions and values of one input; what lies behind a named column is pooled."""
    if names and one.values.ndim > 1 and len(one.values) == len(names):
        return list(names), one.pooled(), np.full(len(names), np.nan)
    features = one.features.reshape(-1) if one.features.shape == one.values.shape else np.full(one.values.size, np.nan)
    return list(_places(one.values.shape)), one.values.reshape(-1), features


def _places(shape: tuple[int, ...]) -> Iterator[str]:
    for place in np.ndindex(shape):
        yield f"feature {place[0]}" if len(place) == 1 else f"feature {list(place)}" if place else "feature"


def _notes(found: Sequence[Bar], explanation: Explanation, example: int) -> Iterator[str]:
    values = np.concatenate([one.values.reshape(-1) for one in rows_of(explanation, example)])
    lost = int((~np.isfinite(values)).sum())
    if lost:
        yield f"{lost} of {len(values)} attributions are NaN or infinite; they have no bar and are in no sum"
    if not adds_up(explanation) and len(values) > len(found):
        yield f"{count(len(values) - len(found), 'weaker one')} not shown"
    if not any(bar.value for bar in found):
        yield "all attributions are zero"


def draw_table(
    explanation: Explanation,
    example: int = 0,
    *,
    top: int = 10,
    width: float = 7.0,
    titled: bool = True,
) -> Figure:
    """Bars with names and values, the strongest first; under them the sum of all others.

    Args:
        explanation: with attributions `(B, F)`; of other shapes, every number is a feature.
        example: which example.
        top: how many bars, before the one of all others.
        width: of the figure, in inches.
        titled: whether to write a title.
    """
    found = bars(explanation, example, top)
    page = sheet(
        width,
        0.25 * len(found) + 0.65 + 0.15 * any(bar.error for bar in found),
        title(explanation, example) if titled else (),
        tuple(_notes(found, explanation, example)),
    )
    together = f"; all together {number(sum(bar.length for bar in found), signed=True)}" if adds_up(explanation) else ""
    plot_bars(page.rows(1)[0], found, unit_of(explanation) + together)
    return legible(page.figure)


def draw_importance(ranked: Importance, top: int = 20, width: float = 7.0) -> Figure:
    """Bars of what matters over a data set, the most important first, with whiskers of one standard error.

    Raises:
        OptionError: top is not positive.
    """
    found = ranking(ranked, top)
    heading, label = f"importance over {count(int(ranked.counts.max()), 'example')}", IMPORTANCE[ranked.kind]
    left = [f"{count(len(ranked) - len(found), 'less important one')} not shown"] if len(ranked) > len(found) else []
    page = sheet(width, 0.25 * len(found) + 0.65 + 0.15 * any(bar.error for bar in found), (heading, ranked.source), left)
    plot_bars(page.rows(1)[0], found, label)
    return legible(page.figure)


def ranking(ranked: Importance, top: int = 20) -> list[Bar]:
    """The most important columns or tokens as bars.

    Raises:
        OptionError: top is not positive.
    """
    if top < 1:
        raise OptionError(f"top={top!r} shows no bar; give at least 1")
    rows = zip(ranked.names[:top], ranked.values.tolist(), ranked.errors.tolist(), strict=False)
    return [Bar(name, value, STRENGTH, None if math.isnan(error) else error, False) for name, value, error in rows]


def plot_bars(axes: Axes, found: Sequence[Bar], label: str) -> None:
    """Bars with their names at the left, their values at their ends, and whiskers where errors are known."""
    lengths = [bar.length for bar in found]
    axes.barh(range(len(found)), lengths, color=[bar.colour for bar in found], height=0.72)
    known = [(row, bar) for row, bar in enumerate(found) if bar.error]
    if known:
        ends, rows, errors = [bar.length for _, bar in known], [row for row, _ in known], [bar.error or 0.0 for _, bar in known]
        axes.errorbar(ends, rows, xerr=errors, fmt="none", ecolor="#222222", elinewidth=1.1, capsize=2.5)
    axes.set_yticks(range(len(found)), [literal(shortened(bar.name, WIDEST)) for bar in found])
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel(label + ("\n± one standard error" if known else ""), fontsize=9)
    _label(axes, found)


def _label(axes: Axes, found: Sequence[Bar]) -> None:
    """The number at the end of each bar, with room for it at both sides."""
    reach = [(bar.length + math.copysign(bar.error or 0.0, bar.length)) for bar in found]
    low, high = min(0.0, *reach), max(0.0, *reach)
    span = (high - low) or 1.0
    sides = 1 + (low < 0)
    share = min(_inches(bar.words for bar in found) / _breadth(axes, found), 0.8 / sides)
    room = share / (1 - sides * share)
    axes.set_xlim(low - room * span * (low < 0), high + room * span)
    if low == high:
        axes.set_xticks([0])
    for row, (bar, end) in enumerate(zip(found, reach, strict=True)):
        place, side = (end - 0.01 * span, "right") if bar.length < 0 else (end + 0.01 * span, "left")
        axes.text(place, row, bar.words, ha=side, va="center", fontsize=8.5)


def _breadth(axes: Axes, found: Sequence[Bar]) -> float:
    """Inches that are left for bars and numbers beside the names."""
    whole = axes.get_figure(root=True)
    return max(1.0, (whole.get_figwidth() if whole else 7.0) - _inches(shortened(bar.name, WIDEST) for bar in found) - 0.4)


def _inches(words: Iterable[str]) -> float:
    """About how wide the widest is; ideographs are twice as wide as letters."""
    return 0.077 * max(sum(1 + (unicodedata.east_asian_width(sign) in "WF") for sign in word) for word in words)


def listed(explanation: Explanation, example: int = 0, top: int = 10) -> str:
    """The same bars as an HTML table, to be read in any width and by screen readers."""
    found = bars(explanation, example, top)
    lengths = [0.0, *(bar.length for bar in found)]
    low, span = min(lengths), (max(lengths) - min(lengths)) or 1.0
    rows = "".join(_row(bar, min(bar.length, 0.0) - low, span) for bar in found)
    total = number(sum(bar.length for bar in found), signed=True)
    notes = "".join(f'<p class="small">⚠ {escape(note)}</p>' for note in _notes(found, explanation, example))
    head = '<tr><th scope="col">feature</th><th scope="col">attribution</th><th scope="col">bar</th></tr>'
    foot = f'<tfoot><tr><th scope="row">all together</th><td class="number">{total}</td><td></td></tr></tfoot>'
    return f'<table class="bars"><thead>{head}</thead><tbody>{rows}</tbody>{foot if adds_up(explanation) else ""}</table>{notes}'


def _row(bar: Bar, start: float, span: float) -> str:
    """A bar from (or to) the zero that all rows share."""
    start, length = 100 * start / span, 100 * abs(bar.length) / span
    drawn = f'<span style="margin-left:{start:.1f}%;width:{length:.1f}%;background:{bar.colour}"></span>'
    name = escape(shortened(bar.name, WIDEST))
    cells = f'<td class="number">{bar.words}</td><td class="bar" aria-hidden="true">{drawn}</td>'
    return f'<tr><th scope="row">{name}</th>{cells}</tr>'
