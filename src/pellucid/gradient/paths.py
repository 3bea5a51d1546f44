"""Integrated gradients: the gradient averaged along the straight path from a baseline, with steps or to a tolerance."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..batch import Ends, Points, Run
from ..explanation import Found, accurate
from ..inputs import Tensors, differentiable
from ..lean import shaped
from ..line import Line
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
    ends = run.settle(view, baselines, steps)
    deltas = tuple(x - b for x, b in zip(view.features, baselines, strict=True))
    means = _mean_gradient(ends, baselines, deltas, nodes, weights, run)
    return _found(ends, baselines, deltas if multiply else None, means)


def _found(ends: Ends, baselines: Tensors, deltas: Tensors | None, means: Tensors) -> Found:
    values = means if deltas is None else tuple(m * d.to(m) for m, d in zip(means, deltas, strict=True))
    values = tuple(v.to(x.dtype) for v, x in zip(values, ends.view.features, strict=True))
    return Found(values, ends.here, ends.there, baselines, law="" if deltas is None else "completeness")


def _mean_gradient(ends: Ends, starts: Tensors, deltas: Tensors, nodes: Tensor, weights: Tensor, run: Run) -> Tensors:
    """`(T, B, ...)`: the weighted sum of gradients at `start + node * delta`, in the dtype that sums are kept in."""
    targets = len(ends.here)
    mean = _Mean(starts, deltas, nodes, weights, run, targets == 1 and ends.view.own_gradient is None)
    run.each(ends.view, len(nodes), line(starts, deltas, nodes), mean.add, lambda part: None, "integrated gradients")
    return mean.finished(targets)


@dataclass(eq=False)
class _Mean:
    """A weighted sum of gradients along straight lines, one line for each block of examples."""

    starts: Tensors
    deltas: Tensors
    nodes: Tensor
    weights: Tensor
    run: Run
    hoist: bool
    lines: dict[tuple[int, int], Line] = field(default_factory=dict)
    totals: list[Tensor] = field(default_factory=list)

    def add(self, block: View, points: Tensors, examples: slice, steps: slice) -> tuple[Tensor, Tensors]:
        """Add the gradients at one call's points; the first affine layers run once for the whole line where they can."""
        weights = self.weights[steps]
        found: tuple[Tensor | None, ...]
        if self.hoist:
            scores, found = self.run.along(block, points, self._line(examples), self.nodes[steps], weights)
        else:
            scores, found = self.run.gradient(block, points)
        for index, gradients in enumerate(found):
            if gradients is not None:
                by_step = gradients.unflatten(1, (len(weights), -1)).to(accurate(gradients.dtype))
                self._gather(index, examples, torch.tensordot(weights.to(by_step), by_step, dims=([0], [1])))
        return scores, ()

    def _line(self, examples: slice) -> Line:
        where = examples.start, examples.stop
        if where not in self.lines:
            some = ((s[examples], d[examples]) for s, d in zip(self.starts, self.deltas, strict=True))
            self.lines[where] = Line(*(shaped(ends) for ends in zip(*some, strict=True)))
        return self.lines[where]

    def _gather(self, index: int, examples: slice, gradient: Tensor) -> None:
        """Add `(T, b, ...)` to the total of a feature tensor."""
        if not self.totals:
            self.totals = [gradient.new_zeros(len(gradient), *s.shape) for s in self.starts]
        self.totals[index][:, examples] += gradient

    def finished(self, targets: int) -> Tensors:
        """The totals `(T, B, ...)`, with what was gathered behind the first affine layers taken back through them."""
        for (start, stop), along in self.lines.items():
            for index, gradient in along.back():
                self._gather(index, slice(start, stop), gradient[None])
        return tuple(self.totals) or tuple(s.new_zeros(targets, *s.shape) for s in self.starts)


def line(starts: Tensors, deltas: Tensors, nodes: Tensor) -> Points:
    """The points `start + node * delta`."""

    def points(examples: slice, steps: slice) -> Tensors:
        here = nodes[steps]
        return tuple(s[examples] + here.to(d).view(-1, *(1,) * d.dim()) * d[examples] for s, d in zip(starts, deltas, strict=True))

    return points
