"""The gradient of every example's loss with respect to the parameters, kept in parts that need not be multiplied out.

The gradient of a linear layer's weight is a sum of outer products of what it received and of the gradient of what it returned.
Inner products of two examples' gradients follow from these two: one forward pass, and a backward pass to the layers' outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, OptionError
from ..hooks import watch
from ..model import undisturbed
from .loss import Loss, summed
from .parts import Dense, Lookup, Outer, Part, SampleGradients

__all__ = ["parameters_of", "sample_gradients"]


OTHERS = "all others"


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
    wanted = parameters_of(model, layers)
    with undisturbed((model,)), torch.inference_mode(False), torch.enable_grad():
        leaves, rest, found = _by_layers(Pass(model, inputs, labels, loss), wanted)
        if rest:
            found[OTHERS] = Dense(_one_by_one(Pass(model, inputs, labels, loss), rest))
    names = {name: tuple(f"{name}.{p}" if name else p for p, _ in leaf.named_parameters(recurse=False)) for name, leaf in leaves.items()}
    return SampleGradients(found, names | ({OTHERS: tuple(name for name, _ in rest)} if rest else {}))


@dataclass(frozen=True)
class Pass:
    """A model, and a batch that it is to see."""

    model: nn.Module
    inputs: Sequence[Any]
    labels: Any
    loss: Loss | None

    def total(self) -> Tensor:
        """The sum of the examples' losses; what is random is the same every time."""
        with torch.random.fork_rng({p.device for p in self.model.parameters() if p.is_cuda}):
            return summed(self.loss, self.model(*self.inputs), self.labels)

    def example(self, i: int) -> Pass:
        """With one example only."""
        one = [x[i : i + 1] if isinstance(x, Tensor) else x for x in self.inputs]
        return Pass(self.model, one, self.labels[i : i + 1] if self.labels is not None else None, self.loss)


Named = Sequence[tuple[str, Tensor]]
# Of each model, the layers that were checked, and those among them whose parameters are used in other places too.
CHECKED: WeakKeyDictionary[nn.Module, tuple[frozenset[str], frozenset[str]]] = WeakKeyDictionary()


def _by_layers(batch: Pass, wanted: Named) -> tuple[dict[str, nn.Module], list[tuple[str, Tensor]], dict[str, Part]]:
    """Layers whose gradients are products, the parameters that remain, and the products."""
    checked, odd = CHECKED.get(batch.model, (frozenset(), frozenset()))
    leaves, rest = _divided(batch.model, wanted, odd)
    found = _watched(batch, leaves)
    if found is None:  # a layer ran twice, or in a way that was not expected
        return {}, list(wanted), {}
    if checked >= leaves.keys():
        return leaves, rest, found
    odd = odd | _odd(batch, leaves, found)
    CHECKED[batch.model] = (checked | leaves.keys(), odd)
    leaves, rest = _divided(batch.model, wanted, odd)
    return leaves, rest, {name: found[name] for name in leaves}


def _odd(batch: Pass, leaves: Mapping[str, nn.Module], found: Mapping[str, Part]) -> frozenset[str]:
    """Layers whose parts do not add up to the gradient of the batch: a weight that a function uses besides, for one."""
    parameters = {name: list(leaf.parameters(recurse=False)) for name, leaf in leaves.items()}
    flat = [p for own in parameters.values() for p in own]
    for parameter in flat:
        parameter.requires_grad_(True)  # the caller puts it back as it was
    gradients = iter(torch.autograd.grad(batch.total(), flat, allow_unused=True, materialize_grads=True))
    for parameter in flat:
        parameter.requires_grad_(False)
    expected = {name: torch.cat([next(gradients).flatten() for _ in own]) for name, own in parameters.items()}
    return frozenset(name for name, part in found.items() if not _close(part.total(), expected[name]))


def _close(found: Tensor, expected: Tensor) -> bool:
    off = 0.02 if expected.dtype in (torch.float16, torch.bfloat16) else 1e-3
    return float((found - expected).norm()) <= off * float(expected.norm()) + 1e-9


def parameters_of(model: nn.Module, layers: Sequence[nn.Module] | None) -> list[tuple[str, Tensor]]:
    """Those that can have a gradient, of the layers or of the whole model, by name.

    Raises:
        OptionError: there are none.
    """
    own = {id(p) for layer in layers or [model] for p in layer.parameters()}
    found: list[tuple[str, Tensor]] = [(name, p) for name, p in model.named_parameters() if id(p) in own and p.requires_grad]
    if not found:
        where = "the model has" if layers is None else "the layers have"
        raise OptionError(f"{where} no parameter with requires_grad; unfreeze what the examples are compared by, or choose other layers")
    return found


def _divided(model: nn.Module, wanted: Named, odd: frozenset[str]) -> tuple[dict[str, nn.Module], list[tuple[str, Tensor]]]:
    """The layers whose gradients are products, and the parameters of all others."""
    known = {id(p) for _, p in wanted}
    leaves = {}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and name not in odd and type(module) in FACTORS and all(id(p) in known for p in own):
            leaves[name] = module
    counted: dict[int, int] = {}
    for module in leaves.values():
        for p in module.parameters(recurse=False):
            counted[id(p)] = counted.get(id(p), 0) + 1
    shared = {key for key, times in counted.items() if times > 1}
    leaves = {n: m for n, m in leaves.items() if not any(id(p) in shared for p in m.parameters(recurse=False))}
    covered = {id(p) for m in leaves.values() for p in m.parameters(recurse=False)}
    return leaves, [(name, p) for name, p in wanted if id(p) not in covered]


def _watched(batch: Pass, leaves: Mapping[str, nn.Module]) -> dict[str, Part] | None:
    modules = list(leaves.values())
    if not modules:
        return {}
    with watch(modules, of_input=True) as received, watch(modules, graph=True) as returned:
        total = batch.total()
    if any(len(calls) != 1 or len(calls[0]) != 1 for calls in (*received, *returned)):
        return None
    outputs = [calls[0][0] for calls in returned]
    gradients = torch.autograd.grad(total, outputs, allow_unused=True, materialize_grads=True)
    found: dict[str, Part] = {}
    for (name, module), calls, gradient in zip(leaves.items(), received, gradients, strict=True):
        part = FACTORS[type(module)](module, _precise(calls[0][0].detach()), _precise(gradient))
        if part is None:
            return None
        found[name] = part
    return found


def _precise(values: Tensor) -> Tensor:
    """Sums over half precision numbers overflow."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _one_by_one(batch: Pass, wanted: Named) -> Tensor:
    """Gradients of each example in a backward pass of its own: for parameters that no product describes."""
    parameters = [parameter for _, parameter in wanted]
    for parameter in parameters:
        parameter.requires_grad_(True)  # the caller puts it back as it was
    rows = []
    for i in range(_size(batch.inputs)):
        grads = torch.autograd.grad(batch.example(i).total(), parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([_precise(g.flatten()) for g in grads]))
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
