"""Perturbation curves: the scores while more and more places of the features are taken away, or given back, in an order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..batch import Run
from ..errors import InputError, OptionError, TargetError
from ..explanation import Check
from ..inputs import Baseline, Tensors, joined, references
from ..perturb.evaluate import Scorer
from ..view import View

__all__ = [
    "Curve",
    "Order",
    "Steps",
    "curve",
    "deletion",
    "example_scores",
    "in_order",
    "insertion",
    "percentiles",
    "places_of",
    "sorted_values",
    "spaced",
    "thresholded",
]

Order = Literal["most", "least"]
Chosen = Callable[[slice, Tensor], Tensors]

# What lies beyond a threshold: (which come first, with those at the threshold) -> comparison of importance and threshold.
BEYOND: dict[tuple[str, bool], Callable[[Tensor, Tensor], Tensor]] = {
    ("most", False): torch.gt,
    ("most", True): torch.ge,
    ("least", False): torch.lt,
    ("least", True): torch.le,
}


@dataclass(frozen=True, eq=False)
class Steps:
    """Which places of the features each step concerns.

    Attributes:
        count: how many steps.
        chosen: `(examples, numbers of the steps)` -> per input booleans that broadcast to `(numbers, b, ...)`.
    """

    count: int
    chosen: Chosen

    def some(self, numbers: Sequence[int]) -> Steps:
        """These of the steps, in this order."""
        which = torch.tensor([*numbers], dtype=torch.long)
        return Steps(len(which), lambda examples, steps: self.chosen(examples, which[steps]))


@dataclass(frozen=True, eq=False)
class Curve:
    """The scores along a curve, and what was noticed on the way.

    Attributes:
        scores: `(B, steps + 1)`: of a deletion the features themselves first, of an insertion last.
        checks: what a reader must know.
    """

    scores: Tensor
    checks: tuple[Check, ...] = ()

    @property
    def mean(self) -> Tensor:
        """`(B,)`: the mean score, InterpretDL's area under the curve."""
        return self.scores.mean(1)


def deletion(
    view: View,
    importance: Tensor | Sequence[Tensor],
    fill: Baseline | Sequence[Baseline],
    steps: int = 20,
    order: Order = "most",
    run: Run | None = None,
) -> Curve:
    """The scores while the most (or least) important places are replaced, more with each step.

    Step k of n replaces the places beyond the k-th of n equally spaced percentiles, those at the percentile itself not:
    of the most important first, percentiles 100 (n - 1) / n down to 0, so that the last step leaves the places of the lowest
    importance; of the least important first, upwards from 0, so that the first step leaves everything. The original comes
    first. A faithful importance gives a low mean with the most important first, and a high one with the least important.

    Source: Samek et al. 2015, section III (MoRF and LeRF); Petsiuk, Das, Saenko 2018, section 3.3 (deletion).

    Args:
        view: what is scored.
        importance: for each input a tensor of its shape, or a map without its channels; `places_of` says which shapes fit.
        fill: what replaces, in every form of `pellucid.inputs.references`.
        steps: how many.
        order: which places go first, the "most" or the "least" important.
        run: the limits of memory, and what it costs.

    Raises:
        InputError: importance of another shape, or not finite. OptionError: no steps, or an unknown order.

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x.sum(1), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    >>> deletion(view, view.features[0], 0.0, steps=2).scores
    tensor([[10.,  3.,  1.]])
    """
    return curve(view, spaced(view.features, importance, steps, order), fill, run=run)


def insertion(
    view: View,
    importance: Tensor | Sequence[Tensor],
    fill: Baseline | Sequence[Baseline],
    steps: int = 20,
    order: Order = "most",
    run: Run | None = None,
) -> Curve:
    """The scores while the most (or least) important places are put into the fill, more with each step.

    The places that `deletion` replaces are those shown here, and the others are replaced; the original comes last.
    A faithful importance gives a high mean.

    Source: Petsiuk, Das, Saenko 2018, section 3.3. Arguments and errors are those of `deletion`.

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x.sum(1), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    >>> insertion(view, view.features[0], 0.0, steps=2).scores
    tensor([[ 7.,  9., 10.]])
    """
    return curve(view, spaced(view.features, importance, steps, order), fill, inserted=True, run=run)


def spaced(features: Tensors, importance: Tensor | Sequence[Tensor], steps: int = 20, order: Order = "most") -> Steps:
    """The steps of `deletion` and `insertion`: the places beyond equally spaced percentiles of each example's importance.

    Raises:
        InputError: importance of another shape, or not finite. OptionError: no steps, or an unknown order.

    >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> spaced((x,), x, 2).chosen(slice(None), torch.arange(2))[0].int().tolist()
    [[[0, 0, 1, 1]], [[0, 1, 1, 1]]]
    """
    if steps < 1:
        raise OptionError(f"steps is {steps}; a curve needs at least one")
    values = places_of(features, importance)
    percents = [100.0 / steps * i for i in range(steps)]
    return thresholded(values, percentiles(values, percents[::-1] if order == "most" else percents), order)


def curve(view: View, steps: Steps, fill: Baseline | Sequence[Baseline], inserted: bool = False, run: Run | None = None) -> Curve:
    """The scores with the chosen places of every step replaced, or all but those (`inserted`).

    Args:
        view: what is scored.
        steps: the places; `thresholded` and `in_order` make them.
        fill: what replaces.
        inserted: show only what is chosen, instead of replacing it.
        run: the limits of memory, and what it costs.

    Raises:
        InputError: a fill that does not fit, or a model with one score for a batch of several.
        TargetError: a view of several targets.

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x.sum(1), torch.tensor([[1.0, 2.0, 4.0]]))
    >>> curve(view, in_order(view.features, torch.tensor([[0, 0, 1]]), [1, 0]), 0.0).scores
    tensor([[7., 3., 0.]])
    """
    scorer = Scorer(view, references(view.features, fill), run or Run(), "curve")

    def points(examples: slice, numbers: Tensor, base: Tensors) -> Tensors:
        parts = zip(steps.chosen(examples, numbers), view.features, base, strict=True)
        return tuple(torch.where(chosen != inserted, b, x[examples]) for chosen, x, b in parts)

    here, found = example_scores(scorer, steps.count, points)
    return Curve(torch.cat([found, here] if inserted else [here, found], 1), scorer.checks)


def example_scores(scorer: Scorer, count: int, points: Callable[[slice, Tensor, Tensors], Tensors]) -> tuple[Tensor, Tensor]:
    """`(B, 1)` the scores of the features and `(B, count)` of the points.

    Raises:
        InputError: one score for several examples. TargetError: several targets.
    """
    if not count:
        here = scorer.run.here(scorer.view).T
        return here, here[:, :0]
    ends, found = scorer.scores(count, points, lambda number: f"at step {number}")
    if len(found) > 1:
        raise TargetError(f"the view has {len(found)} targets, and a metric is of one; take each of view.targets()")
    if found.shape[2] != scorer.view.size:
        raise InputError(
            f"the model gives one score for the whole batch of {scorer.view.size}, and a metric is of one example; give one at a time"
        )
    return ends.here.T, found[0].T


def places_of(features: Tensors, importance: Tensor | Sequence[Tensor], what: str = "importance") -> Tensors:
    """For each input `(B, ...)` numbers that broadcast to it.

    Given are tensors of the inputs' shapes (1 where a number is shared), or without a dimension that shares its numbers:
    the channels `(B, H, W)` of `(B, C, H, W)`, the embedding `(B, N)` of `(B, N, D)`.

    Raises:
        InputError: another number of tensors than inputs, another shape, two ways to read it, or numbers that are not finite.

    >>> places_of((torch.zeros(2, 3, 8, 8),), torch.zeros(2, 8, 8))[0].shape
    torch.Size([2, 1, 8, 8])
    """
    given = (importance,) if isinstance(importance, Tensor) else tuple(importance)
    if len(given) != len(features):
        raise InputError(f"{len(given)} tensors of {what} for {len(features)} inputs; give one for each")
    return tuple(_placed(x, e.detach().to(x.device), what) for x, e in zip(features, given, strict=True))


def _placed(feature: Tensor, value: Tensor, what: str) -> Tensor:
    shape = tuple(feature.shape)
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise InputError(f"{what} of shape {tuple(value.shape)} has values that are NaN or infinite; there is no order among them")
    if value.dim() == len(shape) and len(value) == shape[0] and all(n in (1, m) for n, m in zip(value.shape, shape, strict=True)):
        return value
    shared = [axis for axis in {1, len(shape) - 1} if len(shape) > 2 and tuple(value.shape) == shape[:axis] + shape[axis + 1 :]]
    if len(shared) != 1:
        ways = f"; both {shape[1]}s of the input could be meant, so keep its dimension as 1" if shared else ""
        raise InputError(
            f"{what} has shape {tuple(value.shape)} for an input of shape {shape}; give it that shape, or the shape "
            f"without its channels or its embedding{ways}"
        )
    return value.unsqueeze(shared[0])


def percentiles(importance: Tensors, percents: Sequence[float]) -> Tensor:
    """`(B, percents)`: the percentiles of each example's numbers, linear between two of them, in float64.

    >>> percentiles((torch.tensor([[4.0, 1.0, 3.0, 2.0]]),), [0, 50, 100]).tolist()
    [[1.0, 2.5, 4.0]]
    """
    values = sorted_values(importance)
    position = torch.tensor([*percents], dtype=torch.float64, device=values.device) / 100 * (values.shape[1] - 1)
    low, part = position.floor().long(), position - position.floor()
    below, above = values[:, low], values[:, (low + 1).clamp(max=values.shape[1] - 1)]
    # From the nearer of the two, so that the values themselves come out exactly: those at a threshold must be equal to it.
    return torch.where(part < 0.5, below + (above - below) * part, above - (above - below) * (1 - part))


def sorted_values(importance: Tensors) -> Tensor:
    """`(B, places)`: each example's numbers, rising, in float64: as thresholds they take one place at a time."""
    return joined(tuple(e.double() for e in importance), 1).sort(1).values


def thresholded(importance: Tensors, thresholds: Tensor, order: Order = "most", inclusive: bool = False) -> Steps:
    """The places whose importance is beyond each threshold.

    Args:
        importance: per input `(B, ...)`, as `places_of` gives it.
        thresholds: `(B, steps)`.
        order: "most": above the threshold; "least": below it.
        inclusive: with those at the threshold.

    Raises:
        OptionError: an unknown order.

    >>> steps = thresholded((torch.tensor([[1.0, 2.0, 3.0]]),), torch.tensor([[2.0, 1.0]]))
    >>> steps.chosen(slice(None), torch.arange(2))[0].tolist()
    [[[False, False, True]], [[False, True, True]]]
    """
    if (order, inclusive) not in BEYOND:
        raise OptionError(f"order is {order!r}; choose 'most' or 'least' (important first)")
    beyond, exact = BEYOND[order, inclusive], tuple(e.double() for e in importance)

    def chosen(examples: slice, numbers: Tensor) -> Tensors:
        levels = thresholds[examples][:, numbers.to(thresholds.device)].T
        return tuple(beyond(e[examples], levels.reshape(*levels.shape, *(1,) * (e.dim() - 1)).to(e)) for e in exact)

    return Steps(thresholds.shape[1], chosen)


def in_order(features: Tensors, groups: Tensor | Sequence[Tensor], order: Sequence[int] | Tensor) -> Steps:
    """The places of the first group, of the first two groups, and so on; groups that the order leaves out never come.

    Args:
        features: the view's.
        groups: for each input the ids of its places, `(1 or B, ...)`, of the shapes that `places_of` takes.
        order: ids, `(groups,)`, or `(B, groups)` where examples have orders of their own.

    Raises:
        InputError: groups that do not fit, an order that is empty, has an id twice, or has one that no place has.

    >>> steps = in_order((torch.zeros(1, 3),), torch.tensor([[7, 5, 7]]), [5, 7])
    >>> steps.chosen(slice(None), torch.arange(2))[0].tolist()
    [[[False, True, False]], [[True, True, True]]]
    """
    given = (groups,) if isinstance(groups, Tensor) else tuple(groups)
    whole = [g.expand(len(x), *g.shape[1:]) if g.dim() and len(g) == 1 else g for x, g in zip(features, given, strict=False)]
    ids = places_of(features, [*whole, *given[len(whole) :]], "groups")
    rows = torch.atleast_2d(torch.as_tensor(order))
    rows = rows.expand(len(features[0]), -1) if len(rows) == 1 else rows
    _check_order(rows, ids, len(features[0]))
    ranks = tuple(_ranks(g, rows.to(g.device)) for g in ids)

    def chosen(examples: slice, numbers: Tensor) -> Tensors:
        return tuple(r[examples] <= numbers.view(-1, *(1,) * r.dim()).to(r.device) for r in ranks)

    return Steps(rows.shape[1], chosen)


def _check_order(rows: Tensor, ids: Tensors, size: int) -> None:
    if rows.dim() > 2 or len(rows) != size:
        raise InputError(f"the order has shape {tuple(rows.shape)} for {size} examples; give (groups,) or ({size}, groups)")
    known = {int(i) for group in ids for i in group.unique()}
    for row in rows.tolist():
        if not row or len(set(row)) < len(row):
            raise InputError(f"the order {row[:8]} of groups is empty or has one twice; give each id once")
        if strange := [i for i in row if i not in known]:
            raise InputError(f"the order has the group {strange[0]}, which no place belongs to; give the groups it was made with")


def _ranks(ids: Tensor, rows: Tensor) -> Tensor:
    """The position of each place's group in the order; behind all others where it is not in it."""
    ranks = torch.full_like(ids, rows.shape[1], dtype=torch.long)
    for position, group in enumerate(rows.T):
        ranks[ids == group.view(-1, *(1,) * (ids.dim() - 1))] = position
    return ranks
