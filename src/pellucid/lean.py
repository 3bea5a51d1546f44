"""Cheaper passes of a frozen model, exact up to rounding: batch-norm folded into the layer before it, channels last.

A `TorchFunctionMode` sees every operation as it is called, so the user's modules are never touched. A fold is sound by
construction: a convolution is computed with folded weights only where its result went nowhere but into the batch-norm
when it was watched, and whatever else meets that result later makes the whole pass start again without folding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .inputs import Tensors
from .line import Line, NotLean, tensors_in

__all__ = ["Lean", "Recorder", "can_be_lean", "shaped"]

AFFINE = (F.linear, F.conv1d, F.conv2d, F.conv3d)
# What may be asked about a tensor without looking at its values.
HARMLESS = {Tensor.dim, Tensor.size, Tensor.stride, Tensor.numel, Tensor.is_floating_point, Tensor.is_contiguous} | {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout", "is_cuda", "is_sparse", "is_mkldnn", "is_quantized")
}  # fmt: skip


def can_be_lean(roots: tuple[nn.Module, ...], features: Tensors) -> bool:
    """Whether operations can be seen and replaced: plain eager modules in full precision, without hooks of others."""
    modules = [m for root in roots for m in root.modules()]
    return (
        bool(modules)
        and all(f.dtype in (torch.float32, torch.float64) for f in features)
        and not any(isinstance(m, torch.jit.ScriptModule | nn.DataParallel) or type(m).__name__ == "OptimizedModule" for m in modules)
        and not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)
    )


@dataclass(frozen=True, eq=False)
class _Norm:
    """The arguments of a batch-norm in eval mode."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float


def _norm(input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
          momentum: float = 0.1, eps: float = 1e-5) -> _Norm | None:  # fmt: skip
    """Named as `F.batch_norm` names them; None if it uses the statistics of the batch."""
    return None if training or running_mean is None else _Norm(running_mean, running_var, weight, bias, eps)


def _affine(input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    return weight, bias


class Recorder(TorchFunctionMode):
    """Watches one pass: which affine layer's result goes into which batch-norm, and nowhere else."""

    def __init__(self, roots: tuple[nn.Module, ...]) -> None:
        super().__init__()
        self._own = {id(p) for root in roots for p in root.parameters()}
        self._made: dict[int, tuple[Tensor, int]] = {}
        self._spoiled: set[int] = set()
        self._norms: dict[int, _Norm] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in HARMLESS:
            for tensor in tensors_in((*args, *kwargs.values())):
                if id(tensor) in self._made:
                    self._met(func, self._made[id(tensor)][1], args, kwargs)
        found = func(*args, **kwargs)
        if func in AFFINE:
            weight = id(_affine(*args, **kwargs)[0])
            if weight not in self._own or any(weight == other for _, other in self._made.values()):
                self._spoiled.add(weight)
            self._made[id(found)] = found, weight
        return found

    def _met(self, func: Any, weight: int, args: Any, kwargs: Any) -> None:
        norm = _norm(*args, **kwargs) if func is F.batch_norm else None
        if norm is None or weight in self._norms:
            self._spoiled.add(weight)
        else:
            self._norms[weight] = norm

    @property
    def pairs(self) -> dict[int, _Norm]:
        """The batch-norm that follows each layer, by the identity of the layer's weight."""
        return {weight: norm for weight, norm in self._norms.items() if weight not in self._spoiled}


class Lean(TorchFunctionMode):
    """Runs passes with folded weights; `line`, if given, computes what a straight path allows to compute once."""

    def __init__(self, pairs: dict[int, _Norm], line: Line | None = None) -> None:
        super().__init__()
        self._pairs, self._line = pairs, line
        self._folded: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._pending: dict[int, tuple[Tensor, _Norm]] = {}

    def along(self, line: Line) -> Lean:
        """The same, along a line."""
        other = Lean(self._pairs, line)
        other._folded = self._folded
        return other

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        left, self._pending = self._pending, {}
        if left and error[0] is None:
            raise NotLean

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._pending and func not in HARMLESS:
            for tensor in tensors_in((*args, *kwargs.values())):
                if id(tensor) in self._pending:
                    return self._normed(func, tensor, args, kwargs)
        if func in AFFINE:
            return self._affine(func, *args, **kwargs)
        if self._line is not None:
            return self._line.follow(func, args, kwargs)
        return func(*args, **kwargs)

    def _normed(self, func: Any, tensor: Tensor, args: Any, kwargs: Any) -> Tensor:
        found, expected = self._pending.pop(id(tensor))
        norm = _norm(*args, **kwargs) if func is F.batch_norm else None
        if norm is None or norm.mean is not expected.mean or norm.weight is not expected.weight:
            raise NotLean
        return found

    def _affine(self, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **options: Any) -> Tensor:
        norm = self._pairs.get(id(weight))
        if norm is not None and (func is not F.linear or input.dim() == 2):
            weight, bias = self._fold(weight, bias, norm)
        found: Tensor | None = None
        if self._line is not None:
            found = self._line.once(lambda x: func(x, weight, bias, *rest, **options), (func, id(weight)), input)
        if found is None:
            found = func(input, weight, bias, *rest, **options)
        if norm is not None and bias is not None and weight is self._folded.get(id(norm.mean), (None,))[0]:
            self._pending[id(found)] = found, norm
        return found

    def _fold(self, weight: Tensor, bias: Tensor | None, norm: _Norm) -> tuple[Tensor, Tensor]:
        known = self._folded.get(id(norm.mean))
        if known is None or known[2] is not weight:
            scale = torch.rsqrt(norm.var + norm.eps) * (1 if norm.weight is None else norm.weight)
            shift = (0 if bias is None else bias) - norm.mean
            folded = weight * scale.view(-1, *(1,) * (weight.dim() - 1))
            if folded.dim() == 4 and folded.device.type == "cpu":
                folded = folded.contiguous(memory_format=torch.channels_last)
            known = folded, shift * scale + (0 if norm.bias is None else norm.bias), weight
            self._folded[id(norm.mean)] = known
        return known[0], known[1]


def shaped(points: Tensors) -> Tensors:
    """Pictures in channels-last layout, which convolutions on a CPU are fastest in; those of one channel are in it as they are."""
    return tuple(
        p.contiguous(memory_format=torch.channels_last) if p.dim() == 4 and p.device.type == "cpu" else p for p in points
    )  # fmt: skip
