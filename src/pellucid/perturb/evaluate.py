"""The scores of coalitions: points in which some groups of features are kept and the others replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Run
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
    return Design(groups, lambda steps: torch.arange(groups) != torch.arange(groups)[steps, None])


def coalition_scores(view: View, groups: Groups, fill: Tensors, design: Design, run: Run, label: str = "") -> Tensor:
    """`(T, coalitions, B)`: the score of every coalition, with `fill` standing in for what it lacks."""

    def points(examples: slice, steps: slice) -> Tensors:
        kept = design.rows(steps)
        parts = zip(groups.at(examples), view.features, fill, strict=True)
        return tuple(torch.where(kept.to(i.device)[:, i], x[examples], b[examples]) for i, x, b in parts)

    return run.scores(view, design.count, points, label)
