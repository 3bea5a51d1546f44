"""Stability: how much an explanation changes where its input hardly does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ..errors import InputError, OptionError
from ..inputs import Tensors, as_tensors, joined
from ..seeds import generator, resolve_seed
from .drawn import check_counts, counts, sensitivity

__all__ = [
    "Draw",
    "Explained",
    "Near",
    "around",
    "average_sensitivity",
    "largest",
    "local_lipschitz",
    "max_sensitivity",
    "near",
    "noisy",
]

# points, every example so many times in a row, and that number -> attributions of the points
Explained = Callable[[Tensors, int], Any]
# how many -> points near the features, per input `(B, how many, ...)`
Draw = Callable[[int], Tensors]


def around(features: Tensor | Tensors, radius: float = 0.02, seed: int | None = None) -> Draw:
    """Draws points around the features: every number moved by up to the radius, uniformly (a ball of the maximum norm).

    All examples are moved alike, whatever the batch and however many points are drawn at a time; the next call goes on
    where the last one ended.

    Args:
        features: `(B, ...)`, or several such.
        radius: in units of the features.
        seed: of the noise; None: from torch's random state, which is read and not moved.

    Raises:
        InputError: features that are no floating point numbers. OptionError: a radius that is not positive.

    >>> draw = around(torch.zeros(2, 3), 0.5, seed=0)
    >>> (points,) = draw(4)
    >>> points.shape, bool(points.abs().amax() <= 0.5), torch.equal(points[0], points[1])
    (torch.Size([2, 4, 3]), True, True)
    """
    given = as_tensors(features)
    for tensor in given:
        if not tensor.is_floating_point():
            raise InputError(f"features are {tensor.dtype}, which noise cannot move a little; give a function that draws points instead")
    if not 0 < radius < float("inf"):
        raise OptionError(f"radius is {radius}; give a positive number, in units of the features")
    source = generator(resolve_seed(seed), 0)
    return lambda count: noisy(given, radius, count, source)


def noisy(features: Tensors, radius: float, count: int, source: Generator) -> Tensors:
    """Per input `(B, count, ...)`: uniform noise of each sample's own, the same for all examples."""
    # Sample by sample through all inputs, so that drawing some at a time gives what drawing all at once does.
    rows = torch.rand(count, sum(f[0].numel() for f in features), generator=source).mul_(2).sub_(1).mul_(radius)
    pieces = rows.split([f[0].numel() for f in features], 1)
    return tuple(f[:, None] + p.view(count, *f.shape[1:]).to(f) for f, p in zip(features, pieces, strict=True))


def max_sensitivity(
    explained: Explained,
    features: Tensor | Tensors,
    radius: float | Draw = 0.02,
    samples: int = 10,
    seed: int | None = None,
    together: int | None = None,
    norm: float = 2,
) -> Tensor:
    """`(B,)` float64: the most that an explanation moves at points around its input, in parts of its own length.

    `max |explanation(x') - explanation(x)| / |explanation(x)|`; 0 is stable. An explanation that is zero has no length:
    then it is how far the others are from zero. More samples can only raise it; so does a method that draws at random, unless
    its seed is fixed.

    Source: Yeh et al. 2019, definition 3.1 (there without the division, which makes methods of different units comparable).

    Args:
        explained: `(points, count)`, with points per input `(B * count, ...)`, every example `count` times in a row -> their
            attributions, a tensor or several `(B * count, ...)`.
        features: `(B, ...)`, or several such.
        radius: of the noise of `around`; or a function of your own that draws points: how many -> per input `(B, how many, ...)`.
        samples: how many points.
        seed: of the noise.
        together: how many points of each example are explained at a time; None: all.
        norm: of the attributions of all inputs together.

    Raises:
        InputError: attributions of another number of points, or not finite. OptionError: numbers that are not positive.

    >>> x = torch.tensor([[1.0, 2.0]])
    >>> bool(max_sensitivity(lambda points, count: points[0] * 3, x, radius=0.1, seed=0) < 0.1)
    True
    """
    return _movements(explained, features, radius, samples, seed, together, norm).amax(1)


def average_sensitivity(
    explained: Explained,
    features: Tensor | Tensors,
    radius: float | Draw = 0.02,
    samples: int = 10,
    seed: int | None = None,
    together: int | None = None,
    norm: float = 2,
) -> Tensor:
    """`(B,)` float64: how far an explanation moves on average at points around its input, in parts of its own length.

    Source: Bhatt et al. 2020, definition 2 (average sensitivity, here with uniform noise). Arguments, errors and the
    explanation that is zero are as of `max_sensitivity`.

    >>> x = torch.tensor([[1.0, 2.0]])
    >>> average_sensitivity(lambda points, count: torch.ones_like(points[0]), x).item()
    0.0
    """
    return _movements(explained, features, radius, samples, seed, together, norm).mean(1)


def _movements(
    explained: Explained, features: Any, radius: float | Draw, samples: int, seed: int | None, together: int | None, norm: float
) -> Tensor:
    given = as_tensors(features)
    return sensitivity(lambda points, count: (_rows(explained, points, count),), given, _draw(given, radius, seed), samples, together, norm)


def _draw(features: Tensors, radius: float | Draw, seed: int | None) -> Draw:
    return radius if callable(radius) else around(features, radius, seed)


def _rows(explained: Explained, points: Tensors, count: int) -> Tensor:
    """`(B * count, numbers)` float64: what `explained` says about the points."""
    found = as_tensors(explained(points, count), "what explained() returned")
    if len(found[0]) != len(points[0]):
        raise InputError(
            f"explained() returned attributions of {len(found[0])} points for {len(points[0])}: every example came {count} times in a row, "
            "so targets and other arguments must too: target.repeat_interleave(count)"
        )
    rows = joined(found, 1).double()
    if not bool(rows.isfinite().all()):
        raise InputError("explained() returned attributions that are infinite; how far they move has no number")
    return rows


class Near(NamedTuple):
    """Some of the points, per input `(B, points, ...)`, and the attributions `(B, 1, numbers)` here and `(B, points, numbers)` there."""

    points: Tensors
    own: Tensor
    others: Tensor

    def distances(self, features: Tensors) -> Tensor:
        """`(B, points, numbers)`: by how much the features differ."""
        return joined(self.points, 2).double() - joined(features, 1).double()[:, None]


def near(
    explained: Explained, features: Tensors, radius: float | Draw, samples: int, seed: int | None, together: int | None
) -> Iterator[Near]:
    """The points, so many of each example at a time, and what is said about them.

    Raises:
        InputError: attributions or points of other shapes, or not finite. OptionError: numbers that are not positive.
    """
    check_counts(samples, together)
    draw, own = _draw(features, radius, seed), _rows(explained, features, 1)
    for count in counts(samples, together):
        points = draw(count)
        expected = [(len(f), count, *f.shape[1:]) for f in features]
        if [tuple(p.shape) for p in points] != expected:
            raise InputError(f"drawn points have the shapes {[tuple(p.shape) for p in points]}; they must be {expected}")
        others = _rows(explained, tuple(p.flatten(0, 1) for p in points), count)
        yield Near(points, own[:, None], others.unflatten(0, (len(own), count)))


def largest(parts: list[Tensor]) -> Tensor:
    """`(B,)`: of what is not NaN; NaN where everything is."""
    every = torch.cat(parts, 1)
    return torch.where(every.isnan().all(1), torch.nan, every.nan_to_num(-torch.inf, torch.inf).amax(1))


def local_lipschitz(
    explained: Explained,
    features: Tensor | Tensors,
    radius: float | Draw = 0.02,
    samples: int = 10,
    seed: int | None = None,
    together: int | None = None,
    norm: float = 2,
) -> Tensor:
    """`(B,)` float64: the most that an explanation moves for each unit that its input does: `max |e(x') - e(x)| / |x' - x|`.

    The maximum over the points that were drawn, so at most the constant itself. Points where the input did not move do not
    count; NaN where none did. The units are those of attributions over those of features.

    Source: Alvarez-Melis and Jaakkola 2018 (On the robustness of interpretability methods), equation 2. Arguments and errors
    are as of `max_sensitivity`.

    >>> local_lipschitz(lambda points, count: points[0] * 3, torch.ones(1, 4), seed=0).round(decimals=4).item()
    3.0
    """
    given, found = as_tensors(features), []
    for part in near(explained, given, radius, samples, seed, together):
        moved = part.distances(given).norm(norm, 2)
        found.append(torch.where(moved > 0, (part.others - part.own).norm(norm, 2) / torch.where(moved > 0, moved, 1.0), torch.nan))
    return largest(found)
