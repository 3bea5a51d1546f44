"""From the scores of coalitions to a number for every group. All sums are float64; results have the scores' type.

Where `kept` is bool `(coalitions, groups)`, `scores` are `(coalitions, B)`, and a result is `(groups, B)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError

__all__ = [
    "Averages",
    "banzhaf_of_all",
    "blocks",
    "constrained_least_squares",
    "fit_errors",
    "interactions_of_all",
    "shapley_of_all",
    "shapley_of_orders",
]

SEEN_ALONE = 1e-6  # what is left of a row's residual where nothing else says what it says
BLOCK = 2**25  # bytes of coalitions in float64 at a time
NULL = 1e-10  # directions whose squared singular value is below this part of the largest count as not sampled


class Averages(NamedTuple):
    """Means `(groups, B)` and their standard errors, infinite where there is too little to tell."""

    values: Tensor
    errors: Tensor


def shapley_of_all(kept: Tensor, scores: Tensor) -> Tensor:
    """Exact Shapley values: the mean over sizes of the mean over coalitions of what joining them adds.

    `phi_i = sum over S without i of s! (n - s - 1)! / n! (v(S + i) - v(S))`. Efficient: they add up to
    `v(all) - v(none)`. A group that changes nothing gets exactly 0.
    Source: Shapley 1953.

    Args:
        kept: every coalition once, in any order, `(2**n, n)`.
        scores: theirs, `(2**n, B)`.

    Raises:
        InputError: not every coalition is there once.

    >>> from pellucid.perturb.sampling import every
    >>> kept = every(2)
    >>> shapley_of_all(kept, (kept[:, :1] * 3.0 + kept.all(1, keepdim=True) * 4)).flatten().tolist()
    [5.0, 2.0]
    """
    table, groups = _table(kept, scores), kept.shape[1]
    return _means(table, groups, lambda size: 1 / (groups * math.comb(groups - 1, size))).to(scores.dtype)


def banzhaf_of_all(kept: Tensor, scores: Tensor) -> Tensor:
    """Exact Banzhaf values: the plain mean over coalitions of what joining them adds. They need not add up to anything.

    Source: Banzhaf 1965. Arguments, shapes and errors as in `shapley_of_all`.

    >>> from pellucid.perturb.sampling import every
    >>> kept = every(3)
    >>> banzhaf_of_all(kept, kept.all(1, keepdim=True) * 4.0).flatten().tolist()
    [1.0, 1.0, 1.0]
    """
    table, groups = _table(kept, scores), kept.shape[1]
    return _means(table, groups, lambda size: 0.5 ** (groups - 1)).to(scores.dtype)


def interactions_of_all(kept: Tensor, scores: Tensor) -> Tensor:
    """The Shapley interaction index of every pair of groups, `(n, n, B)`; on the diagonal the Shapley values.

    `sum over S without i, j of s! (n - s - 2)! / (n - 1)! (v(S + i + j) - v(S + i) - v(S + j) + v(S))`: symmetric, and 0 for
    a group that changes nothing. Rows do not add up to Shapley values.
    Source: Grabisch and Roubens 1999. Arguments and errors as in `shapley_of_all`.

    >>> from pellucid.perturb.sampling import every
    >>> kept = every(2)
    >>> interactions_of_all(kept, kept.all(1, keepdim=True) * 4.0)[..., 0].tolist()
    [[2.0, 4.0], [4.0, 2.0]]
    """
    table, groups = _table(kept, scores), kept.shape[1]
    found = torch.diag_embed(shapley_of_all(kept, scores).double().T).movedim(0, -1).contiguous()
    for later in range(1, groups):
        by_earlier = _means(_joining(table, later), groups - 1, lambda size: 1 / ((groups - 1) * math.comb(groups - 2, size)), later)
        found[later, :later] = found[:later, later] = by_earlier
    return found.to(scores.dtype)


def constrained_least_squares(kept: Tensor, scores: Tensor, weights: Tensor, full: Tensor, empty: Tensor) -> Tensor:
    """Weighted least squares by an additive game whose values add up to `full - empty`: KernelSHAP.

    `min sum_S w_S (empty + sum of phi in S - v(S))^2` under `sum phi = full - empty`; exact Shapley values if all coalitions
    but none and all are there with Shapley-kernel weights. Efficient always, up to rounding. Where the coalitions do not
    determine the values, those nearest to equal shares (of minimal norm).
    Source: Charnes et al. 1988; Lundberg and Lee 2017, theorem 2; Covert and Lee 2021 (the constraint solved exactly).

    Args:
        weights: `(coalitions,)`, not negative; the none and all coalitions need not be there.
        full: the scores `(B,)` of all groups.
        empty: the scores `(B,)` of none.

    Raises:
        InputError: shapes that do not fit.

    >>> from pellucid.perturb.sampling import pairs
    >>> half, weight = pairs(4, 100, seed=0)
    >>> kept, truth = torch.cat([half, ~half]), torch.tensor([[1.0], [2.0], [3.0], [-4.0]])
    >>> found = constrained_least_squares(kept, kept.float() @ truth + 7, torch.cat([weight, weight]), truth.sum(0) + 7, 0 * truth[0] + 7)
    >>> torch.allclose(found, truth)
    True
    """
    _fitting(kept, scores, weights)
    weights, change, start = weights.to(scores.device, torch.float64), (full - empty).double(), empty.double()
    groups = kept.shape[1]
    gram = torch.zeros(groups, groups, dtype=torch.float64, device=scores.device)
    right = torch.zeros(groups, scores.shape[1], dtype=torch.float64, device=scores.device)
    # What is left of phi beyond equal shares is orthogonal to (1, ..., 1): so are the centred rows, and the pseudo-inverse keeps to it.
    for part in blocks(kept):
        inside = kept[part].to(scores.device, torch.float64)
        shares = inside.mean(1, keepdim=True)
        centred = inside - shares
        weighted = (centred * weights[part, None]).T
        gram += weighted @ centred
        right += weighted @ (scores[part].double() - start - shares * change)
    beyond = torch.linalg.pinv(gram, rtol=NULL, hermitian=True) @ right
    found: Tensor = beyond - beyond.mean(0) + change / max(1, groups)
    return found.to(scores.dtype)


def blocks(kept: Tensor) -> Iterator[slice]:
    """Runs of coalitions whose float64 copies take little memory, however many there are."""
    rows = max(1, BLOCK // (8 * max(1, kept.shape[1])))
    return (slice(start, start + rows) for start in range(0, len(kept), rows))


def fit_errors(
    kept: Tensor, rows_of: Callable[[Tensor], Tensor], weights: Tensor, targets: Tensor, values: Tensor, unseen: Tensor, ridge: float = 0.0
) -> Tensor:
    """Standard errors of values `(n, K)` fitted by weighted least squares, where what is random is which rows were drawn.

    `var b_i = sum_p unseen_p ((R^T W R + ridge)^+ R^T W)_ip^2 (r_p / (1 - h_p))^2` with the hat values h: the residual that a row
    would have, had it not taken part. Infinite where the rows do not determine the coefficients.
    Source: MacKinnon and White 1985, equation 12 (HC3); Cochran 1977, section 2.6 (the finite population).

    Args:
        kept: coalitions `(m, n)`; rows_of: what rows R of the fit some of them, as float64, stand for.
        weights: `(m,)`; targets: `(m, K)`, what was fitted.
        unseen: `(m,)`, the part of the row's kind that was not drawn: 0 where all of a kind is there.

    >>> kept, noise = torch.eye(2).bool().repeat(50, 1), torch.randn(100, 1, dtype=torch.float64)
    >>> ones = torch.ones(100, dtype=torch.float64)
    >>> fit_errors(kept, lambda rows: rows, ones, noise, noise[:2] * 0, ones).shape
    torch.Size([2, 1])
    """
    groups, weights, unseen, values = kept.shape[1], weights.to(targets), unseen.to(targets), values.double()
    gram = ridge * torch.eye(groups, dtype=torch.float64, device=targets.device)
    for part in blocks(kept):
        rows = rows_of(kept[part].to(targets.device, torch.float64))
        gram += (rows * weights[part, None]).T @ rows
    inverse = torch.linalg.pinv(gram, rtol=NULL, hermitian=True)
    total, undetermined = torch.zeros_like(values), False
    for part in blocks(kept):
        rows = rows_of(kept[part].to(targets.device, torch.float64))
        pulls = rows @ inverse
        free = 1 - (pulls * rows).sum(1) * weights[part]
        open_ = unseen[part] > 0
        undetermined |= bool(((free < SEEN_ALONE) & open_).any())
        factor = torch.where(open_, unseen[part].sqrt() / free.clamp_min(NULL), 0) * weights[part]
        total += pulls.square().T @ ((targets[part] - rows @ values) * factor[:, None]).square()
    return torch.full_like(total, math.inf) if undetermined else total.sqrt()


def shapley_of_orders(orders: Tensor, scores: Tensor) -> Averages:
    """Shapley values from orders in which groups come in: the mean of what each adds when it comes, and standard errors.

    Unbiased for random orders, and efficient in every order. An order that follows its own reverse makes one sample with it.
    Source: Castro et al. 2009; Mitchell et al. 2022 (pairs of orders).

    Args:
        orders: int64 `(orders, groups)`, the groups as they come.
        scores: `(orders, groups + 1, B)` with none, with the first, ... with all of them.

    Raises:
        InputError: no order, or shapes that do not fit.

    >>> orders = torch.tensor([[0, 1], [1, 0]])
    >>> scores = torch.tensor([[0.0, 3.0, 9.0], [0.0, 2.0, 9.0]])[..., None]  # alone: 3 and 2; together: 9
    >>> shapley_of_orders(orders, scores).values.flatten().tolist()
    [5.0, 4.0]
    """
    if not len(orders) or scores.shape[:2] != (len(orders), orders.shape[1] + 1):
        raise InputError(f"scores of shape {tuple(scores.shape)} for {tuple(orders.shape)} orders; give (orders, groups + 1, examples)")
    steps = scores.double().diff(dim=1)
    places = orders.to(scores.device).argsort(1)[..., None].expand_as(steps)
    added = steps.gather(1, places)
    return Averages(added.mean(0).to(scores.dtype), _errors(orders, added).to(scores.dtype))


def _errors(orders: Tensor, added: Tensor) -> Tensor:
    """Standard errors of the mean; of complementary orders it is their means that are independent."""
    twos = len(orders) // 2
    if twos and bool((orders[0 : 2 * twos : 2] == orders[1::2].flip(1)).all()):
        added = added[: 2 * twos].unflatten(0, (twos, 2)).mean(1)
    return added.std(0) / math.sqrt(len(added)) if len(added) > 1 else torch.full_like(added[0], math.inf)


def _table(kept: Tensor, scores: Tensor) -> Tensor:
    """The scores by the number whose binary digits are the coalition."""
    _fitting(kept, scores)
    groups = kept.shape[1]
    numbers = torch.zeros(len(kept), dtype=torch.long, device=scores.device)
    for group, column in enumerate(kept.to(scores.device).T):
        numbers += column.long() << group
    if len(kept) != 2**groups or bool((numbers.sort().values != torch.arange(len(kept), device=scores.device)).any()):
        raise InputError(f"{len(kept)} coalitions of {groups} groups; all {2**groups} are needed, each once, as every({groups}) lists them")
    return torch.empty_like(scores, dtype=torch.float64).index_copy_(0, numbers, scores.double())


def _joining(table: Tensor, group: int) -> Tensor:
    """What the group adds to each coalition of the others."""
    halves = table.view(-1, 2, 2**group, table.shape[1])
    return (halves[:, 1] - halves[:, 0]).flatten(0, 1)


def _means(table: Tensor, groups: int, weight: Callable[[int], float], first: int | None = None) -> Tensor:
    """For each (of the first) groups, what it adds to coalitions of the others, weighted by their sizes."""
    by_size = torch.tensor([weight(size) for size in range(groups)], dtype=torch.float64, device=table.device)
    weights = by_size[_sizes(groups - 1, table.device)] if groups else by_size
    found = [weights @ _joining(table, group) for group in range(groups if first is None else first)]
    return torch.stack(found) if found else table.new_zeros(0, table.shape[1])


def _sizes(groups: int, device: torch.device) -> Tensor:
    """How many groups each coalition has, as `every` lists them."""
    sizes = torch.zeros(1, dtype=torch.long, device=device)
    for _ in range(groups):
        sizes = torch.cat([sizes, sizes + 1])
    return sizes


def _fitting(kept: Tensor, scores: Tensor, *others: Tensor) -> None:
    shapes: Sequence[tuple[int, ...]] = [tuple(t.shape) for t in (kept, scores, *others)]
    if kept.dim() != 2 or scores.dim() != 2 or len({shape[0] for shape in shapes}) != 1:
        raise InputError(f"coalitions, scores (and weights) of shapes {', '.join(map(str, shapes))}; give (m, groups), (m, examples), (m,)")
