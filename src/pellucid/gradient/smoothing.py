"""Averages of another method over noisy copies of the input: SmoothGrad, its square, VarGrad."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Run, elsewhere
from ..errors import OptionError
from ..explanation import Found, Pooling
from ..inputs import Tensors, accurate, differentiable
from ..memory import CPU_BUDGET, bytes_of
from ..seeds import generator, normal, resolve_seed, spread_of
from ..view import View, stacked

__all__ = ["KINDS", "Attribute", "noise_tunnel", "noisy", "scales_of", "smooth"]

Attribute = Callable[[Tensors], Tensors]

# First and second moment of the attributions under noise -> what is reported.
KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "smoothgrad": lambda mean, square: mean,
    "smoothgrad_sq": lambda mean, square: square,
    "vargrad": lambda mean, square: (square - mean**2).clamp_min(0),
}


def noise_tunnel(
    view: View,
    method: Callable[[View, Run], Found],
    samples: int = 5,
    stdev: float | Sequence[float] = 1.0,
    kind: str = "smoothgrad",
    relative: bool = False,
    seed: int | None = None,
    run: Run | None = None,
) -> Found:
    """Another method's attributions under Gaussian noise: their mean, mean square, or variance.

    Sources: SmoothGrad, Smilkov et al. 2017, section 3; its square, Hooker et al. 2019; VarGrad, Adebayo et al. 2018.

    Args:
        method: what is averaged, such as `lambda view, run: gradient(view, run)`.
        samples: noisy copies of each example.
        stdev: of the noise, in the features' units, one for all inputs or one for each.
        relative: the noise is in parts of each example's range (max - min), as in Smilkov et al.
        seed: the same seed gives the same noise; all examples of a batch get the same noise.

    >>> import torch; from pellucid.view import at_input; from pellucid.gradient import gradient
    >>> view = at_input(torch.nn.Linear(3, 2), torch.ones(4, 3), target=1)
    >>> found = noise_tunnel(view, gradient, samples=4, seed=0)
    >>> torch.allclose(found.values[0], gradient(view).values[0])
    True
    """
    run, seed = run or Run(), resolve_seed(seed)
    features = differentiable(view.features)
    ends = run.settle(view, elsewhere(features))
    scales = scales_of(features, stdev, relative)

    pooling: list[Pooling] = []

    def attribute(points: Tensors) -> Tensors:
        found = method(ends.view.moved(stacked(points)), run)
        pooling[:] = [found.pooling if kind == "smoothgrad" else "sum"]  # squares of a gradient add up to its squared norm
        return tuple(v.unflatten(1, (len(points[0]), -1)) for v in found.values)

    values, spread = smooth(attribute, features, scales, samples, kind, seed, at_once=bool(ends.view.at_once))
    return Found(values, ends.here, spread=spread, seed=seed, pooling=pooling[0])


def scales_of(features: Tensors, stdev: float | Sequence[float], relative: bool) -> Tensors:
    """The noise's standard deviation for each input: a number, or one per example where it is relative."""
    each = tuple(stdev) if isinstance(stdev, Sequence) else (float(stdev),) * len(features)
    if len(each) != len(features) or not all(0 <= s < math.inf for s in each):
        raise OptionError(f"stdev is {stdev!r}; give one number >= 0, or one for each of the {len(features)} inputs")
    return tuple(
        torch.as_tensor(s, dtype=f.dtype, device=f.device) * (_range(f) if relative else 1) for s, f in zip(each, features, strict=True)
    )


def _range(feature: Tensor) -> Tensor:
    flat = feature.reshape(len(feature), -1)
    return (flat.amax(1) - flat.amin(1)).view(-1, *(1,) * (feature.dim() - 1))


def noisy(features: Tensors, scales: Tensors, samples: range, seed: int) -> Tensors:
    """`(samples, B, ...)`: the features with each sample's noise."""
    sources = [generator(seed, sample) for sample in samples]
    draws = [tuple(normal(f, source) for f in features) for source in sources]
    return tuple(f + s * torch.stack(noise) for f, s, noise in zip(features, scales, zip(*draws, strict=True), strict=True))


def smooth(
    attribute: Attribute,
    features: Tensors,
    scales: Tensors,
    samples: int,
    kind: str,
    seed: int,
    at_once: bool = True,
    at_most: int | None = None,
) -> tuple[Tensors, Tensor | None]:
    """Moments of `attribute` over noisy copies `(samples, B, ...)` -> values `(T, B, ...)` and their spread `(T, B)`."""
    if kind not in KINDS:
        raise OptionError(f"unknown kind of noise tunnel {kind!r}; the kinds are {', '.join(KINDS)}")
    if samples < 1:
        raise OptionError(f"samples is {samples}; at least one noisy copy is needed")
    halves = _Moments(), _Moments()
    copies = _copies(features, samples, at_most) if at_once else 1
    for start in range(0, samples, copies):
        chosen = range(start, min(start + copies, samples))
        found = attribute(noisy(features, scales, chosen, seed))
        for parity, half in enumerate(halves):
            half.add(tuple(v[:, (start + parity) % 2 :: 2] for v in found))
    values = tuple(v.to(f.dtype) for v, f in zip((halves[0] + halves[1]).of(kind), features, strict=True))
    return values, spread_of(halves[0].of(kind), halves[1].of(kind), values) if samples > 1 else None


def _copies(features: Tensors, samples: int, at_most: int | None) -> int:
    """Noisy copies made at once: the method that is averaged limits its own calls, this limits the copies themselves."""
    room = max(1, CPU_BUDGET // (4 * bytes_of(features)))
    return min(samples, room if at_most is None else max(1, at_most))


@dataclass
class _Moments:
    """Count, sum and sum of squares of attributions `(T, samples, B, ...)`."""

    count: int = 0
    sums: Tensors = ()
    squares: Tensors = ()

    def add(self, values: Tensors) -> None:
        # A variance is a small difference of large squares.
        wide = tuple(v.to(accurate(v.dtype)) if v.device.type == "mps" else v.double() for v in values)
        mine = _Moments(values[0].shape[1], tuple(v.sum(1) for v in wide), tuple((v * v).sum(1) for v in wide))
        total = self + mine if self.count else mine
        self.count, self.sums, self.squares = total.count, total.sums, total.squares

    def __add__(self, other: _Moments) -> _Moments:
        if not other.count:
            return self
        sums, squares = zip(self.sums, other.sums, strict=True), zip(self.squares, other.squares, strict=True)
        return _Moments(self.count + other.count, tuple(a + b for a, b in sums), tuple(a + b for a, b in squares))

    def of(self, kind: str) -> Tensors:
        return tuple(KINDS[kind](s / self.count, q / self.count) for s, q in zip(self.sums, self.squares, strict=True))
