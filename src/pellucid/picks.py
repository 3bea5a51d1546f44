"""Picks: how scores of shape `(targets, examples)` are taken from whatever the model returned."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .errors import OutputError, TargetError
from .output import fields_of, in_words, tensor_of

__all__ = ["Custom", "Every", "Field", "Mixed", "PerExample", "Pick", "Same", "Several", "Sum", "Whole"]

Index = tuple[int, ...]


class Pick(ABC):
    """How scores are taken from the model's output."""

    @abstractmethod
    def scores(self, output: Any, rows: int) -> Tensor:
        """`(targets, rows)` from the output for `rows` examples (whole copies of the batch, one after another)."""

    def at(self, rows: Sequence[int]) -> Pick:
        """The same pick for these examples, in this order; an example may come more than once."""
        return self

    @abstractmethod
    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Whole(Pick):
    """The output is the score: `(rows,)` or `(rows, 1)`, or one number for the whole batch."""

    def scores(self, output: Any, rows: int) -> Tensor:
        found = tensor_of(output)
        if found.numel() == 1:
            return found.reshape(1, 1)
        _check_rows(found, rows)
        if found.numel() != rows:
            raise TargetError(
                f"the model returned {tuple(found.shape)}, {found.numel() // rows} numbers per example, and no target says which; "
                f"give target= an index into {tuple(found.shape[1:])}, a list with one per example, or a function of the output"
            )
        return found.reshape(1, rows)

    def __str__(self) -> str:
        return "output"


@dataclass(frozen=True)
class Every(Pick):
    """Every number of the output, each a target of its own."""

    def scores(self, output: Any, rows: int) -> Tensor:
        found = tensor_of(output)
        if found.numel() == 1:
            return found.reshape(1, 1)
        if found.dim() == 0 or len(found) != rows:  # so many numbers for the whole batch
            return found.reshape(-1, 1)
        return found.reshape(rows, -1).T

    def __str__(self) -> str:
        return "every output"


@dataclass(frozen=True)
class Same(Pick):
    """The same entry for all examples."""

    index: Index
    name: str = ""

    def scores(self, output: Any, rows: int) -> Tensor:
        found = tensor_of(output)
        _check_rows(found, rows)
        _check_index(found, self.index)
        entry: tuple[Any, ...] = (slice(None), *self.index)
        return found[entry].reshape(1, rows)

    def __str__(self) -> str:
        where = self.index[0] if len(self.index) == 1 else self.index
        return f"output {where}" + (f" ({self.name})" if self.name else "")


class PerExample(Pick):
    """One entry for each example, all of the same depth.

    Args:
        indices: `(B, depth)` integers, or a tuple of one index for each example.
    """

    def __init__(self, indices: Sequence[Index] | Tensor) -> None:
        # A tensor, because batches of perturbed copies have thousands of rows.
        self._rows = indices if isinstance(indices, Tensor) else torch.tensor(indices, dtype=torch.long)
        self._fits: set[torch.Size] = set()

    @cached_property
    def indices(self) -> tuple[Index, ...]:
        """One index for each example."""
        return tuple(map(tuple, self._rows.tolist()))

    def scores(self, output: Any, rows: int) -> Tensor:
        found = tensor_of(output)
        _check_rows(found, rows)
        if found.shape[1:] not in self._fits:
            self._check(found)
            self._fits.add(found.shape[1:])
        chosen = self._rows.to(found.device).repeat(rows // len(self._rows), 1)
        return found[(torch.arange(rows, device=found.device), *chosen.unbind(1))].reshape(1, rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PerExample) and self.indices == other.indices

    def __hash__(self) -> int:
        return hash(self.indices)

    def _check(self, output: Tensor) -> None:
        if not len(self._rows):
            raise TargetError("there is no target, because there are no examples; give at least one")
        ends = (tuple(self._rows.amin(0).tolist()), tuple(self._rows.amax(0).tolist()))
        try:
            for index in ends:
                _check_index(output, index)
        except TargetError:
            for index in set(self.indices):  # the error names one that was given
                _check_index(output, index)
            raise

    def at(self, rows: Sequence[int]) -> Pick:
        chosen = slice(rows.start, rows.stop) if isinstance(rows, range) and rows.step == 1 else list(rows)
        return PerExample(self._rows[chosen])

    def __str__(self) -> str:
        return (
            "outputs " + ", ".join(str(i[0] if len(i) == 1 else i) for i in self.indices[:8]) + (", ..." if len(self.indices) > 8 else "")
        )


@dataclass(frozen=True)
class Sum(Pick):
    """A weighted sum of other picks."""

    terms: tuple[tuple[float, Pick], ...]

    def scores(self, output: Any, rows: int) -> Tensor:
        first, *rest = (weight * pick.scores(output, rows) for weight, pick in self.terms)
        return sum(rest, start=first)

    def at(self, rows: Sequence[int]) -> Pick:
        return Sum(tuple((weight, pick.at(rows)) for weight, pick in self.terms))

    def __str__(self) -> str:
        words = "".join(f" {'-' if w < 0 else '+'} {'' if abs(w) == 1 else f'{abs(w):g} * '}{pick}" for w, pick in self.terms)
        return words.removeprefix(" + ").replace(" - ", "-", 1) if words.startswith(" - ") else words.removeprefix(" + ")


@dataclass(frozen=True)
class Mixed(Pick):
    """A pick of its own for each example, of whatever kind."""

    picks: tuple[Pick, ...]

    def scores(self, output: Any, rows: int) -> Tensor:
        distinct = {pick: pick.scores(output, rows) for pick in dict.fromkeys(self.picks)}
        size = len(self.picks)
        return torch.stack([distinct[self.picks[row % size]][:, row] for row in range(rows)], 1)

    def at(self, rows: Sequence[int]) -> Pick:
        return Mixed(tuple(self.picks[row] for row in rows))

    def __str__(self) -> str:
        return "; ".join(map(str, self.picks[:8])) + ("; ..." if len(self.picks) > 8 else "")


@dataclass(frozen=True)
class Custom(Pick):
    """A function of whatever the model returned, giving one score per example."""

    function: Callable[[Any], Tensor]

    def scores(self, output: Any, rows: int) -> Tensor:
        found = self.function(output)
        if not isinstance(found, Tensor) or found.numel() not in (rows, 1):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise TargetError(f"the target function returned {got} for {rows} examples; it must return one number per example: ({rows},)")
        return found.reshape(1, -1)

    def __str__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


@dataclass(frozen=True)
class Field(Pick):
    """A pick of one field of an output that has several."""

    name: str
    inner: Pick

    def scores(self, output: Any, rows: int) -> Tensor:
        known = fields_of(output)
        if self.name not in known:
            held = f"the output has the fields {in_words(known)}, and " if known else ""
            raise TargetError(f"target {self.name!r} is not a class; {held}no class names were given: pass classes=[...]")
        return self.inner.scores(known[self.name], rows)

    def at(self, rows: Sequence[int]) -> Pick:
        return Field(self.name, self.inner.at(rows))

    def __str__(self) -> str:
        return self.name if isinstance(self.inner, Whole) else f"{self.name}, {self.inner}"


@dataclass(frozen=True)
class Several(Pick):
    """Several targets of one forward pass."""

    picks: tuple[Pick, ...]

    def scores(self, output: Any, rows: int) -> Tensor:
        return torch.cat([pick.scores(output, rows) for pick in self.picks])

    def at(self, rows: Sequence[int]) -> Pick:
        return Several(tuple(pick.at(rows) for pick in self.picks))

    def __str__(self) -> str:
        return " | ".join(map(str, self.picks))


def _check_rows(output: Tensor, rows: int) -> None:
    if output.dim() == 0 or output.shape[0] != rows:
        raise OutputError(
            f"the model returned shape {tuple(output.shape)} for {rows} examples; dimension 0 of the output must be the "
            "examples (if a single example was given without its batch dimension, use inputs.unsqueeze(0))"
        )


def _check_index(output: Tensor, index: Index) -> None:
    shape = tuple(output.shape[1:])
    shown = index[0] if len(index) == 1 else index
    if not shape:
        raise TargetError(
            f"target {shown} asks for an entry, but the model returns one score per example ({tuple(output.shape)}): use target=None"
        )
    if len(index) > len(shape):
        raise TargetError(f"target {shown} has {len(index)} indices, but one example's output has shape {shape}; give at most {len(shape)}")
    for position, (i, n) in enumerate(zip(index, shape, strict=False)):
        if not -n <= i < n:
            raise TargetError(
                f"target {shown} is out of range: dimension {position} of one example's output has {n} entries; use 0 to {n - 1}"
            )
    if math.prod(shape[len(index) :]) != 1:
        raise TargetError(
            f"target {shown} picks {shape[len(index) :]} numbers of one example's output {shape}; one score is needed: "
            f"give a tuple of {len(shape)} indices"
        )
