"""Inverse curvature: from the gradient of a query to the change of the parameters that its influences are measured along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Generator, Tensor

from ..errors import OptionError
from ..explanation import Check
from ..progress import Bar
from .curvature import Curvature
from .examples import size_of
from .gradients import parameters_of

__all__ = ["ConjugateGradient", "Inverse", "Lissa", "LowRank", "arnoldi", "dense", "largest"]


class Inverse(ABC):
    """An approximation of `(H + damping)^-1`, of the Hessian of the summed loss."""

    @abstractmethod
    def times(self, gradients: Tensor) -> tuple[Tensor, tuple[Check, ...]]:
        """`(C, parameters)` for `(C, parameters)`, and what was noticed."""


@dataclass(frozen=True, eq=False)
class LowRank(Inverse):
    """`R R'`, with `R (parameters, K)`: eigenvectors over the roots of their eigenvalues.

    Attributes:
        dropped: how many eigenvalues were at most the tolerance.
        negative: the lowest eigenvalue, less damping, over the largest.
    """

    root: Tensor
    dropped: int = 0
    negative: float = 0.0

    def times(self, gradients: Tensor) -> tuple[Tensor, tuple[Check, ...]]:
        root = self.root.to(gradients)
        return (gradients @ root) @ root.T, (self.check,)

    @property
    def check(self) -> Check:
        """Whether the loss curves upward in every direction that was looked at."""
        fine = self.negative > -1e-3
        words = f"{self.root.shape[1]} directions kept, {self.dropped} of too little curvature left out"
        bent = "" if fine else f"; the loss curves downward by {-self.negative:.1%} of the largest curvature: not at a minimum"
        return Check("curvature", fine, words + bent, self.negative)


def largest(matrix: Tensor, dimensions: int | None, damping: float, tolerance: float) -> tuple[Tensor, Tensor, float]:
    """The largest eigenvalues of a symmetric matrix with damping on its diagonal, ascending, and eigenvectors `(size, K)`.

    Raises:
        OptionError: none is above the tolerance.
    """
    if dimensions is not None and dimensions < 1:
        raise OptionError(f"{dimensions} dimensions are to be kept; at least one is needed, or None for all")
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    damped = values + damping
    keep = damped > tolerance
    if not bool(keep.any()):
        raise OptionError(
            f"no eigenvalue of the Hessian is above {tolerance:.3g}; the largest is {float(damped.max()):.3g}: give more damping, or the "
            "weights of a trained model"
        )
    lowest = float(values.min() / values.abs().max().clamp_min(1e-30))
    own, directions = damped[keep], vectors[:, keep]
    if dimensions is not None:
        own, directions = own[-dimensions:], directions[:, -dimensions:]
    signs = torch.where(directions.sum(0) > 0, 1.0, -1.0).to(directions)
    return own, directions * signs, min(lowest, 0.0)


def dense(curvature: Curvature, damping: float, tolerance: float = 0.0, dimensions: int | None = None, bar: Bar | None = None) -> LowRank:
    """By the eigenvectors of the whole matrix: exact, for a few thousand parameters.

    Source: Koh and Liang 2017, equation 2.
    """
    matrix = curvature.matrix(bar)
    values, vectors, lowest = largest(matrix, dimensions, damping, tolerance)
    return LowRank(vectors * values.rsqrt(), len(matrix) - len(values), lowest)


def arnoldi(
    curvature: Curvature,
    damping: float,
    steps: int = 200,
    dimensions: int | None = 50,
    start_tolerance: float = 0.1,
    tolerance: float = 1e-4,
    seed: int = 0,
    on_cpu: bool = True,
    bar: Bar | None = None,
) -> LowRank:
    """By the largest eigenvalues in a Krylov space: one product with the Hessian for each step.

    Source: Schioppa et al. 2022, algorithm 1.

    Args:
        steps: dimensions of the space; dimensions: eigenvectors kept.
        start_tolerance: stop when what a step adds is shorter; tolerance: keep eigenvalues above.
        on_cpu: keep the basis, `steps` times the parameters, in the memory of the CPU.
    """
    basis, small = _krylov(curvature, steps, start_tolerance, seed, on_cpu, bar)
    values, vectors, lowest = largest(small, dimensions, damping, tolerance)
    return LowRank(basis.T @ (vectors * values.rsqrt()), len(small) - len(values), lowest)


def _krylov(curvature: Curvature, steps: int, tolerance: float, seed: int, on_cpu: bool, bar: Bar | None) -> tuple[Tensor, Tensor]:
    """An orthonormal basis `(n, parameters)` of the space, and the matrix in it `(n, n)`."""
    if steps < 1:
        raise OptionError(f"the Krylov space has {steps} dimensions; at least one is needed")
    vector = _start(curvature, seed)
    steps = min(steps, len(vector))
    home = torch.device("cpu") if on_cpu else vector.device
    basis = [(vector / vector.norm()).to(home)]
    matrix = vector.new_zeros(steps + 1, steps, device=home)
    for k in range(steps):
        pushed = curvature.times(basis[k][None].to(vector.device), bar)[0].to(home)
        length = float(pushed.norm())
        for i, each in [*enumerate(basis)] * 2:  # one after the other, and twice, against rounding
            along = each @ pushed
            matrix[i, k] += along
            pushed = pushed - along * each
        matrix[k + 1, k] = pushed.norm()
        if float(matrix[k + 1, k]) < max(tolerance, 100 * torch.finfo(vector.dtype).eps * length):
            break  # what is left is rounding: the space holds all that the start leads to
        basis.append(pushed / matrix[k + 1, k])
    count = min(len(basis), steps)
    return torch.stack(basis[:count]), matrix[:count, :count]


def _start(curvature: Curvature, seed: int) -> Tensor:
    """Standard normal numbers, parameter by parameter."""
    source = Generator().manual_seed(seed)
    parameters = parameters_of(curvature.model, curvature.layers)
    drawn = [torch.randn(p.shape, generator=source, dtype=p.dtype).flatten() for _, p in parameters]
    return torch.cat(drawn).to(parameters[0][1].device)


@dataclass(frozen=True, eq=False)
class ConjugateGradient(Inverse):
    """`(H + damping) x = g`, solved for all queries at once; every step takes one pass over the examples.

    Source: Martens 2010; Koh and Liang 2017, section 3.
    """

    curvature: Curvature
    damping: float
    tolerance: float = 1e-4
    steps: int = 100
    bar: Bar | None = None

    def times(self, gradients: Tensor) -> tuple[Tensor, tuple[Check, ...]]:
        found, rest = torch.zeros_like(gradients), gradients.clone()
        way, size = rest.clone(), rest.square().sum(1)
        goal, upward = size * self.tolerance**2, torch.ones_like(size, dtype=torch.bool)
        active = size > 0
        for _ in range(self.steps):
            if not bool(active.any()):
                break
            bent = self.curvature.times(way, self.bar) + self.damping * way
            along = (way * bent).sum(1)
            upward &= ~active | (along > 0)
            active &= along > 0
            step = torch.where(active, size / along, 0.0)[:, None]
            found, rest = found + step * way, rest - step * bent
            new = rest.square().sum(1)
            way = torch.where(active[:, None], rest + (new / size.clamp_min(1e-300))[:, None] * way, way)
            size = new
            active &= size > goal
        left = float((size.sqrt() / gradients.norm(dim=1).clamp_min(1e-30)).max())
        return found, (self._check(left, bool(upward.all())),)

    def _check(self, left: float, upward: bool) -> Check:
        if not upward:
            words = "the loss curves downward on the way, where it was stopped; use curvature='gauss_newton', or more damping"
            return Check("converged", False, words, left)
        way_out = "" if left <= self.tolerance else f", more than {self.tolerance:.1g}; give more steps, or more damping"
        return Check("converged", left <= self.tolerance, f"the largest residual is {left:.2g} of the gradient{way_out}", left)


@dataclass(frozen=True, eq=False)
class Lissa(Inverse):
    """The Neumann series `x <- x + (g - (H + damping) x) / scale`, every step with the Hessian of one batch.

    Source: Agarwal et al. 2017; Koh and Liang 2017, section 3.

    Attributes:
        depth: steps, each with the next batch; after the last batch the first comes again.
        scale: above the largest eigenvalue of the mean loss's Hessian in any batch; None: estimated.
    """

    curvature: Curvature
    damping: float
    depth: int = 1000
    scale: float | None = None
    seed: int = 0
    bar: Bar | None = None

    def times(self, gradients: Tensor) -> tuple[Tensor, tuple[Check, ...]]:
        sizes = [size_of(batch) for batch in self.curvature.examples]
        scale = self.scale or self._estimated(sum(sizes))
        found = self._steps(gradients, sizes, scale)
        whole = self.curvature.times(found, self.bar) + self.damping * found
        left = float(((whole - gradients).norm(dim=1) / gradients.norm(dim=1).clamp_min(1e-30)).max())
        fine = left < 0.5
        way_out = "" if fine else "; give a larger depth, more damping or another scale"
        return found, (Check("converged", fine, f"the largest residual is {left:.2g} of the gradient{way_out}", left),)

    def _steps(self, gradients: Tensor, sizes: Sequence[int], scale: float) -> Tensor:
        total, estimate = sum(sizes), gradients / scale
        for step in range(0, self.depth, len(sizes)):
            batches = zip(sizes, self.curvature.examples.on(self.curvature.model), strict=True)
            for size, batch in islice(batches, self.depth - step):
                bent = self.curvature.times(estimate, self.bar, [batch]) / size + self.damping / total * estimate
                estimate = estimate + (size / sizes[0]) * (gradients - bent) / scale
        return estimate / total

    def _estimated(self, total: int) -> float:
        """Half again the largest eigenvalue that any batch seems to have, by power iteration."""
        top = 0.0
        for batch in self.curvature.examples.on(self.curvature.model):
            vector = _start(self.curvature, self.seed)[None]
            for _ in range(4):
                vector = self.curvature.times(vector / vector.norm(), None, [batch]) / size_of(batch)
            top = max(top, float(vector.norm()))
        return 1.5 * (top + self.damping / total)
