"""Operations in which a kernel slides over a map, convolutions and poolings, computed on patches only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .partial import Norm, Op, Partial, Pass, Unfit
from .patches import Rect, Slide, cut, everything, rows_of

__all__ = ["KERNELS", "sliding"]

# From this share of a map on its rectangle is computed as the whole map: no halo to cut, and the rest soon follows.
WHOLE = 0.9


@dataclass(frozen=True, eq=False)
class Sliding:
    """An operation in which a kernel slides over the map.

    Attributes:
        slides: how, along each axis.
        outside: the number that it reads outside the map.
        native: the operation on whole maps.
        local: the same on places that were cut for it, for results at these rectangles.
        macs: multiply-adds for each place of the result.
        normed: the batch-norm that it does as well.
    """

    input: Partial
    slides: tuple[Slide, Slide]
    outside: float
    native: Callable[[Tensor], Tensor]
    local: Callable[[Tensor, Rect], Tensor]
    macs: int = 0
    normed: Norm | None = None


def sliding(run: Pass, op: Op) -> Any:
    """A convolution or a pooling."""
    try:
        kernel = KERNELS[op.name](run, *op.args, **op.kwargs)
    except TypeError:  # an overload with other arguments
        return NotImplemented
    if kernel is NotImplemented or not kernel.input.is_floating_point():
        return NotImplemented
    if torch.is_autocast_enabled(kernel.input.device.type):
        raise Unfit("autocast")
    state, known = kernel.input.state, run.upcoming
    state.keep()
    base = kernel.native(state.base) if state.base is not None and not state.whole else None
    like = base if known is None else known
    whole, sizes = state.whole or (known is not None and known.whole), state.sizes if like is None else _sizes(like.shape)
    rect = everything(run.count, sizes)
    if not whole:
        ys, xs = (slide.touched(span, size) for slide, span, size in zip(kernel.slides, state.rect, sizes, strict=True))
        whole = ys.length * xs.length >= WHOLE * sizes[0] * sizes[1]
        rect = rect if whole else (ys, xs)
    if whole:
        found = kernel.native(state.all())
        sizes = _sizes(found.shape)
        rect = everything(run.count, sizes)
    else:
        ys, xs = (slide.needed(span) for slide, span in zip(kernel.slides, rect, strict=True))
        found = kernel.local(state.at((ys, xs), kernel.outside), rect)
    made = run.result(op, (state,), None if whole else base, found, rect, sizes, whole)
    made.state.normed, made.state.step.slides, made.state.step.macs = kernel.normed, kernel.slides, kernel.macs
    return made


def _sizes(shape: torch.Size) -> tuple[int, int]:
    return shape[2], shape[3]


def _conv2d(
    run: Pass, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    if not isinstance(input, Partial) or isinstance(weight, Partial) or isinstance(bias, Partial):
        return NotImplemented
    ys, xs = _slides(weight.shape[2:], stride, 0 if isinstance(padding, str) else padding, dilation)
    if padding == "same":
        ys, xs = (slide._replace(before=(slide.reach - 1) // 2) for slide in (ys, xs))
    normed, weight, bias = _weights(run, weight, bias)
    return Sliding(
        input,
        (ys, xs),
        0.0,
        lambda x: F.conv2d(x, weight, bias, stride, padding, dilation, groups),
        lambda x, _: F.conv2d(x, weight, bias, stride, 0, dilation, groups),
        weight.numel(),
        normed,
    )


def _weights(run: Pass, weight: Tensor, bias: Tensor | None) -> tuple[Norm | None, Tensor, Tensor | None]:
    """The batch-norm that is folded into the weights, if what reads the convolution is one and nothing else."""
    step = run.upcoming
    if step is None:
        return None, weight, bias
    norm = step.norm if step.uses == 1 else None
    if step.weights is None or step.weights[0] is not weight or step.weights[1] is not norm:
        folded, shift = (weight, bias) if norm is None else _folded(weight, bias, norm)
        step.weights = weight, norm, folded.contiguous(memory_format=torch.channels_last), shift
    return norm, step.weights[2], step.weights[3]


def _folded(weight: Tensor, bias: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    scale = torch.rsqrt(norm.var + norm.eps) * (1 if norm.weight is None else norm.weight)
    shift = (0 if bias is None else bias) - norm.mean
    return weight * scale.view(-1, 1, 1, 1), shift * scale + (0 if norm.bias is None else norm.bias)


def _max_pool2d(
    run: Pass, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    if return_indices or not isinstance(input, Partial):
        return NotImplemented
    stride = stride or kernel_size
    return Sliding(
        input,
        _slides(kernel_size, stride, padding, dilation),
        -torch.inf,
        lambda x: F.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode),
        lambda x, _: F.max_pool2d(x, kernel_size, stride, 0, dilation),
    )


def _avg_pool2d(
    run: Pass, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:  # fmt: skip
    if not isinstance(input, Partial):
        return NotImplemented
    stride = stride or kernel_size
    slides = _slides(kernel_size, stride, padding, 1)

    def native(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)

    def local(x: Tensor, _: Rect) -> Tensor:
        return F.avg_pool2d(x, kernel_size, stride, 0, divisor_override=divisor_override)

    def uneven(x: Tensor, rect: Rect) -> Tensor:
        """Sums, each by its own divisor: that which makes of ones what the pooling makes of them."""
        ones = x.new_ones(1, 1, *input.shape[2:])
        means = native(ones)
        sums = F.avg_pool2d(_surrounded(ones, slides, _sizes(means.shape)), kernel_size, stride, divisor_override=1)
        return F.avg_pool2d(x, kernel_size, stride, divisor_override=1) * cut(rows_of(means / sums), _sizes(means.shape), rect)

    even = divisor_override is not None or (not ceil_mode and (count_include_pad or not any(s.before for s in slides)))
    return Sliding(input, slides, 0.0, native, local if even else uneven)


def _surrounded(ones: Tensor, slides: tuple[Slide, Slide], outputs: tuple[int, int]) -> Tensor:
    """All places that the kernel visits."""
    after = [(n - 1) * s.stride + s.reach - s.before - size for n, s, size in zip(outputs, slides, ones.shape[2:], strict=True)]
    return F.pad(ones, (slides[1].before, after[1], slides[0].before, after[0]))


def _slides(kernel: Any, stride: Any, padding: Any, dilation: Any) -> tuple[Slide, Slide]:
    ys, xs = (Slide(*parts) for parts in zip(*map(_pair, (kernel, stride, padding, dilation)), strict=True))
    return ys, xs


def _pair(value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return int(values[0]), int(values[-1])


KERNELS: Mapping[str, Callable[..., Any]] = {"conv2d": _conv2d, "max_pool2d": _max_pool2d, "avg_pool2d": _avg_pool2d}
