"""Natural corruptions of images: noise, blur, light, compression, displacement, each in five severities."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor

from ..errors import InputError, OptionError, warn
from ..inputs import as_tensors
from ..seeds import generator, resolve_seed
from . import changes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CORRUPTIONS", "SEVERITIES", "Corruption", "corrupted", "draw_corruptions"]

Change = Callable[[Tensor, float, Generator], Tensor]
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """A corruption of images; called with images and a severity from 0 (none) to 5, between whole numbers too.

    Attributes:
        name: what it is called.
        change: a function of an image `(C, H, W)` in [0, 1], the amount, and a source of random numbers.
        amounts: of the severities 1 to 5.
        unit: what an amount is.
        most: the largest amount that there is.

    >>> turned = CORRUPTIONS["rotation"](torch.rand(2, 3, 16, 16), 3, seed=0)
    >>> turned.shape, CORRUPTIONS["rotation"].amounts
    (torch.Size([2, 3, 16, 16]), (5, 10, 15, 25, 40))
    """

    name: str
    change: Change
    amounts: tuple[float, float, float, float, float]
    unit: str
    most: float = 1.0

    def amount(self, severity: float) -> float:
        """The amount of a severity, between whole ones in proportion.

        Raises:
            OptionError: it is not between 0 and 5.
        """
        if not isinstance(severity, Real) or not 0 <= severity <= 5:
            raise OptionError(f"severity is {severity!r}; give a number from 0, which changes nothing, to 5")
        return float(np.interp(float(severity), range(6), [0.0, *self.amounts]))

    def __call__(self, images: Tensor, severity: float = 3, *, seed: int | None = None, bounds: Any = None) -> Tensor:
        """The images, corrupted so severely: see `corrupted`."""
        return self.by(images, self.amount(severity), seed=seed, bounds=bounds)

    def by(self, images: Tensor, amount: float, *, seed: int | None = None, bounds: Any = None) -> Tensor:
        """The images, corrupted by an amount in its own unit.

        Raises:
            OptionError: a negative amount, or more than there is; see `corrupted` too.
        """
        if not isinstance(amount, Real) or not 0 <= amount <= self.most:
            raise OptionError(f"{self.name} by {amount!r}; its amount is {self.unit}, from 0 to {self.most:g}")
        low, high = _bounds(images, bounds)
        unit, seed = _scaled(images, low, high), resolve_seed(seed)
        if amount:
            rows = unit if images.dim() == 4 else unit[None]
            changed = torch.stack([self.change(row, float(amount), _source(row, seed)) for row in rows])
            unit = changed.clamp(0, 1).reshape(unit.shape)
        return _like(images, low + (high - low) * unit) if amount else torch.minimum(torch.maximum(images, low), high).to(images.dtype)


CORRUPTIONS: Mapping[str, Corruption] = {
    each.name: each
    for each in (
        Corruption("gaussian_noise", changes.gaussian_noise, (0.04, 0.08, 0.12, 0.18, 0.26), "the deviation, in parts of the range"),
        Corruption("shot_noise", changes.shot_noise, (0.05, 0.1, 0.15, 0.2, 0.3), "the deviation of white, in parts of the range"),
        Corruption("impulse_noise", changes.impulse_noise, (0.01, 0.03, 0.06, 0.1, 0.2), "the share of values that are lost"),
        Corruption("gaussian_blur", changes.gaussian_blur, (0.01, 0.02, 0.03, 0.04, 0.05), "the deviation, in parts of the shorter side"),
        Corruption("motion_blur", changes.motion_blur, (0.06, 0.1, 0.15, 0.2, 0.3), "the length of the path, in parts of the shorter side"),
        Corruption("brightness", changes.brightness, (0.1, 0.2, 0.3, 0.4, 0.5), "what is added, in parts of the range"),
        Corruption("contrast", changes.contrast, (0.3, 0.5, 0.65, 0.8, 0.9), "the share of the contrast that is lost"),
        Corruption("pixelate", changes.pixelate, (0.25, 0.4, 0.6, 0.7, 0.8), "the share of the resolution that is lost"),
        Corruption("jpeg", changes.jpeg, (40, 60, 75, 85, 92), "100 less the quality of the compression", 99),
        Corruption("rotation", changes.rotation, (5, 10, 15, 25, 40), "degrees, to one side or the other", 180),
        Corruption("translation", changes.translation, (0.03, 0.06, 0.1, 0.15, 0.2), "the distance, in parts of the shorter side"),
    )
}
"""By name, in the order in which they are tried."""


def corrupted(images: Tensor, name: str, severity: float = 3, seed: int | None = None, bounds: Any = None) -> Tensor:
    """Images as a camera, bad light, a file or a clumsy hand may give them.

    Severity 0 changes nothing; the random numbers of an image follow from the seed and its own pixels, so that neither its
    neighbours nor its place in a batch matter, and grow with the severity where they can.
    Source: the kinds are those of Hendrycks and Dietterich 2019 (Benchmarking neural network robustness to common corruptions
    and perturbations), section 4, and two displacements. The amounts are Pellucid's own, in parts of the range and of the image's
    side, so that they mean the same for images of any size; results are not those of ImageNet-C.

    Args:
        images: `(C, H, W)` or `(B, C, H, W)`, floating point or uint8.
        name: in `pellucid.robust.CORRUPTIONS`.
        severity: from 0 to 5, between whole numbers too.
        seed: None: follows from torch's random state, which is not moved.
        bounds: the least and the largest value of an image, numbers or tensors that fit it, such as `(C, 1, 1)` of images that
            are standardised; None: (0, 1), and (0, 255) of uint8.

    Returns:
        Images of the same shape, dtype and device, between the bounds.

    Raises:
        OptionError: an unknown name, a severity or bounds that there are not. InputError: what is no image.

    >>> images = torch.rand(4, 3, 32, 32)
    >>> torch.equal(corrupted(images, "jpeg", 0), images), corrupted(images, "jpeg", 5).shape
    (True, torch.Size([4, 3, 32, 32]))
    """
    if name not in CORRUPTIONS:
        raise OptionError(f"there is no corruption {name!r}; choose one of {', '.join(map(repr, CORRUPTIONS))}")
    return CORRUPTIONS[name](images, severity, seed=seed, bounds=bounds)


def draw_corruptions(
    image: Tensor,
    names: Sequence[str] | None = None,
    severities: Sequence[float] = SEVERITIES,
    *,
    seed: int | None = None,
    bounds: Any = None,
    width: float = 7.0,
) -> Figure:
    """What corruptions do to one image `(C, H, W)`, C = 1 or 3: a row for each, a column for each severity.

    Args:
        image: as for `corrupted`; seed, bounds too.
        names: in `CORRUPTIONS`; None: all.
        severities: from 0 to 5.
        width: of the figure, in inches.

    Raises:
        OptionError, InputError: see `corrupted`; too little room, an image with another number of channels.
    """
    from .pictures import draw_grid

    seed, chosen = resolve_seed(seed), list(CORRUPTIONS if names is None else names)
    if not isinstance(image, Tensor) or image.dim() != 3 or len(image) not in (1, 3):
        raise InputError(f"image is {tuple(getattr(image, 'shape', ()))}; give one that can be looked at: (1, H, W) or (3, H, W)")
    low, high = _bounds(image, bounds)
    rows = {name: [_scaled(corrupted(image, name, each, seed, bounds), low, high) for each in severities] for name in chosen}
    return draw_grid(rows, severities, width)


def _bounds(images: Any, bounds: Any) -> tuple[Tensor, Tensor]:
    as_tensors(images if isinstance(images, Tensor) else (images,), "images")
    if images.dim() not in (3, 4) or not images.numel():
        raise InputError(f"images have the shape {tuple(images.shape)}; give (C, H, W) or (B, C, H, W), of grey ones with C = 1")
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise InputError(f"images are {images.dtype}; give floating point, or uint8 from 0 to 255")
    given = bounds if bounds is not None else (0, 255) if images.dtype == torch.uint8 else (0, 1)
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise OptionError(f"bounds is {given!r}; give the least and the largest value of an image, such as (0, 1)")
    exact = torch.float64 if images.dtype == torch.float64 else torch.float32
    low, high = (torch.as_tensor(bound).to(images.device, exact) for bound in given)
    for bound in (low, high):
        if bound.dim() > images.dim() or any(n not in (1, m) for n, m in zip(bound.shape[::-1], images.shape[::-1], strict=False)):
            raise InputError(f"a bound has shape {tuple(bound.shape)}, and images {tuple(images.shape)}; give a number, or (C, 1, 1)")
    if not bool(((low < high) & low.isfinite() & high.isfinite()).all()):
        raise OptionError(f"bounds are {given[0]} and {given[1]}; the first must be below the second, and both finite")
    return low, high


def _scaled(images: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Between the bounds as between 0 and 1."""
    found = (images.detach().to(low.dtype) - low) / (high - low)
    beyond = int(((found < -1e-3) | (found > 1 + 1e-3)).sum())
    if beyond:
        warn("bounds", f"{beyond} values of the images are beyond the bounds, and are moved there; say what the bounds are: bounds=(0, 1)")
    return found.clamp(0, 1)


def _source(image: Tensor, seed: int) -> Generator:
    # Of 256 levels, so that the same picture has the same noise in every precision and on every device.
    pixels = (image * 255).round().to(torch.uint8).cpu().contiguous().numpy().tobytes()
    return generator(seed, int.from_bytes(hashlib.blake2b(pixels, digest_size=8).digest(), "little"))


def _like(images: Tensor, found: Tensor) -> Tensor:
    return (found if images.is_floating_point() else found.round()).to(images.dtype)
