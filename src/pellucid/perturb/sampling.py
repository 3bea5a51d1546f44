"""Which coalitions to evaluate: all of them, complementary pairs of every size, orders in which groups come in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from ..errors import InputError, OptionError

__all__ = ["SHARES", "Pairs", "every", "pairs", "permutations"]

MOST_GROUPS = 30
BLOCK = 4096  # coalitions that are drawn at a time

# How many of the pairs a size gets, by the number of groups in and out of the coalition.
SHARES: dict[str, Callable[[int, int], float]] = {
    "leverage": lambda inside, outside: 1.0,
    "kernel": lambda inside, outside: 1 / (inside * outside),
    "root": lambda inside, outside: 1 / math.sqrt(inside * outside),
}


class Pairs(NamedTuple):
    """Complementary coalitions: one of each pair, and the weight that either has in a weighted least-squares fit.

    Attributes:
        kept: bool `(pairs, groups)`, the smaller member of each pair (of two halves the one with group 0); the other is `~kept`.
        weights: float64 `(pairs,)`, what a member stands for of the Shapley kernel `(n - 1) / (C(n, s) s (n - s))`.
    """

    kept: Tensor
    weights: Tensor


class _Size(NamedTuple):
    """Pairs of one size: how many there are (no more than wanted), and by what share they are chosen."""

    inside: int
    capacity: int
    share: float


def every(groups: int) -> Tensor:
    """All coalitions, bool `(2**groups, groups)`: row `i` holds the binary digits of `i`, so row `-1 - i` is its complement.

    Raises:
        InputError: more groups than 30, or fewer than none.

    >>> every(2).long().tolist()
    [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    if not 0 <= groups <= MOST_GROUPS:
        raise InputError(f"all coalitions of {groups} groups were asked for; between 0 and {MOST_GROUPS} can be listed, more are sampled")
    return (torch.arange(2**groups)[:, None] >> torch.arange(groups) & 1).bool()


def pairs(groups: int, count: int, seed: int, by: str = "leverage", drawn: Tensor | None = None) -> Pairs:
    """At most `count` complementary pairs, none twice and not that of all and none; all of them if they fit.

    Every size gets its share, whole if it fits (water-filling); within a size pairs are drawn evenly, without replacement.
    What a size is given is rounded at random to a neighbouring whole number, in such a way that the numbers add up.
    Source: Covert and Lee 2021 (pairs); Musco and Witter 2025 (leverage: every size alike; without replacement); Lundberg and
    Lee 2017, theorem 2 (the weights).

    Args:
        by: the share of a size s of n: `leverage`, the same for all; `kernel`, by `1 / (s (n - s))`; `root`, by its root.
        drawn: pairs drawn before, which come first and are completed to the count.

    Raises:
        InputError: no groups, or a negative count.
        OptionError: another `by`.

    >>> kept, weights = pairs(5, 15, seed=0)  # there are 5 of size one and 10 of size two
    >>> kept.sum(1).tolist()
    [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    >>> weights[[0, -1]].tolist()  # 4 / (5 * 1 * 4), 4 / (10 * 2 * 3)
    [0.2, 0.0666...]
    """
    if groups < 1 or count < 0:
        raise InputError(f"{count} pairs of coalitions of {groups} groups; give at least one group and no negative number of pairs")
    if by not in SHARES:
        raise OptionError(f"pairs are not shared out by {by!r}; choose from {', '.join(SHARES)}")
    source = Generator().manual_seed(seed)
    before = torch.zeros(0, groups, dtype=torch.bool) if drawn is None else drawn
    sizes = [_size(groups, inside, count, SHARES[by]) for inside in range(1, groups // 2 + 1)]
    given = _filled(sizes, count)
    had = torch.bincount(before.sum(1), minlength=groups // 2 + 1)[1:].tolist()
    numbers = [max(pair) for pair in zip(_rounded(given, float(torch.rand((), generator=source, dtype=torch.float64))), had, strict=True)]
    more = _more(groups, before, {size.inside: (number, old) for size, number, old in zip(sizes, numbers, had, strict=True)}, source)
    weights = [_weight(groups, size.inside, share, number) for size, share, number in zip(sizes, given, numbers, strict=True)]
    kept = torch.cat([before, more])
    return Pairs(kept, torch.tensor([0.0, *weights], dtype=torch.float64)[kept.sum(1)])


def permutations(groups: int, count: int, seed: int, unions: Sequence[Sequence[int]] | None = None) -> Tensor:
    """Orders in which the groups come in, int64 `(count, groups)`; every second is its predecessor in reverse.

    Where there are `unions`, lists of groups, those of a union come one after another.

    Source: Mitchell et al. 2022 (antithetic sampling of permutations).

    >>> orders = permutations(5, 4, seed=0)
    >>> bool((orders[1] == orders[0].flip(0)).all()), orders.shape
    (True, torch.Size([4, 5]))
    """
    source = Generator().manual_seed(seed)
    places = torch.rand((count + 1) // 2, groups, generator=source, dtype=torch.float64)
    if unions is not None:
        turns = torch.rand(len(places), len(unions), generator=source, dtype=torch.float64).argsort(1).argsort(1)
        for number, union in enumerate(unions):
            places[:, list(union)] += turns[:, number : number + 1]
    drawn = places.argsort(1)
    return torch.stack([drawn, drawn.flip(1)], 1).flatten(0, 1)[:count]


def _size(groups: int, inside: int, count: int, share: Callable[[int, int], float]) -> _Size:
    half = 2 * inside == groups  # such a coalition's complement is of the same size
    return _Size(inside, min(_total(groups, inside), count), share(inside, groups - inside) * (0.5 if half else 1.0))


def _total(groups: int, inside: int) -> int:
    """How many pairs have this size: a whole number of any length."""
    return math.comb(groups, inside) // (2 if 2 * inside == groups else 1)


def _filled(sizes: Sequence[_Size], count: int) -> list[float]:
    """What each size is given: all its pairs where its share exceeds them, and of the rest its share."""
    given = [0.0] * len(sizes)
    open_, left = set(range(len(sizes))), float(count)
    while open_:
        level = left / sum(sizes[i].share for i in open_)
        filled = {i for i in open_ if level * sizes[i].share >= sizes[i].capacity}
        for i in filled or open_:
            given[i] = float(sizes[i].capacity) if filled else level * sizes[i].share
        left -= sum(given[i] for i in filled)
        open_ = open_ - filled if filled else set()
    return given


def _rounded(given: Sequence[float], start: float) -> list[int]:
    """Each number rounded down or up, up as often as its fraction says, the sum kept: systematic sampling."""
    edges = [math.floor(round(sum_ + start, 9)) for sum_ in itertools.accumulate(given, initial=0.0)]
    return [after - before for before, after in itertools.pairwise(edges)]


def _weight(groups: int, inside: int, given: float, number: int) -> float:
    """What one member stands for; a size that is given less than one pair is drawn now and then, and stands for more."""
    both = 2 if 2 * inside == groups else 1
    return (groups - 1) / (inside * (groups - inside)) / (both * (number if given >= 1 else given or 1))


def _more(groups: int, before: Tensor, wanted: dict[int, tuple[int, int]], source: Generator) -> Tensor:
    """What completes each size to the number wanted of it, where so many were there before; of complementary halves those with group 0."""
    found = before[:0]
    for inside, (number, had) in wanted.items():
        if had < number and _total(groups, inside) <= 2 * number:  # listed and chosen, where most are wanted
            fresh = _unseen(before, _listed(groups, inside), source) if had else _listed(groups, inside)
            found = torch.cat([found, fresh[_chosen(len(fresh), number - had, source)]])
    lacking = torch.zeros(groups + 1, dtype=torch.long)
    for inside, (number, had) in wanted.items():
        lacking[inside] = 0 if _total(groups, inside) <= 2 * number else number - had
    while lacking.any():  # drawn, until there are enough
        fresh = _unseen(torch.cat([before, found]), _drawn(groups, torch.arange(groups + 1).repeat_interleave(lacking), source), source)
        found = torch.cat([found, fresh])
        lacking -= torch.bincount(fresh.sum(1), minlength=groups + 1)
    return found


def _chosen(total: int, number: int, source: Generator) -> Tensor:
    return torch.arange(total) if total == number else torch.randperm(total, generator=source)[:number].sort().values


def _listed(groups: int, inside: int) -> Tensor:
    """All coalitions of one size; of complementary halves those with group 0."""
    half = 2 * inside == groups
    total, others = _total(groups, inside), range(1, groups) if half else range(groups)
    members = itertools.chain.from_iterable(itertools.combinations(others, inside - half))
    columns = torch.from_numpy(np.fromiter(members, np.int64, total * (inside - half))).view(total, inside - half)
    found = torch.zeros(total, groups, dtype=torch.bool).scatter_(1, columns, True)
    found[:, 0] |= half
    return found


def _drawn(groups: int, inside: Tensor, source: Generator) -> Tensor:
    """Coalitions of these sizes, each drawn by itself."""
    found = torch.zeros(len(inside), groups, dtype=torch.bool)
    for sizes, rows in zip(inside.split(BLOCK), found.split(BLOCK), strict=True):
        turns = torch.rand(len(sizes), groups, generator=source, dtype=torch.float64)
        turns[:, 0] -= (2 * sizes == groups).double()  # of complementary halves, group 0 comes first
        rows.scatter_(1, turns.argsort(1), torch.arange(groups) < sizes[:, None])
    return found


def _unseen(before: Tensor, kept: Tensor, source: Generator) -> Tensor:
    """The rows that are not among those before, once each, in their order.

    Rows of equal keys are taken for equal: of 2**-64 of different rows one is lost, none repeated.
    """
    if not len(before) and len(kept) < 2:
        return kept
    digits = torch.randint(-(2**63), 2**63 - 1, (kept.shape[1],), generator=source)
    parts = (*before.split(BLOCK), *kept.split(BLOCK))
    keys, order = torch.cat([torch.where(part, digits, 0).sum(1) for part in parts]).sort(stable=True)
    first = torch.ones(len(keys), dtype=torch.bool)
    first[1:] = keys[1:] != keys[:-1]
    fresh: Tensor = order[first].sort().values - len(before)
    return kept[fresh[fresh >= 0]]
