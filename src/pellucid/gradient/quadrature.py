"""Rules of integration on [0, 1]: nodes and weights by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError

__all__ = ["RULES", "rule"]

Nodes = tuple["np.ndarray[tuple[int], np.dtype[np.float64]]", "np.ndarray[tuple[int], np.dtype[np.float64]]"]


def _gauss_legendre(steps: int) -> Nodes:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (1 + nodes) / 2, weights / 2


def _riemann(offset: float) -> Callable[[int], Nodes]:
    return lambda steps: ((np.arange(steps) + offset) / steps, np.full(steps, 1 / steps))


def _trapezoid(steps: int) -> Nodes:
    if steps == 1:
        raise OptionError("riemann_trapezoid needs both ends of the path: steps must be at least 2, not 1")
    weights = np.full(steps, 1 / (steps - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, steps), weights


RULES: dict[str, Callable[[int], Nodes]] = {
    "gausslegendre": _gauss_legendre,
    "riemann_left": _riemann(0.0),
    "riemann_middle": _riemann(0.5),
    "riemann_right": _riemann(1.0),
    "riemann_trapezoid": _trapezoid,
    "inclusive": lambda steps: (np.linspace(0, 1, steps), np.full(steps, 1 / steps)),  # InterpretDL's: both ends at full weight
}


@cache
def rule(name: str, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of a rule, float64; the weights add up to one.

    Raises:
        OptionError: an unknown rule, or fewer steps than it needs.
    """
    if name not in RULES:
        raise OptionError(f"unknown quadrature {name!r}; the rules are {', '.join(RULES)}")
    if steps < 1:
        raise OptionError(f"steps is {steps}; a path needs at least one step")
    nodes, weights = RULES[name](steps)
    return torch.from_numpy(nodes), torch.from_numpy(weights)
