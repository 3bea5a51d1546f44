"""Patches: the rectangles in which copies of a map differ from it, how operations move them, and how they are cut and laid."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Rect", "Slide", "Span", "cut", "everything", "join", "lay", "rows_of", "same"]


class Span(NamedTuple):
    """A run of places along one axis for each of N windows: `length` places from `start` on, `(N,)` whole numbers on the CPU."""

    start: Tensor
    length: int

    def places(self) -> Tensor:
        """`(N, length)`: the places of each window's run."""
        return self.start[:, None] + torch.arange(self.length, device="cpu")


Rect = tuple[Span, Span]


class Slide(NamedTuple):
    """A kernel that slides along one axis, with `before` places of padding in front of the first."""

    kernel: int
    stride: int
    before: int
    dilation: int

    @property
    def reach(self) -> int:
        """How many places one position of the kernel spans."""
        return (self.kernel - 1) * self.dilation + 1

    def ends(self, first: Tensor, last: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The first and the last position, out of `size`, that reads a place from `first` to `last`; one, if there is none."""
        after = ((last + self.before) // self.stride).clamp(0, size - 1)
        # Rounded up; between two positions (stride beyond the kernel) nothing is read.
        return ((first + self.before - self.reach + self.stride) // self.stride).clamp(min=0).minimum(after), after

    def touched(self, span: Span, size: int) -> Span:
        """The positions, out of `size`, that read a changed place: all of them, and for some windows a few more."""
        first, last = self.ends(span.start, span.start + span.length - 1, size)
        length = int((last - first).max()) + 1
        return Span(first.clamp(max=size - length), length)

    def needed(self, span: Span) -> Span:
        """The places, some perhaps outside the map, that these positions read."""
        return Span(span.start * self.stride - self.before, (span.length - 1) * self.stride + self.reach)


def everything(count: int, sizes: tuple[int, int]) -> Rect:
    """The whole map, for every window."""
    start = torch.zeros(count, dtype=torch.long, device="cpu")
    return Span(start, sizes[0]), Span(start, sizes[1])


def join(rects: list[Rect], sizes: tuple[int, int]) -> Rect:
    """The smallest rectangles of one shape that hold them all."""
    first, *rest = rects
    if all(same(first, other) for other in rest):
        return first
    ys, xs = (_hull([rect[axis] for rect in rects], sizes[axis]) for axis in (0, 1))
    return ys, xs


def same(one: Rect, other: Rect) -> bool:
    """Whether two rectangles are the same for every window."""
    return one is other or all(a.length == b.length and torch.equal(a.start, b.start) for a, b in zip(one, other, strict=True))


def _hull(spans: list[Span], size: int) -> Span:
    first = torch.stack([s.start for s in spans]).amin(0)
    length = int((torch.stack([s.start + s.length for s in spans]).amax(0) - first).max())
    return Span(first.clamp(max=size - length), length)


def rows_of(one: Tensor) -> Tensor:
    """A map `(1, C, H, W)` as one row for each place and one more, `(H * W + 1, C)`: what is read outside the map."""
    rows = one.new_empty(one.shape[2] * one.shape[3] + 1, one.shape[1])
    rows[:-1].view(*one.shape[2:], -1).copy_(one[0].permute(1, 2, 0))
    return rows


def cut(rows: Tensor, sizes: tuple[int, int], rect: Rect, outside: float = 0.0) -> Tensor:
    """The rectangles of a map given by its rows, `(N, C, h, w)` with channels last, with `outside` around the map."""
    if rows.dtype != torch.bool:
        rows[-1].fill_(outside)
    beyond = len(rows) - 1
    ys, xs = (_offsets(span.places(), size, pitch, beyond) for span, size, pitch in zip(rect, sizes, (sizes[1], 1), strict=True))
    index = (ys[:, :, None] + xs[:, None, :]).clamp_(max=beyond)
    return rows.index_select(0, index.flatten().to(rows.device)).view(*index.shape, -1).permute(0, 3, 1, 2)


def _offsets(places: Tensor, size: int, pitch: int, beyond: int) -> Tensor:
    return torch.where((places >= 0) & (places < size), places * pitch, beyond)


def lay(patch: Tensor, rect: Rect, on: Tensor, at: Rect) -> None:
    """Lay patches over larger ones `on`, with channels last, which begin elsewhere; what would lie outside is left off."""
    shifts = [a.start - b.start for a, b in zip(rect, at, strict=True)]
    if all(bool((shift == shift[0]).all()) for shift in shifts):
        _lay_alike(patch, [int(shift[0]) for shift in shifts], on)
    else:
        _lay_each(patch, shifts, on)


def _lay_alike(patch: Tensor, shifts: list[int], on: Tensor) -> None:
    into, out_of = [], []
    for shift, length, room in zip(shifts, patch.shape[2:], on.shape[2:], strict=True):
        first, last = max(shift, 0), min(shift + length, room)
        into.append(slice(first, max(first, last)))
        out_of.append(slice(first - shift, max(first, last) - shift))
    on[:, :, into[0], into[1]] = patch[:, :, out_of[0], out_of[1]]


def _lay_each(patch: Tensor, shifts: list[Tensor], on: Tensor) -> None:
    height, width = on.shape[2:]
    ys, xs = (Span(shift, length).places() for shift, length in zip(shifts, patch.shape[2:], strict=True))
    first = torch.arange(len(patch), device="cpu")[:, None, None] * (height * width)
    index = (first + ys[:, :, None] * width + xs[:, None, :]).flatten()
    inside = (((ys >= 0) & (ys < height))[:, :, None] & ((xs >= 0) & (xs < width))[:, None, :]).flatten()
    rows = patch.permute(0, 2, 3, 1).reshape(-1, patch.shape[1])
    if not bool(inside.all()):
        kept = inside.nonzero().flatten()
        index, rows = index[kept], rows.index_select(0, kept.to(rows.device))
    on.permute(0, 2, 3, 1).view(-1, on.shape[1]).index_copy_(0, index.to(on.device), rows)
