"""Captum's metrics: infidelity, and the largest sensitivity of an explanation."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..inputs import Tensors, as_tensors, expanded
from ..metrics.drawn import infidelity_to, sensitivity
from ..metrics.stability import noisy
from ..seeds import generator, resolve_seed
from ..view import at_input
from .attr.base import as_tuple

__all__ = ["default_perturb_func", "infidelity", "infidelity_perturb_func_decorator", "sensitivity_max"]


def infidelity_perturb_func_decorator(multiply_by_inputs: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For a function that returns perturbed inputs only: the perturbation is their distance from the inputs.

    Args:
        multiply_by_inputs: of attributions that hold the factor of inputs less baselines, which is divided out.
    """

    def decorated(perturb_func: Callable[..., Any]) -> Callable[..., tuple[Tensors, Tensors]]:
        @functools.wraps(perturb_func)
        def both(inputs: Any, baselines: Any = None) -> tuple[Tensors, Tensors]:
            given, moved = as_tuple(inputs), as_tuple(perturb_func(inputs) if baselines is None else perturb_func(inputs, baselines))
            if not multiply_by_inputs:
                return tuple(x - m for x, m in zip(given, moved, strict=True)), moved
            ends = expanded(given, baselines if baselines is None else as_tuple(baselines))
            parts = zip(given, moved, ends, strict=True)
            return tuple(torch.where(x != b, (x - m) / torch.where(x != b, x - b, 1.0), x - m) for x, m, b in parts), moved

        return both

    return decorated


def infidelity(
    forward_func: Callable[..., Any],
    perturb_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: Any = None,
    additional_forward_args: Any = None,
    target: Any = None,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    normalize: bool = False,
) -> Tensor:
    """`(B,)`: `pellucid.metrics.infidelity_to`; `perturb_func` gets every example several times in a row."""
    view = at_input(forward_func, inputs, target, additional_forward_args)
    given = None if baselines is None else as_tuple(baselines)

    def draw(count: int) -> tuple[Tensors, Tensors]:
        wide = tuple(f.repeat_interleave(count, 0) for f in view.features)
        ends = None if given is None else tuple(_grown(b, len(view.features[0]), count) for b in given)
        arguments = [wide if len(wide) > 1 else wide[0], *([] if ends is None else [ends if len(ends) > 1 else ends[0]])]
        with torch.no_grad():
            found = perturb_func(*arguments)
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise InputError(
                "perturb_func must return (perturbations, perturbed inputs); for one that returns perturbed inputs only there is "
                "infidelity_perturb_func_decorator"
            )
        moves, points = (tuple(p.unflatten(0, (view.size, count)) for p in as_tuple(part)) for part in found)
        return moves, points

    return infidelity_to(
        view, attributions, draw, n_perturb_samples, _together(view.size, n_perturb_samples, max_examples_per_batch), normalize
    )


def default_perturb_func(inputs: Tensor | tuple[Tensor, ...], perturb_radius: float = 0.02) -> tuple[Tensor, ...]:
    """Each number moved by up to the radius, at random (uniform)."""
    return tuple(x + torch.empty(x.shape).uniform_(-perturb_radius, perturb_radius).to(x.device) for x in as_tuple(inputs))


def sensitivity_max(
    explanation_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    perturb_func: Callable[..., Any] = default_perturb_func,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    norm_ord: str | float = "fro",
    max_examples_per_batch: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """`(B,)`: the largest of `pellucid.metrics.sensitivity`; target, baselines, masks and arguments in `kwargs` grow with the points."""
    features = as_tensors(inputs)
    size = len(features[0])
    source = generator(resolve_seed(None), 0)  # torch's random state stays where it is

    def draw(count: int) -> Tensors:
        if perturb_func is default_perturb_func:
            return noisy(features, perturb_radius, count, source)
        wide = tuple(f.repeat_interleave(count, 0) for f in features)
        given = wide if len(wide) > 1 else wide[0]
        several = len(inspect.signature(perturb_func).parameters) > 1
        found = as_tuple(perturb_func(given, perturb_radius) if several else perturb_func(given))
        return tuple(p.unflatten(0, (size, count)) for p in found)

    def explained(points: Tensors, count: int) -> Tensors:
        given = points if isinstance(inputs, tuple) else points[0]
        return tuple(a.detach() for a in as_tuple(explanation_func(given, **_all_grown(kwargs, size, count))))

    norm = 2.0 if norm_ord == "fro" else float(norm_ord)
    together = _together(size, n_perturb_samples, max_examples_per_batch)
    return sensitivity(explained, features, draw, n_perturb_samples, together, norm).amax(1)


def _together(size: int, samples: int, most: int | None) -> int | None:
    if most is None:
        return None
    if not 1 <= most // size <= samples:
        warnings.warn(
            f"max_examples_per_batch is {most}; of {size} examples with {samples} samples each, {size} to {size * samples} can go together",
            stacklevel=3,
        )
    return max(1, min(most // size, samples))


def _grown(value: Any, size: int, count: int) -> Any:
    """A tensor or list with an entry for each example, each several times in a row; anything else as it is."""
    if isinstance(value, Tensor) and value.dim() and len(value) == size:
        return value.repeat_interleave(count, 0)
    if isinstance(value, list) and len(value) == size:
        return [each for each in value for _ in range(count)]
    return value


# Arguments of Captum's `attribute` that have an entry for each example.
GROWING: Sequence[str] = ("target", "baselines", "additional_forward_args", "feature_mask")


def _all_grown(kwargs: Mapping[str, Any], size: int, count: int) -> dict[str, Any]:
    def grown(name: str, value: Any) -> Any:
        if count == 1 or name not in GROWING or (name == "feature_mask" and size == 1):
            return value
        if isinstance(value, tuple) and name != "target":
            return tuple(_grown(each, size, count) for each in value)
        return _grown(value, size, count)

    return {name: grown(name, value) for name, value in kwargs.items()}
