"""Regions of an image that can be taken away: painted over in one colour, side by side or overlapping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Regions"]


@dataclass(frozen=True, eq=False)
class Regions:
    """An image and its regions.

    Attributes:
        picture: a PIL image.
        names: an id for each region.
        places: `(H, W)`, the region of every pixel; None where regions may overlap.
        masks: `(H, W)` bool for each region, where they may overlap; a pixel in several needs all of them to be seen.
        colour: red, green and blue of what is painted over, 0 to 255.
    """

    picture: Image
    names: tuple[int, ...]
    places: Tensor | None
    masks: tuple[Tensor, ...]
    colour: tuple[int, ...]

    @classmethod
    def of(cls, image: Any, mask: Any = None, masks: Sequence[Any] | None = None, colour: int | Sequence[int] = (255, 255, 255)) -> Regions:
        """Regions by ids of pixels, by masks that may overlap, or the whole image as one.

        Args:
            image: a PIL image; an array `(H, W)` or `(H, W, 3)`, or a tensor `(C, H, W)`, of uint8 or of numbers in [0, 1].
            mask: `(H, W)` whole numbers: equal ids are one region; regions come in the order of their ids.
            masks: one `(H, W)` for each region, not zero where it is; then `mask` is not looked at.
            colour: red, green and blue of what is painted over, or one number for all three.

        Raises:
            InputError: no image, a mask of another size, no regions. OptionError: no colour.

        >>> import numpy as np
        >>> halves = Regions.of(np.zeros((2, 4, 3), np.uint8), [[0, 0, 1, 1]] * 2)
        >>> np.asarray(halves.image([False, True]))[0, :, 0].tolist()
        [255, 255, 0, 0]
        """
        picture = _picture(image)
        size = (picture.height, picture.width)
        if masks is not None:
            if not len(masks):
                raise InputError("mask_list is empty; give one mask at least, or leave it out: the whole image is one region then")
            found = tuple(_sized(each, size, f"mask_list[{i}]") != 0 for i, each in enumerate(masks))
            return cls(picture, tuple(range(len(found))), None, found, _colour(colour))
        ids = torch.zeros(size, dtype=torch.long) if mask is None else _ids(_sized(mask, size, "mask"))
        known, places = torch.unique(ids, return_inverse=True)
        return cls(picture, tuple(known.tolist()), places, (), _colour(colour))

    @property
    def units(self) -> int:
        """How many regions there are."""
        return len(self.names)

    def region(self, unit: int) -> Tensor:
        """`(H, W)` bool, where a region is."""
        return self.masks[unit] if self.places is None else self.places == unit

    def image(self, present: Sequence[bool]) -> Image:
        """The image with only these regions `(units,)` to be seen, of the same mode; palettes become colours first."""
        from PIL import Image as images

        shown = self.picture.convert("RGB") if self.picture.mode == "P" else self.picture.copy()
        there = torch.as_tensor(present, dtype=torch.bool).cpu()
        if there.shape != (self.units,):
            raise InputError(f"present has the shape {tuple(there.shape)} for {self.units} regions; give one entry for each")
        absent = self._absent(there)
        if bool(absent.any()):
            # The colour as it is in this mode: a grey, or with full opacity.
            colour: Any = images.new("RGB", (1, 1), self.colour).convert(shown.mode).getpixel((0, 0))
            shown.paste(colour, mask=images.fromarray(absent.numpy().astype(np.uint8) * 255))
        return shown

    def _absent(self, present: Tensor) -> Tensor:
        if self.places is not None:
            return ~present[self.places]
        covered = torch.zeros(self.masks[0].shape, dtype=torch.bool)
        for mask in (mask for mask, there in zip(self.masks, present.tolist(), strict=True) if not there):
            covered |= mask
        return covered

    def spread(self, values: Tensor) -> Tensor:
        """Numbers of regions `(..., units)` as numbers of pixels `(..., H, W)`; where regions overlap, their sum.

        Raises:
            InputError: another number of regions.
        """
        if not values.dim() or values.shape[-1] != self.units:
            raise InputError(f"attributions of shape {tuple(values.shape)} for {self.units} regions; give (..., {self.units})")
        if self.places is not None:
            return values[..., self.places.to(values.device)]
        total = values.new_zeros(*values.shape[:-1], *self.masks[0].shape)
        for unit, mask in enumerate(self.masks):
            # Not a product: what is not finite stays within its region.
            total += torch.where(mask.to(values.device), values[..., unit, None, None], 0)
        return total


def _picture(image: Any) -> Image:
    from PIL import Image as images

    if isinstance(image, images.Image):
        return image
    from ..show.thing import thing_of

    found = thing_of(image, what="image")
    if not isinstance(found, np.ndarray):
        raise InputError(f"image is a {type(image).__name__}; give a PIL image, an array (H, W) or (H, W, 3), or a tensor (C, H, W)")
    return images.fromarray(found)


def _sized(mask: Any, size: tuple[int, int], what: str) -> Tensor:
    given = torch.as_tensor(mask).detach().cpu()
    if tuple(given.shape) != size:
        raise InputError(f"{what} has shape {tuple(given.shape)}; it must be the (height, width) of the image, {size}")
    return given


def _ids(mask: Tensor) -> Tensor:
    ids = mask.long()
    if not bool((ids == mask).all()):
        raise InputError(f"mask has other numbers than whole ones ({mask.dtype}); give an id for each pixel")
    return ids


def _colour(colour: int | Sequence[int]) -> tuple[int, ...]:
    channels = (colour,) * 3 if isinstance(colour, int) else tuple(map(int, colour))
    if len(channels) != 3 or not all(0 <= channel <= 255 for channel in channels):
        raise OptionError(f"baseline is {colour!r}; it must be red, green and blue from 0 to 255, or one such number for all three")
    return channels
