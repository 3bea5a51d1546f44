"""The gradient of a layer's parameters, of each example, from what the layer received and the gradient of what it returned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .parts import Dense, Lookup, Outer, Part, Windows

__all__ = ["FACTORS"]


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
