"""The gradient of every example's loss with respect to the parameters, kept in parts that need not be multiplied out.

The gradient of a linear layer's weight is a sum of outer products of what it received and of the gradient of what it returned.
Inner products of two examples' gradients follow from these two: one forward pass, and a backward pass to the layers' outputs.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..errors import InputError, OptionError, PellucidError
from ..hooks import between
from ..memory import is_out
from ..model import said, undisturbed
from .loss import Loss, summed
from .parts import BUDGET, Dense, Lookup, Outer, Part, SampleGradients, Windows

__all__ = ["PerExample", "parameters_of", "sample_gradients"]


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
    return PerExample(model, loss, layers)(inputs, labels)


class PerExample:
    """`sample_gradients` of batch after batch: what there is to know about the model's layers is found once."""

    def __init__(self, model: nn.Module, loss: Loss | None, layers: Sequence[nn.Module] | None = None) -> None:
        self.model, self.loss = model, loss
        self._wanted = parameters_of(model, layers)
        self._plan = _divided(model, self._wanted, CHECKED.get(model, (frozenset(), frozenset()))[1])

    def __call__(self, inputs: Sequence[Any], labels: Any) -> SampleGradients:
        batch = Pass(self.model, inputs, labels, self.loss)
        with undisturbed((self.model,)), torch.inference_mode(False), torch.enable_grad():
            found = _in_best_layout(self.model, inputs, lambda inputs: self._by_layers(replace(batch, inputs=inputs)))
            if self._plan.rest:
                found[OTHERS] = Dense(_each(batch, self._plan.rest))
        return SampleGradients(found, self._plan.names)

    def _by_layers(self, batch: Pass) -> dict[str, Part]:
        """Of the layers whose gradients are products; what turns out not to be is in the plan's rest from now on."""
        found = _watched(batch, self._plan.leaves)
        if found is None:  # a layer ran twice, or in a way that was not expected
            self._plan = Plan({}, list(self._wanted))
            return {}
        checked, odd = CHECKED.get(self.model, (frozenset(), frozenset()))
        if checked >= self._plan.leaves.keys():
            return found
        odd = odd | _odd(batch, self._plan.leaves, found)
        CHECKED[self.model] = (checked | self._plan.leaves.keys(), odd)
        self._plan = _divided(self.model, self._wanted, odd)
        return {name: found[name] for name in self._plan.leaves}


@dataclass(frozen=True)
class Plan:
    """Layers whose gradients are products, and the parameters that remain."""

    leaves: Mapping[str, nn.Module]
    rest: Named

    @cached_property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Of each part, its parameters."""
        of_leaves = {
            name: tuple(f"{name}.{p}" if name else p for p, _ in leaf.named_parameters(recurse=False)) for name, leaf in self.leaves.items()
        }
        return of_leaves | ({OTHERS: tuple(name for name, _ in self.rest)} if self.rest else {})


@dataclass(frozen=True)
class Pass:
    """A model, and a batch that it is to see."""

    model: nn.Module
    inputs: Sequence[Any]
    labels: Any
    loss: Loss | None

    def total(self) -> Tensor:
        """The sum of the examples' losses; what is random is the same every time."""
        if not self.model.training:
            return summed(self.loss, said(self.model, self.inputs), self.labels)
        with torch.random.fork_rng({p.device for p in self.model.parameters() if p.is_cuda}):
            return summed(self.loss, said(self.model, self.inputs), self.labels)

    def example(self, i: int) -> Pass:
        """With one example only."""
        one = [x[i : i + 1] if isinstance(x, Tensor) else x for x in self.inputs]
        return Pass(self.model, one, self.labels[i : i + 1] if self.labels is not None else None, self.loss)


# Models that cannot read pictures whose channels are last.
PLAIN: WeakSet[nn.Module] = WeakSet()
X = TypeVar("X")


def _in_best_layout(model: nn.Module, inputs: Sequence[Any], work: Callable[[Sequence[Any]], X]) -> X:
    """Pictures are given with the channels last in memory, which convolutions and pooling on a CPU are fastest in."""
    if model not in PLAIN and any(isinstance(x, Tensor) and x.dim() == 4 and x.device.type == "cpu" for x in inputs):
        try:
            return work([_channels_last(x) if isinstance(x, Tensor) else x for x in inputs])
        except RuntimeError as error:
            if is_out(error) or isinstance(error, PellucidError):
                raise
            PLAIN.add(model)
    return work(inputs)


def _channels_last(x: Tensor) -> Tensor:
    # `contiguous` leaves pictures of one channel as they are, and convolutions then take them for plain ones.
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 and x.device.type == "cpu" else x


Named = Sequence[tuple[str, Tensor]]
# Of each model, the layers that were checked, and those among them whose parameters are used in other places too.
CHECKED: WeakKeyDictionary[nn.Module, tuple[frozenset[str], frozenset[str]]] = WeakKeyDictionary()


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


def _divided(model: nn.Module, wanted: Named, odd: frozenset[str]) -> Plan:
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
    return Plan(leaves, [(name, p) for name, p in wanted if id(p) not in covered])


def _watched(batch: Pass, leaves: Mapping[str, nn.Module]) -> dict[str, Part] | None:
    modules = list(leaves.values())
    if not modules:
        return {}
    with between(modules) as seen:
        total = batch.total()
    if any(len(calls) != 1 for calls in seen):
        return None
    gradients = torch.autograd.grad(total, [calls[0][1] for calls in seen], allow_unused=True, materialize_grads=True)
    found: dict[str, Part] = {}
    for (name, module), calls, gradient in zip(leaves.items(), seen, gradients, strict=True):
        part = FACTORS[type(module)](module, _precise(calls[0][0]), _precise(gradient))
        if part is None:
            return None
        found[name] = part
    return found


def _precise(values: Tensor) -> Tensor:
    """Sums over half precision numbers overflow."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _each(batch: Pass, wanted: Named) -> Tensor:
    """Gradients for parameters that no product describes: of all examples at once if the operations allow it, else one by one."""
    if all(isinstance(x, Tensor) for x in (*batch.inputs, batch.labels)):
        with warnings.catch_warnings(), contextlib.suppress(RuntimeError, NotImplementedError, ValueError):
            warnings.simplefilter("ignore")  # that an operation is slow, say
            return _at_once(batch, wanted)
    return _one_by_one(batch, wanted)


def _at_once(batch: Pass, wanted: Named) -> Tensor:
    def loss(parameters: Mapping[str, Tensor], inputs: Sequence[Tensor], label: Tensor) -> Tensor:
        output = functional_call(batch.model, dict(parameters), tuple(x[None] for x in inputs))
        return (output if batch.loss is None else batch.loss(output, label[None])).sum()

    parameters = {name: parameter.detach() for name, parameter in wanted}
    size = sum(p.numel() for p in parameters.values())
    at_most = max(1, BUDGET.get() // (8 * size))
    found = vmap(grad(loss), (None, 0, 0), chunk_size=at_most)(parameters, tuple(batch.inputs), batch.labels)
    return torch.cat([_precise(found[name].flatten(1) if found[name].dim() > 1 else found[name][:, None]) for name in parameters], 1)


def _one_by_one(batch: Pass, wanted: Named) -> Tensor:
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


def _convolution(module: Any, received: Tensor, gradient: Tensor) -> Part | None:
    """Of a convolution in any number of dimensions: the patches that it saw, and the gradients of the places that they led to."""
    if received.dim() != len(module.kernel_size) + 2:
        return None
    left = gradient.flatten(2)
    if module.groups == 1:
        windows = Windows(partial(_patches, module), module.in_channels * math.prod(module.kernel_size))
        return Outer(left.transpose(1, 2), received, module.bias is not None, windows)
    right = _patches(module, received)
    rows = left.unflatten(1, (module.groups, -1)) @ right.unflatten(1, (module.groups, -1)).transpose(2, 3)
    return Dense(torch.cat([rows.flatten(1), left.sum(2)], 1) if module.bias is not None else rows.flatten(1))


def _patches(module: Any, received: Tensor) -> Tensor:
    """`(B, channels and places of the kernel, places of the output)`; views of overlapping strides are quicker than `F.unfold`."""
    x = _padded(module, received).contiguous()
    (size, channels, *lengths), (of_example, of_channel, *steps) = x.shape, x.stride()
    kernel = list(zip(lengths, steps, module.kernel_size, module.stride, module.dilation, strict=True))
    places = [(length - dilation * (wide - 1) - 1) // stride + 1 for length, _, wide, stride, dilation in kernel]
    inner, outer = [step * dilation for _, step, _, _, dilation in kernel], [step * stride for _, step, _, stride, _ in kernel]
    found = x.as_strided((size, channels, *module.kernel_size, *places), (of_example, of_channel, *inner, *outer))
    return found.reshape(size, channels * math.prod(module.kernel_size), -1)


def _padded(module: Any, received: Tensor) -> Tensor:
    if module.padding == "valid":
        return received
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(received, module._reversed_padding_repeated_twice, mode=mode)


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
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.Embedding: _embedding,
    nn.LayerNorm: _norm(lambda module, x: F.layer_norm(x, module.normalized_shape, None, None, module.eps), False),
    nn.GroupNorm: _norm(lambda module, x: F.group_norm(x, module.num_groups, None, None, module.eps), True),
    nn.BatchNorm1d: _norm(_batch_normalised, True),
    nn.BatchNorm2d: _norm(_batch_normalised, True),
    nn.BatchNorm3d: _norm(_batch_normalised, True),
}
