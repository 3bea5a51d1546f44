"""Captum's `captum.attr.visualization`: its functions over Pellucid's pictures, which take tensors, zeros and NaN."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import OptionError, warn
from ...show import records
from ...show.scale import Scaled, one_of, pooled, scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from ...show.colour import Palette

__all__ = [
    "ImageVisualizationMethod",
    "TimeseriesVisualizationMethod",
    "VisualizationDataRecord",
    "VisualizeSign",
    "draw_mask_border",
    "draw_mask_legend",
    "format_classname",
    "format_special_tokens",
    "format_tooltip",
    "format_word_importances",
    "visualize_image_attr",
    "visualize_image_attr_multiple",
    "visualize_text",
    "visualize_timeseries_attr",
]

SMALL = 1e-5
ONE_SIGN = {"positive": "Greens", "negative": "Reds", "absolute_value": "Blues"}


class ImageVisualizationMethod(Enum):
    """The ways to draw attributions of an image."""

    heat_map = 1
    blended_heat_map = 2
    original_image = 3
    masked_image = 4
    alpha_scaling = 5


class TimeseriesVisualizationMethod(Enum):
    """The ways to draw attributions of a signal."""

    overlay_individual = 1
    overlay_combined = 2
    colored_graph = 3


class VisualizeSign(Enum):
    """Which attributions to draw."""

    positive = 1
    absolute_value = 2
    negative = 3
    all = 4


def draw_mask_border(
    ax: Axes,
    mask: NDArray[np.bool_],
    border_width: int = 1,
    border_color: str | NDArray[np.floating[Any]] = "black",
) -> None:
    """Draw the border of a region, inside it; `pellucid.show.mask.draw_border`."""
    from ...show.mask import draw_border

    draw_border(ax, mask, border_width, border_color)


def draw_mask_legend(
    ax: Axes,
    mask: NDArray[np.bool_],
    label: str,
    fontsize: int = 10,
    text_color: str = "white",
    bbox_facecolor: str = "black",
    bbox_alpha: float = 0.6,
) -> None:
    """Write a label at the centre of a region; `pellucid.show.mask.draw_label`."""
    from ...show.mask import draw_label

    draw_label(ax, mask, label, fontsize, text_color, bbox_facecolor, bbox_alpha)


def visualize_image_attr(
    attr: Any,
    original_image: Any = None,
    method: str = "heat_map",
    sign: str = "absolute_value",
    plt_fig_axis: tuple[Figure, Axes] | None = None,
    outlier_perc: int | float = 2,
    cmap: str | Colormap | None = None,
    alpha_overlay: float = 0.5,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[int, int] = (6, 6),
    use_pyplot: bool = True,
) -> tuple[Figure, Axes]:
    """Draw attributions of an image.

    Args:
        attr: `(H, W, C)` or `(H, W)`, array or tensor; `(C, H, W)` where that is the only sensible reading. Not needed
            for the method "original_image".
        original_image: `(H, W, C)` or `(H, W)` with values in [0, 1] or [0, 255].
        method, sign: names of `ImageVisualizationMethod` and of `VisualizeSign`.
        plt_fig_axis: where to draw; None makes a figure.
        outlier_perc: the percentage of the total magnitude that may lie beyond the ends of the colour scale.
        cmap, alpha_overlay, show_colorbar, title, fig_size: the look.
        use_pyplot: make the figure with pyplot, and show it.

    Returns:
        The figure and its axes.

    Raises:
        OptionError, InputError: what is unknown, does not fit or is missing.
    """
    from ...show import canvas
    from ...show.picture import Layers, bare, check, map_of, paint, picture_of, upright

    values = np.zeros((1, 1)) if attr is None and method == "original_image" else map_of(upright(attr), 2)
    shown = _scaled(values, sign, outlier_perc)
    picture = None if original_image is None else picture_of(upright(original_image))
    layers = Layers(shown.values, picture, _palette(sign, cmap), alpha_overlay)
    check(layers, one_of(method, ImageVisualizationMethod.__members__, "method"))
    figure, axes = canvas.canvas(plt_fig_axis, use_pyplot, fig_size)
    axis: Axes = np.ravel(np.asarray(axes, dtype=object))[0]
    bare(axis)
    heat_map = paint(axis, layers, method)
    if show_colorbar:
        canvas.bar_below(figure, axis, heat_map, 0.1)
    canvas.entitle(axis, title, () if method == "original_image" else shown.notes)
    canvas.present(use_pyplot)
    return figure, axis


def visualize_image_attr_multiple(
    attr: Any,
    original_image: Any,
    methods: list[str],
    signs: list[str],
    titles: list[str] | None = None,
    fig_size: tuple[int, int] = (8, 6),
    use_pyplot: bool = True,
    **kwargs: Any,
) -> tuple[Figure, Axes | list[Axes]]:
    """Draw attributions of an image in several ways side by side; `kwargs` go to `visualize_image_attr`.

    Returns:
        The figure and its axes: a list, or the axes themselves if there is one method.

    Raises:
        OptionError, InputError: as `visualize_image_attr`; lists of different lengths.
    """
    from ...show import canvas

    named = [None] * len(methods) if titles is None else titles
    if not len(methods) == len(signs) == len(named) or not methods:
        raise OptionError(f"{len(methods)} methods, {len(signs)} signs and {len(named)} titles; give as many of each")
    figure, grid = canvas.canvas(None, use_pyplot, fig_size, ncols=len(methods), squeeze=False)
    row = list(grid[0])
    for axes, method, sign, title in zip(row, methods, signs, named, strict=True):
        kwargs |= {"plt_fig_axis": (figure, axes), "title": title, "use_pyplot": False}
        visualize_image_attr(attr, original_image, method, sign, **kwargs)
    figure.tight_layout()
    canvas.present(use_pyplot)
    return figure, row if len(row) > 1 else row[0]


def visualize_timeseries_attr(
    attr: Any,
    data: Any,
    x_values: Any = None,
    method: str = "overlay_individual",
    sign: str = "absolute_value",
    channel_labels: list[str] | None = None,
    channels_last: bool = True,
    plt_fig_axis: tuple[Figure, Axes | list[Axes]] | None = None,
    outlier_perc: int | float = 2,
    cmap: str | Colormap | None = None,
    alpha_overlay: float = 0.7,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[int, int] = (6, 6),
    use_pyplot: bool = True,
    **pyplot_kwargs: Any,
) -> tuple[Figure, Any]:
    """Draw attributions of a signal over (or in) its curves.

    Args:
        attr, data: `(N, C)`, or `(C, N)` if not `channels_last`.
        x_values: `(N,)`, where the steps lie; None numbers them.
        method, sign: names of `TimeseriesVisualizationMethod` and of `VisualizeSign`.
        channel_labels: a name for each channel.
        channels_last: whether channels are the last dimension.
        plt_fig_axis: where to draw; None makes a figure.
        outlier_perc: the percentage of the total magnitude that may lie beyond the ends of the colour scale.
        cmap, alpha_overlay, show_colorbar, title, fig_size: the look.
        use_pyplot: make the figure with pyplot, and show it.
        pyplot_kwargs: the look of the curves.

    Returns:
        The figure and its axes: an array, or the axes themselves if there is one panel.

    Raises:
        OptionError, InputError: what is unknown or does not fit.
    """
    from ...show import canvas
    from ...show.series import Curves, paint, signals_of

    one_of(method, TimeseriesVisualizationMethod.__members__, "method")
    values, signals, times = signals_of(attr, data, x_values, channels_last)
    if len(values) > len(times):
        warn("layout", f"{len(values)} channels and {len(times)} steps; should channels_last be {not channels_last}?")
    together = method == "overlay_combined"
    shown, used = _scaled(pooled(values, 0) if together else values, sign, outlier_perc), _palette(sign, cmap)
    figure, axes = canvas.canvas(plt_fig_axis, use_pyplot, fig_size, nrows=1 if together else len(values), sharex=True)
    panels = list(np.ravel(np.asarray(axes, dtype=object)))
    paint(panels, Curves(times, signals, shown.values, channel_labels, used, alpha_overlay, pyplot_kwargs), method)
    if not together:
        figure.subplots_adjust(hspace=0)
    if show_colorbar:
        opacity = 1.0 if method == "colored_graph" else alpha_overlay
        canvas.bar_below(figure, panels[-1], canvas.mappable(used), 0.4, opacity)
    canvas.entitle(panels[0], title, shown.notes)
    canvas.present(use_pyplot)
    return figure, axes


def _scaled(values: NDArray[Any], sign: str, outliers: float) -> Scaled:
    shown = scaled(values, sign, outliers)
    if 0 < abs(shown.unit) < SMALL:
        warn("scale", f"attributions are all close to 0, though drawn strong: full colour is {shown.unit:.2g}")
    return shown


def _palette(sign: str, colours: str | Colormap | None) -> Palette:
    """Captum's colours: red, white and green for two signs."""
    from matplotlib.colors import LinearSegmentedColormap

    from ...show.colour import palette

    both = LinearSegmentedColormap.from_list("RdWhGn", ["red", "white", "green"])
    return palette(sign, colours if colours is not None else ONE_SIGN.get(sign, both))


class VisualizationDataRecord:
    """What is known about one explained text."""

    __slots__ = (
        "attr_class",
        "attr_score",
        "convergence_score",
        "pred_class",
        "pred_prob",
        "raw_input_ids",
        "true_class",
        "word_attributions",
    )

    def __init__(
        self,
        word_attributions: Tensor,
        pred_prob: float,
        pred_class: int,
        true_class: int,
        attr_class: int,
        attr_score: float,
        raw_input_ids: list[str],
        convergence_score: float,
    ) -> None:
        self.word_attributions = word_attributions
        self.pred_prob = pred_prob
        self.pred_class = pred_class
        self.true_class = true_class
        self.attr_class = attr_class
        self.attr_score = attr_score
        self.raw_input_ids = raw_input_ids
        self.convergence_score = convergence_score


def format_classname(classname: str | int) -> str:
    """A table cell with the name of a class."""
    return records.cell(classname)


def format_special_tokens(token: str) -> str:
    """A special token without angle brackets."""
    return records.plain_token(token)


def format_tooltip(item: str, text: str) -> str:
    """An item with a tooltip."""
    return records.tooltip(item, text)


def format_word_importances(words: Sequence[str], importances: Sequence[float] | NDArray[Any] | Tensor) -> str:
    """A table cell of words on the colours of their importances."""
    return records.marked(words, importances)


def visualize_text(datarecords: Iterable[VisualizationDataRecord], legend: bool = True) -> Any:
    """A table of explained texts; in IPython it is displayed too.

    Returns:
        IPython's `HTML`, or where IPython is not installed an object like it, with `data` and `_repr_html_`.
    """
    text = records.table(map(_cells, datarecords), legend)
    if importlib.util.find_spec("IPython") is None:
        return records.Html(text)
    shown = importlib.import_module("IPython.display")
    html = shown.HTML(text)
    shown.display(html)
    return html


def _cells(record: VisualizationDataRecord) -> tuple[str, ...]:
    predicted = f"{record.pred_class} ({record.pred_prob:.2f})"
    named = (record.true_class, predicted, record.attr_class, f"{record.attr_score:.2f}")
    return (*map(records.cell, named), records.marked(record.raw_input_ids, record.word_attributions))
