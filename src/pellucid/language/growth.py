"""How a tree of pieces grows: which prompts are scored to look inside a piece, and what its parts get."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..batch import Run
from ..errors import OptionError
from ..explanation import Check, Found
from ..show.numbers import count, number
from ..trust import health_of
from .asking import Posed
from .tree import Node
from .units import joined

__all__ = ["Growth", "Piece", "Scores", "Without"]

TINY, ROUNDING = 1e-300, 1e-5


@dataclass(eq=False)
class Scores:
    """Scores of coalitions of units, each asked for once, within a budget.

    Attributes:
        most: prompts.
        used: so far.
    """

    question: Posed
    most: int
    run: Run
    used: int = 0
    known: dict[bytes, Tensor] = field(default_factory=dict)

    def price(self, kept: Tensor) -> int:
        """How many prompts coalitions `(m, units)` bool would take."""
        new = {key: bool(row.all()) for key, row in self._keys(kept) if key not in self.known}
        return sum(1 if whole else self.question.prompt.stand_ins for whole in new.values())

    def of(self, kept: Tensor) -> Tensor:
        """`(m, targets)` float64, the mean over stand-ins."""
        new = {key: row for key, row in self._keys(kept) if key not in self.known}
        if new:
            self.used += self.price(kept)
            self.known |= zip(new, self._scored(torch.stack(list(new.values()))), strict=True)
        return torch.stack([self.known[key] for key, _ in self._keys(kept)])

    @staticmethod
    def _keys(kept: Tensor) -> list[tuple[bytes, Tensor]]:
        return [(row.numpy().tobytes(), row) for row in kept]

    def _scored(self, kept: Tensor) -> Tensor:
        view, found = self.question.view, []
        for way in range(self.question.prompt.stand_ins):
            points = torch.where(kept, 1.0, float(-way)).to(view.features[0])
            scores = self.run.scores(view, len(points), lambda _, steps, points=points: (points[steps, None],), "pieces")  # type: ignore[misc]
            found.append(scores[:, :, 0].T.double().cpu())
        return torch.stack(found).mean(0)


@dataclass(eq=False)
class Piece:
    """A piece while the tree grows.

    Attributes:
        level: the number of its level; -1: the whole prompt.
        values, errors: `(targets,)`.
        before: `(orders, units)`, what stands in each order before it.
        added: `(orders, targets)`, what it adds then.
        orders: `(orders, parts)`, in which its parts come.
    """

    units: list[int]
    level: int
    number: int
    values: Tensor
    errors: Tensor
    before: Tensor
    children: list[Piece] = field(default_factory=list)
    added: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    orders: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    @property
    def weight(self) -> float:
        """How much it matters: over the tokens of the answer, or, of two answers, the whole."""
        return float((self.values[1:] if len(self.values) > 1 else self.values).abs().sum())


class Growth(ABC):
    """A tree over units.

    Attributes:
        groups: for each level but the finest, the group of each unit.
        names: of all levels.
        opened, small, dear: how many pieces were looked into, were not worth it, did not fit into the budget.
    """

    law = ""

    def __init__(self, scores: Scores, groups: Sequence[Sequence[int]], names: Sequence[str], orders: int | None) -> None:
        self.scores, self.groups, self.names = scores, [*groups, range(scores.question.prompt.size)], names
        self.opened = self.small = self.dear = self._made = 0
        self.root = self._piece(list(range(scores.question.prompt.size)), -1)
        self._begin(orders)

    def grow(self, least: float) -> None:
        """Look inside the heaviest piece, again and again.

        Raises:
            OptionError: the budget is too small for the first level.
        """
        first = self.parts(self.root)
        needed = self.scores.price(self._asked(self.root, first))
        if needed > self.scores.most:
            raise OptionError(
                f"evaluations is {self.scores.most}, and the {len(first)} pieces of the first level take {needed}; give more, or a coarser "
                "level before"
            )
        self._open(self.root, first)
        lowest = least * sum(piece.weight for piece in self.root.children)
        waiting = list(self.root.children)
        while waiting:
            piece = max(waiting, key=lambda one: one.weight)
            waiting.remove(piece)
            parts = self.parts(piece)
            if parts and piece.weight < lowest:
                self.small += 1
            elif parts and self.scores.used + self.scores.price(self._asked(piece, parts)) > self.scores.most:
                self.dear += 1
            elif parts:
                self._open(piece, parts)
                self.opened += 1
                waiting += piece.children

    def parts(self, piece: Piece) -> list[Piece]:
        """Its parts at the next level at which there are several."""
        for level in range(piece.level + 1, len(self.groups)):
            ids = [self.groups[level][unit] for unit in piece.units]
            if len(set(ids)) > 1:
                return [
                    self._piece([unit for unit, own in zip(piece.units, ids, strict=True) if own == group], level)
                    for group in dict.fromkeys(ids)
                ]
        return []

    def _piece(self, units: list[int], level: int) -> Piece:
        self._made += 1
        unknown = torch.zeros(0, dtype=torch.float64)
        return Piece(units, level, self._made, unknown, unknown, torch.zeros(0))

    def masks(self, parts: Sequence[Piece]) -> Tensor:
        """`(parts, units)` bool."""
        found = torch.zeros(len(parts), len(self.groups[-1]), dtype=torch.bool)
        for row, part in zip(found, parts, strict=True):
            row[part.units] = True
        return found

    @abstractmethod
    def _begin(self, orders: int | None) -> None:
        """What must be known before."""

    @abstractmethod
    def _asked(self, piece: Piece, parts: Sequence[Piece]) -> Tensor:
        """The coalitions `(m, units)` whose scores tell the values of a piece's parts."""

    @abstractmethod
    def _open(self, piece: Piece, parts: list[Piece]) -> None:
        """Score them, and give the parts their values."""

    def node(self, piece: Piece) -> Node:
        """The finished tree from a piece on."""
        prompt = self.scores.question.prompt
        text = joined([prompt.labels[unit] for unit in piece.units])
        name = "prompt" if piece.level < 0 else self.names[piece.level]
        whole, *each = piece.values.tolist()
        children = tuple(map(self.node, piece.children))
        return Node(text, name, tuple(piece.units), whole, tuple(each), float(piece.errors[0]), children)

    def checks(self) -> Iterator[Check]:
        """What is known of the values without further scores."""
        leaves = list(self.leaves(self.root))
        values, errors = (torch.stack([getattr(leaf, name) for leaf in leaves], 1) for name in ("values", "errors"))
        ends = self.scores.of(torch.stack([torch.ones(len(self.groups[-1])), torch.zeros(len(self.groups[-1]))]).bool())
        known = bool(errors.isfinite().all())
        spread = (errors.norm(dim=1) / values.norm(dim=1).clamp_min(TINY))[:, None] if known and self.law else None
        seed = self.scores.question.seed if self.law else None
        yield from health_of(
            self.scores.question.view, Found((values[:, None],), ends[0][:, None], ends[1][:, None], law=self.law, spread=spread, seed=seed)
        )
        words = f"{self.scores.used} of {self.scores.most} evaluations; {count(self.opened, 'piece')} looked into"
        words += f", {self.small} too weak to" if self.small else ""
        words += f", {self.dear} too dear for what was left" if self.dear else ""
        yield Check("budget", True, words, float(self.scores.used))

    def additivity(self, gap: float) -> Check:
        """Whether parts add up to pieces."""
        size = abs(float(self.root.values[0])) + sum(abs(float(piece.values[0])) for piece in self.root.children)
        words = (
            f"the parts of a piece add up to it (worst gap {number(gap, 2)})"
            if self.law
            else f"without a law: the parts of a piece are up to {number(gap, 2)} from adding up to it"
        )
        return Check("additivity", not self.law or gap <= ROUNDING * max(size, TINY), words, gap)

    def leaves(self, piece: Piece) -> Iterator[Piece]:
        if not piece.children:
            yield piece
        for child in piece.children:
            yield from self.leaves(child)


class Without(Growth):
    """Values are the fall of the score without a piece."""

    def _begin(self, orders: int | None) -> None:
        if orders is not None:
            raise OptionError("feature_ablation has no orders; leave the option out, or use method='owen'")

    def _asked(self, piece: Piece, parts: Sequence[Piece]) -> Tensor:
        whole = torch.ones(2, len(self.groups[-1]), dtype=torch.bool)
        whole[1] = False
        return torch.cat([whole, ~self.masks(parts)])

    def _open(self, piece: Piece, parts: list[Piece]) -> None:
        full, none, *without = self.scores.of(self._asked(piece, parts))
        for part, score in zip(parts, without, strict=True):
            part.values, part.errors = full - score, torch.full_like(full, math.nan)
        if piece.level < 0:
            piece.values, piece.errors = full - none, torch.full_like(full, math.nan)
        piece.children = parts
