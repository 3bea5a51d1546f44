"""Figures of the parameter randomisation test: the similarity from layer to layer, of several methods beside each other"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import InputError, OptionError
from ..show.fitting import SIZE, cut, inches, legible
from ..show.frame import sheet
from ..show.numbers import count as counted
from ..show.numbers import literal, shortened
from .randomisation import Cascade

__all__ = ["draw_cascades"]

SOFT, NARROWEST = "#5a5a5a", 5.0
# Four of Okabe and Ito's colours, each with a sign of its own; then the same with other lines.
LINES = tuple(
    (colour, sign, dash)
    for dash in ("solid", (0, (4, 1.5)))
    for colour, sign in (("#0072b2", "o"), ("#d55e00", "s"), ("#111111", "^"), ("#56b4e9", "D"))
)
ROW, LEAST, MOST = 0.28, 1.6, 8.0  # inches: for a layer, and for all of them
APART = 0.1  # rows between methods
LETTERS = 5  # of a layer's name, for each inch of the figure
BARRED, SPREAD = 40, 4  # as many rows have bars at most, and as many examples at least
MEASURES = {
    "rank_correlation": "rank correlation",
    "correlation": "correlation",
    "cosine": "cosine",
    "top_overlap": "overlap of the largest ten",
    "ssim": "structural similarity",
}
ORDERED = {
    "top_down": "layers drawn anew one after another, from the output",
    "bottom_up": "layers drawn anew one after another, from the input",
    "independent": "layers drawn anew each by itself",
}


def draw_cascades(cascades: Mapping[str, Cascade], *, width: float = 7.0) -> Figure:
    """How like explanations stay while the layers of a model are drawn anew, a line for each method, layers from top to bottom.

    Lines are means over the examples, bars the middle half of them. A line that stays at the right is of a method that does
    not explain what the model learned.

    Source: Adebayo et al. 2018, figure 4.

    Args:
        cascades: names of up to eight methods, and what `cascade` found for each, on the same layers in the same order.
        width: of the figure, in inches.

    Raises:
        InputError: none, too many, or cascades of different layers, orders or measures. OptionError: a figure that is too narrow.

    >>> import torch
    >>> found = Cascade(("2", "0"), torch.tensor([[1.0, 1.0], [0.5, 0.7], [0.0, 0.1]]), "top_down", "cosine", False, 0)
    >>> draw_cascades({"gradient": found}).texts[0].get_text()
    "cosine with the trained model's explanation"
    """
    first = _alike(cascades, width)
    size, rows = max(len(each.similarities[0]) for each in cascades.values()), len(first.layers) + 1
    barred = size >= SPREAD and rows <= BARRED
    words = (
        f"{MEASURES[first.by]} {'of magnitudes ' if first.magnitude else ''}with the trained model's explanation",
        f"{ORDERED[first.order]} (Adebayo et al. 2018)",
        f"mean of {counted(size, 'example')}" + ("; bars: the middle half of them" if barred else ""),
    )
    tall = min(max(ROW * rows, LEAST), MOST)
    names = ["as trained", *(shortened(name, int(width * LETTERS)) for name in first.layers)]
    legends, across = _columns(cascades, width)
    page = sheet(width, tall + 0.5 + legends * 0.2, words, [*_notes(cascades)])
    left = max(map(inches, names)) + 0.35
    axes = page.axes(left, legends * 0.2 + 0.02, width - left - 0.2, tall)
    for i, (name, each) in enumerate(cascades.items()):
        _line(axes, cut(name, width - 1), each, LINES[i], (i - (len(cascades) - 1) / 2) * APART)
        if barred:
            _bars(axes, each, LINES[i][0], (i - (len(cascades) - 1) / 2) * APART)
    _frame(axes, names, tall, first)
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": across, "borderaxespad": 0.1}
    axes.legend(**place, fontsize=SIZE, frameon=False, handlelength=2.4, columnspacing=1.4, handletextpad=0.5)
    return legible(page.figure)


def _alike(cascades: Mapping[str, Cascade], width: float) -> Cascade:
    """The first, which the others can stand beside."""
    if not width >= NARROWEST:
        raise OptionError(f"width={width!r} leaves no room; give {NARROWEST:g} inches or more")
    if not 1 <= len(cascades) <= len(LINES):
        raise InputError(f"there are {len(cascades)} cascades; give 1 to {len(LINES)}, as many lines as can be told apart")
    asked = {name: (each.layers, each.order, each.by, each.magnitude) for name, each in cascades.items()}
    (first, own), *rest = asked.items()
    for name, other in rest:
        if other != own:
            raise InputError(f"the cascades of {first!r} and {name!r} differ in layers, order, measure or magnitude; give those that agree")
    return cascades[first]


def _columns(cascades: Mapping[str, Cascade], width: float) -> tuple[int, int]:
    """How many lines a legend of these names takes, and how many names stand in one."""
    room = max(inches(cut(name, width - 1)) for name in cascades) + 0.6
    across = max(1, min(len(cascades), int((width - 0.3) / room)))
    return -(-len(cascades) // across), across


def _notes(cascades: Mapping[str, Cascade]) -> Iterator[str]:
    for name, each in cascades.items():
        lost = int(each.similarities.isnan().sum())
        if lost:
            yield f"{name}: {lost:,} of {each.similarities.numel():,} similarities left out: explanations the same everywhere have none"


def _line(axes: Axes, name: str, each: Cascade, look: Any, aside: float) -> None:
    """A method's line, a little above or below the others so that bars do not hide each other."""
    colour, sign, dash = look
    down = np.arange(len(each.layers) + 1) + aside
    axes.plot(
        each.by_layer.cpu().numpy(), down, color=colour, linestyle=dash, marker=sign, markersize=4, linewidth=1.2, label=literal(name),
        clip_on=False, zorder=4,
    )  # fmt: skip


def _bars(axes: Axes, each: Cascade, colour: str, aside: float) -> None:
    values = each.similarities.cpu().numpy()
    some = np.isfinite(values).any(1)
    if some.any():
        low, high = np.nanquantile(values[some], (0.25, 0.75), axis=1)
        axes.hlines(np.flatnonzero(some) + aside, low, high, color=colour, alpha=0.4, linewidth=2, zorder=2)


def _frame(axes: Axes, names: list[str], tall: float, first: Cascade) -> None:
    step = max(1, -(-len(names) * 0.14 // tall))
    shown = [i for i in range(len(names)) if i % step == 0]
    axes.set_yticks(shown, [literal(names[i]) for i in shown], fontsize=SIZE)
    axes.set(ylim=(len(names) - 0.6, -0.4), xlim=(min(0.0, axes.dataLim.x0) - 0.03, 1.02))
    axes.axvline(0, color="#b5b5b5", linewidth=0.9, linestyle="dashed", zorder=1)
    axes.grid(axis="y", color="#ececec", linewidth=0.7, zorder=0)
    axes.set_xlabel(f"{MEASURES[first.by]}: 1 the same, 0 unlike", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=SIZE)
