"""What is sampled for values of groups, and how its scores become values and standard errors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..seeds import generator
from .estimators import Averages, blocks, constrained_least_squares, fit_errors, shapley_of_orders
from .odd_gp import odd_gp
from .rounds import MOST, Sampler
from .sampling import pairs, permutations

__all__ = ["MOST_PAIRS", "Halves", "Orders", "Pairs", "Sampler"]

MOST_PAIRS = 1500  # for a Gaussian process


class Pairs(Sampler):
    """Complementary pairs of all sizes: Shapley values by weighted least squares, or by a Gaussian process."""

    def __init__(self, groups: int, seed: int, process: bool, check: bool = True) -> None:
        self._groups, self._seed, self._process, self._check = groups, seed, process, check
        self._half = torch.zeros(0, groups, dtype=torch.bool)
        self._weights = torch.zeros(0)
        self.most = 2 * MOST_PAIRS if process else MOST

    def more(self, total: int) -> Tensor:
        had, wanted = len(self._half), total // 2
        wanted = min(wanted, MOST_PAIRS) if self._process else wanted
        self._half, self._weights = pairs(self._groups, wanted, self._seed + had, drawn=self._half)
        added = self._half[had:]
        return torch.stack([added, ~added], 1).flatten(0, 1)  # a pair together: one call sees both

    def estimate(self, scores: Tensor, full: Tensor, empty: Tensor) -> Averages:
        half, weights = self._half, self._weights
        first, second = scores[0::2], scores[1::2]
        if self._process:
            found = odd_gp(half, (first - second) / 2, full - empty, self._seed)
            return Averages(found.values, found.variances.sqrt())
        values = constrained_least_squares(torch.cat([half, ~half]), torch.cat([first, second]), weights.repeat(2), full, empty)
        return Averages(values, self._errors(values, (first - second).double(), (full - empty).double()).to(values.dtype))

    def _errors(self, values: Tensor, differences: Tensor, change: Tensor) -> Tensor:
        """Of a pair the constraint leaves one row, its coalition less the mean: twice that is what its difference is fitted by."""
        if not self._check:
            return torch.full_like(values, math.inf)
        shares = self._half.double().mean(1, keepdim=True).to(values.device)
        drawn = torch.bincount(self._half.sum(1), minlength=self._groups + 1).tolist()
        unseen = [
            1 - number / (math.comb(self._groups, size) / (2 if 2 * size == self._groups else 1)) for size, number in enumerate(drawn)
        ]
        by_size = torch.tensor(unseen, dtype=torch.float64)
        targets = (differences - (2 * shares - 1) * change) / 2
        return fit_errors(self._half, _centred, self._weights, targets, values, by_size[self._half.sum(1)])


def _centred(half: Tensor) -> Tensor:
    return half - half.mean(1, keepdim=True)


class Halves(Sampler):
    """Complementary pairs, all coalitions alike: Banzhaf values by least squares."""

    def __init__(self, groups: int, seed: int) -> None:
        self._groups, self._seed = groups, seed
        self._half = torch.zeros(0, groups, dtype=torch.bool)

    def more(self, total: int) -> Tensor:
        had = len(self._half)
        added = torch.rand(total // 2 - had, self._groups, generator=generator(self._seed, had)) < 0.5
        self._half = torch.cat([self._half, added])
        return torch.stack([added, ~added], 1).flatten(0, 1)

    def estimate(self, scores: Tensor, full: Tensor, empty: Tensor) -> Averages:
        differences = (scores[0::2] - scores[1::2]).double()
        gram = torch.zeros(self._groups, self._groups, dtype=torch.float64, device=scores.device)
        right = torch.zeros(self._groups, scores.shape[1], dtype=torch.float64, device=scores.device)
        for part in blocks(self._half):
            signs = _signs(self._half[part].to(scores.device, torch.float64))
            gram += signs.T @ signs
            right += signs.T @ differences[part]
        values = torch.linalg.pinv(gram, rtol=1e-10, hermitian=True) @ right
        even = torch.ones(len(self._half), dtype=torch.float64)
        errors = fit_errors(self._half, _signs, even, differences, values, even)
        return Averages(values.to(scores.dtype), errors.to(scores.dtype))


def _signs(half: Tensor) -> Tensor:
    return 2 * half - 1


class Orders(Sampler):
    """Orders and their reverses in which groups come in; union after union where they are given."""

    def __init__(self, groups: int, seed: int, unions: list[list[int]] | None = None) -> None:
        self._groups, self._seed, self._unions = groups, seed, unions
        self._orders = torch.zeros(0, groups, dtype=torch.long)

    def more(self, total: int) -> Tensor:
        had, steps = len(self._orders), self._groups - 1
        added = max(2, total // steps // 2 * 2) - had  # an order with its reverse makes one sample
        if added <= 0:
            return torch.zeros(0, self._groups, dtype=torch.bool)
        orders = permutations(self._groups, added, self._seed + had, self._unions)
        self._orders = torch.cat([self._orders, orders])
        return (orders.argsort(1)[:, None, :] < torch.arange(1, self._groups)[None, :, None]).flatten(0, 1)

    def first(self, groups: int) -> int:
        return 16 * groups  # eight pairs: fewer say little about their spread

    def estimate(self, scores: Tensor, full: Tensor, empty: Tensor) -> Averages:
        orders = self._orders
        table = scores.unflatten(0, (len(orders), self._groups - 1))
        start, end = (e.expand(len(orders), 1, -1) for e in (empty, full))
        return shapley_of_orders(orders, torch.cat([start, table, end], 1))
