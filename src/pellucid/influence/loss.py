"""The losses of single examples, whatever a loss function makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import OptionError, OutputError

__all__ = ["Loss", "Losses"]

Loss = Callable[..., Tensor]
Kind = Literal["each", "mean", "sum"]


# What torch's own losses say of themselves.
STATED: Mapping[str, Kind] = {"none": "each", "mean": "mean", "sum": "sum"}


TRUSTED = (nn.CrossEntropyLoss, nn.NLLLoss)


class Losses:
    """The sum of the examples' losses, batch after batch.

    A loss that returns one number is the sum or the mean of the examples': the first batch tells which, and that it is one of these.

    Args:
        loss: of an output and labels; None: the output itself, one number for each example.

    Raises:
        OptionError: no function. OutputError: a loss (or output) of another form.
    """

    def __init__(self, loss: Loss | None) -> None:
        if loss is not None and (not callable(loss) or isinstance(loss, type)):
            raise OptionError(f"loss is {loss!r}; give a function of output and labels, such as torch.nn.CrossEntropyLoss()")
        self.loss = loss
        self._kind: Kind | None = "each" if loss is None else None

    def total(self, output: Any, labels: Any, rows: int) -> Tensor:
        """The sum over a batch of so many examples."""
        if self._kind is None or (self._kind == "mean" and _ignored(labels)):
            self._kind = self._found(output, labels, rows)
        value = self._value(output, labels)
        if self._kind == "each":
            _check_each(value, rows)
            return value.sum()
        return value * rows if self._kind == "mean" else value

    def _value(self, output: Any, labels: Any) -> Tensor:
        if self.loss is None:
            if not isinstance(output, Tensor) or output.numel() != len(output):
                raise OutputError("without a loss the model must return one number for each example; give loss_fn")
            return output.flatten()
        found = self.loss(output, labels)
        if not isinstance(found, Tensor):
            raise OutputError(f"the loss returns {type(found).__name__}; it must be a tensor that the model's output leads to")
        return found

    def _found(self, output: Any, labels: Any, rows: int) -> Kind:
        """What kind of loss it is, by the gradients of the output: an example's must be the same in the batch as alone."""
        loss = self.loss
        if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and type(loss) in TRUSTED and loss.weight is None and not _ignored(labels):
            return STATED[loss.reduction]
        with torch.enable_grad():
            value = self._value(output, labels).detach()
            if value.dim() and (value.dim() > 2 or value.numel() != len(value) or len(value) != rows):
                raise _form(value, rows)
            for kind in ("each",) if value.dim() else ("mean", "sum"):
                if self._fits(kind, output, labels, rows):
                    return kind  # type: ignore[return-value]
        raise _form(value, rows)

    def _fits(self, kind: str, output: Any, labels: Any, rows: int) -> bool:
        # Of a single example mean and sum are the same: twice the example tells.
        if rows == 1:
            output, labels, rows = _mapped(output, lambda x: torch.cat([x, x])), _mapped(labels, lambda x: torch.cat([x, x])), 2
        whole = self._slopes(output, labels, rows if kind == "mean" else 1)
        for i in sorted({0, rows // 3, (2 * rows) // 3, rows - 1}):
            one = slice(i, i + 1)
            alone = self._slopes(_mapped(output, lambda x: x[one]), _mapped(labels, lambda x: x[one]), 1)  # noqa: B023
            if any(not _same(a[one], b) for a, b in zip(whole, alone, strict=True)):
                return False
        return True

    def _slopes(self, output: Any, labels: Any, factor: int) -> list[Tensor]:
        """The gradient of the summed loss with respect to what the model returned."""
        given = _mapped(output, lambda x: x.detach().requires_grad_() if x.is_floating_point() else x)
        leaves = [x for x in pytree.tree_leaves(given) if isinstance(x, Tensor) and x.requires_grad]
        value = self._value(given, labels)
        if not value.requires_grad:
            return [torch.zeros_like(x) for x in leaves]
        return [g * factor for g in torch.autograd.grad(value.sum(), leaves, allow_unused=True, materialize_grads=True)]


def _check_each(value: Tensor, rows: int) -> None:
    if value.numel() != rows or value.dim() > 2:
        raise _form(value, rows)


def _form(value: Tensor, rows: int) -> OutputError:
    return OutputError(
        f"the loss returns a tensor of shape {tuple(value.shape)} for {rows} examples, neither one for each example, nor their sum, nor "
        "their mean (class weights, ignored labels and losses that compare examples make it another); use reduction='none' or 'sum'"
    )


def _ignored(labels: Any) -> bool:
    """Whether labels may be left out of a mean, which is then another in every batch."""
    known = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.dtype != torch.bool and labels.numel() > 0
    return known and bool((labels < 0).any())


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return pytree.tree_map_only(Tensor, lambda x: change(x) if x.dim() else x, value)


def _same(one: Tensor, other: Tensor) -> bool:
    off = 0.02 if one.dtype in (torch.float16, torch.bfloat16) else 1e-3
    return one.shape == other.shape and float((one - other).norm()) <= off * float(other.norm()) + 1e-9
