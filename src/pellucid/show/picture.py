"""Pictures of an image's attributions on given axes: heat maps alone, over the image, as a mask and as transparency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from ..errors import InputError, OptionError
from .colour import Palette
from .scale import Array, array_of, finite, one_of, pooled

__all__ = ["COLOURED", "METHODS", "Layers", "bare", "check", "map_of", "paint", "picture_of", "upright"]

SHADE = 0.22
CRISP = 96


@dataclass(frozen=True, eq=False)
class Layers:
    """What is drawn: scaled attributions `(H, W)`, the image `(h, w[, 3])` in [0, 255], colours, opacity."""

    values: Array
    picture: NDArray[Any] | None
    palette: Palette
    alpha: float = 0.5

    @property
    def photograph(self) -> NDArray[Any]:
        """The picture, where a method needs it: `check` has seen that it is there."""
        assert self.picture is not None
        return self.picture

    @property
    def amount(self) -> Array:
        """How much of the picture shows through: `(H, W, 1)` in [0, 1]."""
        return finite(self.values)[..., np.newaxis]


def map_of(values: Array, channels: int = 0, pooling: str = "sum") -> Array:
    """Attributions `(H, W)`, pooled over the axis of the channels if there is one.

    Raises:
        InputError: another number of dimensions.
    """
    if values.ndim not in (2, 3):
        raise InputError(f"attributions {values.shape} are not of an image; give height, width and maybe channels")
    return pooled(values, channels, pooling) if values.ndim == 3 else values


def upright(values: Any) -> Array:
    """`(H, W, C)` or `(H, W)`, from those, from a batch of one, or from `(C, H, W)` where it can be nothing else."""
    array = array_of(values)
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    swapped = array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3)
    return np.moveaxis(array, 0, 2) if swapped else array


def picture_of(values: Any) -> NDArray[Any]:
    """`(H, W[, C])` with values in [0, 1] or [0, 255] as numbers in [0, 255]; one channel without its dimension.

    Raises:
        InputError: not the shape of an image.
    """
    given = finite(array_of(values))
    if not given.size or given.shape[2:] not in ((), (1,), (3,), (4,)) or given.ndim < 2:
        raise InputError(f"shape {given.shape} is not that of an image; give (height, width[, 1, 3 or 4 channels])")
    bright: NDArray[Any] = _bytes(given * 255) if given.max() <= 1 else given
    return bright[..., 0] if bright.shape[2:] == (1,) else bright


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    whole: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    return whole


def _coloured(picture: NDArray[Any]) -> NDArray[Any]:
    """Three channels, whatever the picture had."""
    return np.stack([picture] * 3, 2) if picture.ndim == 2 else picture[..., :3]


def _grey(picture: NDArray[Any]) -> NDArray[Any]:
    return picture if picture.ndim == 2 else np.mean(picture[..., :3], axis=2)


def _stretched(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The array at another height and width, every pixel repeated or skipped."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(shape[:2], array.shape[:2], strict=True))
    stretched: NDArray[Any] = array[rows][:, columns]
    return stretched


def _show(axes: Axes, array: NDArray[Any], **options: Any) -> AxesImage:
    small = max(array.shape[:2]) <= CRISP
    return axes.imshow(array, interpolation="nearest" if small else None, **options)


def _heat_map(axes: Axes, layers: Layers, **options: Any) -> AxesImage:
    used = layers.palette
    return _show(axes, layers.values, cmap=used.colours, vmin=used.low, vmax=used.high, **options)


def _blended(axes: Axes, layers: Layers) -> AxesImage:
    height, width = layers.values.shape
    _show(axes, _grey(layers.photograph), cmap="gray", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    return _heat_map(axes, layers, alpha=layers.alpha)


def _overlay(axes: Axes, layers: Layers) -> None:
    """The heat map printed on a faded photograph: its colours stay those of the colour bar, and zero has no hue."""
    if layers.picture is None:
        _heat_map(axes, layers)
        return
    shape = tuple(np.maximum(layers.values.shape, layers.picture.shape[:2]))
    ink = layers.palette.colours(layers.palette.norm(np.ma.masked_invalid(_stretched(layers.values, shape))))[..., :3]
    light = 1 - SHADE * (1 - _stretched(_grey(layers.picture), shape) / 255)
    height, width = layers.values.shape
    _show(axes, ink * light[..., np.newaxis], extent=(-0.5, width - 0.5, height - 0.5, -0.5))


def _original(axes: Axes, layers: Layers) -> None:
    picture = layers.photograph
    _show(axes, _bytes(picture), **({"cmap": "gray", "vmin": 0, "vmax": 255} if picture.ndim == 2 else {}))


def _masked(axes: Axes, layers: Layers) -> None:
    _show(axes, _bytes(_fitting(layers) * layers.amount))


def _alpha_scaled(axes: Axes, layers: Layers) -> None:
    _show(axes, np.concatenate([_bytes(_fitting(layers)), _bytes(layers.amount * 255)], axis=2))


def _fitting(layers: Layers) -> NDArray[Any]:
    """The photograph at the size of the attributions."""
    return _stretched(_coloured(layers.photograph), layers.values.shape)


METHODS: Mapping[str, Callable[[Axes, Layers], AxesImage | None]] = {
    "heat_map": _heat_map,
    "blended_heat_map": _blended,
    "original_image": _original,
    "masked_image": _masked,
    "alpha_scaling": _alpha_scaled,
    "overlay": _overlay,
}
MASKING = ("masked_image", "alpha_scaling")
COLOURED = ("overlay", "heat_map", "blended_heat_map")


def check(layers: Layers, method: str) -> None:
    """Refuse what cannot be drawn.

    Raises:
        OptionError: an unknown method, or one that cannot show two signs.
        InputError: the picture is missing, or is not of the same image as the attributions.
    """
    one_of(method, METHODS, "method")
    if method in MASKING and layers.palette.low < 0:
        raise OptionError(f"method {method!r} cannot show two signs; choose 'positive', 'negative' or 'absolute_value'")
    if method not in ("heat_map", "overlay") and layers.picture is None:
        raise InputError(f'method {method!r} needs the original image; give it, or choose "heat_map"')
    if method not in ("heat_map", "original_image") and layers.picture is not None:
        _same_image(layers.values.shape, layers.picture.shape[:2])


def _same_image(map_: tuple[int, ...], picture: tuple[int, ...]) -> None:
    """Of the same size; or one coarser than the other, by the same factor up and across but for one coarse pixel."""
    factors = np.array(picture) / np.array(map_)
    coarser = bool((factors > 1).all() or (factors < 1).all())
    off = float(np.ptp(factors) / factors.max())
    if map_ != picture and not (coarser and off <= 1 / min(*map_, *picture)):
        raise InputError(f"attributions {map_} and the image {picture} do not match; give both of the same image")


def paint(axes: Axes, layers: Layers, method: str) -> AxesImage | None:
    """Draw one picture; values that are not finite are hatched.

    Returns:
        The heat map, if the method draws one that a colour bar belongs to.

    Raises:
        OptionError, InputError: as `check`.
    """
    check(layers, method)
    drawn = METHODS[method](axes, layers)
    if method != "original_image":
        _hatch(axes, np.isnan(layers.values))
    return drawn


def _hatch(axes: Axes, lost: NDArray[np.bool_]) -> None:
    """Stripes over pixels without a value."""
    if not lost.any():
        return
    height, width = lost.shape
    fine = max(1, 480 // max(height, width))
    down, across = np.indices((height * fine, width * fine))
    dark = (down + across) % 12 < 4
    stripes = np.where(dark, 0.2, 0.75)
    opaque = np.kron(lost, np.ones((fine, fine)))
    rgba = np.stack([stripes, stripes, stripes, opaque], 2)
    axes.imshow(rgba, interpolation="nearest", extent=(-0.5, width - 0.5, height - 0.5, -0.5))


def bare(axes: Axes) -> None:
    """Axes without ticks, labels and grid."""
    axes.tick_params(bottom=False, left=False, top=False, right=False, labelbottom=False, labelleft=False)
    axes.grid(visible=False)
