"""The view that an attack raises: each example's loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import OptionError, OutputError, TargetError, warn
from ..model import modules_of
from ..picks import Pick
from ..target import resolve
from ..view import InputView, at_input

__all__ = ["LossFunction", "at_loss"]

LossFunction = Callable[[Any, Any], Tensor]

# Losses that take the numbers of classes; others get the labels as they are.
OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
FUNCTIONS_OF_CLASSES = (F.cross_entropy, F.nll_loss, F.multi_margin_loss)
SURELY = 1.01  # more than this is no probability, whatever was rounded


def at_loss(
    model: Callable[..., Any],
    inputs: Tensor | Sequence[Tensor],
    target: Any = None,
    loss: LossFunction | None = None,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
) -> InputView:
    """The view whose score is each example's loss: what an attack raises.

    Args:
        model: a module or any callable of tensors. Without a loss it must return probabilities, as after a softmax; of
            logits give a loss, such as `torch.nn.CrossEntropyLoss(reduction="none")`.
        inputs: `(B, ...)` or a tuple of such.
        target: the labels. Without a loss every form of `pellucid.target.resolve`; else whatever the loss takes, where a
            tensor or list with one entry for each example goes along with the examples. Losses of torch that take the
            numbers of classes get a list of these, or one for all, as a tensor.
        loss: a function of output and target that returns a loss for each example `(B,)`, their sum or their mean;
            None: -log of the output at the target.
        args: what the model gets after the inputs; kwargs: what it gets by keyword.

    Raises:
        InputError, TargetError: inputs or target in no known form. OptionError: a loss that is no function. OutputError, once it
            is scored: a negative output where a probability belongs, or a loss that is not one number for each example.
            TargetError, once it is scored: a class that the output does not have.

    >>> net, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    >>> at_loss(net, x, torch.tensor([0, 1, 1, 0]), torch.nn.CrossEntropyLoss(reduction="none")).score((x,)).shape
    torch.Size([1, 4])
    """
    view = at_input(model, inputs, None, args, kwargs)
    if loss is None:
        return replace(view, pick=_NegativeLog(resolve(target, view.size)))
    if not callable(loss):
        raise OptionError(f'loss is {loss!r}; give a function of output and labels, such as torch.nn.CrossEntropyLoss(reduction="none")')
    labels = _classes(target, view.size) if _is_of_classes(loss) else target
    return replace(view, pick=_Loss(loss, labels, view.size), roots=tuple(dict.fromkeys((*view.roots, *modules_of(loss)))))


def _is_of_classes(loss: LossFunction) -> bool:
    return isinstance(loss, OF_CLASSES) or (loss.func if isinstance(loss, functools.partial) else loss) in FUNCTIONS_OF_CLASSES


def _classes(target: Any, size: int) -> Tensor:
    """The numbers of the classes, one for each example; of deeper outputs, and of shares of classes, as they are."""
    try:
        labels = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"target is {target!r}; the loss takes the number of each example's class: give ({size},) integers") from error
    if labels.dim() == 0:
        labels = labels.expand(size)
    if len(labels) != size:
        raise TargetError(f"target has {len(labels)} classes for {size} examples; give one for each")
    if labels.dim() == 1 and (labels.is_floating_point() or labels.dtype == torch.bool):
        raise TargetError(f"target has dtype {labels.dtype}; the loss takes the numbers of classes: use .long()")
    return labels if labels.is_floating_point() else labels.long()


@dataclass(frozen=True)
class _NegativeLog(Pick):
    """-log of a probability."""

    inner: Pick

    def scores(self, output: Any, rows: int) -> Tensor:
        found = self.inner.scores(output, rows)
        if bool((found < 0).any()):
            raise OutputError(
                f"the model returned {float(found.detach().min()):.3g} at the target, and without a loss, -log of a probability is raised; "
                'let the model end in a softmax, or give a loss of its logits: torch.nn.CrossEntropyLoss(reduction="none")'
            )
        if output.dim() > 1 and bool((found > SURELY).any()):
            warn(
                "loss",
                "the model returned more than 1 at a target, which is no probability: without a loss an attack lowers that output, and "
                'does not heed the other classes; of logits give a loss, torch.nn.CrossEntropyLoss(reduction="none")',
            )
        return -torch.log(found)

    def at(self, rows: Sequence[int]) -> Pick:
        return _NegativeLog(self.inner.at(rows))

    def __str__(self) -> str:
        return f"-log {self.inner}"


@dataclass(frozen=True, eq=False)
class _Loss(Pick):
    """A loss function of the output and the labels of `size` examples."""

    function: LossFunction
    labels: Any
    size: int

    def scores(self, output: Any, rows: int) -> Tensor:
        labels = self.labels if rows == self.size else self._of([*range(self.size)] * (rows // self.size))
        if isinstance(labels, Tensor) and isinstance(output, Tensor):
            labels = labels.to(output.device)
            if _is_of_classes(self.function):
                self._check(labels, output)
        found = self.function(output, labels)
        if not isinstance(found, Tensor) or found.numel() not in (rows, 1):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise OutputError(
                f'the loss returned {got} for {rows} examples; one number for each is needed: ({rows},), as by reduction="none"'
            )
        return found.reshape(1, -1)

    def _check(self, labels: Tensor, output: Tensor) -> None:
        # On a GPU a class that does not exist ends the process's use of it.
        if labels.is_floating_point() or output.dim() < 2:
            return
        counted = labels[labels != getattr(self.function, "ignore_index", -100)]
        if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < output.shape[1]:
            raise TargetError(
                f"the labels go from {int(counted.min())} to {int(counted.max())}, and the model has {output.shape[1]} classes; "
                f"use 0 to {output.shape[1] - 1}"
            )

    def at(self, rows: Sequence[int]) -> Pick:
        return _Loss(self.function, self._of(rows), len(rows))

    def _of(self, rows: Sequence[int]) -> Any:
        if isinstance(self.labels, Tensor):
            return self.labels[list(rows)] if self.labels.dim() and len(self.labels) == self.size else self.labels
        return [self.labels[row] for row in rows] if isinstance(self.labels, list) and len(self.labels) == self.size else self.labels

    def __str__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)
