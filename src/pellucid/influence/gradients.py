"""The gradient of every example's loss with respect to the parameters, kept in parts that need not be multiplied out.

The gradient of a linear layer's weight is a sum of outer products of what it received and of the gradient of what it returned.
Inner products of two examples' gradients follow from these two: one forward pass, and a backward pass to the layers' outputs.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..errors import InputError, OptionError, PellucidError
from ..hooks import between
from ..memory import is_out
from ..model import in_train_mode, said, undisturbed
from .factors import FACTORS
from .loss import Loss, Losses
from .parts import BUDGET, Dense, Part, SampleGradients

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
    >>> found = sample_gradients(layer, [torch.randn(4, 3)], torch.tensor([0, 1, 1, 0]), nn.CrossEntropyLoss())
    >>> found.dot(found).shape, found.rows().shape
    (torch.Size([4, 4]), torch.Size([4, 8]))
    """
    return PerExample(model, loss, layers)(inputs, labels)


class PerExample:
    """`sample_gradients` of batch after batch: what there is to know about the model and the loss is found once."""

    def __init__(self, model: nn.Module, loss: Loss | None, layers: Sequence[nn.Module] | None = None) -> None:
        _refuse_mixing(model)
        self.model, self.losses = model, Losses(loss)
        self._plan = _divided(model, parameters_of(model, layers))
        self._mark = _signature(model, loss)
        self._at_once: bool | None = None

    def __call__(self, inputs: Sequence[Any], labels: Any) -> SampleGradients:
        batch = Pass(self.model, inputs, labels, self.losses)
        with undisturbed((self.model,)), torch.inference_mode(False), torch.enable_grad():
            found = self._by_layers(batch)
            lacking = [name for name in self._plan.names if name not in found]
            if lacking:
                found |= self._directly(batch, lacking)
        return SampleGradients({name: found[name] for name in self._plan.names}, self._plan.names)

    def _by_layers(self, batch: Pass) -> dict[str, Part]:
        """Of the layers whose gradients are products, as far as they are, in this batch."""
        known = CHECKED.setdefault(self.model, {}).setdefault(self._mark, {})
        leaves = {name: leaf for name, leaf in self._plan.leaves.items() if known.get(name, True)}
        found = _in_best_layout(self.model, batch.inputs, lambda inputs: _watched(replace(batch, inputs=inputs), leaves))
        fresh = {name: part for name, part in found.items() if name not in known}
        odd = _odd(batch, {name: leaves[name] for name in fresh}, fresh) if fresh else frozenset()
        if batch.size > 1:  # one example alone tells little
            known.update({name: name not in odd for name in fresh})
        return {name: part for name, part in found.items() if name not in odd}

    def _directly(self, batch: Pass, parts: Sequence[str]) -> dict[str, Part]:
        """By autograd, for the parameters of these parts."""
        wanted = [(name, self._plan.parameters[name]) for part in parts for name in self._plan.names[part]]
        rows = self._rows(batch, wanted)
        widths = [sum(self._plan.parameters[name].numel() for name in self._plan.names[part]) for part in parts]
        return {part: Dense(piece) for part, piece in zip(parts, rows.split(widths, 1), strict=True)}

    def _rows(self, batch: Pass, wanted: Named) -> Tensor:
        """Of all examples at once if the operations allow it, and the result is that of single ones; else one by one."""
        if self._at_once is not False and all(isinstance(x, Tensor) for x in (*batch.inputs, batch.labels)):
            with warnings.catch_warnings(), contextlib.suppress(RuntimeError, NotImplementedError, ValueError):
                warnings.simplefilter("ignore")  # that an operation is slow, say
                rows = _at_once(batch, wanted)
                self._at_once = self._at_once or all(_close(rows[i : i + 1], _one_by_one(batch, wanted, [i])) for i in (0, batch.size - 1))
                if self._at_once:
                    return rows
        self._at_once = False
        return _one_by_one(batch, wanted, range(batch.size))


Named = Sequence[tuple[str, Tensor]]
# Of each model, as it was when that was found out: whether the gradients of a layer are products of what passes it.
CHECKED: WeakKeyDictionary[nn.Module, dict[int, dict[str, bool]]] = WeakKeyDictionary()


def _signature(model: nn.Module, loss: Loss | None) -> int:
    """What tells that layers may behave in another way than they did."""
    layers = (
        (name, type(m), tuple(m._parameters), len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training)
        for name, m in model.named_modules()
    )
    return hash((id(loss), *layers))


def _refuse_mixing(model: nn.Module) -> None:
    for name, module in model.named_modules():
        batchwise = isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None)
        if batchwise:
            raise OptionError(
                f"{name or type(module).__name__} normalises by the statistics of the batch, so an example has no gradient of its own; "
                "call model.eval(), or track running statistics"
            )


@dataclass(frozen=True)
class Plan:
    """Layers whose gradients may be products, the parameters that remain, and all by name."""

    leaves: Mapping[str, nn.Module]
    rest: Named
    parameters: Mapping[str, Tensor]

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
    losses: Losses

    @cached_property
    def size(self) -> int:
        """How many examples.

        Raises:
            InputError: there is no tensor that would tell.
        """
        first = next((x for x in self.inputs if isinstance(x, Tensor)), None)
        if first is None or not first.dim():
            raise InputError("a batch has no tensor; give (inputs, ..., labels) with the examples along dimension 0")
        return len(first)

    def total(self) -> Tensor:
        """The sum of the examples' losses; what is random is the same every time."""
        if not self.model.training:
            return self.losses.total(said(self.model, self.inputs), self.labels, self.size)
        with torch.random.fork_rng({p.device for p in self.model.parameters() if p.is_cuda}):
            return self.losses.total(said(self.model, self.inputs), self.labels, self.size)

    def example(self, i: int) -> Pass:
        """With one example only."""
        one = [x[i : i + 1] if isinstance(x, Tensor) and x.dim() else x for x in self.inputs]
        return Pass(self.model, one, self.labels[i : i + 1] if self.labels is not None else None, self.losses)


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


def parameters_of(model: nn.Module, layers: Sequence[nn.Module] | None) -> list[tuple[str, Tensor]]:
    """Those that can have a gradient, of the layers or of the whole model, by name.

    Raises:
        OptionError: there are none.
    """
    own = {id(p) for layer in ([model] if layers is None else layers) for p in layer.parameters()}
    found: list[tuple[str, Tensor]] = [(name, p) for name, p in model.named_parameters() if id(p) in own and p.requires_grad]
    if not found:
        where = "the model has" if layers is None else "the layers have"
        raise OptionError(f"{where} no parameter with requires_grad; unfreeze what the examples are compared by, or choose other layers")
    return found


def _odd(batch: Pass, leaves: Mapping[str, nn.Module], found: Mapping[str, Part]) -> frozenset[str]:
    """Layers whose parts are not the gradients of single examples: a weight that something else uses too, examples that change places."""
    names = {name: [f"{name}.{p}" if name else p for p, _ in leaf.named_parameters(recurse=False)] for name, leaf in leaves.items()}
    wanted = [(each, p) for name, leaf in leaves.items() for each, p in zip(names[name], leaf.parameters(recurse=False), strict=True)]
    widths = [sum(p.numel() for p in leaf.parameters(recurse=False)) for leaf in leaves.values()]
    if in_train_mode((batch.model,)):  # alone, an example meets another chance
        expected = _whole(batch, wanted).split(widths, 1)
        return frozenset(name for name, e in zip(leaves, expected, strict=True) if not _close(found[name].total()[None], e))
    which = sorted({0, batch.size // 3, (2 * batch.size) // 3, batch.size - 1})
    expected = _one_by_one(batch, wanted, which).split(widths, 1)
    return frozenset(name for name, e in zip(leaves, expected, strict=True) if not _close(found[name].some(which).rows(), e))


def _close(found: Tensor, expected: Tensor) -> bool:
    off = 0.03 if expected.dtype in (torch.float16, torch.bfloat16) else 1e-3
    if found.shape != expected.shape:
        return False
    distance, length = (found - expected).float().norm(dim=1), expected.float().norm(dim=1)
    return bool((distance <= off * length + 1e-3 * off * length.max() + 1e-9).all())


def _divided(model: nn.Module, wanted: Named) -> Plan:
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
    return Plan(leaves, [(name, p) for name, p in wanted if id(p) not in covered], dict(model.named_parameters()))


def _watched(batch: Pass, leaves: Mapping[str, nn.Module]) -> dict[str, Part]:
    """The parts of those layers that run once, with as many rows as there are examples."""
    if not leaves:
        return {}
    with between(list(leaves.values())) as seen:
        total = batch.total()
        known = {
            name: calls[0] for (name, _), calls in zip(leaves.items(), seen, strict=True) if len(calls) == 1 and _fits(calls[0], batch.size)
        }
        if not known or not total.requires_grad:
            return {}
        # Inside the block: a checkpointed layer runs again, and must run in the same way.
        gradients = torch.autograd.grad(total, [output for _, output in known.values()], allow_unused=True, materialize_grads=True)
    found = {}
    for (name, (received, _)), gradient in zip(known.items(), gradients, strict=True):
        part = FACTORS[type(leaves[name])](leaves[name], _precise(received), _precise(gradient))
        if part is not None:
            found[name] = part
    return found


def _fits(call: tuple[Tensor, Tensor], size: int) -> bool:
    return all(x.dim() > 1 and len(x) == size for x in call)


def _precise(values: Tensor) -> Tensor:
    """Sums over half precision numbers overflow."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _at_once(batch: Pass, wanted: Named) -> Tensor:
    def loss(parameters: Mapping[str, Tensor], inputs: Sequence[Tensor], label: Tensor) -> Tensor:
        output = functional_call(batch.model, dict(parameters), tuple(x[None] for x in inputs))
        return (output if batch.losses.loss is None else batch.losses.loss(output, label[None])).sum()

    parameters = {name: parameter.detach() for name, parameter in wanted}
    size = sum(p.numel() for p in parameters.values())
    at_most = max(1, BUDGET.get() // (8 * size))
    found = vmap(grad(loss), (None, 0, 0), chunk_size=at_most)(parameters, tuple(batch.inputs), batch.labels)
    return torch.cat([_precise(found[name].reshape(batch.size, -1)) for name in parameters], 1)


def _one_by_one(batch: Pass, wanted: Named, which: Sequence[int]) -> Tensor:
    return torch.cat([_whole(batch.example(i), wanted) for i in which])


def _whole(batch: Pass, wanted: Named) -> Tensor:
    """`(1, parameters)`, by a backward pass."""
    parameters = [parameter for _, parameter in wanted]
    for parameter in parameters:
        parameter.requires_grad_(True)  # the caller puts it back as it was
    try:
        total = batch.total()
        if not total.requires_grad:
            return torch.cat([_precise(torch.zeros_like(p).flatten()) for p in parameters])[None]
        grads = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    return torch.cat([_precise((g.to_dense() if g.is_sparse else g).flatten()) for g in grads])[None]
