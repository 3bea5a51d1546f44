"""Relative stability: the relative change of an explanation for what changes of the input, the outputs, or inside the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..batch import Run
from ..errors import InputError, OptionError
from ..inputs import Tensors, joined
from ..inside import Layer, of_neuron
from ..picks import Every
from ..view import InputView, View
from .stability import Draw, Explained, Near, largest, near

__all__ = ["relative_input_stability", "relative_output_stability", "relative_representation_stability"]

# points, all outputs `(B, 1, outputs)` here and `(B, points, outputs)` there -> `(B, points, numbers)`: by what is compared
Measured = Callable[[Near, Tensor, Tensor], Tensor]


def relative_input_stability(
    view: InputView,
    explained: Explained,
    radius: float | Draw = 0.02,
    samples: int = 10,
    seed: int | None = None,
    together: int | None = None,
    norm: float = 2,
    smallest: float = 1e-6,
    run: Run | None = None,
) -> Tensor:
    """`(B,)` float64: the largest relative change of an explanation for the relative change of its input; low is stable.

    `max |(e(x) - e(x')) / e(x)| / max(|(x - x') / x|, smallest)`, divided number by number, over the points that the model
    gives the same class as x; NaN where none is. What is divided by has at least the magnitude `smallest`, which decides
    about explanations and inputs with zeros in them.

    Source: Agarwal et al. 2022 (Rethinking stability), equation 2.

    Args:
        view: of the model's inputs. Its target does not matter: the class is the largest of all outputs. A model with one
            output has no classes, and every point counts.
        explained, radius, samples, seed, together, norm: as of `max_sensitivity`.
        smallest: the least magnitude of a denominator.
        run: the limits of memory, and what it costs.

    Raises:
        InputError: attributions of another number of points, or not finite; a model with one answer for a whole batch.
        OptionError: numbers that are not positive.

    >>> from pellucid import at_input
    >>> view = at_input(torch.nn.Linear(3, 2), torch.ones(1, 3))
    >>> relative_input_stability(view, lambda points, count: points[0] * 2, seed=0).round(decimals=4).item()
    1.0
    """
    features = view.features

    def measured(part: Near, here: Tensor, there: Tensor) -> Tensor:
        return _parts(part.distances(features), joined(features, 1).double()[:, None], smallest)

    return _relative(view, explained, measured, radius, samples, seed, together, norm, smallest, run)


def relative_output_stability(
    view: InputView,
    explained: Explained,
    radius: float | Draw = 0.02,
    samples: int = 10,
    seed: int | None = None,
    together: int | None = None,
    norm: float = 2,
    smallest: float = 1e-6,
    run: Run | None = None,
) -> Tensor:
    """`(B,)` float64: the largest relative change of an explanation for the change of all outputs (logits); low is stable.

    `max |(e(x) - e(x')) / e(x)| / max(|h(x) - h(x')|, smallest)`: the outputs' change is not relative. Source: Agarwal et
    al. 2022, equation 5. Arguments, errors and which points count are as of `relative_input_stability`.

    >>> from pellucid import at_input
    >>> view = at_input(torch.nn.Linear(3, 2), torch.ones(1, 3))
    >>> relative_output_stability(view, lambda points, count: torch.ones_like(points[0])).item()
    0.0
    """
    return _relative(view, explained, lambda _, here, there: there - here, radius, samples, seed, together, norm, smallest, run)


def relative_representation_stability(
    view: InputView,
    explained: Explained,
    layer: Layer,
    radius: float | Draw = 0.02,
    samples: int = 10,
    seed: int | None = None,
    together: int | None = None,
    norm: float = 2,
    smallest: float = 1e-6,
    run: Run | None = None,
) -> Tensor:
    """`(B,)` float64: the largest relative change of an explanation for the relative change of what a layer holds; low is stable.

    `max |(e(x) - e(x')) / e(x)| / max(|(L(x) - L(x')) / L(x)|, smallest)`. Source: Agarwal et al. 2022, equation 3.
    Arguments, errors and which points count are as of `relative_input_stability`.

    Args:
        layer: a module or its name; of several tensors it returns, the first.

    >>> from pellucid import at_input
    >>> view = at_input(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)), torch.ones(1, 3))
    >>> relative_representation_stability(view, lambda points, count: torch.ones_like(points[0]), "0").item()
    0.0
    """
    run = run or Run()
    held = run.ready(replace(of_neuron(view, layer, 0), pick=Every()), samples)
    own = _every(run, held, tuple(f[:, None] for f in view.features))

    def measured(part: Near, here: Tensor, there: Tensor) -> Tensor:
        return _parts(_every(run, held, part.points) - own, own, smallest)

    return _relative(view, explained, measured, radius, samples, seed, together, norm, smallest, run)


def _relative(
    view: InputView,
    explained: Explained,
    measured: Measured,
    radius: float | Draw,
    samples: int,
    seed: int | None,
    together: int | None,
    norm: float,
    smallest: float,
    run: Run | None,
) -> Tensor:
    if not smallest > 0:
        raise OptionError(f"smallest is {smallest}; what is divided by must be above 0")
    run, found = run or Run(), []
    outputs = run.ready(replace(view, pick=Every()), samples)
    here = _every(run, outputs, tuple(f[:, None] for f in view.features))
    for part in near(explained, view.features, radius, samples, seed, together):
        there = _every(run, outputs, part.points)
        change = _parts(part.others - part.own, part.own, smallest).norm(norm, 2)
        least = measured(part, here, there).norm(norm, 2).clamp(min=smallest)
        found.append(torch.where(there.argmax(2) == here.argmax(2), change / least, torch.nan))
    return largest(found)


def _every(run: Run, view: View, points: Tensors) -> Tensor:
    """`(B, points, outputs)` float64: all outputs at points `(B, points, ...)`."""
    found = run.scores(view, points[0].shape[1], lambda examples, steps: tuple(p[examples, steps].transpose(0, 1) for p in points))
    if found.shape[2] != view.size:
        raise InputError(f"the model gives one answer for the whole batch of {view.size}; give one example at a time")
    return found.double().permute(2, 1, 0)


def _parts(change: Tensor, of: Tensor, smallest: float) -> Tensor:
    """A change in parts of what changed, number by number."""
    return change / of.abs().clamp(min=smallest)
