"""The large tensors of a run in zarr arrays over all examples: a block is a chunk, so workers never meet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError, need

__all__ = ["Arrays"]

NUMPY = {torch.bfloat16: torch.float32}  # what numpy does not know


class Arrays:
    """A zarr group with an array for each tensor of an explanation, `(examples, ...)`; zeros where an example failed.

    Args:
        tensors: shape and dtype of what an example has, by name.
    """

    def __init__(self, path: Path, tensors: Mapping[str, tuple[Sequence[int], str]]) -> None:
        self.path, self.tensors = path, tensors
        self._open: dict[str, Any] = {}

    def begin(self, count: int, block: int) -> None:
        """Make the arrays that are not there."""
        zarr = need("zarr", "scale")
        group = zarr.open_group(self.path, mode="a")
        for name, (shape, dtype) in self.tensors.items():
            if name not in group:
                kind = str(_numpy(torch.zeros(0, dtype=getattr(torch, dtype))).dtype)
                chunks = (min(block, count), *(max(1, edge) for edge in shape))
                group.create_array(name, shape=(count, *shape), chunks=chunks, dtype=kind, compressors=None)

    def write(self, first: int, size: int, places: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        """The chunk of one block.

        Raises:
            OptionError: examples of another shape.
        """
        for name, tensor in tensors.items():
            array, values = self._array(name), _numpy(tensor)
            if values.shape[1:] != array.shape[1:]:
                raise OptionError(
                    f"{name} has the shape {values.shape[1:]} and that of the first example is {array.shape[1:]}; zarr arrays hold one "
                    "shape: give arrays='safetensors', and another folder"
                )
            if len(places) < size:
                whole = np.zeros((size, *values.shape[1:]), values.dtype)
                whole[list(places)] = values
                values = whole
            array[first : first + size] = values
            chunk = self.path / name / "c" / str(first // array.chunks[0]) / "/".join("0" for _ in array.shape[1:])
            with suppress(OSError):
                descriptor = os.open(chunk, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)

    def read(self, first: int, places: Sequence[int], only: str = "") -> dict[str, Tensor]:
        """The tensors of some examples of a block."""
        found = {}
        for name, (_, dtype) in self.tensors.items():
            if places and name.startswith(only):
                low, high = min(places), max(places) + 1
                values = self._array(name)[first + low : first + high]
                rows = torch.from_numpy(np.ascontiguousarray(values[[place - low for place in places]]))
                found[name] = rows.to(getattr(torch, dtype))
        return found

    def _array(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = need("zarr", "scale").open_array(self.path / name, mode="r+")
        return self._open[name]


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().cpu().to(NUMPY.get(tensor.dtype, tensor.dtype)).numpy()
