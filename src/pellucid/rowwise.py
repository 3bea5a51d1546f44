"""Models that treat each row by itself by construction: layers of known types one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn
from torch.nn.modules import module

__all__ = ["is_row_by_row"]

# How many dimensions a layer of a type gives for so many; 0 where rows may see each other, or that is not known.
Dims = Callable[[nn.Module, int], int]


def _same(layer: nn.Module, dims: int) -> int:
    return dims if dims > 1 else 0  # a layer takes a single dimension for the features of one example


def _convolution(places: int) -> Dims:
    """One dimension fewer, and the batch is taken for channels."""
    return lambda layer, dims: dims if dims == places + 2 else 0


def _in_evaluation(layer: nn.Module, dims: int) -> int:
    return 0 if layer.training else _same(layer, dims)


def _by_statistics(layer: nn.Module, dims: int) -> int:
    """Of the batch, unless it keeps some."""
    return 0 if layer.training or layer.running_mean is None else _same(layer, dims)


def _flatten(layer: nn.Module, dims: int) -> int:
    return 2 if dims > 1 and (getattr(layer, "start_dim", 0), getattr(layer, "end_dim", 0)) == (1, -1) else 0


def _in_order(layer: nn.Module, dims: int) -> int:
    for child in layer._modules.values():
        dims = 0 if child is None else _of(child, dims)
        if not dims:
            return 0
    return dims


ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus,
    nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Identity, nn.Linear,
)  # fmt: skip
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
TYPES: Mapping[type, Dims] = {
    nn.Sequential: _in_order,
    nn.Flatten: _flatten,
    **dict.fromkeys(ACTIVATIONS, _same),
    **dict.fromkeys(DROPOUTS, _in_evaluation),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _by_statistics),
    **{kind: _convolution(n) for n, kind in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), 1)},
    **{kind: _convolution(n) for n, kind in enumerate((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), 1)},
    **{kind: _convolution(n) for n, kind in enumerate((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), 1)},
    **{kind: _convolution(n) for n, kind in enumerate((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), 1)},
}

# As torch has them: a class may be patched later.
FORWARD: Mapping[type, object] = {kind: vars(kind).get("forward") for kind in TYPES}


def is_row_by_row(model: object, dims: int) -> bool:
    """Whether a model of inputs of so many dimensions cannot but treat each example by itself. False: it may, it is not known.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    >>> is_row_by_row(net, 2), is_row_by_row(net, 1), is_row_by_row(nn.Sequential(net, nn.BatchNorm1d(4)).train(), 2)
    (True, False, False)
    """
    return isinstance(model, nn.Module) and bool(_of(model, dims))


def _of(layer: nn.Module, dims: int) -> int:
    kind = TYPES.get(type(layer))
    return 0 if kind is None or _is_altered(layer) else kind(layer, dims)


def _is_altered(layer: nn.Module) -> bool:
    """What others have hung on a layer may do anything."""
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or module._global_forward_hooks
        or module._global_forward_pre_hooks
        or {"forward", "__call__", "_call_impl"} & layer.__dict__.keys()
        or layer._compiled_call_impl is not None
        or vars(type(layer)).get("forward") is not FORWARD[type(layer)]
        or any(type(p) is not nn.Parameter for p in layer._parameters.values() if p is not None)
    )
