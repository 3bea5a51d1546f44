"""A figure to draw on: the caller's own, pyplot's where that is asked for, or one that nobody else knows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1 import make_axes_locatable  # type: ignore[import-untyped]

from .colour import Palette
from .numbers import literal

__all__ = ["bar_below", "canvas", "entitle", "mappable", "present"]


def canvas(
    given: tuple[Figure, Any] | None,
    pyplot: bool,
    size: tuple[float, float],
    **grid: Any,
) -> tuple[Figure, Any]:
    """A figure and its axes, as `Figure.subplots(**grid)` gives them."""
    if given is not None:
        return given
    figure = _registered(size) if pyplot else Figure(figsize=size)
    return figure, figure.subplots(**grid)


def _registered(size: tuple[float, float]) -> Figure:
    from matplotlib import pyplot

    return pyplot.figure(figsize=size)


def present(pyplot: bool) -> None:
    """Show pyplot's figures, if that was asked for."""
    if pyplot:
        from matplotlib import pyplot as registered

        registered.show()


def mappable(used: Palette) -> ScalarMappable:
    """What a colour bar of this palette shows."""
    return ScalarMappable(used.norm, used.colours)


def bar_below(figure: Figure, axes: Axes, drawn: ScalarMappable | None, pad: float, alpha: float | None = None) -> None:
    """A colour bar under the axes; without anything to show, its room, so that neighbours stay aligned."""
    room = make_axes_locatable(axes).append_axes("bottom", size="5%", pad=pad)
    if drawn is None:
        room.set_axis_off()
    else:
        figure.colorbar(drawn, orientation="horizontal", cax=room, alpha=alpha)


def entitle(axes: Axes, title: str | None, notes: Sequence[str]) -> None:
    """The title, and under it what a reader must be told, as wide as the axes."""
    width = int(axes.get_position().width * axes.figure.bbox.width / axes.figure.dpi * 8)
    told = (line for note in notes for line in textwrap.wrap(f"⚠ {note}", max(width, 16)))
    lines = [*([title] if title else []), *map(literal, told)]
    if lines:
        axes.set_title("\n".join(lines))
