"""Blocks of examples and steps: which points share a call of the model, and where what is found about them goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from .inputs import Tensors
from .memory import is_out, release
from .view import View, stacked

__all__ = ["Part", "Points", "Sum", "Verb", "Work"]

Points = Callable[[slice, slice], Tensors]


class Part(NamedTuple):
    """What one call found: for these examples and steps, the scores `(T, steps, b)` and gradients `(T, steps, b, ...)`."""

    examples: slice
    steps: slice
    scores: Tensor
    gradients: Tensors


@dataclass(eq=False)
class Sum:
    """Sums `(T, B, ...)`, gathered for some of the `size` examples at a time."""

    size: int
    totals: dict[int, Tensor] = field(default_factory=dict)

    def add(self, index: int, examples: slice, value: Tensor) -> None:
        """Add `(T, b, ...)` to the sum of that number; `(T, 1, ...)` of what all examples have together."""
        together = value.shape[1] != examples.stop - examples.start
        if index not in self.totals and (together or value.shape[1] == self.size):
            self.totals[index] = value
            return
        if together:
            self.totals[index] = self.totals[index] + value
            return
        if index not in self.totals:
            self.totals[index] = value.new_zeros(len(value), self.size, *value.shape[2:])
        self.totals[index][:, examples] += value

    def values(self) -> Tensors:
        """All sums, by their numbers."""
        return tuple(self.totals[index] for index in sorted(self.totals))


Verb = Callable[[View, Tensors, slice, slice], tuple[Tensor, Tensors]]


@dataclass
class Work:
    """What is done at every block of examples x steps, and how many examples may share a call."""

    points: Points
    verb: Verb
    keep: Callable[[Part], None]
    limit: int

    def all(self, view: View, examples: slice, steps: slice) -> Iterator[int]:
        """Do all of it, block by block of at most `limit` points, which may shrink on the way; yields points done."""
        start = examples.start
        while start < examples.stop:
            stop = min(start + self.limit, examples.stop) if view.at_once else examples.stop
            step = steps.start
            while step < steps.stop:
                end = min(step + max(1, self.limit // (stop - start)), steps.stop)
                yield from self._block(view, slice(start, stop), slice(step, end))
                step = end
            start = stop

    def _block(self, view: View, examples: slice, steps: slice) -> Iterator[int]:
        """One call; in smaller ones if it does not fit into memory."""
        copies, block = steps.stop - steps.start, view.examples(examples)
        try:
            scores, grads = self.verb(block, stacked(self.points(examples, steps)), examples, steps)
        except (RuntimeError, MemoryError) as error:
            self.limit = copies * block.size // 2
            if not is_out(error) or not self.limit or (copies == 1 and not view.at_once):
                raise
        else:
            shape = (copies, -1)
            self.keep(Part(examples, steps, scores.unflatten(1, shape), tuple(g.unflatten(1, shape) for g in grads)))
            yield copies * block.size
            return
        release()
        yield from self.all(view, examples, steps)
