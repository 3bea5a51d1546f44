"""Integrated gradients to a tolerance: nodes are added, for each example where it needs them, until the answer stands still.

A score between 0 and 1 is integrated in log-odds `u = log(f / (1 - f))`: then `df/dx = f (1 - f) du/dx`, the squash is
integrated analytically between nodes, and what is left to quadrature is as tame as a logit. Smooth networks get nested
Chebyshev nodes and one polynomial (Clenshaw and Curtis 1960); networks with kinks get a trapezoid rule whose nodes go
where the gradient changes most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .quadrature import rule

__all__ = ["MOST", "Answer", "Evaluate", "integrate"]

# (places (k, R), rows (R,)) -> values (k, R) and gradients (k, R, N) of those rows at those places of their paths.
Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

MOST = 65
LEVELS = (5, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097)
# How much successive changes of the gradient point the same way: 1 on a smooth path, 0 where it jumps at random.
SMOOTH = 0.4
FINE = 256


@dataclass(eq=False)
class Answer:
    """Of each example: the mean gradient `(B, N)`, the passes used, and the estimated relative error."""

    mean: Tensor
    steps: Tensor
    error: Tensor


def integrate(
    evaluate: Evaluate, delta: Tensor, tolerance: float, most: int = MOST, together: bool = False, eps: float = 2.0**-52
) -> Answer:
    """The mean of the gradient along each path, to a relative error of about `tolerance` of the attribution.

    Args:
        evaluate: one pass for each place.
        delta: `(B, N)`: from start to end of each path.
        tolerance: of the estimated error: the larger of the change between nested rules (or the expected error of the
            trapezoid rule) and the completeness gap, relative to the attribution. A small gap alone proves nothing where
            the gradient jumps.
        most: passes per example at most.
        together: examples cannot be evaluated without each other: all go on until all are done.
        eps: the relative rounding of the values.

    Where no answer is finite (an infinite gradient at an end of the path, say), Gauss-Legendre nodes, which leave out the
    ends, give one whose error stays unknown.
    """
    book = _Book(
        Answer(torch.zeros_like(delta), delta.new_zeros(len(delta)), delta.new_full((len(delta),), torch.inf)), tolerance, together
    )
    path = _Path(evaluate, delta, torch.arange(len(delta), device=delta.device), eps)
    path = path.with_nodes(_all_rows(_chebyshev(5), path))
    path = path.of(book.enter(path, *path.trapezoid()))
    size = 5
    while len(path.rows) and 2 * size - 1 <= most:
        size = 2 * size - 1
        path = path.with_nodes(_all_rows(_chebyshev(size)[1::2], path))
        mean, error, smooth = _nested(path, size)
        unfinished = book.enter(path, mean, error)
        rough = unfinished & ~smooth if not together else unfinished & ~smooth.all()
        _refined(path.of(rough), book, most)
        path = path.of(unfinished & ~rough)
    _refined(path, book, most)
    _rescued(evaluate, book.answer, most)
    return book.answer


def _rescued(evaluate: Evaluate, answer: Answer, most: int) -> None:
    rows = torch.isinf(answer.error).nonzero()[:, 0]
    if len(rows):
        nodes, weights = (t.to(answer.mean) for t in rule("gausslegendre", min(most, 50)))
        _, gradients = evaluate(nodes[:, None].expand(-1, len(rows)), rows)
        answer.mean[rows] = torch.tensordot(weights, gradients, 1)
        answer.steps[rows] += len(nodes)


def _nested(path: _Path, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The better of polynomial and trapezoid for each example, its error, and whether that is the polynomial."""
    fine, coarse, (rough, rough_error) = path.spectral(), path.spectral(2), path.trapezoid()
    change = _norm((fine - coarse) * path.delta)
    if size == 9:  # too early to believe either; how the gradient changes decides
        smooth, error = path.smoothness() > SMOOTH, torch.minimum(change, rough_error)
    else:  # far below what the trapezoid rule expects: the polynomials converge
        smooth = change < rough_error / 2
        error = change * (change / _norm(fine * path.delta).clamp_min(_TINY)).clamp_max(1).sqrt()
    return torch.where(smooth[:, None], fine, rough), torch.where(smooth, error, rough_error), smooth


def _refined(path: _Path, book: _Book, most: int) -> None:
    """Add nodes where the gradient changes most, level by level, until every example is done."""
    while len(path.rows) and (larger := [n for n in LEVELS if len(path.places) < n <= most]):
        before, _ = path.trapezoid()
        path = path.with_nodes(path.worth_splitting(larger[0] - len(path.places)))
        mean, error = path.trapezoid()
        moved = _norm((mean - before) * path.delta) / 2
        path = path.of(book.enter(path, mean, torch.maximum(error, moved)))


_TINY = 1e-200


@dataclass(eq=False)
class _Book:
    """The best answer of each example so far."""

    answer: Answer
    tolerance: float
    together: bool

    def enter(self, path: _Path, mean: Tensor, error: Tensor) -> Tensor:
        """Note what is better than before; returns which of the path's examples must go on."""
        gap = path.gap(mean)
        size = _norm(mean * path.delta).clamp_min(_TINY)
        change = (path.values[-1] - path.values[0]).abs()
        relative = torch.maximum(error / size, gap / torch.maximum(change, size))
        self.answer.steps[path.rows] = float(len(path.places))
        better = relative < self.answer.error[path.rows]
        rows = path.rows[better]
        self.answer.mean[rows], self.answer.error[rows] = mean[better], relative[better]
        unfinished = self.answer.error[path.rows] > self.tolerance
        return unfinished.any().expand_as(unfinished) if self.together else unfinished


@dataclass(eq=False)
class _Path:
    """What is known about R examples: places `(k, R)` in order, scores and gradients there."""

    evaluate: Evaluate
    delta: Tensor
    rows: Tensor
    eps: float
    places: Tensor = None  # type: ignore[assignment]
    values: Tensor = None  # type: ignore[assignment]
    gradients: Tensor = None  # type: ignore[assignment]

    def of(self, chosen: Tensor) -> _Path:
        """The same for some of the examples."""
        cut = (self.places[:, chosen], self.values[:, chosen], self.gradients[:, chosen])
        return _Path(self.evaluate, self.delta[chosen], self.rows[chosen], self.eps, *cut)

    def with_nodes(self, places: Tensor) -> _Path:
        """With the gradients at more places, `(k, R)`."""
        values, gradients = self.evaluate(places, self.rows)
        if self.places is not None:
            places, values = torch.cat((self.places, places)), torch.cat((self.values, values))
            gradients = torch.cat((self.gradients, gradients))
        order = places.argsort(0)
        gradients = gradients[order, torch.arange(len(self.rows), device=order.device)]
        return replace(self, places=places.gather(0, order), values=values.gather(0, order), gradients=gradients)

    def unsquashed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-odds, their gradients, and which examples have them: those whose scores all lie between 0 and 1."""
        odds = ((self.values > 0) & (self.values < 1)).all(0)
        chance = torch.where(odds, self.values, 0.5).clamp(self.eps, 1 - self.eps)
        scale = torch.where(odds, chance * (1 - chance), 1)
        return torch.where(odds, chance.logit(), self.values), self.gradients / scale[..., None], odds

    def trapezoid(self) -> tuple[Tensor, Tensor]:
        """The mean gradient, and the error to expect if the gradient changes by jumps at random places."""
        u, g, odds = self.unsquashed()
        middle, half = (u[:-1] + u[1:]) / 2, self.places.diff(dim=0) / 2
        left, right = half * _slope(u[:-1], middle, odds), half * _slope(middle, u[1:], odds)
        local = self._local(left + right, g)
        return (left[..., None] * g[:-1] + right[..., None] * g[1:]).sum(0), torch.linalg.vector_norm(local, dim=0)

    def _local(self, widths: Tensor, g: Tensor) -> Tensor:
        return widths * _norm(g.diff(dim=0) * self.delta) / math.sqrt(12)

    def spectral(self, step: int = 1) -> Tensor:
        """The mean gradient of one polynomial through every step-th (Chebyshev) node."""
        u, g, odds = self.unsquashed()
        u, g = u[::step], g[::step]
        basis, mass = (t.to(u) for t in _interpolation(len(u)))
        fine = basis @ u
        density = mass[:, None] * torch.where(odds, fine.sigmoid() * (-fine).sigmoid(), 1)
        return ((basis.T @ density)[..., None] * g).sum(0)

    def smoothness(self) -> Tensor:
        """The correlation of successive changes of the gradient."""
        _, g, _ = self.unsquashed()
        change = g.diff(dim=0) * self.delta
        size = _norm(change)
        return (change[:-1] * change[1:]).sum((0, 2)) / (size[:-1] * size[1:]).sum(0).clamp_min(_TINY)

    def gap(self, mean: Tensor) -> Tensor:
        """The completeness gap."""
        return ((mean * self.delta).sum(1) - (self.values[-1] - self.values[0])).abs()

    def worth_splitting(self, extra: int) -> Tensor:
        """Places that split the intervals of largest expected squared error, each into equal parts."""
        u, g, odds = self.unsquashed()
        local = self._local(self.places.diff(dim=0) * _slope(u[:-1], u[1:], odds), g)
        parts = torch.ones_like(local)
        for _ in range(extra):
            gain = local**2 * (parts**-2 - (parts + 1) ** -2)
            parts.scatter_add_(0, gain.argmax(0, keepdim=True), torch.ones_like(parts[:1]))
        return torch.stack([_split(a, n) for a, n in zip(self.places.T, parts.T.long(), strict=True)], 1)


def _split(places: Tensor, parts: Tensor) -> Tensor:
    """New places inside intervals that are cut into `parts` each."""
    cell = torch.arange(len(parts), device=parts.device).repeat_interleave(parts - 1)
    first = (parts - 1).cumsum(0) - (parts - 1)
    rank = torch.arange(len(cell), device=parts.device) - first[cell] + 1
    return places[cell] + places.diff()[cell] * rank / parts[cell]


def _slope(x: Tensor, y: Tensor, odds: Tensor) -> Tensor:
    """The mean of the squash's slope between two log-odds; 1 where nothing is squashed."""
    gap, middle = y - x, (x + y) / 2
    near = gap.abs() < 1e-2
    quotient = (y.sigmoid() - x.sigmoid()) / torch.where(near, 1, gap)
    return torch.where(odds, torch.where(near, middle.sigmoid() * (-middle).sigmoid(), quotient), 1)


def _norm(rows: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return found


def _all_rows(places: Tensor, path: _Path) -> Tensor:
    return places.to(path.delta)[:, None].expand(-1, len(path.rows))


@cache
def _chebyshev(count: int) -> Tensor:
    """Clenshaw-Curtis nodes on [0, 1]; every other one of `2n - 1` nodes is one of `n`."""
    return (1 - torch.cos(torch.pi * torch.arange(count, dtype=torch.float64) / (count - 1))) / 2


@cache
def _interpolation(count: int) -> tuple[Tensor, Tensor]:
    """Barycentric interpolation from the Chebyshev nodes to fine Gauss-Legendre nodes, and the weights of these."""
    nodes, weights = np.polynomial.legendre.leggauss(FINE)
    sign = (-1.0) ** torch.arange(count, dtype=torch.float64)
    sign[[0, -1]] /= 2
    basis = sign / (torch.from_numpy((nodes + 1) / 2)[:, None] - _chebyshev(count))
    return basis / basis.sum(1, keepdim=True), torch.from_numpy(weights / 2)


def blocks(delta: Tensor, most: int, room: int) -> Iterator[slice]:
    """Runs of examples whose gradients at all nodes fit into `room` bytes."""
    width = max(1, room // (most * delta[0].numel() * delta.element_size()))
    return (slice(s, min(s + width, len(delta))) for s in range(0, len(delta), width))
