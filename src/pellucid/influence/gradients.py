"""The gradient of every example's loss with respect to the parameters, kept in parts that need not be multiplied out.

The gradient of a linear layer's weight is a sum of outer products of what it received and of the gradient of what it returned.
Inner products of two examples' gradients follow from these two: one forward pass, and a backward pass to the layers' outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, OptionError, OutputError
from ..hooks import watch
from ..model import undisturbed

__all__ = ["Dense", "Lookup", "Loss", "Outer", "Part", "SampleGradients", "of_each", "sample_gradients"]

Loss = Callable[..., Tensor]
BLOCK = 2**27  # bytes of gradients that are multiplied out at a time


class Part(ABC):
    """The gradients of B examples with respect to some of the parameters."""

    @abstractmethod
    def rows(self) -> Tensor:
        """`(B, parameters)`."""

    @abstractmethod
    def dot(self, other: Any) -> Tensor:
        """Inner products `(B, C)` with another's of the same parameters."""

    @abstractmethod
    def squared(self) -> Tensor:
        """`(B,)`, of each example with itself."""

    @abstractmethod
    def joined(self, others: Sequence[Any]) -> Part:
        """The examples of all of them."""


@dataclass(frozen=True, eq=False)
class Dense(Part):
    """Gradients as they are, `(B, parameters)`."""

    values: Tensor

    def rows(self) -> Tensor:
        return self.values

    def dot(self, other: Dense) -> Tensor:
        return self.values @ other.values.T

    def squared(self) -> Tensor:
        return self.values.square().sum(1)

    def joined(self, others: Sequence[Dense]) -> Dense:
        return Dense(torch.cat([self.values, *(other.values for other in others)]))


@dataclass(frozen=True, eq=False)
class Outer(Part):
    """`sum over t of left_t right_t'`: left `(B, T, O)`, right `(B, T, I)`; with a `bias`, as if right had a one behind it."""

    left: Tensor
    right: Tensor
    bias: bool = False

    def rows(self) -> Tensor:
        weights: Tensor = (self.left.transpose(1, 2) @ self.right).flatten(1)
        return torch.cat([weights, self.left.sum(1)], 1) if self.bias else weights

    @cached_property
    def _kept(self) -> Tensor:
        """The rows, for what is compared again and again."""
        return self.rows()

    def dot(self, other: Outer) -> Tensor:
        (b, t, o), (c, s, _), i = self.left.shape, other.left.shape, self.right.shape[2]
        if t == s == 1:
            return (self.left[:, 0] @ other.left[:, 0].T) * (self.right[:, 0] @ other.right[:, 0].T + self.bias)
        if b * c * t * s * (o + i) < (b * t + c * s) * o * i + b * c * o * i:
            return self._by_places(other)
        size = max(1, BLOCK // (8 * o * i))
        own = [self._kept] if b <= size else self._blocks(size)
        return torch.cat([torch.cat([rows @ column.T for rows in own]) for column in other._blocks(size)], 1)

    def _by_places(self, other: Outer) -> Tensor:
        """Place by place, without any gradient."""
        b, c = len(self.left), len(other.left)
        size = max(1, BLOCK // (8 * c * self.left.shape[1] * other.left.shape[1]))
        found = []
        for start in range(0, b, size):
            left, right = (x[start : start + size].flatten(0, 1) for x in (self.left, self.right))
            both = (left @ other.left.flatten(0, 1).T) * (right @ other.right.flatten(0, 1).T + self.bias)
            found.append(both.view(-1, self.left.shape[1], c, other.left.shape[1]).sum((1, 3)))
        return torch.cat(found)

    def squared(self) -> Tensor:
        t, o, i = self.left.shape[1], self.left.shape[2], self.right.shape[2]
        if t == 1:
            return self.left.square().sum((1, 2)) * (self.right.square().sum((1, 2)) + self.bias)
        if t * (o + i) < o * i:
            return ((self.left @ self.left.transpose(1, 2)) * (self.right @ self.right.transpose(1, 2) + self.bias)).sum((1, 2))
        return torch.cat([rows.square().sum(1) for rows in self._blocks(max(1, BLOCK // (8 * o * i)))])

    def _blocks(self, size: int) -> Sequence[Tensor]:
        return [Outer(self.left[k : k + size], self.right[k : k + size], self.bias).rows() for k in range(0, len(self.left), size)]

    def joined(self, others: Sequence[Outer]) -> Outer:
        if not others:
            return self
        left, right = (torch.cat([getattr(part, side) for part in (self, *others)]) for side in ("left", "right"))
        return Outer(left, right, self.bias)


@dataclass(frozen=True, eq=False)
class Lookup(Part):
    """Of a table of vectors: `ids (B, T)` and the gradients `(B, T, D)` of the vectors that were looked up."""

    ids: Tensor
    left: Tensor
    size: int

    def rows(self) -> Tensor:
        table = self.left.new_zeros(len(self.ids), self.size, self.left.shape[2])
        return table.scatter_add_(1, self.ids[..., None].expand_as(self.left), self.left).flatten(1)

    def dot(self, other: Lookup) -> Tensor:
        same = self.ids.flatten()[:, None] == other.ids.flatten()
        both = (self.left.flatten(0, 1) @ other.left.flatten(0, 1).T) * same
        return both.view(len(self.ids), -1, len(other.ids), other.ids.shape[1]).sum((1, 3))

    def squared(self) -> Tensor:
        same = self.ids[:, :, None] == self.ids[:, None]
        return ((self.left @ self.left.transpose(1, 2)) * same).sum((1, 2))

    def joined(self, others: Sequence[Lookup]) -> Lookup:
        return Lookup(torch.cat([self.ids, *(o.ids for o in others)]), torch.cat([self.left, *(o.left for o in others)]), self.size)


@dataclass(frozen=True, eq=False)
class SampleGradients:
    """The gradients of B examples, in parts."""

    parts: Mapping[str, Part]

    def dot(self, other: SampleGradients) -> Tensor:
        """Inner products `(B, C)`."""
        return sum((part.dot(other.parts[name]) for name, part in self.parts.items()), torch.zeros(()))

    def squared(self) -> Tensor:
        """`(B,)`."""
        return sum((part.squared() for part in self.parts.values()), torch.zeros(()))

    def rows(self) -> Tensor:
        """`(B, parameters)`, multiplied out."""
        return torch.cat([part.rows() for part in self.parts.values()], 1)

    def joined(self, others: Sequence[SampleGradients]) -> SampleGradients:
        """The examples of all of them."""
        return SampleGradients({name: part.joined([o.parts[name] for o in others]) for name, part in self.parts.items()})


def of_each(loss: Loss, output: Any, labels: Any) -> tuple[Tensor, float]:
    """The sum of the examples' losses, and what a reduced loss must be multiplied by to be it.

    A loss that returns one number is the sum or the mean of the examples': twice the examples tell.

    Raises:
        OutputError: neither.
    """
    found = loss(output, labels)
    if found.dim() == 1 or (found.dim() == 2 and found.shape[1] == 1):
        return found.sum(), 1.0
    rows = len(output if isinstance(output, Tensor) else next(iter(output)))
    if found.dim() == 0 and isinstance(loss, nn.modules.loss._Loss) and loss.reduction in ("sum", "mean") and _plain(loss):
        factor = float(rows) if loss.reduction == "mean" else 1.0
        return found * factor, factor
    if found.dim() == 0:
        with torch.no_grad():
            twice = loss(_twice(output), _twice(labels))
        for factor, expected in ((float(rows), found), (1.0, 2 * found)):
            if torch.allclose(twice, expected.detach(), rtol=1e-4, atol=1e-12):
                return found * factor, factor
    raise OutputError(
        f"the loss returns a tensor of shape {tuple(found.shape)}, neither one for each example, nor their sum, nor their mean; use "
        "reduction='none', 'sum' or 'mean'"
    )


def _plain(loss: nn.Module) -> bool:
    """Whether a mean is over examples alike: class weights and ignored labels make it another."""
    return getattr(loss, "weight", None) is None and getattr(loss, "ignore_index", -100) == -100


def _twice(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.cat([value.detach(), value.detach()])
    return type(value)(map(_twice, value)) if isinstance(value, tuple | list) else value


def sample_gradients(
    model: nn.Module, inputs: Sequence[Any], labels: Any, loss: Loss | None, layers: Sequence[nn.Module] | None = None
) -> SampleGradients:
    """The gradients of the examples' losses with respect to the parameters of the layers, or of the whole model.

    Args:
        inputs: what the model is called with; labels: what the loss gets after its output.
        loss: one number for each example, their sum, or their mean; None: the model's output itself, one number each.
        layers: modules, with all that they hold.

    Raises:
        OptionError: no parameters that can have a gradient. OutputError: a loss of another form.

    >>> layer = nn.Linear(3, 2)
    >>> found = sample_gradients(layer, [torch.randn(4, 3)], torch.tensor([0, 1, 1, 0]), F.cross_entropy)
    >>> found.dot(found).shape, found.rows().shape
    (torch.Size([4, 4]), torch.Size([4, 8]))
    """
    wanted = _parameters(model, layers)
    leaves, rest = _divided(model, wanted)
    with undisturbed((model,)), torch.inference_mode(False), torch.enable_grad():
        found = _watched(model, inputs, labels, loss, leaves)
        if found is None:  # a layer ran twice, or in a way that was not expected
            found, rest = {}, wanted
        if rest:
            found["others"] = Dense(_one_by_one(model, inputs, labels, loss, rest))
    return SampleGradients(found)


def _parameters(model: nn.Module, layers: Sequence[nn.Module] | None) -> list[tuple[str, Tensor]]:
    own = {id(p) for layer in layers or [model] for p in layer.parameters()}
    found: list[tuple[str, Tensor]] = [(name, p) for name, p in model.named_parameters() if id(p) in own and p.requires_grad]
    if not found:
        where = "the model has" if layers is None else "the layers have"
        raise OptionError(f"{where} no parameter with requires_grad; unfreeze what the examples are compared by, or choose other layers")
    return found


def _divided(model: nn.Module, wanted: Sequence[tuple[str, Tensor]]) -> tuple[dict[str, nn.Module], list[tuple[str, Tensor]]]:
    """The layers whose gradients are products, and the parameters of all others."""
    known = {id(p) for _, p in wanted}
    leaves = {}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and type(module) in FACTORS and all(id(p) in known for p in own):
            leaves[name] = module
    counted: dict[int, int] = {}
    for module in leaves.values():
        for p in module.parameters(recurse=False):
            counted[id(p)] = counted.get(id(p), 0) + 1
    shared = {key for key, times in counted.items() if times > 1}
    leaves = {n: m for n, m in leaves.items() if not any(id(p) in shared for p in m.parameters(recurse=False))}
    covered = {id(p) for m in leaves.values() for p in m.parameters(recurse=False)}
    return leaves, [(name, p) for name, p in wanted if id(p) not in covered]


def _watched(
    model: nn.Module, inputs: Sequence[Any], labels: Any, loss: Loss | None, leaves: Mapping[str, nn.Module]
) -> dict[str, Part] | None:
    modules = list(leaves.values())
    if not modules:
        return {}
    with watch(modules, of_input=True) as received, watch(modules, graph=True) as returned:
        output = model(*inputs)
        total = _total(loss, output, labels)
    if any(len(calls) != 1 or len(calls[0]) != 1 for calls in (*received, *returned)):
        return None
    outputs = [calls[0][0] for calls in returned]
    gradients = torch.autograd.grad(total, outputs, allow_unused=True, materialize_grads=True)
    found: dict[str, Part] = {}
    for (name, module), calls, gradient in zip(leaves.items(), received, gradients, strict=True):
        part = FACTORS[type(module)](module, calls[0][0].detach(), gradient)
        if part is None:
            return None
        found[name] = part
    return found


def _total(loss: Loss | None, output: Any, labels: Any) -> Tensor:
    if loss is not None:
        return of_each(loss, output, labels)[0]
    if not isinstance(output, Tensor) or output.numel() != len(output):
        raise OutputError("without a loss the model must return one number for each example; give loss_fn")
    return output.sum()


def _one_by_one(model: nn.Module, inputs: Sequence[Any], labels: Any, loss: Loss | None, wanted: Sequence[tuple[str, Tensor]]) -> Tensor:
    """Gradients of each example in a backward pass of its own: for parameters that no product describes."""
    for _, parameter in wanted:
        parameter.requires_grad_(True)  # the caller puts it back as it was
    rows = []
    for i in range(_size(inputs)):
        one = [x[i : i + 1] if isinstance(x, Tensor) else x for x in inputs]
        total = _total(loss, model(*one), labels[i : i + 1] if labels is not None else None)
        grads = torch.autograd.grad(total, [p for _, p in wanted], allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows)


def _size(inputs: Sequence[Any]) -> int:
    first = next((x for x in inputs if isinstance(x, Tensor)), None)
    if first is None:
        raise InputError("a batch has no tensor; give (inputs, ..., labels) with the examples along dimension 0")
    return len(first)


def _linear(module: nn.Linear, received: Tensor, gradient: Tensor) -> Part | None:
    if received.dim() < 2:
        return None
    right = received.flatten(1, -2) if received.dim() > 2 else received[:, None]
    left = gradient.flatten(1, -2) if gradient.dim() > 2 else gradient[:, None]
    return Outer(left, right, module.bias is not None)


def _conv2d(module: nn.Conv2d, received: Tensor, gradient: Tensor) -> Part | None:
    if received.dim() != 4 or module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
        return Dense(_conv_rows(module, received, gradient))
    right = F.unfold(received, module.kernel_size, module.dilation, module.padding, module.stride).transpose(1, 2)
    return Outer(gradient.flatten(2).transpose(1, 2), right, module.bias is not None)


def _conv_rows(module: Any, received: Tensor, gradient: Tensor) -> Tensor:
    """By torch's own gradient of the weight, example by example."""
    kind = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}[type(module)]
    found = []
    for x, g in zip(received, gradient, strict=True):
        parameters = [p.detach().requires_grad_() for p in module.parameters(recurse=False)]
        padded, padding = x[None], module.padding
        if module.padding_mode != "zeros":
            padded, padding = F.pad(padded, module._reversed_padding_repeated_twice, mode=module.padding_mode), 0
        bias = parameters[1] if len(parameters) > 1 else None
        out = kind(padded, parameters[0], bias, module.stride, padding, module.dilation, module.groups)
        grads = torch.autograd.grad(out, parameters, g[None])
        found.append(torch.cat([p.flatten() for p in grads]))
    return torch.stack(found)


def _embedding(module: nn.Embedding, received: Tensor, gradient: Tensor) -> Part | None:
    if received.is_floating_point() or received.dim() != 2 or module.scale_grad_by_freq:
        return None
    if module.padding_idx is not None:
        gradient = gradient * (received != module.padding_idx)[..., None]
    return Lookup(received, gradient, module.num_embeddings)


def _norm(normalised: Callable[[Any, Tensor], Tensor], first: bool) -> Callable[[Any, Tensor, Tensor], Part | None]:
    """Of a norm's scale and shift: sums over places of the gradient, times what was scaled."""

    def part(module: Any, received: Tensor, gradient: Tensor) -> Part | None:
        if module.training and isinstance(module, nn.modules.batchnorm._NormBase):
            return None
        scaled = gradient * normalised(module, received)
        kept = 1 if first else len(module.normalized_shape)
        pieces = [scaled, gradient] if getattr(module, "bias", None) is not None else [scaled]
        if first:
            return Dense(torch.cat([p.flatten(2).sum(2) if p.dim() > 2 else p for p in pieces], 1))
        return Dense(torch.cat([p.reshape(len(p), -1, *p.shape[-kept:]).sum(1).flatten(1) for p in pieces], 1))

    return part


def _batch_normalised(module: Any, x: Tensor) -> Tensor:
    return F.batch_norm(x, module.running_mean, module.running_var, None, None, False, 0.0, module.eps)


Factor = Callable[[Any, Tensor, Tensor], Part | None]
FACTORS: Mapping[type[nn.Module], Factor] = {
    nn.Linear: _linear,
    nn.Conv1d: lambda module, received, gradient: Dense(_conv_rows(module, received, gradient)),
    nn.Conv2d: _conv2d,
    nn.Conv3d: lambda module, received, gradient: Dense(_conv_rows(module, received, gradient)),
    nn.Embedding: _embedding,
    nn.LayerNorm: _norm(lambda module, x: F.layer_norm(x, module.normalized_shape, None, None, module.eps), False),
    nn.GroupNorm: _norm(lambda module, x: F.group_norm(x, module.num_groups, None, None, module.eps), True),
    nn.BatchNorm1d: _norm(_batch_normalised, True),
    nn.BatchNorm2d: _norm(_batch_normalised, True),
    nn.BatchNorm3d: _norm(_batch_normalised, True),
}
