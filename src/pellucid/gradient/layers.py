"""What passes through a layer on the way from baseline to input: conductance, internal influence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..batch import Ends, Part, Run, Sum
from ..explanation import Found, Pooling
from ..inputs import Tensors, accurate, differentiable
from ..inside import Layer, Place, look
from ..model import undisturbed
from ..view import InputView, View
from .paths import line
from .quadrature import rule

__all__ = ["gradient_x_activation", "internal_influence", "layer_conductance", "neuron_conductance"]


Weighting = Callable[[Tensor, Tensor], Tensor]


def gradient_x_activation(
    view: InputView,
    layers: Layer | Sequence[Layer] | Place,
    of_input: bool = False,
    by: Weighting = torch.mul,
    pooling: Pooling = "sum",
    run: Run | None = None,
) -> tuple[Found, Place]:
    """At a layer: its activation times the score's gradient with respect to it, in one pass; and the place of the layer.

    Source: Shrikumar et al. 2016, section 2, of a layer instead of the inputs.

    Args:
        layers, of_input: as for `pellucid.inside.at_layer`.
        by: what is made of gradients `(T, B, ...)` and activations `(B, ...)` instead of their product.

    >>> import torch; from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> found, _ = gradient_x_activation(at_input(net, torch.randn(4, 3), target=1), net[1])
    >>> found.values[0].shape
    torch.Size([1, 4, 8])
    """
    with undisturbed(view.roots):
        seen = (run or Run()).inside(view, layers, of_input)
    values = tuple(by(g, a) for g, a in zip(seen.gradients, seen.activations, strict=True))
    return Found(values, seen.scores, pooling=pooling), seen.place


def layer_conductance(
    view: InputView, place: Place, baselines: Tensors, steps: int = 50, rule_name: str = "gausslegendre", run: Run | None = None
) -> Found:
    """How much of the change of the score passes through each unit of a layer, from the baselines to the inputs.

    `sum over k of dscore/dy(x_k) * (y(x_k+1) - y(x_k))` along the straight line of the inputs, `y` the layer's activation.
    Law (completeness): over a layer that all paths cross, it adds up to the change of the score, up to the quadrature.
    Source: Dhamdhere, Sundararajan, Yan 2019, equation 2, discretised as in Shrikumar, Su, Kundaje 2018.

    Args:
        steps: intervals; the nodes are those of the rule with one more.

    >>> import torch; from pellucid.view import at_input; from pellucid.inside import look
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(4, 3); view = at_input(net, x, target=1)
    >>> found = layer_conductance(view, look(view, net[1]).place, (torch.zeros_like(x),), 400)
    >>> bool(found.difference.abs().max() < 1e-2)
    True
    """
    nodes, _ = rule(rule_name, steps + 1)
    total = _Conducted(view.size)
    ends = _along(view, place, baselines, nodes, total.add_part, run or Run(), "conductance")
    return Found(total.values(), ends.here, ends.there, baselines)


def internal_influence(
    view: InputView, place: Place, baselines: Tensors, steps: int = 50, rule_name: str = "gausslegendre", run: Run | None = None
) -> Found:
    """The score's gradient with respect to a layer, averaged along the straight line of the inputs.

    Source: Leino et al. 2018, equation 1, for a straight line.
    """
    nodes, weights = rule(rule_name, steps)
    total = Sum(view.size)

    def add(part: Part) -> None:
        for i, gradient in enumerate(part.gradients[: len(place.axes)]):
            by_step = gradient.to(accurate(gradient.dtype))
            total.add(i, part.examples, torch.tensordot(weights[part.steps].to(by_step), by_step, dims=([0], [1])))

    ends = _along(view, place, baselines, nodes, add, run or Run(), "internal influence")
    return Found(total.values(), ends.here, ends.there, baselines, pooling="norm")


def neuron_conductance(
    view: InputView,
    place: Place,
    neuron: object,
    baselines: Tensors,
    steps: int = 50,
    rule_name: str = "gausslegendre",
    multiply: bool = True,
    run: Run | None = None,
) -> Found:
    """How much of the change of the score passes from each input through one neuron, `(x - b) * mean of dscore/dy * dy/dx`.

    Law: over the inputs it adds up to the layer's conductance of that neuron, up to the quadrature.
    Source: Dhamdhere, Sundararajan, Yan 2019, equation 1.

    Args:
        neuron: as for `pellucid.inside.of_neuron`.
    """
    run = run or Run()
    nodes, weights = rule(rule_name, steps)
    features = differentiable(view.features)
    ends = run.settle(view, baselines, 1)
    deltas = tuple(x - b for x, b in zip(features, baselines, strict=True))
    total = Sum(view.size)

    def verb(block: View, points: Tensors, *_: object) -> tuple[Tensor, Tensors]:
        return run.chained(block, place, neuron, points)  # type: ignore[arg-type]

    def add(part: Part) -> None:
        for i, gradient in enumerate(part.gradients):
            by_step = gradient.to(accurate(gradient.dtype))
            total.add(i, part.examples, torch.tensordot(weights[part.steps].to(by_step), by_step, dims=([0], [1])))

    run.each(ends.view, len(nodes), line(baselines, deltas, nodes), verb, add, "conductance")
    means = total.values()
    values = tuple((m * d.to(m) if multiply else m).to(x.dtype) for m, d, x in zip(means, deltas, features, strict=True))
    return Found(values, ends.here, ends.there, baselines)


def _along(view: InputView, place: Place, starts: Tensors, nodes: Tensor, add: Callable[[Part], None], run: Run, label: str) -> Ends:
    """Give `add` the gradients at the place, and after them its activations, at the nodes of the inputs' straight line."""
    features = differentiable(view.features)
    ends = run.settle(view, starts, 1)
    deltas = tuple(x - b for x, b in zip(features, starts, strict=True))

    def verb(block: View, points: Tensors, *_: object) -> tuple[Tensor, Tensors]:
        assert isinstance(block, InputView)
        seen = run.inside(block, place, points=points)
        return seen.scores, (*seen.gradients, *(t[None] for t in seen.activations))

    def forward(one: View) -> object:
        assert isinstance(one, InputView)
        return look(one, place, graph=True)

    run.each(ends.view, len(nodes), line(starts, deltas, nodes), verb, add, label, forward)
    return ends


@dataclass(eq=False)
class _Conducted(Sum):
    """Sums of gradient times change of activation; the last node of a call waits for the first of the next."""

    last: Sum = field(default_factory=lambda: Sum(0))

    def add_part(self, part: Part) -> None:
        """Another run of nodes."""
        count = len(part.gradients) // 2
        for i, (g, a) in enumerate(zip(part.gradients[:count], part.gradients[count:], strict=True)):
            self.add(i, part.examples, (g[:, :-1] * a.diff(dim=1)).sum(1))
            if part.steps.start:
                before_g, before_a = (self.last.totals[k][:, part.examples] for k in (2 * i, 2 * i + 1))
                self.add(i, part.examples, before_g * (a[:, 0] - before_a))
            self._remember(2 * i, part.examples, g[:, -1])
            self._remember(2 * i + 1, part.examples, a[:, -1])

    def _remember(self, index: int, examples: slice, value: Tensor) -> None:
        if index not in self.last.totals:
            self.last.totals[index] = value.new_zeros(len(value), self.size, *value.shape[2:])
        self.last.totals[index][:, examples] = value
