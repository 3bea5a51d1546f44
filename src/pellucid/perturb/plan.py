"""What windows will cost, from the first pass alone: how far each reaches after each step, without any values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .partial import Step
from .patches import Slide

__all__ = ["Plan", "planned"]


# Into how many parts windows may be sorted along each axis.
PARTS = (1, 2, 3, 4, 5, 7, 9, 12, 16)


class Plan(NamedTuple):
    """Costs of windows.

    Attributes:
        ys, xs: `(steps, windows)`, how many places each window reaches after each step.
        macs: `(steps, 1)`, multiply-adds for each place.
        whole: multiply-adds for a whole copy.
        numbers: how many numbers the largest patch of a window holds.
    """

    ys: Tensor
    xs: Tensor
    macs: Tensor
    whole: int
    numbers: int

    def cost(self, together: Sequence[Tensor]) -> float:
        """Multiply-adds of windows in passes, each with rectangles that hold the largest of it."""
        return sum(len(some) * float((self.macs[:, 0] * self.ys[:, some].amax(1) * self.xs[:, some].amax(1)).sum()) for some in together)

    def chunks(self, most: int, extra: float) -> list[Tensor]:
        """The numbers of the windows of each pass, at most so many: those that cost alike, where a pass costs `extra` more."""
        ways = [[c for g in self._sorted(parts) for c in g.tensor_split(math.ceil(len(g) / most))] for parts in PARTS]
        return min(ways, key=lambda way: self.cost(way) + len(way) * extra)

    def _sorted(self, parts: int) -> list[Tensor]:
        along = (self.macs * self.ys * self.xs.mean(1, True)).sum(0), (self.macs * self.xs * self.ys.mean(1, True)).sum(0)
        ys, xs = (_parted(costs, parts) for costs in along)
        groups = ((ys * parts + xs == part).nonzero().flatten() for part in range(parts * parts))
        return [group for group in groups if len(group)]


def _parted(costs: Tensor, parts: int) -> Tensor:
    """The number of each window's part, of as many parts with costs as close together as they get."""
    kinds, number = costs.unique(return_inverse=True)
    part: Tensor = number * parts // len(kinds)
    return part


def planned(steps: Sequence[Step], starts: Tensor, window: tuple[int, int]) -> Plan:
    """The costs of windows at `starts` `(windows, 2)`."""
    ys, xs = (torch.stack(_lengths(steps, starts[:, axis], window[axis], axis)) for axis in (0, 1))
    macs = torch.tensor([step.macs for step in steps], dtype=torch.double, device="cpu")[:, None]
    channels = torch.tensor([step.shape[1] for step in steps], device="cpu")[:, None]
    whole = sum(step.macs * step.sizes[0] * step.sizes[1] for step in steps)
    return Plan(ys, xs, macs, whole, int((channels * ys * xs).max()))


def _lengths(steps: Sequence[Step], starts: Tensor, length: int, axis: int) -> list[Tensor]:
    """How many places each window reaches along an axis, after each step."""
    ends: dict[int, tuple[Tensor, Tensor]] = {}
    for step in steps:
        ends[id(step)] = _ends([ends[id(read)] for read in step.reads], step, axis) if step.reads else _window(step, starts, length, axis)
    return [(last - first + 1).double() for first, last in ends.values()]


def _window(step: Step, starts: Tensor, length: int, axis: int) -> tuple[Tensor, Tensor]:
    most = step.sizes[axis] - 1
    return starts.clamp(max=most), (starts + length - 1).clamp(max=most)


def _ends(reads: Sequence[tuple[Tensor, Tensor]], step: Step, axis: int) -> tuple[Tensor, Tensor]:
    first, last = (torch.stack(parts) for parts in zip(*reads, strict=True))
    slide = Slide(1, 1, 0, 1) if step.slides is None else step.slides[axis]
    return slide.ends(first.amin(0), last.amax(0), step.sizes[axis])
