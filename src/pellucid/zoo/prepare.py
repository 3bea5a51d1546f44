"""From a raw example (a picture, a row of numbers, a text) to what a model of the zoo is fed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..task import Sample
from . import words
from .models import Sentences

__all__ = ["as_digit", "as_row", "as_text", "as_tile", "picture"]

Raw = Image.Image | NDArray[Any] | Sequence[Any]


def as_digit(raw: Raw) -> Sample:
    """A picture of one digit as 8x8, white ink on black; a picture with a bright rim is inverted."""
    pixels = picture(raw, "L", 8)
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    pixels = 255 - pixels if np.median(rim) > 127 else pixels
    return Sample((torch.from_numpy(pixels / np.float32(255))[None, None],), picture=pixels)


def as_tile(raw: Raw) -> Sample:
    """A colour picture as 32x32."""
    pixels = picture(raw, "RGB", 32)
    return Sample((torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1)[None].contiguous(),), picture=pixels)


def as_row(raw: Sequence[float] | NDArray[Any] | Tensor, facts: Mapping[str, Any]) -> Sample:
    """Raw measurements, standardised; the baseline is the mean of the training rows, zeros once standardised.

    Raises:
        InputError: not one finite number per column.
    """
    columns = facts["columns"]
    rule = f"an example is one row of {len(columns)} finite numbers: {columns[0]}, {columns[1]}, ..., {columns[-1]}"
    values = _array(raw, rule)
    if values.shape != (len(columns),):
        raise InputError(f"the row has shape {values.shape}; {rule}; pass several rows one by one")
    if not np.isfinite(values).all():
        wrong = columns[int(np.argmin(np.isfinite(values)))]
        raise InputError(f"{wrong!r} is {values[columns.index(wrong)]}; {rule}; fill in what is missing")
    row = torch.tensor((values - facts["mean"]) / facts["scale"], dtype=torch.float32)[None]
    return Sample((row,), baselines=(torch.zeros_like(row),), names=tuple(columns))


def as_text(raw: str, model: Sentences, numbers: Mapping[str, int]) -> Sample:
    """A text as embedded tokens; the baseline is padding. A name in brackets is a word the model does not know.

    Raises:
        InputError: not a string, no word in it, or more words than the model has positions.
    """
    if not isinstance(raw, str):
        raise InputError(f"the example is a {type(raw).__name__}; a text is one string: join the words with spaces")
    read = words.split(raw)
    if not 0 < len(read) <= words.LONGEST:
        raise InputError(f"the text {raw[:40]!r} has {len(read)} words; the model reads 1 to {words.LONGEST}: give a sentence or two")
    ids = torch.tensor([words.ids(raw, numbers)], device=model.words.weight.device)
    with torch.no_grad():
        embedded, empty = model.embed(ids), model.embed(torch.full_like(ids, words.PADDING))
    names = tuple(word if word in numbers else f"[{word}]" for word in read)
    return Sample((embedded,), {"mask": torch.ones_like(ids, dtype=torch.bool)}, (empty,), names)


def picture(raw: Raw, mode: str, side: int) -> NDArray[np.uint8]:
    """A picture of any size as `side x side` in grey ("L") or colour ("RGB"); what is not square is squeezed.

    Args:
        raw: a PIL image, or `(H, W)` or `(H, W, 3)`: whole numbers from 0 to 255, or fractions from 0 to 1.

    Raises:
        InputError: another shape or range, or a PIL image with more than 8 bits per channel.
    """
    image = raw if isinstance(raw, Image.Image) else Image.fromarray(_pixels(raw))
    if image.mode.startswith(("I", "F")):
        raise InputError(f"the picture has mode {image.mode!r}, more than 8 bits per channel; scale it to 0-255 and pass it as uint8")
    return np.array(image.convert(mode).resize((side, side), Image.Resampling.BILINEAR))


_PICTURE = "a picture is a PIL image, or an array (H, W) or (H, W, 3) of whole numbers 0-255 or fractions 0-1"


def _pixels(raw: NDArray[Any] | Sequence[Any]) -> NDArray[np.uint8]:
    values = _array(raw, _PICTURE)
    if values.ndim not in (2, 3) or values.shape[2:] not in ((), (3,)) or 0 in values.shape:
        raise InputError(f"the array has shape {values.shape}; {_PICTURE}; pass one example, channels last")
    whole = np.asarray(raw).dtype.kind in "iu"
    lowest, highest, most = values.min(), values.max(), 255 if whole else 1
    if not (lowest >= 0 and highest <= most):
        raise InputError(f"the array has values from {lowest:g} to {highest:g}; {_PICTURE}; rescale it, or pass it as uint8")
    return np.rint(values if whole else values * 255).astype(np.uint8)


def _array(raw: Any, rule: str) -> NDArray[np.float64]:
    try:
        return np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor that requires grad
        raise InputError(f"{str(raw)[:40]!r} ({type(raw).__name__}) is not an array of numbers; {rule}") from error
