"""Balls: how far from an example an attack may go, which way is steepest there, and the bounds of all inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Generator, Tensor

from ..errors import InputError, OptionError
from ..seeds import normal

__all__ = ["BALLS", "Ball", "Bound", "ball_of", "between", "within"]

Bound = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Ball:
    """A norm's ball around each example of a batch; every input of a model has its own.

    Args:
        direction: the unit step along which a loss with gradients `(B, ...)` rises fastest.
        inside: the change `(B, ...)` in the ball of that radius that is nearest to a change.
        draw: for features, a source and which of them are free, `(B, ...)` of ones and zeros: a change, uniform in the unit
            ball; all examples share what is drawn, so that a batch equals its examples one by one.
    """

    direction: Callable[[Tensor], Tensor]
    inside: Callable[[Tensor, float], Tensor]
    draw: Callable[[Tensor, Generator, Tensor], Tensor]


def _cut(change: Tensor, radius: float) -> Tensor:
    return change.clamp(-radius, radius)


def _cube(like: Tensor, source: Generator, free: Tensor) -> Tensor:
    drawn = torch.rand((1, *like.shape[1:]), generator=source).to(like)
    return (2 * drawn - 1) * free


def _unit(gradient: Tensor) -> Tensor:
    """The gradient over its length; zero stays zero."""
    # Over the largest entry first: squares of small gradients vanish in float16.
    finite = gradient.nan_to_num()
    scaled = finite / _each(finite.abs(), lambda rows: rows.amax(1)).clamp_min(torch.finfo(gradient.dtype).tiny)
    unit: Tensor = scaled / _each(scaled, _lengths).clamp_min(1.0)
    return unit


def _shortened(change: Tensor, radius: float) -> Tensor:
    rows: Tensor = torch.renorm(change.reshape(len(change), -1), 2, 0, radius)
    return rows.reshape(change.shape)


def _ball(like: Tensor, source: Generator, free: Tensor) -> Tensor:
    """A direction, times the n-th root of a uniform number for n free features."""
    drawn = normal(like, source) * free
    root = float(torch.rand((), generator=source)) ** (1 / _each(free.float(), lambda rows: rows.sum(1).clamp_min(1)))
    unit: Tensor = drawn / _each(drawn, _lengths).clamp_min(torch.finfo(like.dtype).tiny)
    return unit * root.to(like)


def _lengths(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths


def _each(value: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """A number of each example, `(B, 1, ...)`."""
    found: Tensor = reduce(value.reshape(len(value), -1))
    return found.reshape(-1, *(1,) * (value.dim() - 1))


BALLS = {"Linf": Ball(torch.sign, _cut, _cube), "L2": Ball(_unit, _shortened, _ball)}


def ball_of(norm: str | Ball) -> Ball:
    """The ball of a norm's name.

    Raises:
        OptionError: an unknown norm.
    """
    if isinstance(norm, Ball):
        return norm
    if norm not in BALLS:
        raise OptionError(f"norm is {norm!r}; give one of {', '.join(map(repr, BALLS))}, or a Ball of your own")
    return BALLS[norm]


def within(lower: Any = float("-inf"), upper: Any = float("inf")) -> Bound:
    """The function that puts every value between the bounds, numbers or tensors that fit an input.

    Raises:
        OptionError: a lower bound above the upper one, or what is no number. InputError, once it is used: a tensor that does not fit.

    >>> within(0, 1)(torch.tensor([-0.5, 0.5, 1.5])).tolist()
    [0.0, 0.5, 1.0]
    """
    for value in (lower, upper):
        if not isinstance(value, Real | Tensor):
            raise OptionError(f"a bound is {value!r}; give numbers or tensors, and infinity where there is no bound")
    if not bool((torch.as_tensor(lower).cpu() <= torch.as_tensor(upper).cpu()).all()):
        raise OptionError(f"the lower bound {lower} is not below the upper bound {upper}; nothing lies between them: exchange the two")
    if isinstance(lower, Tensor) or isinstance(upper, Tensor):
        return lambda values: values.clamp(_fitting(lower, values), _fitting(upper, values))
    return lambda values: values.clamp(lower, upper)


def between(bounds: tuple[Any, Any] | Bound) -> Bound:
    """The function that puts every value between the bounds, given as such or as the least and the largest value.

    Raises:
        OptionError: neither.
    """
    if callable(bounds):
        return bounds
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise OptionError(f"bounds is {bounds!r}; give the least and the largest value, such as (0, 1), or a function")
    return within(*bounds)


def _fitting(bound: Any, values: Tensor) -> Tensor:
    found = torch.as_tensor(bound).to(values)
    lead = values.dim() - found.dim()
    if lead < 0 or any(n not in (1, m) for n, m in zip(found.shape, values.shape[lead:], strict=True)):
        raise InputError(f"a bound has shape {tuple(found.shape)}, and its input {tuple(values.shape)}; give a number, or what fits")
    return found
