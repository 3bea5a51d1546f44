"""Integrated gradients: the gradient averaged along the straight path from a baseline, with steps or to a tolerance."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..batch import Ends, Part, Points, Run
from ..errors import OptionError
from ..explanation import Found
from ..inputs import Tensors, accurate, differentiable, joined
from ..lean import shaped
from ..line import Line
from ..view import View
from .adaptive import MOST, Answer, Evaluate, blocks, integrate
from .quadrature import rule

__all__ = ["integrated_gradients"]

# Bytes that the gradients at all nodes of a path may take.
ROOM = 256 * 2**20


def integrated_gradients(
    view: View,
    baselines: Tensors,
    steps: int | None = None,
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
        steps: gradients per example, 50 by default; with a tolerance, at most so many, 65 by default.
        rule_name: one of `pellucid.gradient.quadrature.RULES`; without effect if there is a tolerance.
        tolerance: add steps, for each example as many as it needs, until both the completeness gap and the change between
            nested rules are below this part of the attribution; `notes` tells `steps` and the estimated `error`.
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
    deltas = tuple(x - b for x, b in zip(view.features, baselines, strict=True))
    if tolerance is None:
        nodes, weights = rule(rule_name, 50 if steps is None else steps)
        ends = run.settle(view, baselines, len(nodes))
        means, notes = _mean_gradient(ends, baselines, deltas, nodes, weights, run), dict[str, Tensor]()
    else:
        ends = run.settle(view, baselines, 9)
        means, notes = _mean_to_tolerance(ends, baselines, deltas, tolerance, MOST if steps is None else steps, run)
    values = tuple(m * d.to(m) for m, d in zip(means, deltas, strict=True)) if multiply else means
    values = tuple(v.to(x.dtype) for v, x in zip(values, view.features, strict=True))
    return Found(values, ends.here, ends.there, baselines, law="completeness" if multiply else "", notes=notes)


def _mean_to_tolerance(
    ends: Ends, starts: Tensors, deltas: Tensors, tolerance: float, most: int, run: Run
) -> tuple[Tensors, dict[str, Tensor]]:
    """The mean gradient `(T, B, ...)` of each target, to a tolerance; and the steps and the error `(T, B)`."""
    if not 0 < tolerance < 1:
        raise OptionError(f"tolerance is {tolerance}; it is a part of the attribution: give a number between 0 and 1, such as 0.01")
    if most < 5:
        raise OptionError(f"steps is {most}; to a tolerance at least 5 are needed")
    if ends.here.shape[1] != ends.view.size:
        raise OptionError("the model gives one score for the whole batch, and a tolerance is judged by example: use steps instead")
    found = [_of_target(view, starts, deltas, tolerance, most, run) for view in ends.view.targets()]
    sizes = [d[0].numel() for d in deltas]
    means = torch.stack([answer.mean for answer in found]).split(sizes, dim=2)
    notes = {"steps": torch.stack([a.steps for a in found]), "error": torch.stack([a.error for a in found])}
    notes["tolerance"] = torch.full_like(notes["error"], tolerance)
    return tuple(m.reshape(*m.shape[:2], *d.shape[1:]) for m, d in zip(means, deltas, strict=True)), notes


def _of_target(view: View, starts: Tensors, deltas: Tensors, tolerance: float, most: int, run: Run) -> Answer:
    flat = joined(deltas, 1).double()  # squares of what is tiny or huge stay numbers
    eps = torch.finfo(accurate(deltas[0].dtype)).eps

    def evaluate_from(first: int) -> Evaluate:
        def evaluate(places: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            chosen = (rows + first).tolist()
            some = view if len(chosen) == view.size else view.some(chosen)
            picked = (tuple(t[chosen] for t in tensors) for tensors in (starts, deltas))
            values, gradients = torch.empty_like(places), places.new_empty(*places.shape, flat.shape[1])

            def fold(part: Part) -> None:
                values[part.steps, part.examples] = part.scores[0].to(values)
                gradients[part.steps, part.examples] = joined(part.gradients, 3)[0].to(gradients)

            run.gradients(some, len(places), line(next(picked), next(picked), places), fold, "integrated gradients")
            return values, gradients

        return evaluate

    whole = view.at_once is not True
    parts = [slice(0, view.size)] if whole else list(blocks(flat, most, ROOM))
    answers = [integrate(evaluate_from(part.start), flat[part], tolerance, most, whole, eps) for part in parts]
    return Answer(*(torch.cat([getattr(a, name) for a in answers]) for name in ("mean", "steps", "error")))


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
    """The points `start + node * delta`, with nodes `(steps,)` or one for each example, `(steps, B)`."""
    each = nodes if nodes.dim() == 2 else nodes[:, None]

    rooms: dict[tuple[int, int], Tensors] = {}

    def points(examples: slice, steps: slice) -> Tensors:
        here = each[steps] if nodes.dim() == 1 else each[steps, examples]
        some = [(s[examples], d[examples]) for s, d in zip(starts, deltas, strict=True)]
        size = len(here), len(some[0][0])
        if size not in rooms:  # the same memory for every call of a size: fresh pages cost more than the arithmetic
            rooms[size] = tuple(s.new_empty(size[0], *s.shape) for s, _ in some)
        by_node = (here.to(d).view(*here.shape, *(1,) * (d.dim() - 1)) for _, d in some)
        return tuple(torch.addcmul(s, node, d, out=room) for (s, d), node, room in zip(some, by_node, rooms[size], strict=True))

    return points
