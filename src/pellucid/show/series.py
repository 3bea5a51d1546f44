"""Attributions of signals: curves on a background, or in a line, of the colour of each time step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..errors import InputError
from ..explanation import Explanation
from .colour import Palette, colour_bar, palette
from .example import Example, example_of, title, unit_of
from .frame import sheet
from .numbers import count, literal
from .scale import Array, array_of, finite, one_of, scaled

__all__ = ["METHODS", "Curves", "draw_series", "paint", "signals_of"]

MOST = 8


def _shade(axes: Axes, times: NDArray[Any], values: Array, curves: Curves) -> None:
    """Colour the background of each time step behind a curve that is drawn already; what is not finite is grey."""
    across, heights = axes.get_xaxis_transform(), axes.get_ylim()
    used = curves.palette
    axes.pcolormesh(
        _edges(times), [0, 1], values[np.newaxis], cmap=used.colours, norm=used.norm, alpha=curves.alpha,
        transform=across, linewidth=0, rasterized=True, zorder=0,
    )  # fmt: skip
    # The mesh reaches from the bottom to the top of the axes; it must not move the limits of the curve.
    axes.set(ylim=heights, xlim=_span(times))


def _span(times: NDArray[Any]) -> tuple[float, float]:
    """The limits of the time axis."""
    if len(times) > 1:
        return float(times[0]), float(times[-1])
    return float(times[0]) - 0.5, float(times[0]) + 0.5


def _edges(times: NDArray[Any]) -> NDArray[Any]:
    """Where one time step gives way to the next."""
    steps = np.diff(times) if len(times) > 1 else np.ones(1)
    before, after = times[:1] - steps[:1] / 2, times[-1:] + steps[-1:] / 2
    return np.concatenate([before, times[:-1] + steps[: len(times) - 1] / 2, after])


def _coloured_line(axes: Axes, signal: Array, values: Array, curves: Curves) -> None:
    """A curve whose pieces have the colour of the time step that they begin at."""
    points = np.stack([curves.times, signal], 1)
    pieces = np.stack([points[:-1], points[1:]], 1)
    line = LineCollection(list(pieces), cmap=curves.palette.colours, norm=curves.palette.norm, **curves.style)
    line.set_array(values)
    axes.add_collection(line)
    known = finite(signal)
    room = 0.1 * float(np.ptp(known)) or 1.0
    axes.set(xlim=_span(curves.times), ylim=(known.min() - room, known.max() + room))


@dataclass(frozen=True, eq=False)
class Curves:
    """What a picture of signals is made of: times `(T,)`, signals `(C, T)`, scaled attributions `(C, T)` or `(T,)`."""

    times: NDArray[Any]
    signals: Array
    values: Array
    labels: Sequence[str] | None
    palette: Palette
    alpha: float = 0.7
    style: Mapping[str, Any] = field(default_factory=dict)


def _individual(panels: Sequence[Axes], curves: Curves) -> None:
    for axes, signal, values in zip(panels, curves.signals, curves.values, strict=True):
        axes.plot(curves.times, signal, **curves.style)
        _shade(axes, curves.times, values, curves)


def _combined(panels: Sequence[Axes], curves: Curves) -> None:
    panels[0].set_prop_cycle(color=colormaps["Dark2"](np.arange(8)).tolist())
    labels: Sequence[str | None] = curves.labels or [None] * len(curves.signals)
    for signal, label in zip(curves.signals, labels, strict=True):
        panels[0].plot(curves.times, signal, label=label if label is None else literal(label), **curves.style)
    _shade(panels[0], curves.times, curves.values, curves)
    if curves.labels:
        panels[0].legend(loc="best")


def _coloured(panels: Sequence[Axes], curves: Curves) -> None:
    for axes, signal, values in zip(panels, curves.signals, curves.values, strict=True):
        _coloured_line(axes, signal, values, curves)


METHODS: Mapping[str, Callable[[Sequence[Axes], Curves], None]] = {
    "overlay_individual": _individual,
    "overlay_combined": _combined,
    "colored_graph": _coloured,
}


def paint(panels: Sequence[Axes], curves: Curves, method: str) -> None:
    """Draw signals, one panel for each, or all in one panel where the attributions have no channels.

    Raises:
        OptionError: an unknown method. InputError: not as many panels or labels as signals.
    """
    draw = METHODS[one_of(method, METHODS, "method")]
    for what, have, need in (
        ("labels", curves.labels, len(curves.signals)),
        ("panels", panels, len(np.atleast_2d(curves.values))),
    ):
        if have is not None and len(have) != need:
            raise InputError(f"there are {len(have)} {what} for {need} channels; give one for each")
    draw(panels, curves)
    if curves.labels and curves.values.ndim == 2:
        for axes, label in zip(panels, curves.labels, strict=True):
            axes.set_ylabel(literal(label))


def signals_of(attr: Any, data: Any, times: Any, channels_last: bool) -> tuple[Array, Array, NDArray[Any]]:
    """Attributions and signals `(C, T)`, and where their steps lie: numbered if not given.

    Raises:
        InputError: shapes that do not fit each other.
    """
    values, signals = array_of(attr), array_of(data)
    if values.ndim != 2 or values.shape != signals.shape:
        raise InputError(f"attributions {values.shape} and data {signals.shape} do not fit; give (steps, channels)")
    if channels_last:
        values, signals = values.T, signals.T
    where = np.arange(values.shape[1]) if times is None else array_of(times)
    if where.shape != values.shape[1:]:
        raise InputError(f"times of shape {where.shape} do not fit {values.shape[1]} steps; give one for each step")
    return values, signals, where


def draw_series(
    explanation: Explanation,
    example: int = 0,
    *,
    which: int = 0,
    channels_last: bool | None = None,
    outliers: float = 2,
    width: float = 7.0,
    titled: bool = True,
) -> Figure:
    """One panel per channel, its curve on a background of the colours of its attributions.

    Args:
        explanation: with attributions `(B, C, T)`, `(B, T, C)` or `(B, T)`.
        example, which: which example, and which of several inputs.
        channels_last: whether channels come last; None: the axis that has as many entries as there are names, else the
            shorter one.
        outliers: the percentage of the total magnitude that may lie beyond the ends of the colour scale.
        width: of the figure, in inches.
        titled: whether to write a title.
    """
    one = example_of(explanation, example, which)
    values, signals = _channels(one, channels_last)
    names, shown, used = one.named(len(values), "channel"), scaled(values, outliers=outliers), palette("all")
    strongest = np.sort(np.argsort(-np.abs(finite(values)).sum(1), kind="stable")[:MOST])
    left = [f"{count(len(values) - MOST, 'weaker channel')} not drawn"] if len(values) > MOST else []
    tall = 0.95 * len(strongest) + 0.5
    page = sheet(width, tall, title(explanation, example) if titled else (), (*shown.notes, *left))
    rows = page.rows(len(strongest), right=1.0)
    labels = [names[channel] for channel in strongest]
    style = {"color": "#222222", "linewidth": 1.2}
    curves = Curves(np.arange(values.shape[1]), signals[strongest], shown.values[strongest], labels, used, 1.0, style)
    paint(rows, curves, "overlay_individual")
    for axes in rows:
        axes.tick_params(labelsize=8.5)
    rows[-1].set_xlabel("time step", fontsize=9)
    colour_bar(page.figure, page.axes(width - 0.85, 0.1, 0.14, tall - 0.6), shown, used, unit_of(explanation))
    return page.figure


def _channels(one: Example, channels_last: bool | None) -> tuple[Array, Array]:
    """Attributions and signals as `(C, T)`."""
    values = one.values[np.newaxis] if one.values.ndim == 1 else one.values
    if values.ndim != 2:
        raise InputError(f"attributions {one.values.shape} are not of a signal; give channels and time")
    signals = one.features.reshape(values.shape) if one.features.size == values.size else np.zeros_like(values)
    last = one.values.ndim == 2 and _last(values.shape, one.names, channels_last)
    return (values.T, signals.T) if last else (values, signals)


def _last(shape: Sequence[int], names: Sequence[str], asked: bool | None) -> bool:
    if asked is not None:
        return asked
    fits = [length == len(names) for length in shape]
    return fits[1] if fits[0] != fits[1] else shape[1] < shape[0]
