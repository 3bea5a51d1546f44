"""The scores of coalitions: points in which some groups of features are kept and the others replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Ends, Run
from ..inputs import Tensors
from ..view import View
from .groups import Groups

__all__ = ["Design", "coalition_scores", "leave_one_out"]


@dataclass(frozen=True)
class Design:
    """Which coalitions are evaluated: `rows(steps)` gives booleans `(steps, groups)`, True where a group is kept."""

    count: int
    rows: Callable[[slice], Tensor]


def leave_one_out(groups: int) -> Design:
    """All groups but one, for each group."""

    def rows(steps: slice) -> Tensor:
        kept = torch.ones(steps.stop - steps.start, groups, dtype=torch.bool)
        kept.diagonal(steps.start).fill_(False)
        return kept

    return Design(groups, rows)


def coalition_scores(view: View, groups: Groups, fill: Tensors, design: Design, run: Run, label: str = "") -> tuple[Ends, Tensor]:
    """The scores of all groups and of none, and `(T, coalitions, B)` those of every coalition, with `fill` for what it lacks."""

    def points(examples: slice, steps: slice) -> Tensors:
        parts = zip(groups.features_of(design.rows(steps), examples), view.features, fill, strict=True)
        return tuple(torch.where(kept, x[examples], b[examples]) for kept, x, b in parts)

    return run.contrast(view, fill, design.count, points, label)
