"""Agreement: how like the attributions of several methods are. No model is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, OptionError
from ..inputs import as_tensors, joined

__all__ = ["AGREEMENTS", "agreement", "consensus", "pearson", "ranks"]


def ranks(values: Tensor) -> Tensor:
    """`(B, numbers)`: the place of each number in its row, from 1; the same for the same numbers, the mean of their places.

    >>> ranks(torch.tensor([[3.0, 1.0, 3.0, 2.0]])).tolist()
    [[3.5, 1.0, 3.5, 2.0]]
    """
    ordered = values.sort(1).values.contiguous()
    below = torch.searchsorted(ordered, values.contiguous(), right=False)
    through = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + through + 1).double() / 2


def pearson(one: Tensor, other: Tensor) -> Tensor:
    """`(B,)`: of rows; NaN where one is constant."""
    a, b = (rows - rows.mean(1, keepdim=True) for rows in (one, other))
    length = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(length > 0, (a * b).sum(1) / torch.where(length > 0, length, 1.0), torch.nan)


def _rank_correlation(one: Tensor, other: Tensor, k: int) -> Tensor:
    """Spearman's: 1 the same order, -1 the reverse; NaN where one is constant and has no order."""
    return pearson(ranks(one), ranks(other))


def _pearson(one: Tensor, other: Tensor, k: int) -> Tensor:
    """Pearson's, of the numbers themselves; NaN where one is constant."""
    return pearson(one, other)


def _cosine(one: Tensor, other: Tensor, k: int) -> Tensor:
    """The cosine of the angle between them; NaN where one is zero."""
    length = one.norm(dim=1) * other.norm(dim=1)
    return torch.where(length > 0, (one * other).sum(1) / torch.where(length > 0, length, 1.0), torch.nan)


def _top_overlap(one: Tensor, other: Tensor, k: int) -> Tensor:
    """The share of the k largest magnitudes that both have; of equal ones the first count."""
    chosen = []
    for rows in (one, other):
        best = rows.abs().argsort(dim=1, descending=True, stable=True)[:, :k]
        chosen.append(torch.zeros_like(rows, dtype=torch.bool).scatter(1, best, True))
    return (chosen[0] & chosen[1]).sum(1).double() / k


# By what attributions are compared, `(B, numbers)` twice and how many are the most important -> `(B,)`.
AGREEMENTS: Mapping[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "rank_correlation": _rank_correlation,
    "correlation": _pearson,
    "cosine": _cosine,
    "top_overlap": _top_overlap,
}


def agreement(attributions: Sequence[Any], by: str = "rank_correlation", k: int = 10) -> Tensor:
    """`(B, methods, methods)` float64: how like the attributions of each two methods are.

    Source: Krishna et al. 2022, section 3 (feature agreement: `top_overlap`; rank correlation).

    Args:
        attributions: one of each method, tensors or tuples of tensors of the same shapes.
        by: "rank_correlation", "correlation", "cosine" or "top_overlap".
        k: how many are the most important, for "top_overlap"; at most as many as there are.

    Raises:
        InputError: fewer than two methods, other shapes, numbers that are not finite. OptionError: an unknown measure, k below 1.

    >>> one, other = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 2.0, 1.0]])
    >>> agreement([one, other])[0].round().tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    if by not in AGREEMENTS:
        raise OptionError(f"by is {by!r}; choose one of {', '.join(map(repr, AGREEMENTS))}")
    rows = _rows(attributions)
    if k < 1:
        raise OptionError(f"k is {k}; at least one attribution must be the most important")
    width = min(k, rows[0].shape[1])
    return torch.stack([torch.stack([AGREEMENTS[by](one, other, width) for other in rows], 1) for one in rows], 1)


def consensus(attributions: Sequence[Any]) -> Tensor:
    """`(B, methods)` float64: the rank correlation of each method with the mean ranks of the others.

    Low for a method that stands alone. Source: Spearman's correlation with the mean ranks of the rest, as of a test's items.

    >>> x = torch.tensor([[1.0, 2.0, 3.0]])
    >>> consensus([x, x, -x])[0].round().tolist()
    [nan, nan, -1.0]
    """
    placed = [ranks(rows) for rows in _rows(attributions)]
    total = torch.stack(placed).sum(0)
    return torch.stack([pearson(own, ranks(total - own)) for own in placed], 1)


def _rows(attributions: Sequence[Any]) -> list[Tensor]:
    if isinstance(attributions, Tensor) or len(attributions) < 2:
        raise InputError("agreement is of two methods or more; give a list with the attributions of each")
    tensors = [as_tensors(each, f"attributions[{i}]") for i, each in enumerate(attributions)]
    shapes = [[tuple(t.shape) for t in each] for each in tensors]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError(f"attributions have the shapes {', '.join(map(str, shapes))}; they must be of the same examples and features")
    rows = [joined(each, 1).detach().double() for each in tensors]
    if not all(bool(row.isfinite().all()) for row in rows):
        raise InputError("attributions have values that are NaN or infinite, which have no order")
    return rows
