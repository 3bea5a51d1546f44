"""Windows: boxes that slide over an input, each hiding a part of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import OptionError
from ..inputs import Tensors

__all__ = ["Window", "windows_of"]


@dataclass(frozen=True)
class Window:
    """One place of a window: which input, and the part of an example that it covers."""

    input: int
    box: tuple[slice, ...]

    @property
    def words(self) -> str:
        """The window as one would index it."""
        return f"[{', '.join(f'{part.start}:{part.stop}' for part in self.box)}] of input {self.input}"


def windows_of(features: Tensors, shapes: Any, strides: Any = None) -> list[Window]:
    """All places of the windows, input by input; the last in each direction may stick out, and is cut off there.

    Args:
        shapes: of the window of each input, `(C, h, w)` for an image; a tuple of such for several inputs.
        strides: how far a window moves: a number, one per dimension, or a tuple of such; None: one by one.

    Raises:
        OptionError: shapes or strides that do not fit the inputs, and windows that would leave something uncovered.
    """
    sizes = _one_each(shapes, features, "sliding_window_shapes")
    steps = [None] * len(features) if strides is None else _one_each(strides, features, "strides", numbers=True)
    found = []
    for i, (feature, size, step) in enumerate(zip(features, sizes, steps, strict=True)):
        extent = tuple(feature.shape[1:])
        moves = (step if isinstance(step, int) else 1,) * len(extent) if step is None or isinstance(step, int) else tuple(step)
        _check(extent, size, moves, i)
        starts = [range(0, 1 + s * math.ceil((n - w) / s), s) for n, w, s in zip(extent, size, moves, strict=True)]
        found += [
            Window(i, tuple(slice(c, min(c + w, n)) for c, w, n in zip(corner, size, extent, strict=True)))
            for corner in itertools.product(*starts)
        ]
    return found


def _one_each(given: Any, features: Tensors, what: str, numbers: bool = False) -> list[Any]:
    """A tuple for each input; a single input may have it bare."""
    if len(features) == 1 and (isinstance(given, int) or not any(isinstance(g, tuple | list) for g in given)):
        given = (given,)
    if isinstance(given, int) and numbers:
        given = (given,) * len(features)
    if not isinstance(given, tuple | list) or len(given) != len(features):
        raise OptionError(f"{what} is {given!r}; give a tuple for each of the {len(features)} inputs, one number per dimension")
    return list(given)


def _check(extent: tuple[int, ...], size: Sequence[int], moves: Sequence[int], index: int) -> None:
    whose = f"input {index} of shape (examples, {', '.join(map(str, extent))})"
    for name, values in (("sliding_window_shapes", size), ("strides", moves)):
        if not isinstance(values, tuple | list) or len(values) != len(extent):
            raise OptionError(f"{name} is {values!r} for {whose}; give {len(extent)} numbers, one for each dimension but the first")
        if not all(isinstance(v, int) and v > 0 for v in values):
            raise OptionError(f"{name} is {values!r}; give whole numbers of at least 1")
    if any(w > n for w, n in zip(size, extent, strict=True)):
        raise OptionError(f"the window {tuple(size)} is larger than {whose}; make it smaller")
    if any(s > w and w < n for s, w, n in zip(moves, size, extent, strict=True)):
        raise OptionError(f"strides {tuple(moves)} are longer than the window {tuple(size)}, so it would leave gaps; make them shorter")
