"""Figures of corruptions and attacks: what they look like, accuracy under them, attacks compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from ..errors import OptionError
from ..show.colour import ink_on
from ..show.fitting import cut, inches, legible
from ..show.frame import MARGIN, sheet
from ..show.numbers import count, literal, number, percent
from ..show.picture import bare
from ..show.scale import Array, array_of
from .compare import ORIGINAL

if TYPE_CHECKING:
    from .robustness import Robustness
    from .summary import Row

__all__ = ["draw_grid", "draw_robustness", "draw_summary"]

NARROWEST = 5.0
LINE, SIZE = 0.32, 9  # inches of a row, points of its name
OWN, ATTACKED, INK = "#8a8a8a", "#4480b8", "#222222"
WIDEST, GAP = 2.2, 0.05  # inches of a name, and between images


def _roomy(width: float) -> None:
    if not width >= NARROWEST:
        raise OptionError(f"width={width!r} leaves no room; give {NARROWEST:g} inches or more")


def draw_robustness(found: Robustness, width: float = 7.0) -> Figure:
    """The accuracies as a heat map: a row for each corruption, a column for each severity, and the mean of all.

    Raises:
        OptionError: too little room.
    """
    _roomy(width)
    accuracy = found.accuracy.numpy()
    names = [cut(name.replace("_", " "), WIDEST, SIZE) for name in found.corruptions]
    left, mean = max(inches(name, SIZE) for name in names) + 2 * MARGIN, 0.75
    tall, wide = LINE * len(names), width - left - mean - 3 * MARGIN
    error, clean = 1 - float(accuracy.mean()), found.clean_accuracy
    words = (
        f"right about {percent(clean)} of {count(len(found.clean), 'image')} as they are",
        f"percent right; mean corruption error {percent(error)}, {percent(error - 1 + clean)} above the clean error",
    )
    page = sheet(width, tall + 0.55, words)
    heat = page.axes(left, 0.08, wide, tall)
    _cells(heat, accuracy)
    heat.set_yticks(range(len(names)), list(map(literal, names)), fontsize=SIZE)
    heat.set_xticks(range(len(found.severities)), [f"{severity:g}" for severity in found.severities], fontsize=SIZE)
    heat.set_xlabel("severity", fontsize=SIZE)
    heat.tick_params(labelleft=True, labelbottom=True, length=0)
    means = page.axes(left + wide + MARGIN, 0.08, mean, tall)
    _cells(means, accuracy.mean(1, keepdims=True))
    means.set_xticks([0], ["mean"], fontsize=SIZE)
    means.tick_params(labelbottom=True, length=0)
    return legible(page.figure)


def _cells(axes: Axes, shares: Array) -> None:
    """Shares as percent on their colours, dark where few."""
    colours = matplotlib.colormaps["Purples_r"]
    shown = colours(0.12 + 0.88 * shares)  # the darkest would hide which hue it is
    axes.imshow(shown, aspect="auto", interpolation="nearest")
    bare(axes)
    for (row, column), share in np.ndenumerate(shares):
        ink = ink_on(to_hex(tuple(shown[row, column])))
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=SIZE, color=ink)
    axes.set_xticks(np.arange(shares.shape[1] - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(shares.shape[0] - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def draw_grid(rows: Mapping[str, Sequence[Tensor]], severities: Sequence[float], width: float) -> Figure:
    """Images `(C, H, W)` in [0, 1] in rows with names, a column for each severity.

    Raises:
        OptionError: nothing to draw, or too little room.
    """
    names = [cut(name.replace("_", " "), WIDEST, SIZE) for name in rows]
    left = max((inches(name, SIZE) for name in names), default=0.0) + 2 * MARGIN
    side = (width - left) / max(len(severities), 1) - GAP
    if not names or not severities or side < 0.3:
        raise OptionError(f"{len(names)} corruptions at {len(severities)} severities are no picture of {width:g} inches; give others")
    first = next(iter(rows.values()))[0]
    tall = side * first.shape[1] / first.shape[2]
    page = sheet(width, 0.3 + (tall + GAP) * len(names), ())
    for row, (name, images) in enumerate(zip(names, rows.values(), strict=True)):
        for column, (severity, image) in enumerate(zip(severities, images, strict=True)):
            axes = page.axes(left + column * (side + GAP), 0.2 + row * (tall + GAP), side, tall)
            picture = array_of(image.permute(1, 2, 0))
            axes.imshow(picture[..., 0] if picture.shape[2] == 1 else picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            bare(axes)
            axes.spines[:].set_visible(False)
            if not row:
                axes.set_title(f"{'severity ' if not column else ''}{severity:g}", fontsize=SIZE, pad=3)
            if not column:
                axes.set_ylabel(literal(name), fontsize=SIZE, rotation=0, ha="right", va="center")
    return legible(page.figure)


def draw_summary(rows: Sequence[Row], width: float = 7.0) -> Figure:
    """The means as bars, with whiskers of one standard error; a line at what there is without an attack.

    Raises:
        OptionError: nothing to draw, or too little room.
    """
    _roomy(width)
    if not rows:
        raise OptionError("the summary has no results yet; add those of compare")
    parts, attacks = list(dict.fromkeys(row.part for row in rows)), list(dict.fromkeys(row.attack for row in rows))
    names = [cut(name, WIDEST, SIZE) for name in attacks]
    left, tall = max(inches(name, SIZE) for name in names) + 2 * MARGIN, LINE * len(names)
    wide = (width - left - MARGIN) / len(parts) - 2 * MARGIN
    if wide < 1.2:
        raise OptionError(f"a metric of {len(parts)} parts has no room in {width:g} inches; give width={left + 1.5 * len(parts):.0f}")
    page = sheet(width, tall + 0.65, (f"attacks compared over {count(max(row.size for row in rows), 'value')}",))
    for i, part in enumerate(parts):
        axes = page.axes(left + i * (wide + 2 * MARGIN), 0.05, wide, tall)
        _bars(axes, [row for row in rows if row.part == part], attacks)
        axes.set_yticks(range(len(names)), list(map(literal, names)) if not i else [""] * len(names), fontsize=SIZE)
        axes.set_xlabel(f"{literal(part or 'mean')}\n± one standard error", fontsize=SIZE)
    return legible(page.figure)


def _bars(axes: Axes, rows: Sequence[Row], attacks: Sequence[str]) -> None:
    places, means = [attacks.index(row.attack) for row in rows], [row.numbers["mean"] for row in rows]
    errors = [0.0 if math.isnan(row.numbers["std"]) else row.numbers["std"] / math.sqrt(row.size) for row in rows]
    axes.barh(places, means, height=0.7, color=[OWN if row.attack == ORIGINAL else ATTACKED for row in rows])
    axes.errorbar(means, places, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
    for row, mean in zip(rows, means, strict=True):
        if row.attack == ORIGINAL:
            axes.axvline(mean, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    low, high = (
        f(0.0, *(side(m, e) for m, e in zip(means, errors, strict=True))) for f, side in ((min, float.__sub__), (max, float.__add__))
    )
    room = inches(" 0.0000", 8) / (axes.bbox.width / axes.figure.dpi)
    span = (high - low or 1.0) / (1 - room * (2 if low < 0 else 1))
    axes.set(xlim=(low - room * span * (low < 0), high + room * span), ylim=(len(attacks) - 0.45, -0.55))
    for place, mean, error in zip(places, means, errors, strict=True):
        end, side = (mean - error, "right") if mean < 0 else (mean + error, "left")
        axes.annotate(
            number(mean), (end, place), (-3 if mean < 0 else 3, 0), textcoords="offset points", ha=side, va="center", fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
