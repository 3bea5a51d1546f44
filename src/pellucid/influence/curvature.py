"""The curvature of the training loss: products of its Hessian, or Gauss-Newton matrix, with vectors."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import OptionError, OutputError
from ..model import said, undisturbed
from ..progress import Bar
from .examples import Batch, Examples, size_of
from .gradients import parameters_of
from .layout import Layout
from .loss import Loss, Losses

__all__ = ["CHUNK", "CURVATURES", "Curvature"]

CHUNK = 64  # columns of the matrix that are made together


@dataclass(frozen=True)
class Curvature:
    """Second derivatives of the summed loss of all examples with respect to the parameters.

    Attributes:
        kind: "hessian", or "gauss_newton" (which leaves out the curvature of the model itself, and is never negative for a convex loss).
        layers: the parameters of these only.
    """

    model: nn.Module
    examples: Examples
    loss: Loss | None
    kind: str = "hessian"
    layers: Sequence[nn.Module] | None = None

    def __post_init__(self) -> None:
        if self.kind not in CURVATURES:
            raise OptionError(f"curvature is {self.kind!r}; choose one of {', '.join(map(repr, CURVATURES))}")

    @cached_property
    def _losses(self) -> Losses:
        return Losses(self.loss)

    @property
    def layout(self) -> Layout:
        """The order of the parameters."""
        return Layout.of(parameters_of(self.model, self.layers))

    def times(self, vectors: Tensor, bar: Bar | None = None, batches: Sequence[Batch] | None = None) -> Tensor:
        """`(K, parameters)`: the matrix times each of the vectors `(K, parameters)`; one pass over the examples.

        Args:
            batches: over these only.
        """
        layout, found = self.layout, torch.zeros_like(vectors)
        split = layout.split(vectors)
        for batch in self.examples.on(self.model) if batches is None else batches:
            found += layout.joined(self._of_batch(batch, split))
            if bar is not None:
                bar.update(size_of(batch))
        return found

    def matrix(self, bar: Bar | None = None) -> Tensor:
        """`(parameters, parameters)`, as a whole: for few parameters."""
        size = self.layout.size
        like = parameters_of(self.model, self.layers)[0][1]
        unit = torch.eye(size, dtype=like.dtype, device=like.device)
        found = torch.cat([self.times(rows, bar) for rows in unit.split(CHUNK)])
        return (found + found.T) / 2

    def _of_batch(self, batch: Batch, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = dict(parameters_of(self.model, self.layers))
        with undisturbed((self.model,)), torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for parameter in named.values():
                parameter.requires_grad_(True)  # `undisturbed` puts it back as it was
            product = CURVATURES[self.kind](self.model, batch, self._losses, list(named.values()))
            found = _of_each(product, [vectors[name] for name in named])
        return dict(zip(named, found, strict=True))


# (vectors, whether there is a dimension of several vectors in front) -> products
Product = Callable[[Sequence[Tensor], bool], Sequence[Tensor]]


def _of_each(product: Product, vectors: Sequence[Tensor]) -> Sequence[Tensor]:
    """All vectors at once where the operations of the model allow it, else one after the other."""
    count = len(vectors[0])
    if count > 1:
        with warnings.catch_warnings(), contextlib.suppress(RuntimeError, NotImplementedError):
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return product(vectors, True)
    each = [product([v[k] for v in vectors], False) for k in range(count)]
    return [torch.stack(values) for values in zip(*each, strict=True)]


def _hessian(model: nn.Module, batch: Batch, losses: Losses, parameters: Sequence[Tensor]) -> Product:
    """Backward through the gradient; its graph is built once for all vectors."""
    total = losses.total(said(model, batch[:-1]), batch[-1], size_of(batch))
    gradients = torch.autograd.grad(total, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
    return lambda vectors, several: _pulled(gradients, parameters, vectors, several)


def _gauss_newton(model: nn.Module, batch: Batch, losses: Losses, parameters: Sequence[Tensor]) -> Product:
    """`J' L'' J v`: forward by differentiating a backward pass with respect to what it begins with."""
    output = said(model, batch[:-1])
    if not isinstance(output, Tensor):
        raise OutputError(f"the model returns {type(output).__name__}; curvature='gauss_newton' needs a tensor: use 'hessian'")
    dummy = torch.zeros_like(output, requires_grad=True)
    pulled = torch.autograd.grad(output, parameters, dummy, create_graph=True, allow_unused=True, materialize_grads=True)
    point = output.detach().requires_grad_()
    slope = torch.autograd.grad(losses.total(point, batch[-1], size_of(batch)), point, create_graph=True)

    def product(vectors: Sequence[Tensor], several: bool) -> Sequence[Tensor]:
        pushed = _pulled(pulled, [dummy], vectors, several)
        bent = _pulled(slope, [point], pushed, several)
        return _pulled([output], parameters, bent, several)

    return product


def _pulled(outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor], several: bool) -> Sequence[Tensor]:
    """Vector-Jacobian products; of what depends on nothing, zeros."""
    known = [(o, v) for o, v in zip(outputs, vectors, strict=True) if o.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if known:
        found = torch.autograd.grad(
            [o for o, _ in known], inputs, [v for _, v in known], retain_graph=True, allow_unused=True, is_grads_batched=several
        )
    like = [(len(vectors[0]), *x.shape) if several else x.shape for x in inputs]
    return [torch.zeros(shape, dtype=x.dtype, device=x.device) if f is None else f for f, x, shape in zip(found, inputs, like, strict=True)]


CURVATURES: Mapping[str, Callable[[nn.Module, Batch, Losses, Sequence[Tensor]], Product]] = {
    "hessian": _hessian,
    "gauss_newton": _gauss_newton,
}
