"""Integrated gradients: the gradient averaged along the straight path from a baseline, with steps or to a tolerance."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch import Ends, Part, Points, Run
from ..explanation import Found, accurate
from ..inputs import Tensors, differentiable
from ..view import View
from .quadrature import rule

__all__ = ["integrated_gradients"]


def integrated_gradients(
    view: View,
    baselines: Tensors,
    steps: int = 50,
    rule_name: str = "gausslegendre",
    tolerance: float | None = None,
    multiply: bool = True,
    run: Run | None = None,
) -> Found:
    """`(x - b) * mean of dscore/dx along b + a (x - b)`, a from 0 to 1.

    Law (completeness): the attributions of an example add up to `score(x) - score(b)`, up to the error of the quadrature.
    Source: Sundararajan, Taly, Yan 2017, equation 1.

    Args:
        view: what is attributed to what.
        baselines: of the features' shapes.
        steps: gradients per example.
        rule_name: one of `pellucid.gradient.quadrature.RULES`.
        multiply: False leaves out the factor `(x - b)`.

    >>> import torch; from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(4, 3)
    >>> found = integrated_gradients(at_input(net, x, target=1), (torch.zeros_like(x),))
    >>> bool(found.gap.abs().max() < 1e-4)
    True
    """
    run = run or Run()
    differentiable(view.features)
    nodes, weights = rule(rule_name, steps)
    ends = run.settle(view, baselines)
    deltas = tuple(x - b for x, b in zip(view.features, baselines, strict=True))
    means = _mean_gradient(ends.view, baselines, deltas, nodes, weights, run)
    return _found(ends, baselines, deltas if multiply else None, means)


def _found(ends: Ends, baselines: Tensors, deltas: Tensors | None, means: Tensors) -> Found:
    values = means if deltas is None else tuple(m * d.to(m) for m, d in zip(means, deltas, strict=True))
    values = tuple(v.to(x.dtype) for v, x in zip(values, ends.view.features, strict=True))
    return Found(values, ends.here, ends.there, baselines, law="" if deltas is None else "completeness")


def _mean_gradient(view: View, starts: Tensors, deltas: Tensors, nodes: Tensor, weights: Tensor, run: Run) -> Tensors:
    """The weighted sum of gradients at `start + node * delta`, in the dtype that sums are kept in."""
    totals: list[Tensor] = []

    def fold(part: Part) -> None:
        if not totals:
            totals.extend(torch.zeros(len(g), *x.shape, dtype=accurate(g.dtype), device=g.device) for g, x in zip(part.gradients, starts, strict=True))
        for total, g in zip(totals, part.gradients, strict=True):
            total[:, part.examples] += torch.tensordot(weights[part.steps].to(total), g.to(total.dtype), dims=([0], [1]))

    run.gradients(view, len(nodes), line(starts, deltas, nodes), fold, "integrated gradients")
    return tuple(totals)


def line(starts: Tensors, deltas: Tensors, nodes: Tensor) -> Points:
    """The points `start + node * delta`."""

    def points(examples: slice, steps: slice) -> Tensors:
        here = nodes[steps]
        return tuple(s[examples] + here.to(d).view(-1, *(1,) * d.dim()) * d[examples] for s, d in zip(starts, deltas, strict=True))

    return points
