"""What corruptions do to one image, each a function of the image `(C, H, W)` in [0, 1], an amount above zero and a source of randomness."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

__all__ = [
    "brightness",
    "contrast",
    "gaussian_blur",
    "gaussian_noise",
    "impulse_noise",
    "jpeg",
    "motion_blur",
    "pixelate",
    "rotation",
    "shot_noise",
    "translation",
]


def _uniform(source: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=source, dtype=torch.float32)


def gaussian_noise(image: Tensor, amount: float, source: Generator) -> Tensor:
    """Noise of that deviation."""
    return image + amount * torch.randn(image.shape, generator=source, dtype=torch.float32).to(image)


def shot_noise(image: Tensor, amount: float, source: Generator) -> Tensor:
    """So many photons are counted at full brightness that their number has this deviation, in parts of itself."""
    photons, levels = amount**-2, (image * 255).round().float().cpu() / 255
    # How many numbers are drawn follows from the levels: with 256 of them it is the same in every precision.
    return torch.poisson(levels * photons, generator=source).to(image) / photons


def impulse_noise(image: Tensor, amount: float, source: Generator) -> Tensor:
    """Black and white in the place of that share of the values."""
    drawn = _uniform(source, *image.shape).to(image.device)
    return image.masked_fill(drawn < amount / 2, 0.0).masked_fill(drawn > 1 - amount / 2, 1.0)


def _padded(image: Tensor, down: int, across: int) -> Tensor:
    """Beyond the border stands the border."""
    return F.pad(image[:, None], (across, across, down, down), mode="replicate")


def _side(image: Tensor) -> int:
    """The shorter side, in pixels."""
    return min(image.shape[-2:])


def gaussian_blur(image: Tensor, amount: float, source: Generator) -> Tensor:
    """With a bell whose deviation is that part of the shorter side."""
    spread = amount * _side(image)
    reach = math.ceil(4 * spread)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / spread).square()).to(image)
    bell = bell / bell.sum()
    across = F.conv2d(_padded(image, 0, reach), bell[None, None, None])[:, 0]
    return F.conv2d(_padded(across, reach, 0), bell[None, None, :, None])[:, 0]


def motion_blur(image: Tensor, amount: float, source: Generator) -> Tensor:
    """The mean along a line through each pixel, as long as that part of the shorter side."""
    length, angle = amount * _side(image), math.pi * float(_uniform(source))
    reach, (height, width) = math.ceil(length / 2) + 1, image.shape[1:]
    padded, total = _padded(image, reach, reach)[:, 0], torch.zeros_like(image)
    for (row, column), share in _line(length, angle).items():
        total += share * padded[:, reach + row : reach + row + height, reach + column : reach + column + width]
    return total


def _line(length: float, angle: float) -> dict[tuple[int, int], float]:
    """The share of each pixel, by how far it is off, in the mean along a line through the origin: four pixels share each of its points."""
    steps, found = 2 * math.ceil(2 * length) + 1, dict[tuple[int, int], float]()
    for step in range(steps):
        along = length * (step / (steps - 1) - 0.5)
        down, across = along * math.sin(angle), along * math.cos(angle)
        for row in (math.floor(down), math.floor(down) + 1):
            for column in (math.floor(across), math.floor(across) + 1):
                share = (1 - abs(down - row)) * (1 - abs(across - column)) / steps
                found[row, column] = found.get((row, column), 0.0) + share
    return found


def brightness(image: Tensor, amount: float, source: Generator) -> Tensor:
    """So much is added."""
    return image + amount


def contrast(image: Tensor, amount: float, source: Generator) -> Tensor:
    """That share of the way to each channel's mean."""
    return torch.lerp(image, image.mean((1, 2), keepdim=True), amount)


def pixelate(image: Tensor, amount: float, source: Generator) -> Tensor:
    """That share of the rows and columns is lost: the mean of every larger pixel, seen through the old ones."""
    for dim in (1, 2):
        side = image.shape[dim]
        coarse = max(1, round((1 - amount) * side))
        both = _shares(side, coarse) @ _shares(coarse, side)
        image = torch.movedim(torch.movedim(image, dim, 2) @ both.T.to(image), 2, dim)
    return image


def _shares(cells: int, among: int) -> Tensor:
    """`(cells, among)`: the share of each of `among` equal parts of a line in each of its equal cells."""
    low, part = torch.arange(cells)[:, None] * among / cells, torch.arange(among)
    return (torch.minimum(low + among / cells, part + 1) - torch.maximum(low, part)).clamp_min(0) * cells / among


def jpeg(image: Tensor, amount: float, source: Generator) -> Tensor:
    """Coloured where there are three channels; others are compressed one by one, as grey."""
    planes = (image * 255).round().to(torch.uint8).cpu()
    whole = [planes.permute(1, 2, 0).numpy()] if len(planes) == 3 else [plane.numpy() for plane in planes]
    found = [torch.from_numpy(_compressed(each, round(100 - amount))) for each in whole]
    return (found[0].permute(2, 0, 1) if len(planes) == 3 else torch.stack(found)).to(image) / 255


def _compressed(pixels: Any, quality: int) -> Any:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.array(image)


def _resampled(image: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """The image at these places `(H, W)`, in pixels from its first one; beyond the border stands the border."""
    places = torch.stack([(2 * across + 1) / image.shape[2] - 1, (2 * down + 1) / image.shape[1] - 1], -1)
    return F.grid_sample(image[None], places[None].to(image), padding_mode="border", align_corners=False)[0]


def _places(image: Tensor) -> tuple[Tensor, Tensor]:
    down, across = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in image.shape[1:]), indexing="ij")
    return down, across


def rotation(image: Tensor, amount: float, source: Generator) -> Tensor:
    """About the middle, to one side or the other."""
    angle = math.radians(amount) * (1 if float(_uniform(source)) < 0.5 else -1)
    (down, across), (height, width) = _places(image), image.shape[1:]
    y, x = down - (height - 1) / 2, across - (width - 1) / 2
    turned = math.cos(angle) * y - math.sin(angle) * x, math.sin(angle) * y + math.cos(angle) * x
    return _resampled(image, turned[0] + (height - 1) / 2, turned[1] + (width - 1) / 2)


def translation(image: Tensor, amount: float, source: Generator) -> Tensor:
    """In some direction."""
    far, angle = amount * _side(image), 2 * math.pi * float(_uniform(source))
    down, across = _places(image)
    return _resampled(image, down + far * math.sin(angle), across + far * math.cos(angle))
