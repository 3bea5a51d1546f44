"""Means of a run, drawn: a map for each class beside the mean of what was explained, or a matrix for the columns of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ..errors import InputError
from ..show.colour import colour_bar, palette
from ..show.frame import Picture
from ..show.heat import Panel, draw_heat
from ..show.scale import Array, array_of, scaled

if TYPE_CHECKING:
    from .summary import Means

__all__ = ["maps_of"]

ACROSS, TILE = 6, 1.15  # classes in a row, and inches of a map


def maps_of(means: Means) -> Figure:
    """The mean attributions of all classes, on one scale.

    Raises:
        InputError: features that are neither columns nor pictures.
    """
    if means.signed.dim() == 2:
        columns = means.columns or tuple(f"feature {i}" for i in range(means.signed.shape[1]))
        rows = tuple(f"{name} ({count})" for name, count in zip(means.names, means.counts, strict=True))
        return draw_heat([Panel(means.signed, rows, columns, "mean attribution", down="class (examples)")], "Means of classes")
    if means.signed.dim() != 4:
        raise InputError(f"means have the shape {tuple(means.signed.shape[1:])}; rows of a table and pictures are drawn")
    shown, used = scaled(array_of(means.signed.sum(1))), palette("all")
    pictures = None if means.features is None else [_picture(array_of(f)) for f in means.features]
    down = -(-len(means.names) // ACROSS)
    across, each = min(ACROSS, len(means.names)), 1 if pictures is None else 2
    figure = Picture(figsize=(across * TILE + 1.0, down * (each * TILE + 0.35) + 0.55))
    tall = figure.get_size_inches()[1]
    # A thin row of nothing parts the classes of one row from those of the next.
    ratios = [ratio for _ in range(down) for ratio in (*[1.0] * each, 0.3)][:-1]
    grid = figure.add_gridspec(
        len(ratios), across, height_ratios=ratios, left=0.03, right=1 - 0.95 / figure.get_size_inches()[0], bottom=0.08 / tall,
        top=1 - 0.6 / tall, hspace=0.05, wspace=0.06,
    )  # fmt: skip
    for place, (name, count) in enumerate(zip(means.names, means.counts, strict=True)):
        row, column = divmod(place, across)
        for line in range(each):
            axes = figure.add_subplot(grid[row * (each + 1) + line, column])
            axes.set_xticks([])
            axes.set_yticks([])
            if line == 0:
                axes.set_title(f"{name} ({count})", fontsize=9, pad=3)
            if pictures is not None and line == 0:
                axes.imshow(pictures[place], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            else:
                axes.imshow(shown.values[place], cmap=used.colours, norm=used.norm, interpolation="nearest")
    width = figure.get_size_inches()[0]
    bar = figure.add_axes((1 - 0.85 / width, 0.15, 0.12 / width, 0.65))
    colour_bar(figure, bar, shown, used, "mean attribution")
    words = "Mean attribution of each class" if pictures is None else "Mean picture and mean attribution of each class"
    figure.suptitle(f"{words} (examples)", fontsize=10, x=0.03, ha="left", y=1 - 0.1 / tall, va="top")
    return figure


def _picture(values: Array) -> Array:
    low, high = float(values.min()), float(values.max())
    spread = (values - low) / ((high - low) or 1.0)
    return spread[0] if len(spread) not in (3, 4) else np.moveaxis(spread[:3], 0, -1)
