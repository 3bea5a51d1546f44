"""Pictures as people have them (paths, PIL images, arrays) as a model is fed them, and as a person sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn

from .errors import FileError, InputError, OptionError

__all__ = ["IMAGENET", "Pictures", "Statistics", "pictures", "statistics_given", "statistics_of"]

COLOURS = (1, 2, 3, 4)  # grey, grey with opacity, colour, colour with opacity
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
RULE = "give a path, a PIL image, uint8 (H, W[, 3]) or (B, H, W[, 3]), numbers (B, C, H, W) as the model gets them, or a list of these"


@dataclass(frozen=True)
class Statistics:
    """What pictures in [0, 1] are normalised by, a number for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.std or min(self.std) <= 0:
            raise OptionError(f"mean is {self.mean} and std {self.std}; give a number for each channel to both, those of std positive")

    @property
    def channels(self) -> int:
        """How many the model takes."""
        return len(self.mean)

    def normalised(self, pictures: NDArray[np.uint8]) -> Tensor:
        """uint8 `(B, H, W, C)` as float `(B, C, H, W)`."""
        scaled = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
        return (scaled - self._shaped(self.mean)) / self._shaped(self.std)

    def seen(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The other way round, for what is drawn."""
        scaled = tensor.detach().cpu().float() * self._shaped(self.std) + self._shaped(self.mean)
        return (scaled.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    @staticmethod
    def _shaped(numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float32).view(1, -1, 1, 1)


IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = Statistics((0.449,), (0.226,))


def statistics_of(model: Any) -> Statistics:
    """What the model's own configuration says (timm's `pretrained_cfg`), else ImageNet's; other than 1 or 3 channels are left in [0, 1]."""
    config = next((c for c in (getattr(model, name, None) for name in ("pretrained_cfg", "default_cfg")) if isinstance(c, Mapping)), {})
    if {"mean", "std"} <= set(config):
        return Statistics(tuple(config["mean"]), tuple(config["std"]))
    first = (
        next((m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)), None)
        if isinstance(model, nn.Module)
        else None
    )
    return _usual(3 if first is None else first.in_channels)


def statistics_given(mean: Sequence[float] | None, std: Sequence[float] | None) -> Statistics | None:
    """What the caller has said, if anything.

    Raises:
        OptionError: one without the other, or of another length.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise OptionError(f"mean is {mean} and std {std}; give both, a number for each channel, or none")
    return Statistics(tuple(mean), tuple(std))


def _usual(channels: int) -> Statistics:
    return {1: GREY, 3: IMAGENET}.get(channels) or Statistics((0.0,) * channels, (1.0,) * channels)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Some pictures.

    Attributes:
        tensor: `(B, C, H, W)`, normalised.
        shown: `(B, H, W, C)` uint8, as a person sees them (what was given as numbers is put back for it).
        statistics: between the two.
    """

    tensor: Tensor
    shown: NDArray[np.uint8]
    statistics: Statistics

    def __len__(self) -> int:
        return len(self.tensor)


def pictures(
    inputs: Any,
    resize_to: int | None = 224,
    crop_to: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: int = 3,
    statistics: Statistics | None = None,
) -> Pictures:
    """Read, resize (the shorter edge), crop (the centre) and normalise.

    Arrays are taken at the size they have, numbers `(B, C, H, W)` as the model gets them.

    Args:
        inputs: a path, a PIL image, an array, or a list of these.
        resize_to, crop_to: of files and PIL images; None leaves them.
        mean, std: for each channel of a picture in [0, 1]; by default ImageNet's.
        channels: how many, where mean and std are not given; other than 1 or 3 are left in [0, 1].
        statistics: all three.

    Raises:
        FileError: a file that is missing, or no picture. InputError: anything else, other channels, pictures of different sizes.
        OptionError: a mean without std, or of other length.

    >>> found = pictures(np.zeros((8, 6, 3), np.uint8))
    >>> found.tensor.shape, found.shown.shape
    (torch.Size([1, 3, 8, 6]), (1, 8, 6, 3))
    """
    known = statistics or statistics_given(mean, std) or _usual(channels)
    if _is_numbers(inputs):
        tensor = torch.as_tensor(np.asarray(inputs) if not isinstance(inputs, Tensor) else inputs).detach().float()
        if tensor.dim() != 4 or tensor.shape[1] != known.channels:
            raise InputError(f"numbers of shape {tuple(tensor.shape)} are no pictures (B, {known.channels}, H, W) for this model; {RULE}")
        return Pictures(tensor, known.seen(tensor), known)
    several = inputs if isinstance(inputs, list | tuple) else [inputs]
    if not len(several):
        raise InputError(f"there are no pictures; {RULE}")
    read = [picture for one in several for picture in _read(one, resize_to, crop_to, known.channels)]
    sizes = {picture.shape for picture in read}
    if len(sizes) > 1:
        raise InputError(f"pictures have sizes {sorted(s[:2] for s in sizes)}; give crop_to, or pictures of one size")
    shown = np.stack(read)
    return Pictures(known.normalised(shown), shown, known)


def _is_numbers(inputs: Any) -> bool:
    kind = inputs.dtype if isinstance(inputs, np.ndarray | Tensor) else None
    return kind is not None and kind not in (np.uint8, torch.uint8)


def _read(one: Any, resize_to: int | None, crop_to: int | None, channels: int) -> list[NDArray[np.uint8]]:
    if isinstance(one, str | Path):
        one = _opened(Path(one))
    if isinstance(one, Image.Image):
        if one.mode.startswith(("I", "F")):
            raise InputError(f"a picture of mode {one.mode!r} has more than 8 bits for a channel; scale it to 0-255 as uint8")
        if channels not in MODES:
            raise InputError(f"a picture file has 1, 3 or 4 channels and the model takes {channels}; give an array (B, {channels}, H, W)")
        array = np.array(one.convert(MODES[channels]))
        array = array[..., None] if array.ndim == 2 else array
        return [_cropped(_resized(array, resize_to), crop_to)]
    array = np.asarray(one.cpu() if isinstance(one, Tensor) else one)
    if array.dtype != np.uint8 or array.ndim not in (2, 3, 4):
        raise InputError(f"an array of {array.dtype} {array.shape} is no picture; {RULE}")
    if not array.size:
        raise InputError(f"an array of shape {array.shape} holds no picture; {RULE}")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[2] not in (*COLOURS, channels):
        raise InputError(f"an array of shape {array.shape} has {array.shape[2]} channels and the model takes {channels}; {RULE}")
    batch = array if array.ndim == 4 else array[None]
    if batch.shape[3] == channels:
        return list(batch)
    if batch.shape[3] not in COLOURS or channels not in (1, 3):
        raise InputError(f"a picture has {batch.shape[3]} channels and the model takes {channels}; {RULE}")
    mode = "L" if channels == 1 else "RGB"
    seen = [Image.fromarray(p[..., 0] if p.shape[2] == 1 else p) for p in batch]
    return [np.array(p.convert(mode)).reshape(p.height, p.width, channels) for p in seen]


def _opened(path: Path) -> Image.Image:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else f"is not there (seen from {Path.cwd()})"
        raise FileError(f"{str(path)!r} {what}; give the path of a picture")
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileError(f"{str(path)!r} is not a picture that Pillow can read ({error}); give another") from error


def _resized(array: NDArray[np.uint8], edge: int | None) -> NDArray[np.uint8]:
    """The shorter edge at this length, bilinear, each new pixel from four old ones."""
    height, width = array.shape[:2]
    if edge is None or min(height, width) == edge:
        return array
    if edge < 1:
        raise InputError(f"resize_to is {edge}; give a positive number of pixels, or None")
    scale = edge / min(height, width)
    size = (edge, max(1, round(width * scale))) if height <= width else (max(1, round(height * scale)), edge)
    tensor = torch.from_numpy(array).permute(2, 0, 1)[None].float()
    found = F.interpolate(tensor, size, mode="bilinear", align_corners=False)[0].round().clamp(0, 255)
    return found.to(torch.uint8).permute(1, 2, 0).numpy()


def _cropped(array: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    if size is None:
        return array
    if not isinstance(size, int):
        raise InputError(f"crop_to is {size!r}; give one number of pixels, or None")
    height, width = array.shape[:2]
    if not 0 < size <= min(height, width):
        raise InputError(f"crop_to is {size}, and the picture is {height} x {width}; give at most its shorter edge")
    top, left = (height - size) // 2, (width - size) // 2
    return array[top : top + size, left : left + size]
