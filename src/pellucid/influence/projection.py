"""Gradients of many parameters as short vectors whose inner products are nearly the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import OptionError
from ..seeds import generator
from .parts import BUDGET, Part, SampleGradients

__all__ = ["Projection"]


@dataclass(frozen=True)
class Projection:
    """Random signs over the root of their number: from all parameters to `dimensions`; None: as they are.

    The signs are drawn again whenever they are needed, some columns at a time, as many as the budget holds.
    Source: Achlioptas 2003; Park et al. 2023, section 3.2.

    >>> from .parts import Dense
    >>> one = SampleGradients({"a": Dense(torch.ones(2, 50))}, {"a": ("a",)})
    >>> Projection(8, seed=0).of(one).shape
    torch.Size([2, 8])
    """

    dimensions: int | None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dimensions is not None and self.dimensions < 1:
            raise OptionError(f"projection={self.dimensions}; at least one dimension is needed, or None for none")

    def of(self, gradients: SampleGradients) -> Tensor:
        """`(B, dimensions)`."""
        if self.dimensions is None:
            return gradients.rows()
        found: Tensor = sum((self._part(i, part) for i, part in enumerate(gradients.parts.values())), torch.zeros(()))
        return found / math.sqrt(self.dimensions)

    def _part(self, number: int, part: Part) -> Tensor:
        like = part.total()
        return torch.cat([part.times(signs.to(like)) for signs in self._signs(number, like.numel())], 1)

    def _signs(self, number: int, size: int) -> Iterator[Tensor]:
        assert self.dimensions is not None
        step = max(1, min(self.dimensions, BUDGET.get() // (8 * size)))
        for start in range(0, self.dimensions, step):
            columns = range(start, min(start + step, self.dimensions))
            yield torch.stack([self._column(number, column, size) for column in columns], 1)

    def _column(self, number: int, column: int, size: int) -> Tensor:
        source = generator(self.seed, number * 2**32 + column)
        return torch.randint(0, 2, (size,), generator=source, dtype=torch.int8).float().mul_(2).sub_(1)
