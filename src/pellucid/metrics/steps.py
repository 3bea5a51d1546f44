"""Steps: which places of the features are taken away, or shown, one set after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError, OptionError
from ..inputs import Tensors, joined

__all__ = [
    "Order",
    "Steps",
    "counted",
    "in_order",
    "percentiles",
    "places_of",
    "ranked",
    "sorted_values",
    "spaced",
    "split",
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


def ranked(features: Tensors, importance: Tensor | Sequence[Tensor], counts: Sequence[int], order: Order = "most") -> Steps:
    """So many places each, the most (or least) important ones; of equal ones the first.

    Raises:
        InputError: importance of another shape, or not finite. OptionError: an unknown order.

    >>> x = torch.tensor([[1.0, 3.0, 3.0]])
    >>> ranked((x,), x, [1, 2]).chosen(slice(None), torch.arange(2))[0].int().tolist()
    [[[0, 1, 0]], [[0, 1, 1]]]
    """
    if order not in ("most", "least"):
        raise OptionError(f"order is {order!r}; choose 'most' or 'least' (important first)")
    values = places_of(features, importance, "attribution")
    rows = joined(tuple(v.double() for v in values), 1)
    positions = rows.argsort(dim=1, descending=order == "most", stable=True).argsort(dim=1, stable=True)
    placed, limits = split(positions, values), torch.tensor([*counts], device=rows.device)

    def chosen(examples: slice, numbers: Tensor) -> Tensors:
        few = limits[numbers.to(limits.device)]
        return tuple(p[examples] < few.view(-1, *(1,) * p.dim()).to(p.device) for p in placed)

    return Steps(len(counts), chosen)


def counted(features: Tensors, importance: Tensor | Sequence[Tensor], shares: Sequence[float]) -> list[int]:
    """How many places each share is, rounded up to at least one.

    Raises:
        InputError: importance of another shape. OptionError: shares out of range.

    >>> counted((torch.zeros(1, 3, 8, 8),), torch.zeros(1, 8, 8), (0.01, 0.5))
    [1, 32]
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise OptionError(f"shares are {tuple(shares)}; give shares of the places, above 0 and up to 1")
    total = sum(v[0].numel() for v in places_of(features, importance, "attribution"))
    return [max(1, math.ceil(round(share * total, 9))) for share in shares]


def split(rows: Tensor, like: Tensors) -> Tensors:
    """Rows over the places of all inputs, as those of each."""
    pieces = rows.split([v[0].numel() for v in like], 1)
    return tuple(piece.reshape(len(rows), *v.shape[1:]) for piece, v in zip(pieces, like, strict=True))
