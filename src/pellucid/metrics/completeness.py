"""Completeness: how far attributions are from adding up to what they explain, the change of the score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..batch import Run
from ..errors import InputError, TargetError
from ..inputs import Baseline, as_tensors, joined, references
from ..view import View

__all__ = ["completeness", "completeness_of"]


def completeness(attribution: Tensor | Sequence[Tensor], scores: Tensor, baseline_scores: Tensor | float, relative: bool = False) -> Tensor:
    """`(B,)` float64: the gap `|sum of the attributions - (f(x) - f(x'))|`; 0 where they are complete.

    Attributions that are zero everywhere have a gap as large as the change. Whether they add up says nothing about where
    they are. Source: Sundararajan, Taly, Yan 2017, section 3 (the axiom of completeness).

    Args:
        attribution: `(B, ...)`, or several such, which are added up.
        scores: `(B,)`, f(x).
        baseline_scores: `(B,)`, f(x') at the baseline, or a number for all; the mean where there are several baselines.
        relative: in parts of `|f(x) - f(x')|`: 1 is a gap as large as the change. Where the score does not change it is 0 if
            there is no gap, else infinite.

    Raises:
        InputError: other shapes, or numbers that are not finite.

    >>> completeness(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([4.0, 4.0]), 0.0).tolist()
    [1.0, 4.0]
    >>> completeness(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([4.0, 4.0]), 0.0, relative=True).tolist()
    [0.25, 1.0]
    """
    rows = joined(tuple(part.double() for part in as_tensors(attribution, "attribution")), 1)
    here = _row(scores, len(rows), "scores").to(rows.device)
    there = _row(torch.as_tensor(baseline_scores), len(rows), "baseline_scores").to(rows.device)
    if not bool(rows.isfinite().all()):
        raise InputError("attribution has infinite values, whose sum is no number")
    gap = (rows.sum(1) - (here - there)).abs()
    if not relative:
        return gap
    change = (here - there).abs()
    return torch.where(change > 0, gap / torch.where(change > 0, change, 1.0), torch.where(gap > 0, torch.inf, 0.0))


def completeness_of(
    view: View,
    attribution: Tensor | Sequence[Tensor],
    baselines: Baseline | Sequence[Baseline] = None,
    relative: bool = False,
    run: Run | None = None,
) -> Tensor:
    """`(B,)` float64: the gap of `completeness`, with the scores of a view.

    Args:
        view: what was explained.
        attribution: `(B, ...)`, or several such.
        baselines: what the features were compared with, in every form of `pellucid.inputs.references`; None: zeros. Of
            several the mean score counts.
        relative: in parts of the change of the score, as of `completeness`.
        run: the limits of memory, and what it costs.

    Raises:
        InputError: attributions or baselines that do not fit, or a model with one score for a batch of several.
        TargetError: a view of several targets.

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x @ torch.tensor([1.0, -2.0]), torch.ones(1, 2))
    >>> completeness_of(view, torch.tensor([[1.0, -2.0]])), completeness_of(view, torch.tensor([[1.0, 2.0]]), relative=True)
    (tensor([0.], dtype=torch.float64), tensor([4.], dtype=torch.float64))
    """
    run, given = run or Run(), references(view.features, baselines)
    several = given[0].dim() > view.features[0].dim()
    rows = given if several else tuple(b[None] for b in given)
    ends = run.settle(view, tuple(r[0] for r in rows), len(rows[0]))
    there = ends.there
    if several:
        others = run.scores(ends.view, len(rows[0]), lambda examples, steps: tuple(r[steps, examples] for r in rows), "completeness")
        there = others.double().mean(1)
    if len(ends.here) > 1:
        raise TargetError(f"the view has {len(ends.here)} targets, and a metric is of one; take each of view.targets()")
    if ends.here.shape[1] != view.size:
        raise InputError(
            f"the model gives one score for the whole batch of {view.size}, and a metric is of one example; give one at a time"
        )
    return completeness(attribution, ends.here[0], there[0], relative)


def _row(scores: Tensor, size: int, what: str) -> Tensor:
    """`(B,)` float64.

    Raises:
        InputError: another shape, or not finite.
    """
    if scores.dim() > 1 or (scores.dim() == 1 and len(scores) != size) or (scores.dim() == 0 and what == "scores"):
        raise InputError(f"{what} has shape {tuple(scores.shape)} for attributions of {size} examples; give one number for each: ({size},)")
    if not bool(scores.isfinite().all()):
        raise InputError(f"{what} has values that are NaN or infinite; no attributions add up to that")
    return scores.detach().double().expand(size)
