"""Gradients of examples with respect to parameters, in parts that need not be multiplied out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .layout import Layout, Weights

__all__ = ["Dense", "Lookup", "Outer", "Part", "SampleGradients", "Windows", "within"]

# Bytes of gradients that are multiplied out at a time.
BUDGET: ContextVar[int] = ContextVar("BUDGET", default=2**27)


@contextmanager
def within(budget: int | None) -> Iterator[None]:
    """While the block runs, no more bytes of gradients are multiplied out at a time; None: as many as usual."""
    token = BUDGET.set(BUDGET.get() if budget is None else budget)
    try:
        yield
    finally:
        BUDGET.reset(token)


class Part(ABC):
    """The gradients of B examples with respect to some of the parameters."""

    @abstractmethod
    def rows(self) -> Tensor:
        """`(B, parameters)`."""

    @abstractmethod
    def __len__(self) -> int:
        """How many examples."""

    @property
    @abstractmethod
    def held(self) -> int:
        """Bytes that it takes."""

    @abstractmethod
    def blocks(self) -> Iterator[Tensor]:
        """The rows, as many at a time as the budget allows."""

    @abstractmethod
    def total(self) -> Tensor:
        """`(parameters,)`: the sum of the rows."""

    @abstractmethod
    def dot(self, other: Any) -> Tensor:
        """Inner products `(B, C)` with another's of the same parameters."""

    @abstractmethod
    def squared(self) -> Tensor:
        """`(B,)`, of each example with itself."""

    @abstractmethod
    def times(self, columns: Tensor) -> Tensor:
        """`(B, K)`: the rows times columns `(parameters, K)`."""

    @abstractmethod
    def scaled(self, factor: float) -> Part:
        """All of them times a number."""

    @abstractmethod
    def some(self, which: Sequence[int]) -> Part:
        """These of the examples."""

    @abstractmethod
    def joined(self, others: Sequence[Any]) -> Part:
        """The examples of all of them."""


@dataclass(frozen=True, eq=False)
class Dense(Part):
    """Gradients as they are, `(B, parameters)`."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @property
    def held(self) -> int:
        return self.values.nbytes

    def rows(self) -> Tensor:
        return self.values

    def blocks(self) -> Iterator[Tensor]:
        yield self.values

    def total(self) -> Tensor:
        return self.values.sum(0)

    def dot(self, other: Part) -> Tensor:
        return self.values @ other.rows().T

    def squared(self) -> Tensor:
        return self.values.square().sum(1)

    def times(self, columns: Tensor) -> Tensor:
        return self.values @ columns

    def scaled(self, factor: float) -> Dense:
        return Dense(self.values * factor)

    def some(self, which: Sequence[int]) -> Dense:
        return Dense(self.values[list(which)])

    def joined(self, others: Sequence[Part]) -> Dense:
        return Dense(torch.cat([self.values, *(other.rows() for other in others)]))


@dataclass(frozen=True)
class Windows:
    """How to make `(B, width, T)`, what a convolution saw at each place, of what it received."""

    make: Callable[[Tensor], Tensor]
    width: int


AT_A_TIME = 2**21  # bytes of windows: about what a cache holds


@dataclass(frozen=True, eq=False)
class Outer(Part):
    """`sum over t of left_t right_t'`: left `(B, T, O)`, right `(B, T, I)`; with a `bias`, as if right had a one behind it.

    With `windows`, right is pictures, and what they show of them is made for a few examples at a time: it takes many times the memory.
    """

    left: Tensor
    right: Tensor
    bias: bool = False
    windows: Windows | None = None

    def __len__(self) -> int:
        return len(self.left)

    @property
    def _shown(self) -> Tensor:
        return self.right if self.windows is None else self.windows.make(self.right).transpose(1, 2)

    @property
    def _width(self) -> int:
        return self.right.shape[2] if self.windows is None else self.windows.width

    @property
    def held(self) -> int:
        rows = self.left[:, 0].nbytes * (self._width + self.bias) if self.left.shape[1] > 1 else 0  # kept for what is compared again
        return self.left.nbytes + self.right.nbytes + rows

    def rows(self) -> Tensor:
        return torch.cat([self._untwisted(part._turned()) for part in self._parts()])

    def _untwisted(self, turned: Tensor) -> Tensor:
        o, i = self.left.shape[2], self._width
        weights = turned[:, : o * i].unflatten(1, (i, o)).transpose(1, 2).flatten(1)
        return torch.cat([weights, turned[:, o * i :]], 1) if self.bias else weights

    def total(self) -> Tensor:
        o, i = self.left.shape[2], self._width
        weights = self.left.new_zeros(o, i)
        for part in self._parts():
            weights += part.left.flatten(0, 1).T @ part._shown.flatten(0, 1)
        return torch.cat([weights.flatten(), self.left.sum((0, 1))]) if self.bias else weights.flatten()

    @cached_property
    def _kept(self) -> Tensor:
        """What is compared again and again."""
        return self._all_turned()

    def _turned(self) -> Tensor:
        """The rows in another order, right before left: several times as fast where left is narrow, and enough for inner products."""
        found = (self._shown.transpose(1, 2) @ self.left).flatten(1)
        return torch.cat([found, self.left.sum(1)], 1) if self.bias else found

    def _all_turned(self) -> Tensor:
        return torch.cat([part._turned() for part in self._parts()])

    def some(self, which: Sequence[int]) -> Outer:
        return replace(self, left=self.left[list(which)], right=self.right[list(which)])

    def dot(self, other: Part) -> Tensor:
        if not isinstance(other, Outer):
            return self.rows() @ other.rows().T
        (b, t, o), (c, s, _), i = self.left.shape, other.left.shape, self._width
        if t == s == 1 and self.windows is None:
            return (self.left[:, 0] @ other.left[:, 0].T) * (self.right[:, 0] @ other.right[:, 0].T + self.bias)
        if b * c * t * s * (o + i) < (b * t + c * s) * o * i + b * c * o * i:
            return self._by_places(other)
        size = max(1, BUDGET.get() // (8 * o * i))
        columns = [other._kept] if c <= size else (part._all_turned() for part in other._parts(size))
        own = [self] if b <= size else list(self._parts(size))
        return torch.cat([torch.cat([part._kept @ column.T for part in own]) for column in columns], 1)

    def _by_places(self, other: Outer) -> Tensor:
        """Place by place, without any gradient."""
        c, s, t = len(other.left), other.left.shape[1], self.left.shape[1]
        left, right = other.left.flatten(0, 1).T, other._shown.flatten(0, 1).T
        found = []
        for part in self._parts(max(1, BUDGET.get() // (8 * c * t * s))):
            both = (part.left.flatten(0, 1) @ left) * (part._shown.flatten(0, 1) @ right + self.bias)
            found.append(both.view(-1, t, c, s).sum((1, 3)))
        return torch.cat(found)

    def squared(self) -> Tensor:
        t, o, i = self.left.shape[1], self.left.shape[2], self._width
        if t == 1 and self.windows is None:
            return self.left.square().sum((1, 2)) * (self.right.square().sum((1, 2)) + self.bias)
        return torch.cat([part._squared(t * (o + i) < o * i) for part in self._parts()])

    def _squared(self, by_places: bool) -> Tensor:
        if not by_places:
            return self._turned().square().sum(1)
        shown = self._shown
        return ((self.left @ self.left.transpose(1, 2)) * (shown @ shown.transpose(1, 2) + self.bias)).sum((1, 2))

    def times(self, columns: Tensor) -> Tensor:
        return torch.cat([rows @ columns for rows in self.blocks()])

    def blocks(self) -> Iterator[Tensor]:
        return (part.rows() for part in self._parts(max(1, BUDGET.get() // (8 * self.left.shape[2] * (self._width + self.bias)))))

    def _parts(self, size: int | None = None) -> Iterator[Outer]:
        if size is None:
            size = max(1, BUDGET.get() // (8 * self.left.shape[2] * (self._width + self.bias)))
            if self.windows is not None:
                size = min(size, max(1, AT_A_TIME // (self.right.element_size() * self.left.shape[1] * self._width)))
        if size >= len(self.left):
            yield self
            return
        for k in range(0, len(self.left), size):
            yield replace(self, left=self.left[k : k + size], right=self.right[k : k + size])

    def whole(self) -> Outer:
        """The same with the bias as one more column of what was received."""
        shown = self._shown
        return Outer(self.left, torch.cat([shown, shown.new_ones(*shown.shape[:2], 1)], 2) if self.bias else shown)

    def scaled(self, factor: float) -> Outer:
        return replace(self, left=self.left * factor)

    def joined(self, others: Sequence[Part]) -> Part:
        if not others:
            return self
        if any(not isinstance(other, Outer) or _places(other) != _places(self) for other in others):
            return Dense(self.rows()).joined(others)
        left, right = (torch.cat([getattr(part, side) for part in (self, *others)]) for side in ("left", "right"))
        return replace(self, left=left, right=right)


def _places(part: Outer) -> tuple[int, ...]:
    """What must be the same of examples that are put together."""
    return (*part.left.shape[1:], *part.right.shape[1:])


@dataclass(frozen=True, eq=False)
class Lookup(Part):
    """Of a table of vectors: `ids (B, T)` and the gradients `(B, T, D)` of the vectors that were looked up."""

    ids: Tensor
    left: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.left)

    @property
    def held(self) -> int:
        return self.ids.nbytes + self.left.nbytes

    def rows(self) -> Tensor:
        table = self.left.new_zeros(len(self.ids), self.size, self.left.shape[2])
        return table.scatter_add_(1, self.ids[..., None].expand_as(self.left), self.left).flatten(1)

    def blocks(self) -> Iterator[Tensor]:
        size = max(1, BUDGET.get() // (8 * self.size * self.left.shape[2]))
        for ids, left in zip(self.ids.split(size), self.left.split(size), strict=True):
            yield Lookup(ids, left, self.size).rows()

    def total(self) -> Tensor:
        table = self.left.new_zeros(self.size, self.left.shape[2])
        return table.index_add_(0, self.ids.flatten(), self.left.flatten(0, 1)).flatten()

    def some(self, which: Sequence[int]) -> Lookup:
        return Lookup(self.ids[list(which)], self.left[list(which)], self.size)

    def dot(self, other: Part) -> Tensor:
        if not isinstance(other, Lookup):
            return self.rows() @ other.rows().T
        same = self.ids.flatten()[:, None] == other.ids.flatten()
        both = (self.left.flatten(0, 1) @ other.left.flatten(0, 1).T) * same
        return both.view(len(self.ids), -1, len(other.ids), other.ids.shape[1]).sum((1, 3))

    def squared(self) -> Tensor:
        same = self.ids[:, :, None] == self.ids[:, None]
        return ((self.left @ self.left.transpose(1, 2)) * same).sum((1, 2))

    def times(self, columns: Tensor) -> Tensor:
        table = columns.unflatten(0, (self.size, -1))
        return torch.stack([torch.einsum("td,tdk->k", left, table[ids]) for left, ids in zip(self.left, self.ids, strict=True)])

    def scaled(self, factor: float) -> Lookup:
        return Lookup(self.ids, self.left * factor, self.size)

    def joined(self, others: Sequence[Part]) -> Part:
        alike = [other for other in others if isinstance(other, Lookup) and other.ids.shape[1] == self.ids.shape[1]]
        if len(alike) < len(others):
            return Dense(self.rows()).joined(others)
        return Lookup(torch.cat([self.ids, *(o.ids for o in alike)]), torch.cat([self.left, *(o.left for o in alike)]), self.size)


@dataclass(frozen=True, eq=False)
class SampleGradients:
    """The gradients of B examples, in parts.

    Attributes:
        parts: by the name of a layer.
        names: of each part, its parameters, in the order of its rows.
    """

    parts: Mapping[str, Part]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def held(self) -> int:
        """Bytes that they take."""
        return sum(part.held for part in self.parts.values())

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def dot(self, other: SampleGradients) -> Tensor:
        """Inner products `(B, C)`."""
        return sum((part.dot(other.parts[name]) for name, part in self.parts.items()), torch.zeros(()))

    def squared(self) -> Tensor:
        """`(B,)`."""
        return sum((part.squared() for part in self.parts.values()), torch.zeros(()))

    def rows(self) -> Tensor:
        """`(B, parameters)`, multiplied out."""
        return torch.cat([part.rows() for part in self.parts.values()], 1)

    def joined(self, others: Sequence[SampleGradients]) -> SampleGradients:
        """The examples of all of them."""
        return SampleGradients({name: part.joined([o.parts[name] for o in others]) for name, part in self.parts.items()}, self.names)

    def scaled(self, factor: float) -> SampleGradients:
        """All of them times a number."""
        return SampleGradients({name: part.scaled(factor) for name, part in self.parts.items()}, self.names)

    def times(self, weights: Weights) -> Tensor:
        """Inner products `(B, K)` with vectors."""
        return sum((part.times(weights.columns(self.names[name])) for name, part in self.parts.items()), torch.zeros(()))

    def flat(self, layout: Layout) -> Tensor:
        """`(B, parameters)`, multiplied out, in the order of the layout."""
        values: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            own = Layout({each: layout.shapes[each] for each in self.names[name]})
            values |= own.split(part.rows())
        return layout.joined(values)
