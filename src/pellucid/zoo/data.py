"""Four data sets that ship inside ordinary dependencies, each with a fixed training and held-out part."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import need
from . import words
from .docstrings import LIBRARIES, passages

__all__ = ["LOADERS", "Data", "Split", "cancer", "digits", "sentences", "tiles"]

SIDE = 32
PER_PHOTOGRAPH = 260


@dataclass(frozen=True, eq=False)
class Split:
    """Examples as the model gets them, `x (N, ...)` and `y (N,)`, and as a person has them, `raw`."""

    x: Tensor
    y: Tensor
    raw: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Data:
    """A data set; `facts` is what a raw example needs to be prepared the same way: statistics, columns, vocabulary."""

    train: Split
    held_out: Split
    classes: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


def digits() -> Data:
    """1797 handwritten digits, 8x8, white ink on black (UCI optdigits): `x (N, 1, 8, 8)` in [0, 1], raw PIL images."""
    found = _sklearn().load_digits()
    inks = np.rint(found.images * (255 / 16)).astype(np.uint8)
    train, held_out = _parts(len(inks), 0.25)
    return Data(
        _images(inks[train], found.target[train]),
        _images(inks[held_out], found.target[held_out]),
        tuple(str(name) for name in found.target_names),
    )


def tiles() -> Data:
    """Tiles of eight photographs, the photograph as class: `x (N, 3, 32, 32)` in [0, 1], raw PIL images.

    No two tiles overlap. Tiles without any structure (sky, black corners) are left out: nobody could place them.

    Raises:
        MissingExtra: scikit-image, which brings six of the photographs, is not installed.
    """
    photographs = _photographs()
    cut = [_tiles_of(photograph) for photograph in photographs.values()]
    pixels = np.concatenate(cut)
    labels = np.repeat(np.arange(len(cut)), [len(some) for some in cut])
    train, held_out = _parts(len(pixels), 0.3)
    return Data(_images(pixels[train], labels[train]), _images(pixels[held_out], labels[held_out]), tuple(photographs))


def cancer() -> Data:
    """569 breast tumours, 30 measurements (UCI WDBC): `x (N, 30)` standardised by the training part, raw rows."""
    found = _sklearn().load_breast_cancer()
    train, held_out = _parts(len(found.data), 0.25)
    mean, scale = found.data[train].mean(0), found.data[train].std(0)

    def rows(chosen: NDArray[np.int64]) -> Split:
        x = torch.tensor((found.data[chosen] - mean) / scale, dtype=torch.float32)
        return Split(x, torch.tensor(found.target[chosen]), tuple(found.data[chosen]))

    columns = [str(name) for name in found.feature_names]
    facts = {"columns": columns, "mean": mean.tolist(), "scale": scale.tolist()}
    return Data(rows(train), rows(held_out), tuple(str(name) for name in found.target_names), facts)


def sentences(vocabulary: Sequence[str] | None = None) -> Data:
    """Sentences of docstrings, the library as class: `x (N, T)` token ids, 0 where a sentence has ended; raw strings.

    Which part a sentence belongs to depends on its words alone, so that no version of a library moves a sentence from
    the training part of shipped weights to the held-out part.

    Args:
        vocabulary: the words that get an id; default: the frequent words of the training part.

    Raises:
        FileError: a library is installed without the sources of its docstrings.
    """
    train, held_out = passages()
    known = tuple(vocabulary) if vocabulary is not None else words.vocabulary(text for text, _ in train)
    return Data(_texts(train, known), _texts(held_out, known), tuple(LIBRARIES), {"words": list(known)})


LOADERS: Mapping[str, Callable[[], Data]] = {
    "digits": digits,
    "tiles": tiles,
    "cancer": cancer,
    "sentences": sentences,
}


def _sklearn() -> Any:
    # Through importlib, because scikit-learn has no type stubs and should load only when it is used.
    return importlib.import_module("sklearn.datasets")


def _parts(size: int, held_out: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # The legacy generator, because numpy promises that its stream never changes.
    order = np.random.RandomState(0).permutation(size)
    cut = round(size * held_out)
    return order[cut:], order[:cut]


def _images(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Split:
    x = torch.from_numpy(pixels).float() / 255
    x = x.unsqueeze(1) if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous()
    return Split(x, torch.as_tensor(labels, dtype=torch.int64), tuple(Image.fromarray(each) for each in pixels))


def _photographs() -> dict[str, NDArray[np.uint8]]:
    more, some = need("skimage.data", "vision"), _sklearn()
    return {
        "temple": some.load_sample_image("china.jpg"),
        "flower": some.load_sample_image("flower.jpg"),
        "astronaut": more.astronaut(),
        "cat": more.cat(),
        "coffee": more.coffee(),
        "rocket": more.rocket(),
        "retina": more.retina(),
        "tissue": more.immunohistochemistry(),
    }


def _tiles_of(photograph: NDArray[np.uint8]) -> NDArray[np.uint8]:
    down, across = (length // SIDE for length in photograph.shape[:2])
    grid = photograph[: down * SIDE, : across * SIDE].reshape(down, SIDE, across, SIDE, 3)
    found = grid.swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
    structured: NDArray[np.uint8] = found[found.mean(3).std((1, 2)) > 4]
    return structured[np.random.RandomState(0).permutation(len(structured))[:PER_PHOTOGRAPH]]


def _texts(labelled: Sequence[tuple[str, int]], known: Sequence[str]) -> Split:
    texts, labels = zip(*labelled, strict=True)
    return Split(words.padded(_ids(texts, known)), torch.tensor(labels), tuple(texts))


def _ids(texts: Sequence[str], known: Sequence[str]) -> Iterator[list[int]]:
    numbers = words.numbered(known)
    return (words.ids(text, numbers) for text in texts)
