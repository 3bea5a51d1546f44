"""The losses of single examples, whatever a loss function makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OutputError

__all__ = ["Loss", "of_each", "summed"]

Loss = Callable[..., Tensor]


def summed(loss: Loss | None, output: Any, labels: Any) -> Tensor:
    """The sum of the examples' losses; without a loss, of the model's output, one number each.

    Raises:
        OutputError: a loss, or an output without a loss, of another form.
    """
    if loss is not None:
        return of_each(loss, output, labels)[0]
    if not isinstance(output, Tensor) or output.numel() != len(output):
        raise OutputError("without a loss the model must return one number for each example; give loss_fn")
    return output.sum()


def of_each(loss: Loss, output: Any, labels: Any) -> tuple[Tensor, float]:
    """The sum of the examples' losses, and what a reduced loss must be multiplied by to be it.

    A loss that returns one number is the sum or the mean of the examples': twice the examples tell.

    Raises:
        OutputError: neither.
    """
    found = loss(output, labels)
    if found.dim() == 1 or (found.dim() == 2 and found.shape[1] == 1):
        return found.sum(), 1.0
    rows = len(output if isinstance(output, Tensor) else next(iter(output)))
    if found.dim() == 0 and isinstance(loss, nn.modules.loss._Loss) and loss.reduction in ("sum", "mean") and _plain(loss, labels):
        factor = float(rows) if loss.reduction == "mean" else 1.0
        return found * factor, factor
    if found.dim() == 0 and (factor := _factor(loss, output, labels, found.detach(), rows)):
        return found * factor, factor
    raise OutputError(
        f"the loss returns a tensor of shape {tuple(found.shape)}, neither one for each example, nor their sum, nor their mean; use "
        "reduction='none', 'sum' or 'mean'"
    )


def _plain(loss: nn.Module, labels: Any) -> bool:
    """Whether a mean is over examples alike: class weights and ignored labels make it another."""
    ignored = getattr(loss, "ignore_index", None)
    return getattr(loss, "weight", None) is None and (ignored is None or not bool((torch.as_tensor(labels) == ignored).any()))


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other.detach(), rtol=1e-4, atol=1e-12)


@torch.no_grad()
def _factor(loss: Loss, output: Any, labels: Any, found: Tensor, rows: int) -> float:
    """The number of rows of a mean, one of a sum, zero of something else."""
    twice = loss(_twice(output), _twice(labels))
    for is_sum, expected in ((False, found), (True, 2 * found)):
        if _same(twice, expected) and _adds_up(loss, output, labels, rows, is_sum):
            return 1.0 if is_sum else float(rows)
    return 0.0


def _adds_up(loss: Loss, output: Any, labels: Any, rows: int, is_sum: bool) -> bool:
    """Whether the losses of two parts of the batch make up that of the whole, as sums or means do."""
    for cut in {1, rows // 2} - {0, rows}:
        first, rest = (loss(_rows(output, part), _rows(labels, part)) for part in (slice(0, cut), slice(cut, rows)))
        whole = first + rest if is_sum else (cut * first + (rows - cut) * rest) / rows
        if not _same(whole, loss(output, labels)):
            return False
    return True


def _rows(value: Any, rows: slice) -> Any:
    if isinstance(value, Tensor):
        return value.detach()[rows]
    return type(value)(_rows(each, rows) for each in value) if isinstance(value, tuple | list) else value


def _twice(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.cat([value.detach(), value.detach()])
    return type(value)(map(_twice, value)) if isinstance(value, tuple | list) else value
