"""Renewal: the parameters of layers drawn anew, in a copy of a model, or in the model itself and put back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ..errors import InputError, OptionError
from ..inside import layer_named
from ..seeds import generator

__all__ = ["Block", "blocks_of", "devices", "kept", "running", "spare"]


@dataclass(frozen=True, eq=False)
class Block:
    """A layer, or several, whose parameters are drawn together.

    Attributes:
        name: of the layer.
        parts: modules, each with its number in the model and the names of its own parameters.
    """

    name: str
    parts: tuple[tuple[nn.Module, int, tuple[str, ...]], ...]

    @property
    def modules(self) -> list[nn.Module]:
        """All that drawing changes."""
        return [module for module, _, _ in self.parts]

    def renew(self, seed: int) -> None:
        """Draw the parameters anew: the same for a seed, whatever else was drawn before."""
        for module, number, names in self.parts:
            fresh = _reset(module, names, generator(seed, number).initial_seed())
            with torch.no_grad():
                for name, value in fresh.items():
                    _tables(module)[name].copy_(value)


def _reset(module: nn.Module, names: Sequence[str], seed: int) -> dict[str, Tensor]:
    """New values of the module's own parameters, and of its buffers where it resets itself (statistics that it gathered)."""
    own = _tables(module)
    source = torch.Generator().manual_seed(seed)
    drawn = {name: _alike(own[name], source) for name in names}
    reset = _initialiser(module)
    if reset is None:
        return drawn
    before = {name: value.detach().clone() for name, value in own.items()}
    with kept([*module.modules()]), torch.no_grad(), torch.random.fork_rng(devices()):
        torch.manual_seed(seed)
        try:
            reset()
        except Exception:  # a function of the same name that needs more than it is given
            return drawn
        found = {name: value.detach().clone() for name, value in _tables(module).items() if name in names or name in module._buffers}
    # A reset that leaves what was learned as it is (weights under another name, as with weight normalisation) is none.
    return {name: drawn[name] if _left(before[name], value) and name in drawn else value for name, value in found.items()}


def _initialiser(module: nn.Module) -> Callable[[], object] | None:
    # Attention names it otherwise.
    found = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    return found if callable(found) else None


def _left(before: Tensor, after: Tensor) -> bool:
    return torch.equal(before, after) and bool((before != before.flatten()[:1]).any())


def _alike(parameter: Tensor, source: torch.Generator) -> Tensor:
    """Normal, of the same mean and deviation; of a single number, or equal ones, with their magnitude as deviation."""
    values = parameter.detach().double()
    mean, deviation = values.mean(), values.std(correction=0)
    noise = torch.randn(values.shape, generator=source, dtype=torch.float64).to(values.device)
    return (mean + torch.where(deviation > 0, deviation, mean.abs()) * noise).to(parameter)


def _tables(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that are a module's own."""
    return {name: t for table in (module._parameters, module._buffers) for name, t in table.items() if t is not None}


@contextmanager
def kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """After the block the parameters, buffers and modes of these modules are as they were, whatever happened in it."""
    before = [(module, name, t, t.detach().clone()) for module in modules for name, t in _tables(module).items()]
    modes = [(module, module.training) for module in modules]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, tensor, value in before:
                if isinstance(tensor, nn.Parameter):  # another may have been put in its place
                    module._parameters[name] = tensor
                else:
                    module._buffers[name] = tensor
                tensor.copy_(value)
        for module, training in modes:
            module.training = training


@contextmanager
def spare(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of the model; where it cannot be copied the model itself, which is put back after the block."""
    try:
        with torch.inference_mode(False):
            copied = copy.deepcopy(model)
        if not all(p.is_leaf for p in copied.parameters()):  # copies of scripted modules are no parameters
            raise RuntimeError("the copy's parameters are not its own")
    except Exception:  # tensors in the middle of a graph, locks, handles, too little memory
        with kept([*model.modules()]):
            yield model
        return
    yield copied


def devices() -> list[int]:
    """The devices other than the CPU that have a random state of their own."""
    return [*range(torch.cuda.device_count())] if torch.cuda.is_initialized() else []


@contextmanager
def running(model: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """The modules that run while the block does, in this order."""
    own, order = {*model.modules()}, dict[nn.Module, int]()

    def note(module: nn.Module, _: object) -> None:
        if module in own:
            order.setdefault(module, len(order))

    # One hook beside the model instead of one in each layer: methods that look at a model's own hooks see none.
    handle = register_module_forward_pre_hook(note)
    try:
        yield order
    finally:
        handle.remove()


def blocks_of(model: nn.Module, ran: Mapping[nn.Module, int], layers: Sequence[str] | None = None, backwards: bool = False) -> list[Block]:
    """The layers that have parameters, from the input to the output, or the other way; each parameter in the first that has it.

    Args:
        ran: the order in which modules ran; those that did not come after the one before them in the model.
        layers: these only, each with all layers in it; None: every module with parameters of its own.

    Raises:
        OptionError: a layer that does not exist, or has no parameters. InputError: a model without any.
    """
    modules = [*model.modules()]
    place: dict[nn.Module, tuple[int, int]] = {}
    last = -1
    for number, module in enumerate(modules):
        last = ran.get(module, last)
        place[module] = (last, number)
    if layers is None:
        asked = [(name or type(module).__name__, [module]) for name, module in model.named_modules() if _own(module)]
    else:
        asked = [(name, [m for m in layer_named((model,), name).modules() if _own(m)]) for name in layers]
    for name, inner in asked:
        if not inner:
            raise OptionError(f"layer {name!r} has no parameters to draw anew; leave it out")
    if not asked:
        raise InputError("the model has no layers with parameters to draw anew; the test is of what a model has learned")
    asked.sort(key=lambda block: min(place[module] for module in block[1]), reverse=backwards)
    return [*_each_once(asked, {module: number for number, module in enumerate(modules)})]


def _each_once(asked: Sequence[tuple[str, list[nn.Module]]], numbers: Mapping[nn.Module, int]) -> Iterator[Block]:
    seen: set[int] = set()
    for name, modules in asked:
        parts = [(m, numbers[m], tuple(n for n in _own(m) if id(m._parameters[n]) not in seen)) for m in modules]
        seen |= {id(p) for m in modules for p in m._parameters.values()}
        if any(names for _, _, names in parts):
            yield Block(name, tuple(part for part in parts if part[2]))


def _own(module: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, p in module._parameters.items() if p is not None and p.is_floating_point())
