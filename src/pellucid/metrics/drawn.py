"""Metrics over perturbations that a function draws: infidelity to any of them, and how far an explanation moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..batch import Ends, Run
from ..errors import InputError, OptionError
from ..inputs import Tensors, joined
from ..view import View
from .infidelity import Responses
from .steps import places_of

__all__ = ["check_counts", "counts", "infidelity_to", "sensitivity"]

# how many -> per input `(B, how many, ...)`: by what each example is moved, and where it then is
Draw = Callable[[int], tuple[Tensors, Tensors]]


def infidelity_to(
    view: View,
    attribution: Tensor | Sequence[Tensor],
    draw: Draw,
    samples: int = 10,
    together: int | None = None,
    scaled: bool = False,
    run: Run | None = None,
) -> Tensor:
    """`(B,)`: the mean over perturbations of `(I . attribution - (f(x) - f(x')))^2`.

    Source: Yeh et al. 2019, definition 2.1; `scaled`, with the factor of attributions that makes it least, their section 2.3.

    Args:
        draw: perturbations `I` and points `x'`, so many for each example.
        samples: how many in all; together: how many are drawn at a time.

    Raises:
        InputError: attributions, perturbations or points of another shape. OptionError: numbers that are not positive.

    >>> from pellucid import at_input
    >>> weights = torch.tensor([1.0, -2.0])
    >>> view = at_input(lambda x: x @ weights, torch.ones(1, 2))
    >>> def draw(count):
    ...     moved = torch.arange(2.0 * count).view(1, count, 2)
    ...     return (moved,), (1 - moved,)
    >>> infidelity_to(view, weights[None], draw, 3)
    tensor([0.])
    """
    values, run = places_of(view.features, attribution, "attribution"), run or Run()
    ends: Ends | None = None
    said, changes = [], []
    check_counts(samples, together)
    for count in counts(samples, together):
        moves, points = draw(count)
        _check(view, moves, points, count)
        if ends is None:
            ends, found = _first(view, points, count, run)
        else:
            found = run.scores(ends.view, count, _at(points), "infidelity")
        changes.append((ends.here[0] - found[0]).double().expand(count, view.size))
        said.append(sum((_products(m, v) for m, v in zip(moves, values, strict=True)), torch.zeros(())).T)
    assert ends is not None  # there is at least one sample
    here = ends.here[0]
    return Responses(torch.cat(changes).T, torch.cat(said).T.to(here.device), ()).infidelity(scaled).to(here.dtype)


def _first(view: View, points: Tensors, count: int, run: Run) -> tuple[Ends, Tensor]:
    """Scores `(T, count, B)` of the points; the first of them shows how examples may share a call."""
    one, others = tuple(p[:, 0] for p in points), tuple(p[:, 1:] for p in points)
    if count == 1:
        ends = run.settle(view, one)
        return ends, ends.there[:, None]
    ends, found = run.contrast(view, one, count - 1, _at(others), "infidelity")
    return ends, torch.cat([ends.there[:, None], found], 1)


def _products(moves: Tensor, values: Tensor) -> Tensor:
    """`(B, samples)`: perturbations times attributions, in double precision."""
    rows = values.expand(len(moves), *moves.shape[2:]).flatten(1).double()
    return torch.bmm(moves.flatten(2).double(), rows[:, :, None])[:, :, 0]


def sensitivity(
    explained: Callable[[Tensors, int], Tensors],
    features: Tensors,
    draw: Callable[[int], Tensors],
    samples: int = 10,
    together: int | None = None,
    norm: float = 2,
) -> Tensor:
    """`(B, samples)`: how far an explanation moves when its input does, in parts of its own length.

    `|explanation(x') - explanation(x)| / |explanation(x)|`; its largest is the maximum sensitivity.
    Source: Yeh et al. 2019, definition 3.1.

    Args:
        explained: points, every example so many times in a row, and that number -> attributions of the points.
        features: per input `(B, ...)`.
        draw: points around the features, per input `(B, how many, ...)`.
        norm: of the attributions of all inputs together.

    >>> sensitivity(lambda points, count: (points[0] * 2,), (torch.ones(1, 4),), lambda count: (torch.full((1, count, 4), 1.5),), 3)
    tensor([[0.5000, 0.5000, 0.5000]])
    """
    found, own, length = [], None, None
    check_counts(samples, together)
    for count in counts(samples + 1, together):
        # The features go along with the first points: one call fewer, which small models feel.
        points = draw(count) if own is not None else _with(features, draw, count)
        rows = joined(explained(tuple(p.flatten(0, 1) for p in points), count), 1).unflatten(0, (len(features[0]), count))
        if own is None or length is None:
            own, rows = rows[:, :1], rows[:, 1:]
            length = own.norm(norm, 2)
            length = torch.where(length == 0, 1.0, length)  # nothing has no length of its own
        found.append((rows - own).norm(norm, 2) / length)
    return torch.cat(found, 1)


def _with(features: Tensors, draw: Callable[[int], Tensors], count: int) -> Tensors:
    own = tuple(f[:, None] for f in features)
    return own if count == 1 else tuple(torch.cat(both, 1) for both in zip(own, draw(count - 1), strict=True))


def check_counts(samples: int, together: int | None) -> None:
    """Refuse numbers that are not positive.

    Raises:
        OptionError: they are not.
    """
    if samples < 1 or (together is not None and together < 1):
        raise OptionError(f"{samples} samples, {together} at a time; both must be at least 1")


def counts(samples: int, together: int | None) -> Iterator[int]:
    """How many of the samples are taken at each time."""
    step = samples if together is None else min(together, samples)
    for start in range(0, samples, step):
        yield min(step, samples - start)


def _at(points: Tensors) -> Callable[[slice, slice], Tensors]:
    return lambda examples, steps: tuple(p[examples, steps].transpose(0, 1) for p in points)


def _check(view: View, moves: Tensors, points: Tensors, count: int) -> None:
    expected = [(len(f), count, *f.shape[1:]) for f in view.features]
    for what, given in (("perturbations", moves), ("perturbed inputs", points)):
        if [tuple(g.shape) for g in given] != expected:
            raise InputError(f"{what} have the shapes {[tuple(g.shape) for g in given]}; they must be {expected}: {count} for each example")
