"""How much a score depends on concepts: total Sobol indices, and what is left of a model that sees nothing but them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..batch import Run
from ..inputs import Tensors, accurate
from ..inside import placed
from ..picks import Mixed, PerExample, Pick, Same, Sum
from ..seeds import generator
from ..target import tensor_of
from ..view import InputView
from .factors import coefficients_of, norm_of
from .rows import Held, precise, read

__all__ = ["Head", "Reconstruction", "design", "head_of", "importances", "interval", "masks_at", "reconstruction", "total_indices"]

RESAMPLES = 2000
LEVEL = 0.95


class Reconstruction(NamedTuple):
    """What survives when a layer holds only what the concepts make up: 1 is everything.

    Attributes:
        activations: the share of the squares of the layer's activations that the concepts explain.
        score: 1 - sum (s' - s)^2 / sum (s0 - s)^2: s the model's scores, s' those with the concepts, s0 with activations of zero.
        predictions: the share of examples whose largest output is the same one; NaN where outputs are no classes.
        examples: how many were tested.
    """

    activations: float
    score: float
    predictions: float
    examples: int


@dataclass(frozen=True, eq=False)
class Head:
    """The model behind a layer, as a function of how much of each concept the layer holds.

    Attributes:
        view: of the score, at the layer.
        held: the layer.
        coefficients: `(B, ..., K)`; vectors: `(K, C)`.
    """

    view: InputView
    held: Held
    coefficients: Tensor
    vectors: Tensor

    def rebuilt(self, examples: slice, masks: Tensor) -> Tensor:
        """The layer's activations `(steps, b, ...)` made of the concepts, each times a mask `(steps, b, K)`."""
        own = self.coefficients[examples]
        wide = masks.to(own).view(*masks.shape[:2], *(1,) * (own.dim() - 2), masks.shape[2])
        return self.held.back((own * wide) @ self.vectors).to(self.view.features[0].dtype)


def head_of(view: InputView, held: Held, vectors: Tensor, run: Run) -> Head:
    """The rest of a model behind a layer, at the concepts that it holds for these inputs."""
    points = lambda examples, _: tuple(f[None, examples] for f in view.features)  # noqa: E731
    own = read(view, held, 1, points, lambda values, _: values, run, "activations")[:, 0]
    rows = held.vectors(own).to(held.dtype)
    inner = run.ready(placed(view, held.place, (own,)), 2)
    assert isinstance(inner, InputView)
    return Head(inner, held, coefficients_of(rows, vectors, run.progress), vectors.to(rows))


def design(factors: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two sets of points `(N, K)`, independent of each other: the halves of a scrambled Sobol sequence in 2 K dimensions.

    Source: Saltelli et al. 2010, section 3.
    """
    drawn = torch.quasirandom.SobolEngine(2 * factors, scramble=True, seed=seed).draw(samples, dtype=torch.float64)
    return drawn[:, :factors], drawn[:, factors:]


def masks_at(one: Tensor, other: Tensor, steps: slice) -> Tensor:
    """Masks `(s, b, K)` of some steps: the N points of `one` `(b, N, K)`, then for each factor these with its column of `other`."""
    samples, factors = one.shape[1:]
    which = torch.arange(steps.start, steps.stop)
    column, row = which // samples - 1, which % samples
    swapped = (column[:, None] == torch.arange(factors))[:, None]
    return torch.where(swapped, other[:, row].transpose(0, 1), one[:, row].transpose(0, 1))


def total_indices(here: Tensor, there: Tensor) -> Tensor:
    """Total Sobol indices `(..., K)`: the share of the variance that is left when all factors but one are known.

    `S_Ti = E[V(Y | M_~i)] / V(Y)`, by Jansen's estimator `1/(2N) sum_j (f(A_j) - f(C_ij))^2 / V`, where `C_i` is `A` with column i of
    `B`. NaN where the function does not change.
    Source: Jansen 1999; Saltelli et al. 2010, table 2 (f); Fel et al. 2023, section 3.3.

    Args:
        here: `(..., N)`, of the points A.
        there: `(..., K, N)`, of the points C_1 to C_K.

    >>> one, other = design(2, 4096, seed=0)
    >>> f = lambda points: points @ torch.tensor([3.0, 1.0], dtype=torch.float64)
    >>> swapped = torch.stack([torch.stack([other[:, 0], one[:, 1]], 1), torch.stack([one[:, 0], other[:, 1]], 1)])
    >>> total_indices(f(one), f(swapped)).round(decimals=2).tolist()
    [0.9, 0.1]
    """
    variance = here.var(-1)
    rounding = 16 * torch.finfo(here.dtype).eps * here.abs().amax(-1)
    found = (here.unsqueeze(-2) - there).square().mean(-1) / (2 * variance).unsqueeze(-1)
    return found.masked_fill((variance <= rounding**2).unsqueeze(-1), float("nan"))


def importances(head: Head, samples: int, seed: int, run: Run) -> Tensor:
    """The total Sobol indices `(B, K)` of each example's score, the concepts' coefficients times masks uniform in [0, 1].

    A mask holds for all places. Every example has masks of its own, so that what is uncertain because of them shows in how the
    indices differ.
    Source: Fel et al. 2023, section 3.3.
    """
    factors = len(head.vectors)
    designs = [design(factors, samples, generator(seed, i).initial_seed()) for i in range(head.view.size)]
    one, other = (torch.stack(points) for points in zip(*designs, strict=True))

    def points(examples: slice, steps: slice) -> Tensors:
        return (head.rebuilt(examples, masks_at(one[examples], other[examples], steps)),)

    scores = run.scores(head.view, samples * (factors + 1), points, "importance")[0].T.cpu()
    sums = scores.to(accurate(scores.dtype)).unflatten(1, (factors + 1, samples))
    return total_indices(sums[:, 0], sums[:, 1:])


def interval(indices: Tensor, seed: int) -> Tensor:
    """Between which values 95 % of the means of examples `(B, K)` lie that are drawn with replacement, `(K, 2)`."""
    size, (low, high) = len(indices), ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    if size < 2:
        return indices.new_full((indices.shape[1], 2), float("nan"))
    drawn = torch.randint(size, (RESAMPLES, size), generator=generator(seed, 0))
    counts = indices.new_zeros(RESAMPLES, size).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=indices.dtype))
    return torch.quantile(counts @ indices / size, indices.new_tensor([low, high]), 0).T


@dataclass(frozen=True)
class _Predicted(Pick):
    """The number of the largest output; NaN where outputs are no classes."""

    def scores(self, output: Any, rows: int) -> Tensor:
        found = tensor_of(output)
        if found.dim() != 2 or found.shape[1] < 2:
            return torch.full((1, rows), float("nan"))
        return found.argmax(1)[None].to(torch.get_default_dtype())

    def __str__(self) -> str:
        return "the largest output"


def reconstruction(head: Head, run: Run) -> Reconstruction:
    """How much of the activations, the scores and the predictions is left when the concepts stand in for the activations."""
    view, held, factors = head.view, head.held, len(head.vectors)
    own = view.features[0]

    def points(examples: slice, steps: slice) -> Tensors:
        all_, none = torch.ones(1, len(own[examples]), factors), torch.zeros(1, len(own[examples]), factors)
        return (torch.cat([own[None, examples], head.rebuilt(examples, torch.cat([all_, none]))])[steps],)

    true, made, empty = run.scores(view, 3, points, "reconstruction")[0].double()
    off, span = float((made - true).square().sum()), float((empty - true).square().sum())
    explained = norm_of(precise(held.vectors(own)).flatten(0, -2), precise(head.coefficients).flatten(0, -2), precise(head.vectors))[1]
    return Reconstruction(
        explained,
        1 - off / span if span else float("nan"),
        _same(view, points, run) if isinstance(view.pick, Same | PerExample | Sum | Mixed) else float("nan"),
        view.size,
    )


def _same(view: InputView, points: Any, run: Run) -> float:
    classes = run.scores(replace(view, pick=_Predicted()), 2, points, "predictions")[0]
    return float((classes[0] == classes[1]).double().mean()) if bool(classes.isfinite().all()) else float("nan")
