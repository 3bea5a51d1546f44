"""The colours of attributions: safe for colour-blind readers, zero always neutral, and a bar that says the units."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, ListedColormap, Normalize, to_hex
from matplotlib.figure import Figure

from .numbers import number
from .scale import Scaled, one_of

__all__ = ["AGAINST", "BAD", "FOR", "LINES", "Palette", "colour_bar", "diverging", "ink_on", "palette", "paper"]

BAD = "#9a9a9a"
# Four of Okabe and Ito's colours, those that differ for every kind of colour vision; then the same with other lines.
LINES = tuple((colour, dash) for dash in ("solid", (0, (4, 1.5)), (0, (1, 1.2))) for colour in ("#0072b2", "#d55e00", "#111111", "#56b4e9"))
SIZE = 255


@cache
def diverging() -> Colormap:
    """Blue through neutral grey-white to red: an odd number of colours, so that zero is exactly the middle one."""
    # The darkest tenth at both ends is left out: there red and blue look alike to some eyes, and on some paper.
    shades = matplotlib.colormaps["RdBu_r"](np.linspace(0.1, 0.9, SIZE))
    shades[SIZE // 2] = (*[shades[SIZE // 2, :3].mean()] * 3, 1.0)
    return ListedColormap(shades, name="pellucid").with_extremes(bad=BAD)


FOR, AGAINST = to_hex(diverging()(1.0)), to_hex(diverging()(0.0))


@dataclass(frozen=True, eq=False)
class Palette:
    """A colour map and the scaled values at its two ends."""

    colours: Colormap
    low: float
    high: float

    @property
    def norm(self) -> Normalize:
        """Scaled values to the map's [0, 1]."""
        return Normalize(self.low, self.high)


def _half(part: slice, name: str) -> Colormap:
    return ListedColormap(diverging()(np.arange(SIZE))[part], name=name).with_extremes(bad=BAD)


def _palettes() -> Mapping[str, Palette]:
    middle = SIZE // 2
    return {
        "all": Palette(diverging(), -1, 1),
        "positive": Palette(_half(slice(middle, None), "pellucid_for"), 0, 1),
        "negative": Palette(_half(slice(middle, None, -1), "pellucid_against"), 0, 1),
        "absolute_value": Palette(matplotlib.colormaps["Purples"].with_extremes(bad=BAD), 0, 1),
    }


def palette(sign: str, colours: str | Colormap | None = None) -> Palette:
    """The palette of a sign, with another colour map if one is given.

    Raises:
        OptionError: an unknown sign, or a colour map that matplotlib does not have.
    """
    chosen = _palettes()[one_of(sign, _palettes(), "sign")]
    if colours is None:
        return chosen
    if isinstance(colours, str):
        colours = matplotlib.colormaps[one_of(colours, matplotlib.colormaps, "colour map")]
    return Palette(colours.with_extremes(bad=BAD), chosen.low, chosen.high)


def paper(value: float) -> str:
    """The colour of a scaled value in [-1, 1], as hexadecimal; grey for NaN."""
    return BAD if np.isnan(value) else to_hex(diverging()(Normalize(-1, 1)(value)))


def ink_on(colour: str) -> str:
    """Black or white, whichever is easier to read on this colour (WCAG 2 contrast)."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "#ffffff" if linear @ (0.2126, 0.7152, 0.0722) < 0.179 else "#111111"


PER_INCH = 13  # letters of a label


def _wrapped(figure: Figure, axes: Axes, label: str) -> str:
    """In lines that are no longer than the bar is tall."""
    tall = axes.get_position().height * figure.get_size_inches()[1]
    return "\n".join(textwrap.wrap(label, max(14, int(tall * PER_INCH))))


def colour_bar(
    figure: Figure,
    axes: Axes,
    shown: Scaled,
    used: Palette,
    label: str,
    orientation: str = "vertical",
) -> Colorbar:
    """A colour bar in units of the attributions, pointed at its ends where values were clipped."""
    low, high = sorted((used.low * shown.unit, used.high * shown.unit))
    colours = used.colours.reversed() if shown.unit < 0 else used.colours
    mappable = ScalarMappable(Normalize(low, high) if shown.unit else Normalize(-1, 1), colours)
    extend = "neither" if not shown.clipped else "both" if low and high else "min" if low else "max"
    bar = figure.colorbar(mappable, cax=axes, orientation=orientation, extend=extend)
    ticks = np.linspace(low, high, 5 if used.low else 3) if shown.unit else np.zeros(1)
    bar.set_ticks(ticks.tolist(), labels=[number(tick, 2) for tick in ticks])
    bar.ax.tick_params(labelsize=8.5)
    bar.set_label(_wrapped(figure, axes, label) if orientation == "vertical" else label, fontsize=9)
    bar.outline.set_linewidth(0.4)
    return bar
