"""The secant of any differentiable operation: its gradient averaged along the line between two points."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .operation import Grads, Op

__all__ = ["averaged", "ratio", "slope_along"]


def ratio(a: Tensor, b: Tensor, otherwise: Tensor | float, small: Tensor | None = None) -> Tensor:
    """`a / b`, and `otherwise` where `b` is too small to divide by (by default: zero)."""
    small = b == 0 if small is None else small
    return torch.where(small, otherwise, a / torch.where(small, 1.0, b))


# Three-point Gauss-Legendre on [0, 1].
NODES = ((0.5 - 0.15**0.5, 5 / 18), (0.5, 8 / 18), (0.5 + 0.15**0.5, 5 / 18))
PIECES = 16


def averaged(op: Op, *grads: Tensor, pieces: int = 1) -> Grads:
    """Any differentiable operation: its gradient averaged along the line between the two points, scaled to be complete.

    The scale makes the averaged slope give each output's change exactly, whatever the quadrature missed; where it saw no
    slope at all, it looks again at more places.
    """
    inputs, outputs = op.at_reference
    steps = tuple((x - x0) if a else torch.zeros_like(x) for x, x0, a in zip(op.inputs, inputs, op.active, strict=True))
    places = [((piece + node) / pieces, weight / pieces) for piece in range(pieces) for node, weight in NODES]
    points = [
        tuple(x0 + node * s if a else x for x, x0, s, a in zip(op.inputs, inputs, steps, op.active, strict=True)) for node, _ in places
    ]
    slopes = [slope_along(op, point, steps) for point in points]
    predicted = [sum(w * s[i] for (_, w), s in zip(places, slopes, strict=True)) for i in range(len(grads))]
    changes = [y - y0 for y, y0 in zip(op.outputs, outputs, strict=True)]
    small = [p.abs() <= 1e-3 * torch.finfo(y.dtype).eps * y.abs() for p, y in zip(predicted, op.outputs, strict=True)]  # type: ignore[union-attr]
    lost = [s & (c != 0) if pieces == 1 else torch.zeros_like(s) for s, c in zip(small, changes, strict=True)]
    again = averaged(op, *(g * b for g, b in zip(grads, lost, strict=True)), pieces=PIECES) if any(bool(b.any()) for b in lost) else None
    grads = tuple(g * ~b for g, b in zip(grads, lost, strict=True))
    scaled = tuple(g * ratio(c, p, 1.0, s) for g, c, p, s in zip(grads, changes, predicted, small, strict=True))  # type: ignore[arg-type]
    parts = [tuple(None if g is None else w * g for g in op.pull_at(point, *scaled)) for point, (_, w) in zip(points, places, strict=True)]
    whole = (*parts, again) if again is not None else tuple(parts)
    return tuple(None if gs[0] is None else torch.stack([g for g in gs if g is not None]).sum(0) for gs in zip(*whole, strict=True))


def slope_along(op: Op, point: tuple[Tensor, ...], step: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """How fast each output changes along the step: the derivative of the backward, which is linear in its weights."""
    with torch.enable_grad():
        leaves = tuple(p.detach().requires_grad_(a) for p, a in zip(point, op.active, strict=True))
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        outputs = op.run(*leaves)
        live = [o for o in outputs if o.requires_grad]
        weights = tuple(torch.ones_like(o).requires_grad_() for o in live)
        try:
            pulled = torch.autograd.grad(live, wanted, weights, create_graph=True, allow_unused=True, materialize_grads=True)
            steps = [s for s, a in zip(step, op.active, strict=True) if a]
            along = torch.stack([(g * s).sum() for g, s in zip(pulled, steps, strict=True)]).sum()
            found = iter(torch.autograd.grad(along, weights, allow_unused=True, materialize_grads=True) if along.requires_grad else ())
        except RuntimeError:  # no second derivative
            return _forward_along(op, point, step)
    return tuple(next(found, torch.zeros_like(o)) if o.requires_grad else torch.zeros_like(o) for o in outputs)


def _forward_along(op: Op, point: tuple[Tensor, ...], step: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same by the forward derivative, which costs a second of imports the first time; or by a difference."""
    with warnings.catch_warnings(action="ignore"):  # torch's own, on the way to its forward derivatives
        try:
            return tuple(torch.func.jvp(op.run, tuple(p.contiguous() for p in point), step)[1])
        except RuntimeError:
            pass
    size = max(float(s.abs().max()) for s in step) or 1.0
    width = torch.finfo(point[0].dtype).eps ** (1 / 3) * (max(float(p.abs().max()) for p in point) or 1.0) / size
    ends = [op.run(*(p + sign * width * s for p, s in zip(point, step, strict=True))) for sign in (1, -1)]
    return tuple((a - b) / (2 * width) for a, b in zip(*ends, strict=True))
