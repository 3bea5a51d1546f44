"""DeepLIFT of what chooses among its elements: maxima, pooling, and conditions."""

from __future__ import annotations

import torch
from torch import Tensor

from .averaged import ratio, slope_along
from .operation import Grads, Op, fitted, sole

__all__ = ["larger", "pooled", "selection", "where"]

LOWER = ("min", "amin", "minimum")


def selection(op: Op, *grads: Tensor) -> Grads:
    """The larger of several: the whole change goes to the element that is the larger of the two maxima.

    If the maximum rises, that is the element chosen here, which rose by at least as much; else that of the reference.
    """
    index, inputs = op.active.index(True), op.at_reference[0]
    x, x0 = op.inputs[index], inputs[index]
    y, y0 = op.output, op.at_reference[1][0]
    # `min` chooses the element of the smaller minimum, for the same reason.
    here = y < y0 if op.name in LOWER else y > y0
    total = torch.zeros_like(x)
    for point, chosen in ((x, here), (x0, ~here)):
        moved = _moved(op, point, (x - x0).nan_to_num(0, 0, 0))
        (found,) = (g for g in op.pull_at(_with(op, point), *_first(op, grads[0] * chosen * ratio(y - y0, moved, 0.0))) if g is not None)
        total = total + found
    return sole(op, total)


def _first(op: Op, grad: Tensor) -> tuple[Tensor, ...]:
    return (grad, *(torch.zeros_like(o) for o in op.outputs[1:]))


def _with(op: Op, point: Tensor) -> tuple[Tensor, ...]:
    """The inputs, but for the active one."""
    return tuple(point if active else t for t, active in zip(op.inputs, op.active, strict=True))


def _moved(op: Op, point: Tensor, step: Tensor) -> Tensor:
    """How the first output moves with the active input."""
    return slope_along(op, _with(op, point), _with(op, step))[0]


def pooled(op: Op, grad: Tensor) -> Grads:
    """The same for max-pooling, by the numbers of the chosen elements."""
    assert op.reference is not None
    index, dims, inputs = op.active.index(True), int(op.name[-2]), op.at_reference[0]
    x, step = op.inputs[index], (op.inputs[index] - inputs[index]).flatten(-dims)
    y, y0 = op.output, op.at_reference[1][0]
    rises, total = y > y0, torch.zeros_like(step)
    chosen = (_chosen(op, x), fitted(_chosen(op, op.reference.inputs[index]), y.shape))
    for places, wanted in zip(chosen, (rises, ~rises), strict=True):
        flat = places.flatten(-dims)
        share = (grad * wanted).flatten(-dims) * ratio((y - y0).flatten(-dims), step.gather(-1, flat), 0.0)
        total = total.scatter_add(-1, flat, share)
    return sole(op, total.view(x.shape))


def _chosen(op: Op, point: Tensor) -> Tensor:
    """The number of the largest element of each window, among all places."""
    keywords = {name: value for name, value in op.kwargs.items() if name not in ("input", "return_indices")}
    found: Tensor = getattr(torch.nn.functional, op.name)(point, *op.args[1:6], **keywords, return_indices=True)[1]
    return found


def larger(op: Op, *grads: Tensor) -> Grads:
    """The larger (smaller) of two tensors, `(a + b +- |a - b|) / 2`: the secant of the absolute value, the rest is linear."""
    if len(op.inputs) == 1:
        return selection(op, *grads)
    (a, b), (a0, b0), grad = op.inputs, op.at_reference[0], grads[0]
    apart, apart0 = a - b, a0 - b0
    slope = ratio(apart.abs() - apart0.abs(), apart - apart0, apart.sign())
    slope = -slope if op.name in LOWER else slope
    halves = (grad * (1 + slope) / 2, grad * (1 - slope) / 2)
    return tuple(h.sum_to_size(t.shape) for h, t in zip(halves, op.inputs, strict=True))


def where(op: Op, grad: Tensor) -> Grads:
    """A choice: as it is where the same was chosen; where not, the change goes to both by what each moved."""
    condition, condition0 = _condition(op), _condition(op.reference) if op.reference else None
    own = op.pull(grad)
    if condition0 is None or (condition.shape == condition0.shape and torch.equal(condition, condition0)):
        return own
    other = (condition != fitted(condition0, condition.shape)).expand(op.output.shape)
    steps = [((x - x0) if a else torch.zeros_like(x)).expand(op.output.shape).nan_to_num(0, 0, 0)
             for x, x0, a in zip(op.inputs, op.at_reference[0], op.active, strict=True)]  # fmt: skip
    size: Tensor = sum(s * s for s in steps)  # type: ignore[assignment]
    change = op.output - op.at_reference[1][0]
    kept = op.pull(grad * ~other)
    found = []
    for k, s, x in zip(kept, steps, op.inputs, strict=True):
        found.append(None if k is None else k + (other * grad * ratio(change * s, size, 0.0)).sum_to_size(x.shape))
    return tuple(found)


def _condition(op: Op) -> Tensor:
    """The condition of `where` and `masked_fill`."""
    given = (*op.args, *op.kwargs.values())
    return next(value for value in given if isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8))
