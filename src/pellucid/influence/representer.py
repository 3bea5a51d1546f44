"""Representer points: logits as sums over training examples, of how much each pulls and how like the query it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OptionError, OutputError
from ..explanation import Check
from ..hooks import watch
from ..model import said, undisturbed
from .examples import Batch, Examples
from .loss import Loss, Losses

__all__ = ["Representer", "features_of", "last_linear", "representer"]


@dataclass(frozen=True, eq=False)
class Representer:
    """A last layer fitted again, with a penalty, until every training example's pull is known.

    Attributes:
        weight: `(classes, features + 1)`, the bias last.
        pulls: `(N, classes)`: `-1 / (2 penalty N)` times the gradient of each example's loss with respect to its logits.
        features: `(N, features + 1)`, with a one behind.
        checks: how well the fit ended, and how like the model's own logits it is.
    """

    weight: Tensor
    pulls: Tensor
    features: Tensor
    checks: tuple[Check, ...]

    def scores(self, queries: Tensor, classes: Tensor) -> Tensor:
        """`(C, N)`: what each example adds to the logit of a query's class; with no remainder they add up to it."""
        return self.pulls[:, classes].T * (with_ones(queries) @ self.features.T)


def representer(model: nn.Module, layer: nn.Linear, train: Examples, loss: Loss, penalty: float, steps: int = 1000) -> Representer:
    """Fit the layer again on what it receives: the mean loss plus `penalty` times the squared weights, to a stationary point.

    Source: Yeh et al. 2018, theorem 3.1.

    Args:
        layer: the last one, which gives the logits.

    Raises:
        OutputError: the layer does not give the model's output.
    """
    pieces = [_seen(model, layer, batch) for batch in train.on(model)]
    features = with_ones(torch.cat([piece[0] for piece in pieces]).double())
    logits, labels = torch.cat([piece[1] for piece in pieces]).double(), torch.cat([piece[2] for piece in pieces])
    losses = Losses(loss)
    bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(layer.out_features)
    own = torch.cat([layer.weight.detach(), bias.detach()[:, None]], 1).double()
    with torch.inference_mode(False), torch.enable_grad():
        weight, slope = _fitted(own, features, labels, losses, penalty, steps)
        points = (features @ weight.T).requires_grad_()
        pulls = -torch.autograd.grad(losses.total(points, labels, len(points)), points)[0] / (2 * penalty * len(features))
    agreed = float((points.detach().argmax(1) == logits.argmax(1)).double().mean())
    return Representer(weight, pulls, features, (_converged(slope), _like(agreed)))


def _converged(slope: float) -> Check:
    fine = slope < 1e-3
    way_out = "" if fine else "; give a larger penalty or more steps"
    return Check("converged", fine, f"the last layer was fitted again until its gradient was {slope:.2g} of the penalty's{way_out}", slope)


def _like(agreed: float) -> Check:
    fine = agreed >= 0.95
    way_out = "" if fine else "; give a smaller penalty"
    return Check(
        "fidelity", fine, f"the layer that was fitted again predicts as the model does on {agreed:.1%} of the examples{way_out}", agreed
    )


def _fitted(own: Tensor, features: Tensor, labels: Tensor, losses: Losses, penalty: float, steps: int) -> tuple[Tensor, float]:
    weight = own.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=steps, tolerance_grad=1e-10, tolerance_change=0, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = losses.total(features @ weight.T, labels, len(features)) / len(features) + penalty * weight.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    closure()
    assert weight.grad is not None
    slope = float(weight.grad.norm() / (2 * penalty * weight.detach().norm()).clamp_min(1e-30))
    return weight.detach(), slope


def with_ones(features: Tensor) -> Tensor:
    """One more column, of ones."""
    return torch.cat([features, features.new_ones(len(features), 1)], 1)


def _seen(model: nn.Module, layer: nn.Linear, batch: Batch) -> tuple[Tensor, Tensor, Any]:
    received, output = features_of(model, layer, batch[:-1])
    if received.dim() != 2 or not isinstance(output, Tensor) or output.shape != (len(received), layer.out_features):
        raise OutputError("the last linear layer does not give the model's output, (B, classes); name the layer that does: layer=")
    return received, output, batch[-1]


def features_of(model: nn.Module, layer: nn.Module, inputs: Sequence[Any]) -> tuple[Tensor, Any]:
    """What the layer receives, and the model's output.

    Raises:
        OptionError: the layer does not run.
    """
    with undisturbed((model,)), torch.no_grad(), watch([layer], of_input=True) as seen:
        output = said(model, inputs)
    if not seen[0] or not seen[0][0]:
        raise OptionError(f"layer {type(layer).__name__} does not run, or receives no tensor; choose another")
    return seen[0][0][0], output


def last_linear(model: nn.Module) -> nn.Linear:
    """The last linear layer in the order of definition.

    Raises:
        OptionError: there is none.
    """
    found = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not found:
        raise OptionError("the model has no nn.Linear; name the layer to look at: layer=")
    return found[-1]
