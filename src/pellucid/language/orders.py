"""Nested Shapley values of pieces: orders of units in which those of a piece come one after another, at every level."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..errors import OptionError
from ..seeds import generator
from .growth import TINY, Growth, Piece

__all__ = ["Orders"]

FIRST, MOST, TOLERANCE = 8, 1024, 0.05


class Orders(Growth):
    """Values are means over orders in which the units of a piece come one after another, each followed by its reverse.

    When nothing more is to be looked into, what is left of the budget goes into further orders, unless their number was given.
    """

    law = "completeness"

    def _begin(self, orders: int | None) -> None:
        parts = len(self.parts(self.root))
        if not parts:
            raise OptionError("the prompt has one piece only, so there is nothing to divide; give finer levels")
        affordable = (self.scores.most // 2 - 2) // max(1, (parts - 1) * self.scores.question.prompt.stand_ins)
        self.refines = orders is None
        self.count = max(2, min(FIRST, affordable) // 2 * 2) if orders is None else orders
        if self.count < 2 or self.count % 2:
            raise OptionError(f"orders is {orders}; each comes with its reverse: give an even number, at least 2")
        self.root.before = torch.zeros(self.count, len(self.groups[-1]), dtype=torch.bool)

    def grow(self, least: float) -> None:
        super().grow(least)
        while self.refines and self.spread() > TOLERANCE and self.count < MOST:
            more = torch.zeros(max(2, self.count // 4 * 2), len(self.groups[-1]), dtype=torch.bool)
            planned = list(self._planned(self.root, self.root.children, more))
            if self.scores.used + self.scores.price(torch.cat([steps.flatten(0, 1) for _, _, steps in planned])) > self.scores.most:
                return
            for piece, orders, steps in planned:
                self._divide(piece, orders, steps)
            self.count += len(more)

    def spread(self) -> float:
        """The standard error of the finest pieces' values, in parts of their size: of the target for which it is largest."""
        leaves = list(self.leaves(self.root))
        values, errors = (torch.stack([getattr(leaf, name) for leaf in leaves]).norm(dim=0) for name in ("values", "errors"))
        return float((errors / values.clamp_min(TINY)).nan_to_num(math.inf).max())

    def _planned(self, piece: Piece, parts: Sequence[Piece], before: Tensor) -> Iterator[tuple[Piece, Tensor, Tensor]]:
        """Further orders of a piece's parts `(orders, parts)`, and what is there step by step; then those of its open parts."""
        source = generator(self.scores.question.seed, piece.number * 2**20 + len(piece.orders))
        drawn = torch.stack([torch.randperm(len(parts), generator=source) for _ in range(len(before) // 2)])
        orders = torch.stack([drawn, drawn.flip(1)], 1).flatten(0, 1)
        come = self.masks(parts)[orders].cumsum(1) > 0
        steps = torch.cat([torch.zeros_like(come[:, :1]), come], 1) | before[:, None]
        yield piece, orders, steps
        for number_, part in enumerate(parts):
            if part.children:
                yield from self._planned(part, part.children, steps[torch.arange(len(orders)), _places(orders, number_)])

    def _asked(self, piece: Piece, parts: Sequence[Piece]) -> Tensor:
        ((_, _, steps),) = self._planned(piece, parts, piece.before)
        return steps.flatten(0, 1)

    def _open(self, piece: Piece, parts: list[Piece]) -> None:
        ((_, orders, steps),) = self._planned(piece, parts, piece.before)
        piece.children = parts
        self._divide(piece, orders, steps)

    def _divide(self, piece: Piece, orders: Tensor, steps: Tensor) -> None:
        """Give the parts what they add in some further orders."""
        scores = self.scores.of(steps.flatten(0, 1)).unflatten(0, steps.shape[:2])
        added, rows = scores.diff(dim=1), torch.arange(len(orders))
        piece.orders = torch.cat([piece.orders, orders])
        if piece.level < 0:
            _more(piece, steps[:, 0], scores[:, -1] - scores[:, 0])
        for number_, part in enumerate(piece.children):
            places = _places(orders, number_)
            _more(part, steps[rows, places], added[rows, places])


def _places(orders: Tensor, number_: int) -> Tensor:
    """When a part comes in each order."""
    found: Tensor = (orders == number_).long().argmax(1)
    return found


def _more(piece: Piece, before: Tensor, added: Tensor) -> None:
    """What a piece adds in further orders `(orders, targets)`; it is orders with their reverses that are independent."""
    piece.added = torch.cat([piece.added.view(-1, added.shape[1]), added])
    piece.before = before if len(piece.added) == len(before) else torch.cat([piece.before, before])
    pairs = piece.added.unflatten(0, (-1, 2)).mean(1)
    piece.values = pairs.mean(0)
    piece.errors = pairs.std(0) / math.sqrt(len(pairs)) if len(pairs) > 1 else torch.full_like(pairs[0], math.nan)
