"""The order of parameters in rows of numbers, and vectors in their space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Layout", "Weights"]


@dataclass(frozen=True)
class Layout:
    """The order of parameters in a row of numbers."""

    shapes: Mapping[str, torch.Size]

    @classmethod
    def of(cls, parameters: Sequence[tuple[str, Tensor]]) -> Layout:
        """That of named parameters."""
        return cls({name: parameter.shape for name, parameter in parameters})

    @property
    def size(self) -> int:
        """How many numbers."""
        return sum(shape.numel() for shape in self.shapes.values())

    def split(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows `(K, parameters)` as `(K, ...)` of each parameter."""
        pieces = rows.split([shape.numel() for shape in self.shapes.values()], 1)
        return {name: piece.reshape(-1, *shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def joined(self, values: Mapping[str, Tensor]) -> Tensor:
        """`(K, ...)` of each parameter as rows `(K, parameters)`."""
        return torch.cat([values[name].reshape(len(values[name]), -1) for name in self.shapes], 1)


class Weights:
    """K vectors in the space of the parameters, `(K, parameters)` in the order of a layout."""

    def __init__(self, rows: Tensor, layout: Layout) -> None:
        self.rows, self.layout = rows, layout
        self._named = layout.split(rows)
        self._columns: dict[tuple[str, ...], Tensor] = {}

    def columns(self, names: tuple[str, ...]) -> Tensor:
        """`(parameters, K)` of these parameters only."""
        if names not in self._columns:
            self._columns[names] = torch.cat([self._named[name].reshape(len(self.rows), -1) for name in names], 1).T
        return self._columns[names]
