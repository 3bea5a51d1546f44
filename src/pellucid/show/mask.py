"""Masks of image regions: a border inside a region, and a label at its centre."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from numpy.typing import NDArray

from ..errors import InputError, OptionError
from .numbers import literal
from .scale import array_of

__all__ = ["draw_border", "draw_label", "eroded"]


def _region(mask: Any) -> NDArray[np.bool_]:
    region: NDArray[np.bool_] = array_of(mask) != 0
    if region.ndim != 2:
        raise InputError(f"a mask of shape {region.shape} is not one of an image; give (height, width)")
    return region


def eroded(region: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    """The pixels whose four neighbours are in the region too, so many times over; beyond the image is outside."""
    for _ in range(times):
        wide = np.pad(region, 1)
        region = region & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return region


def draw_border(axes: Axes, mask: Any, width: int, colour: Any) -> None:
    """Draw the outermost `width` pixels of a region in one colour; an empty region has no border.

    Raises:
        OptionError: a width below 1. InputError: the mask is not two-dimensional.
    """
    if width < 1:
        raise OptionError(f"border_width={width!r} draws no border; give at least 1")
    region = _region(mask)
    if region.any():
        border = region & ~eroded(region, width)
        rgba = np.asarray(to_rgba(colour) if isinstance(colour, str) else colour)
        axes.imshow(border[..., np.newaxis] * rgba.reshape(1, 1, -1))


def draw_label(axes: Axes, mask: Any, label: str, size: int, colour: str, ground: str, opacity: float) -> None:
    """Write a label at the centroid of a region; an empty region has none.

    Raises:
        InputError: the mask is not two-dimensional.
    """
    region = _region(mask)
    if region.any():
        down, across = (places.mean() for places in np.nonzero(region))
        box = {"boxstyle": "round,pad=0.2", "facecolor": ground, "alpha": opacity}
        axes.text(across, down, literal(label), color=colour, fontsize=size, ha="center", va="center", bbox=box)
