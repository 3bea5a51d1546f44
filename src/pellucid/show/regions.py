"""Regions of an image over it: in colours of their own, or in the colours of their attributions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from ..errors import OptionError
from .canvas import mappable
from .colour import palette
from .mask import draw_label, eroded
from .numbers import number
from .picture import Layers, bare, paint, picture_of
from .scale import Scaled, array_of, scaled

if TYPE_CHECKING:
    from matplotlib.colorbar import Colorbar

    from ..perturb.regions import Regions

__all__ = ["attributed", "overlay"]

# Eight colours that colour-blind readers can tell apart (Okabe and Ito 2008), without black.
APART = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#bbbbbb")
OPACITY = 0.55


def overlay(axes: Axes, regions: Regions, border: int = 0, named: bool = True) -> None:
    """The image, each region in a colour of its own over it, its border inside it, and its id at its centre.

    Args:
        border: pixels; 0 draws none.
        named: whether to write the ids.

    Raises:
        OptionError: a border that is negative.
    """
    _check(border)
    _ground(axes, _photograph(regions))
    chosen = [np.array(matplotlib.colors.to_rgb(colour)) for colour in islice(cycle(APART), regions.units)]
    masks = [regions.region(unit).numpy() for unit in range(regions.units)]
    _laid(axes, masks, [(colour, OPACITY) for colour in chosen])
    if border:
        _laid(axes, [_edge(mask, border) for mask in masks], [(colour * 0.6, 0.95) for colour in chosen])
    if named:
        _names(axes, regions, masks)


def attributed(axes: Axes, regions: Regions, values: Tensor, border: int = 2, named: bool = True) -> Colorbar:
    """The image faded under the colours of its regions' attributions, with a colour bar; where regions overlap, their sum.

    Args:
        values: `(units,)`.
        border, named: as `overlay`; borders are darker shades of the regions' colours.

    Raises:
        OptionError: a border that is negative. InputError: another number of attributions.
    """
    _check(border)
    shown = scaled(regions.spread(values.detach().cpu()), outliers=0)
    paint(axes, Layers(shown.values, _photograph(regions), palette("all")), "overlay")
    masks = [regions.region(unit).numpy() for unit in range(regions.units)]
    if border:
        shades = [(_shade(value, shown) * 0.6, 0.95) for value in array_of(values).tolist()]
        _laid(axes, [_edge(mask, border) for mask in masks], shades)
    if named:
        _names(axes, regions, masks)
    bare(axes)
    axes.set_axis_off()
    if shown.notes:
        axes.set_title("\n".join(line for note in shown.notes for line in textwrap.wrap(f"⚠ {note}", 46)), fontsize=9)
    return _bar(axes, shown)


def _bar(axes: Axes, shown: Scaled) -> Colorbar:
    """In units of the attributions."""
    whole = axes.get_figure(root=True)
    assert whole is not None
    bar = whole.colorbar(mappable(palette("all")), ax=axes)
    ends = np.linspace(-1, 1, 5)
    bar.set_ticks(ends.tolist(), labels=[number(end * shown.unit, 2) for end in ends])
    bar.set_label("attribution")
    return bar


def _check(border: int) -> None:
    if border < 0:
        raise OptionError(f"border_width={border!r} is negative; give pixels, or 0 for no border")


def _photograph(regions: Regions) -> NDArray[Any]:
    # Through colours, because a palette's numbers are no brightness; 16 bits and floats are stretched to be seen.
    picture = regions.picture
    if picture.mode[0] in "IF":
        values = array_of(np.asarray(picture))
        return picture_of(255 * (values - values.min()) / (np.ptp(values) or 1))
    return picture_of(np.asarray(picture.convert("RGB")))


def _ground(axes: Axes, picture: NDArray[Any]) -> None:
    axes.imshow(picture.astype(np.uint8), cmap="gray", vmin=0, vmax=255)  # colours are shown as they are
    axes.set_axis_off()


def _edge(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    edge: NDArray[np.bool_] = mask & ~eroded(mask, width)
    return edge


def _laid(axes: Axes, masks: Sequence[NDArray[np.bool_]], colours: Sequence[tuple[NDArray[Any], float]]) -> None:
    """All in one picture, each over those before it."""
    laid = np.zeros((*masks[0].shape, 4))
    for mask, (colour, opacity) in zip(masks, colours, strict=True):
        below = laid[mask]
        left = below[:, 3:] * (1 - opacity)
        alpha = opacity + left
        laid[mask] = np.concatenate([(colour * opacity + below[:, :3] * left) / alpha, alpha], 1)
    axes.imshow(laid, interpolation="nearest")


def _shade(value: float, shown: Scaled) -> NDArray[Any]:
    used = palette("all")
    share = value / shown.unit if shown.unit else 0.0
    return np.array(used.colours(used.norm(np.ma.masked_invalid(np.clip([share], -1, 1))))[0, :3])


def _names(axes: Axes, regions: Regions, masks: Sequence[NDArray[np.bool_]]) -> None:
    size = 10 if len(masks) <= 12 else 8 if len(masks) <= 40 else 6
    for name, mask in zip(regions.names, masks, strict=True):
        draw_label(axes, mask, str(name), size, "white", "black", 0.6)
