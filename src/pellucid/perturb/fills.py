"""Fills: what stands in for features that are taken away, made from the input itself or from other examples.

A fill is a function of one input `(B, ...)`. It returns a reference for each example, of the input's shape, or several,
`(R, B or 1, ...)`: scores are then the mean over them. Give one as `baselines`, or one for each input. Numbers and tensors
(`pellucid.inputs.expanded`) are fills too, and so is any function of yours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, OptionError
from ..inputs import Tensors
from ..seeds import generator

__all__ = ["Fill", "blur", "marginal", "mean", "others", "token"]

Fill = Callable[[Tensor], Tensor]
Rows = TypeVar("Rows", Tensor, Tensors)

REACH = 4.0  # standard deviations at which the Gaussian is cut off


def mean(rows: Tensor | None = None) -> Fill:
    """The mean of reference rows `(N, ...)`; without rows, of each example's own places, channel by channel.

    Raises:
        InputError: rows of another shape, or no rows where an input `(B, F)` has no places.

    >>> picture = torch.arange(8.0).view(1, 2, 2, 2)
    >>> mean()(picture)[0, :, 0, 0].tolist()
    [1.5, 5.5]
    """

    def fill(feature: Tensor) -> Tensor:
        if rows is not None:
            return _fitting(rows, feature).double().mean(0, keepdim=True).expand_as(feature)
        _places(feature, "mean() of each example's own places", "give rows to take the mean of: mean(rows)")
        return feature.mean(tuple(range(2, feature.dim())), keepdim=True).expand_as(feature)

    return fill


def blur(sigma: float | None = None) -> Fill:
    """The input itself, smoothed by a Gaussian over its places; the edge's values go on beyond it.

    Source: Fong and Vedaldi 2017, section 4.1 (blur as the absence of information).

    Args:
        sigma: standard deviation, in places; None: a twentieth of the longest dimension.

    Raises:
        InputError: an input without places. OptionError: a sigma that is not positive.

    >>> step = torch.tensor([[[0.0, 0, 0, 0, 1, 1, 1, 1]]])
    >>> bool((blur(1.0)(step).diff() > 0).all())
    True
    """
    if sigma is not None and not 0 < sigma < math.inf:
        raise OptionError(f"sigma is {sigma}; it must be positive and finite, in places (pixels)")

    def fill(feature: Tensor) -> Tensor:
        _places(feature, "blur", "give a number, mean(rows) or marginal(rows)")
        wide = max(feature.shape[2:]) / 20 if sigma is None else sigma
        reach = math.ceil(REACH * wide)
        kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=feature.device) / wide) ** 2)
        smooth = feature
        for axis in range(2, feature.dim()):
            smooth = _along(smooth, axis, (kernel / kernel.sum()).to(feature.dtype))
        return smooth

    return fill


def _along(feature: Tensor, axis: int, kernel: Tensor) -> Tensor:
    """Convolved with the kernel along one axis."""
    moved = feature.movedim(axis, -1)
    lines = F.pad(moved.reshape(1, -1, moved.shape[-1]), (len(kernel) // 2,) * 2, mode="replicate")
    return F.conv1d(lines.transpose(0, 1), kernel[None, None]).view(moved.shape).movedim(-1, axis)


def marginal(rows: Tensor | Sequence[Tensor], count: int | None = None, seed: int = 0) -> Fill | tuple[Fill, ...]:
    """Reference rows `(N, ...)`, each in turn: what is taken away is as likely as in the data, whatever is kept.

    With it `shapley` gives the interventional values of SHAP.
    Source: Lundberg and Lee 2017, equation 11; Janzing, Minorics, Blöbaum 2020.

    Args:
        rows: of one input, or a sequence of such for several inputs (their rows belong together).
        count: a random sample of so many; None: all of them, and so many times the passes.

    Raises:
        InputError: no rows, or of another shape than the input. OptionError: a count that is not positive.

    >>> marginal(torch.randn(100, 3), count=10)(torch.randn(4, 3)).shape
    torch.Size([10, 1, 3])
    """
    parts = (rows,) if isinstance(rows, Tensor) else tuple(rows)
    sizes = sorted({len(part) for part in parts})
    if len(sizes) != 1 or not sizes[0]:
        raise InputError(f"reference rows of {sizes or 'no'} lengths; give at least one row, and as many for each input")
    if count is not None and count < 1:
        raise OptionError(f"count is {count}; at least one row is needed")
    some = torch.randperm(sizes[0], generator=generator(seed, 0))[:count] if count is not None and count < sizes[0] else slice(None)
    found = tuple(_rows(part[some]) for part in parts)
    return found[0] if isinstance(rows, Tensor) else found


def _rows(rows: Tensor) -> Fill:
    return lambda feature: _fitting(rows, feature)[:, None]


def others(count: int | None = None, seed: int = 0) -> Fill:
    """Other examples of the same batch, as many as `count` or all: what an example shows then depends on its batch.

    Raises:
        InputError: a batch of one. OptionError: a count that is not positive.

    >>> others()(torch.tensor([[1.0], [2.0], [3.0]]))[..., 0].tolist()
    [[2.0, 3.0, 1.0], [3.0, 1.0, 2.0]]
    """
    if count is not None and count < 1:
        raise OptionError(f"count is {count}; at least one other example is needed")

    def fill(feature: Tensor) -> Tensor:
        if len(feature) < 2:
            raise InputError("others() takes other examples of the batch, and there is only one; give rows: marginal(rows)")
        steps = torch.arange(1, len(feature))
        if count is not None and count < len(steps):
            steps = steps[torch.randperm(len(steps), generator=generator(seed, 0))[:count].sort().values]
        return torch.stack([feature.roll(-int(step), 0) for step in steps])

    return fill


def token(number: int, keep: Sequence[int] = ()) -> Fill:
    """One token id (a mask or padding token) for every id, but for those to `keep` (as special tokens).

    Raises:
        InputError: an input that does not hold integer ids.

    >>> token(0, keep=[101, 102])(torch.tensor([[101, 7, 8, 102]])).tolist()
    [[101, 0, 0, 102]]
    """

    def fill(feature: Tensor) -> Tensor:
        if feature.is_floating_point():
            raise InputError(f"token({number}) stands in for token ids, and the input is {feature.dtype}; give a number or a tensor")
        limits = torch.iinfo(feature.dtype)
        if number != int(number) or not limits.min <= number <= limits.max:
            raise InputError(f"token({number}) is no value of the input's type {feature.dtype}; give a whole number that it holds")
        kept = torch.isin(feature, torch.as_tensor(list(keep), dtype=feature.dtype, device=feature.device))
        return torch.where(kept, feature, torch.full_like(feature, int(number)))

    return fill


def _fitting(rows: Tensor, feature: Tensor) -> Tensor:
    if rows.shape[1:] != feature.shape[1:] or not len(rows):
        raise InputError(f"reference rows of shape {tuple(rows.shape)} for an input of shape {tuple(feature.shape)}; give (N, ...) like it")
    return rows.detach()


def _places(feature: Tensor, what: str, way_out: str) -> None:
    if feature.dim() < 3 or not feature.is_floating_point():
        raise InputError(f"{what} needs floating point and places behind the channels, and the input is {tuple(feature.shape)}; {way_out}")
