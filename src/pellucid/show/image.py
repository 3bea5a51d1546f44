"""An image, the attributions over it, and a colour bar with units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..explanation import Explanation
from .colour import colour_bar, palette
from .example import Example, example_of, pixels, title, unit_of
from .frame import MARGIN, Sheet, sheet
from .picture import COLOURED, Layers, bare, map_of, paint, picture_of
from .scale import Scaled, scaled

__all__ = ["draw_image", "photograph_of"]

SIDE = 2.7
BAR = 1.45  # inches for a colour bar, its numbers and a label in lines


def draw_image(
    explanation: Explanation,
    example: int = 0,
    *,
    which: int = 0,
    method: str = "overlay",
    sign: str = "all",
    outliers: float = 2,
    alpha: float = 0.5,
    colours: str | Colormap | None = None,
    original: bool = True,
    titled: bool = True,
) -> Figure:
    """The image, the attributions over it, and a colour bar with units.

    Args:
        explanation: with attributions `(B, C, H, W)` or `(B, H, W)`, pooled over channels.
        example, which: which example, and which of several inputs.
        method: overlay, heat_map, blended_heat_map, masked_image, alpha_scaling or original_image.
        sign: all, positive, negative or absolute_value.
        outliers: the percentage of the total magnitude that may lie beyond the ends of the colour scale.
        alpha: opacity of a blended heat map.
        colours: another colour map.
        original, titled: whether to draw the image beside it, and a title.
    """
    one = example_of(explanation, example, which)
    shown, used = scaled(map_of(one.values, 0, one.pooling), sign, outliers), palette(sign, colours)
    layers = Layers(shown.values, photograph_of(one), used, alpha)
    beside = original and layers.picture is not None and method != "original_image"
    words = title(explanation, example) if titled else ()
    page, panels, bar = _panels(shown, 2 if beside else 1, words, method in COLOURED)
    if beside:
        paint(panels[0], layers, "original_image")
        at_layer = one.picture is None and one.features.ndim == 3 and len(one.features) not in (1, 3)
        panels[0].set_title("mean activation" if at_layer else "input", fontsize=9)
        panels[1].set_title("attribution", fontsize=9)
    paint(panels[-1], layers, method)
    if bar is not None:
        colour_bar(page.figure, bar, shown, used, unit_of(explanation), "vertical" if beside else "horizontal")
    return page.figure


def photograph_of(one: Example) -> NDArray[Any] | None:
    """What the attributions are drawn over: the picture, else the numbers themselves as one."""
    if one.picture is not None:
        return picture_of(one.picture)
    return picture_of(pixels(one.features)) if one.features.ndim in (2, 3) else None


def _panels(shown: Scaled, number: int, words: Sequence[str], barred: bool) -> tuple[Sheet, list[Axes], Axes | None]:
    """Axes for the images side by side, and those of the colour bar: right of two images, below a single one."""
    height, width = shown.values.shape
    tall, top = SIDE * min(max(height / width, 0.4), 2.5), 0.25 if number > 1 else 0.0
    below, beside = barred and number == 1, barred and number > 1
    page = sheet((SIDE + MARGIN) * number + MARGIN + BAR * beside, top + tall + MARGIN + 0.55 * below, words, shown.notes)
    panels = [page.axes(MARGIN + (SIDE + MARGIN) * i, top, SIDE, tall) for i in range(number)]
    for panel in panels:
        bare(panel)
    if below:
        return page, panels, page.axes(MARGIN + 0.15, top + tall + 0.1, SIDE - 0.3, 0.12)
    return page, panels, page.axes((SIDE + MARGIN) * number + 0.15, top, 0.14, tall) if beside else None
