"""The user's model: which modules a callable reaches, and how they are left as they were."""

from __future__ import annotations

import dis
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Foreign", "in_train_mode", "modules_of", "said", "undisturbed"]


def modules_of(forward: Callable[..., Any]) -> tuple[nn.Module, ...]:
    """The modules that a callable runs: itself, what it is bound to, what it closes over or names globally.

    A function that finds its model some other way (in a dictionary, say) gives none: its parameters then take part in
    the graph as usual, and its mode is not checked.
    """
    if isinstance(forward, nn.Module):
        return (forward,)
    if isinstance(forward, functools.partial):
        return _unique(modules_of(forward.func) + _modules((*forward.args, *forward.keywords.values())))
    owner = getattr(forward, "__self__", None)
    function = getattr(forward, "__func__", forward)
    cells = (_content(cell) for cell in getattr(function, "__closure__", None) or ())
    names = _globals_of(function.__code__) if hasattr(function, "__code__") else ()
    known = getattr(function, "__globals__", {})
    defaults = (*(getattr(function, "__defaults__", None) or ()), *(getattr(function, "__kwdefaults__", None) or {}).values())
    # An object that is called, or whose method is, runs the modules that it holds.
    held = tuple(vars(owner or function).values()) if hasattr(owner or function, "__dict__") else ()
    return _unique(_modules((owner, *cells, *defaults, *(known.get(name) for name in names), *held)))


@functools.lru_cache(512)
def _globals_of(code: CodeType) -> tuple[str, ...]:
    return tuple(i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that the enclosing function has not bound yet
        return None


def _modules(values: tuple[Any, ...]) -> tuple[nn.Module, ...]:
    """Modules among the values, and those that bound methods among them belong to."""
    owners = (v if isinstance(v, nn.Module) else getattr(v, "__self__", None) for v in values)
    return tuple(owner for owner in owners if isinstance(owner, nn.Module))


def _unique(modules: tuple[nn.Module, ...]) -> tuple[nn.Module, ...]:
    return tuple(dict.fromkeys(modules))


def layers_of(roots: tuple[nn.Module, ...]) -> list[nn.Module]:
    """Every module, once; `Module.modules` takes several times as long, which small models feel."""
    found, seen = list(roots), set(roots)
    for module in found:
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                found.append(child)
    return found


class Foreign(nn.Module):
    """A module that runs in another framework: nothing in it can be watched, only gradients come back."""

    framework = "another framework"

    def in_train_mode(self) -> list[str]:
        """Its layers that are in train mode and behave otherwise there."""
        return []

    def modes(self) -> Any:
        """The mode of everything inside."""
        return self.training

    def restore(self, modes: Any) -> None:
        """Back to what `modes` said."""
        self.train(modes)


def in_train_mode(roots: tuple[nn.Module, ...]) -> list[str]:
    """The layers that behave otherwise in training (dropout, normalisation by batch statistics) and are in that mode."""
    if not any(layer.training for layer in layers_of(roots)):
        return []
    foreign = [name for layer in layers_of(roots) if isinstance(layer, Foreign) for name in layer.in_train_mode()]
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase, nn.RNNBase, nn.MultiheadAttention, nn.RReLU)
    return foreign + [
        name or type(layer).__name__
        for root in roots
        for name, layer in root.named_modules()
        if layer.training and isinstance(layer, kinds) and _acts(layer)
    ]


def _acts(layer: nn.Module) -> bool:
    if isinstance(layer, nn.RNNBase):
        return bool(layer.dropout > 0 and layer.num_layers > 1)
    if isinstance(layer, nn.MultiheadAttention):
        return bool(layer.dropout > 0)
    if isinstance(layer, nn.modules.instancenorm._InstanceNorm):  # by the example's own statistics, unless it gathers others
        return bool(layer.track_running_stats)
    return not isinstance(layer, nn.modules.dropout._DropoutNd) or layer.p > 0


def said(model: Callable[..., Any], inputs: Iterable[Any]) -> Any:
    """What a model returns for copies of the inputs: it may work in place."""
    return model(*(x.clone() if isinstance(x, Tensor) else x for x in inputs))


@contextmanager
def undisturbed(roots: tuple[nn.Module, ...]) -> Iterator[None]:
    """While the block runs, parameters need no gradient; afterwards they, the buffers and the RNG are as before.

    Frozen parameters cost no saved activations, and a model in train mode may move its statistics: they are put back.
    """
    frozen: list[Tensor] = []
    shortened: list[tuple[Tensor, Tensor]] = []
    buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []
    for module in layers_of(roots):
        frozen += [p for p in module._parameters.values() if p is not None and p.requires_grad and not p.is_inference()]
        if getattr(module, "max_norm", None) is not None:  # an embedding shortens its vectors where it looks them up
            shortened += [(p, p.detach().clone()) for p in module._parameters.values() if p is not None]
        if module.training:
            buffers += [(module, name, b, b.detach().clone()) for name, b in module._buffers.items() if b is not None]
    cpu, cuda = torch.get_rng_state(), _cuda_rng(roots)
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer  # the model may have put another in its place
                buffer.copy_(before)
            for parameter, long in shortened:
                parameter.copy_(long)
        torch.set_rng_state(cpu)
        for device, state in cuda:
            torch.cuda.set_rng_state(state, device)


def _cuda_rng(roots: tuple[nn.Module, ...]) -> list[tuple[torch.device, Tensor]]:
    if not torch.cuda.is_initialized():
        return []
    devices = {p.device for root in roots for p in root.parameters() if p.is_cuda}
    return [(device, torch.cuda.get_rng_state(device)) for device in devices or {torch.device("cuda")}]
