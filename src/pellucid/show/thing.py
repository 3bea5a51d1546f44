"""What a person is shown of an example: a picture, a text or a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from ..errors import InputError
from ..gallery import Thing
from .numbers import number
from .picture import upright
from .scale import Array, array_of

__all__ = ["thing_of", "value_of"]

LONGEST = 64  # numbers that are shown as a row
WAY_OUT = (
    "give uint8 or numbers in [0, 1] as (H, W), (H, W, 3) or a tensor (C, H, W), a text, or a mapping from names to values; "
    "for a data set a function, such as lambda i: data[i][0]"
)


def thing_of(value: Any, names: Sequence[str] = (), what: str = "an example", stretch: bool = False) -> Thing:
    """A picture of bytes, a text, or a row of names and words.

    Args:
        value: an array `(H, W)` or `(H, W, 3)`, a tensor `(H, W)` or `(C, H, W)`, a PIL image, a text, a mapping from names to values,
            some numbers.
        names: of these numbers.
        stretch: numbers outside [0, 1] are no error: the lowest becomes black and the highest white.

    Raises:
        InputError: it is something else, or there are not as many names as numbers.

    >>> thing_of(np.array([0.5, 2.0]), ["age", "height"])
    {'age': '0.500', 'height': '2'}
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(name): value_of(each) for name, each in value.items()}
    if isinstance(value, Image) and value.mode[0] not in "IF":
        value = value.convert("RGB")  # a palette's numbers are no brightness
    try:
        given = array_of(value)
    except InputError as error:
        raise InputError(f"{what} is a {type(value).__name__}; {WAY_OUT}") from error
    if given.ndim == 1 and 0 < given.size <= LONGEST:
        return _row(given, names, what)
    first = isinstance(value, Tensor) and given.ndim == 3 and len(given) in (1, 3)
    shaped = np.moveaxis(given, 0, 2) if first else upright(given)
    if shaped.size and stretch and (shaped.ndim not in (2, 3) or shaped.shape[2:] not in ((), (1,), (3,))):
        return f"{shaped.size:,} numbers of shape {shaped.shape}"
    if not shaped.size or shaped.ndim not in (2, 3) or shaped.shape[2:] not in ((), (1,), (3,)):
        raise InputError(f"{what} has the shape {given.shape}; {WAY_OUT}")
    bytes_ = "uint8" in str(value.dtype if isinstance(value, Tensor) else np.asarray(value).dtype)
    return _bright(shaped / 255 if bytes_ else shaped, what, stretch)


def _row(given: Array, names: Sequence[str], what: str) -> dict[str, str]:
    if names and len(names) != len(given):
        raise InputError(f"there are {len(names)} names for the {len(given)} numbers of {what}; give as many, or none")
    return {name: value_of(each) for name, each in zip(names or [f"feature {i}" for i in range(len(given))], given.tolist(), strict=True)}


def _bright(values: Array, what: str, stretch: bool) -> NDArray[np.uint8]:
    known = values[np.isfinite(values)] if stretch else values
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    # Resizing leaves numbers a hair outside.
    if not -1e-3 <= low <= high <= 1 + 1e-3:
        if not stretch:
            raise InputError(f"{what} has values from {number(low)} to {number(high)}; {WAY_OUT}")
        values = (values - low) / max(high - low, 1e-12)
    found: NDArray[np.uint8] = np.rint(np.nan_to_num(np.clip(values, 0, 1)) * 255).astype(np.uint8)
    return found[..., 0] if found.shape[2:] == (1,) else found


def value_of(value: object) -> str:
    """A value in words; numbers with few digits."""
    value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if not isinstance(value, Real) or isinstance(value, Integral):
        return str(value)
    whole = float(value).is_integer() and abs(float(value)) < 1e6
    return f"{float(value):.0f}" if whole else number(float(value))
