"""The scores of points in which references stand in for some of the features: coalitions, windows, random masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..batch import Ends, Run
from ..explanation import Check
from ..inputs import Tensors
from ..view import View
from .groups import Groups

__all__ = ["Design", "Scorer", "coalitions", "floating", "leave_one_out"]

# (examples, numbers of the points wanted, references `(points or 1, b, ...)`) -> the points `(points, b, ...)`
Replaced = Callable[[slice, Tensor, Tensors], Tensors]


@dataclass(eq=False)
class Scorer:
    """A view, and what stands in for the features that a point lacks: `fill`, of the features' shapes or several `(R, B, ...)`.

    A point's score is the mean over the references. What was not finite is remembered by name, in `checks`.
    """

    view: View
    fill: Tensors
    run: Run
    label: str = ""
    ends: Ends | None = None
    bad: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        several = self.fill[0].dim() > self.view.features[0].dim()
        self.references: Tensors = self.fill if several else tuple(b[None] for b in self.fill)
        self.several = len(self.references[0])

    @property
    def baselines(self) -> Tensors | None:
        """The reference, if there is one only."""
        return tuple(r[0] for r in self.references) if self.several == 1 else None

    @property
    def checks(self) -> tuple[Check, ...]:
        """What a reader must know about the scores."""
        if not self.bad:
            return ()
        return (Check("scores", False, f"{len(self.bad)} scores are NaN or infinite, the first {self.bad[0]}", float(len(self.bad))),)

    def scores(self, count: int, points: Replaced, name: Callable[[int], str]) -> tuple[Ends, Tensor]:
        """The ends, `there` with nothing but references, and the scores `(T, count, B)` of so many points."""
        if self.several == 1:
            ends, found = self._contrast(count, self._single(points))
        else:
            ends, each = self._contrast(count * self.several, self._many(points))
            found = floating(each).unflatten(1, (count, self.several)).mean(2)
        if not math.isfinite(float(found.sum())):
            self.bad += [self._named(where, found, name) for where in (~found.isfinite()).nonzero().tolist()]
        return ends, found

    def _contrast(self, count: int, points: Callable[[slice, slice], Tensors]) -> tuple[Ends, Tensor]:
        if self.ends is not None:
            return self.ends, self.run.scores(self.ends.view, count, points, self.label)
        ends, found = self.run.contrast(self.view, tuple(r[0] for r in self.references), count, points, self.label)
        self.ends = ends if self.several == 1 else ends._replace(there=self._mean(ends))
        return self.ends, found

    def _mean(self, ends: Ends) -> Tensor:
        """The mean score of all references."""
        others = self.run.scores(ends.view, self.several - 1, lambda at, steps: tuple(r[1:][steps, at] for r in self.references))
        return (floating(ends.there) + floating(others).sum(1)) / self.several

    def _single(self, points: Replaced) -> Callable[[slice, slice], Tensors]:
        def at(examples: slice, steps: slice) -> Tensors:
            return points(examples, torch.arange(steps.start, steps.stop), tuple(r[:, examples] for r in self.references))

        return at

    def _many(self, points: Replaced) -> Callable[[slice, slice], Tensors]:
        def at(examples: slice, steps: slice) -> Tensors:
            numbers = torch.arange(steps.start, steps.stop)
            which = numbers % self.several
            return points(examples, numbers // self.several, tuple(r[which.to(r.device), examples] for r in self.references))

        return at

    @staticmethod
    def _named(where: list[int], found: Tensor, name: Callable[[int], str]) -> str:
        target, number, example = where
        which = f"example {example}" if found.shape[2] > 1 else "the batch"
        of_target = f", target {target}" if len(found) > 1 else ""
        return f"({float(found[target, number, example])}) of {which}{of_target} {name(number)}"


def floating(scores: Tensor) -> Tensor:
    """Scores that means and fits can be made of."""
    return scores if scores.is_floating_point() else scores.to(torch.get_default_dtype())


@dataclass(frozen=True)
class Design:
    """Which coalitions are evaluated: `rows(numbers)` gives booleans `(numbers, groups)`, True where a group is kept."""

    count: int
    rows: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, kept: Tensor) -> Design:
        """These coalitions."""
        return cls(len(kept), lambda numbers: kept[numbers])

    def name(self, number: int) -> str:
        """The coalition in words."""
        lacking = (~self.rows(torch.tensor([number]))[0]).nonzero().flatten().tolist()
        shown = ", ".join(map(str, lacking[:8])) + (f" and {len(lacking) - 8} more" if len(lacking) > 8 else "")
        return f"with group{'s' if len(lacking) > 1 else ''} {shown} replaced"


def leave_one_out(groups: int) -> Design:
    """All groups but one, for each group."""
    every = torch.arange(groups)
    return Design(groups, lambda numbers: every != numbers[:, None])


def coalitions(scorer: Scorer, groups: Groups, design: Design) -> tuple[Ends, Tensor]:
    """The scores of all groups and of none, and `(T, coalitions, B)` those of every coalition."""

    def points(examples: slice, numbers: Tensor, fill: Tensors) -> Tensors:
        parts = zip(groups.features_of(design.rows(numbers), examples), scorer.view.features, fill, strict=True)
        return tuple(torch.where(kept, x[examples], b) for kept, x, b in parts)

    return scorer.scores(design.count, points, design.name)
