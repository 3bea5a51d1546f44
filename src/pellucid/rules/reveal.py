"""DeepLIFT's RevealCancel rule: what pushes a unit up and what pulls it down count apart, so that they cannot hide each other.

A unit `y = f(z)` behind weights gives one multiplier to what raised z and another to what lowered it. They travel past
autograd, from the unit's operation to that of its weights, as `pending`; autograd sees zeros there.
"""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .averaged import ratio
from .operation import Grads, Op, Rule, Ruling
from .relevance import WITH_WEIGHTS, Weighted, weighted
from .secants import IN_PIECES, SMOOTH, product

__all__ = ["revealing"]

Pair = tuple[Tensor, Tensor]


def revealing(ruling: Ruling, elsewhere: set[str]) -> Ruling:
    """The ruling with RevealCancel for elementwise activations directly behind weights (and batch normalisation).

    What is not gets the rescale rule, and its name is added to `elsewhere`.
    Source: Shrikumar, Greenside, Kundaje 2017, equations 12 to 15 and appendix B for the division by sign.
    """
    pending: WeakKeyDictionary[Op, list[Pair]] = WeakKeyDictionary()
    names = ("relu", *IN_PIECES, *SMOOTH)

    def activation(usual: Rule) -> Rule:
        def rule(op: Op, grad: Tensor) -> Grads:
            source = _source(op)
            parts = None if source is None or sum(op.active) > 1 else _contributions(source)
            if source is None or parts is None:
                elsewhere.add(f"{op.name}{op.place}")
                return usual(op, grad)
            up, down = parts
            pending.setdefault(source, []).append(tuple(grad * m for m in _multipliers(op, up, down)))  # type: ignore[arg-type]
            return tuple(torch.zeros_like(x) if a else None for x, a in zip(op.inputs, op.active, strict=True))

        return rule

    def weights(op: Op, grad: Tensor) -> Grads:
        layer = weighted(op)
        if layer is None:
            return product(op, grad)
        usual = op.pull(grad)
        found = usual[layer.places[0]]
        for up, down in pending.pop(op, ()):
            through = _through(layer, up, down)
            found = through if found is None else found + through
        return tuple(found if i == layer.places[0] else None for i in range(len(op.inputs)))

    def normalised(op: Op, grad: Tensor) -> Grads:
        source, scale = _source(op), op.pull(torch.ones_like(grad))[0]
        assert scale is not None
        for up, down in pending.pop(op, ()):
            assert source is not None
            swapped = torch.where(scale > 0, up, down), torch.where(scale > 0, down, up)
            pending.setdefault(source, []).append((scale * swapped[0], scale * swapped[1]))
        return grad * scale, *(None,) * (len(op.inputs) - 1)

    rules = {
        **ruling.rules,
        **{name: activation(ruling.rules[name]) for name in names},
        **dict.fromkeys(WITH_WEIGHTS, weights),
        "batch_norm": normalised,
    }
    return replace(ruling, rules=rules, alone=ruling.alone - WITH_WEIGHTS, apart=True)


def _source(op: Op) -> Op | None:
    """The operation that made the active input, if it has weights or normalises."""
    before = getattr(op.parents[op.active.index(True)], "op", None)
    return before if isinstance(before, Op) and (before.name in WITH_WEIGHTS or before.name == "batch_norm") else None


def _contributions(op: Op) -> Pair | None:
    """What raised and what lowered each output, from the reference to here."""
    if op.name == "batch_norm":
        source = _source(op)
        parts, scale = None if source is None else _contributions(source), op.pull(torch.ones_like(op.output))[0]
        if parts is None or scale is None:
            return None
        raised, lowered = (scale * part for part in parts)
        return torch.where(scale > 0, raised, lowered), torch.where(scale > 0, lowered, raised)
    layer = weighted(op)
    if layer is None:
        return None
    x, w, _ = layer.parts
    step = x - op.at_reference[0][layer.places[0]]
    more, less, strong, weak = step.clamp(min=0), step.clamp(max=0), w.clamp(min=0), w.clamp(max=0)
    return layer.run(more, strong) + layer.run(less, weak), layer.run(more, weak) + layer.run(less, strong)


def _multipliers(op: Op, up: Tensor, down: Tensor) -> Pair:
    """The mean effect of raising before and after lowering, per unit raised; and the reverse."""
    index = op.active.index(True)
    start = op.at_reference[0][index]

    def value(z: Tensor) -> Tensor:
        return op.run(*(z if i == index else t for i, t in enumerate(op.inputs)))[0]

    here, there, raised, lowered = value(start + up + down), value(start), value(start + up), value(start + down)
    return ratio((raised - there + here - lowered) / 2, up, 0.0), ratio((lowered - there + here - raised) / 2, down, 0.0)


def _through(layer: Weighted, up: Tensor, down: Tensor) -> Tensor:
    """Multipliers of the input: each product of weight and change by its own sign."""
    x, w, _ = layer.parts
    step = x - layer.op.at_reference[0][layer.places[0]]
    strong, weak = w.clamp(min=0), w.clamp(max=0)
    rising = layer.pull(strong, up) + layer.pull(weak, down)
    falling = layer.pull(strong, down) + layer.pull(weak, up)
    return torch.where(step > 0, rising, torch.where(step < 0, falling, (rising + falling) / 2))
