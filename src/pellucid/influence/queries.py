"""The queries of an influence method: their inputs and labels, and what the model says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, OutputError
from ..explanation import Check
from ..model import said, undisturbed
from .examples import Examples
from .loss import Loss

__all__ = ["Queries"]


@dataclass(frozen=True, eq=False)
class Queries:
    """The queries with their labels, and what the model says of them."""

    model: nn.Module
    examples: Examples
    output: Any
    guessed: bool

    @classmethod
    def of(cls, model: nn.Module, queries: Any, batch_size: int) -> Queries:
        if not isinstance(queries, Tensor):
            examples = Examples(queries, batch_size, "queries")
            return cls(model, examples, _joined([_said(model, batch[:-1]) for batch in examples.on(model)]), False)
        output = _joined([_said(model, [batch[0]]) for batch in Examples((queries,), batch_size, "queries").on(model)])
        if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[1] < 2:
            raise InputError("queries has no labels, and the model returns no classes that could be predicted; give (inputs, ..., labels)")
        return cls(model, Examples((queries, output.argmax(1).to(queries.device)), batch_size, "queries"), output, True)

    @property
    def features(self) -> tuple[Tensor, ...]:
        batches = list(self.examples)
        found = tuple(torch.cat(parts) for parts in zip(*(batch[:-1] for batch in batches), strict=True) if isinstance(parts[0], Tensor))
        if not found:
            raise InputError("queries holds no tensor; give (inputs, ..., labels)")
        return found

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What tells them from other queries."""
        for number, batch in enumerate(self.examples):
            yield from ((f"{number}.{i}", part) for i, part in enumerate(batch) if isinstance(part, Tensor))

    def usual_loss(self) -> Loss:
        """Cross entropy, for outputs with classes.

        Raises:
            OutputError: there are none.
        """
        labels = torch.as_tensor(next(iter(self.examples))[-1])
        classes = isinstance(self.output, Tensor) and self.output.dim() == 2 and self.output.shape[1] > 1
        if classes and not labels.is_floating_point() and labels.dim() == 1:
            return nn.CrossEntropyLoss(reduction="none")
        told = tuple(self.output.shape) if isinstance(self.output, Tensor) else type(self.output).__name__
        raise OutputError(
            f"the model returns {told} and the labels are {labels.dtype} {tuple(labels.shape)}, which are no classes; say how it was "
            "trained: loss=torch.nn.MSELoss(), say"
        )

    @property
    def _classes(self) -> Tensor | None:
        known = isinstance(self.output, Tensor) and self.output.dim() == 2 and self.output.shape[1] > 1
        return self.output if known else None

    @property
    def predictions(self) -> Tensor | None:
        return None if self._classes is None else self._classes.argmax(1)

    @property
    def confidences(self) -> Tensor | None:
        return None if self._classes is None else self._classes.softmax(1).amax(1)

    def losses(self, loss: Loss) -> Tensor:
        """`(C,)`, each by itself, whatever the loss makes of several."""
        labels = torch.cat([torch.as_tensor(batch[-1]) for batch in self.examples])
        with torch.no_grad():
            one = [slice(i, i + 1) for i in range(len(labels))]
            return torch.stack([loss(_part(self.output, i), labels[i].to(_device(self.output))).sum() for i in one])

    @property
    def check(self) -> Check:
        if self.guessed:
            return Check("target", True, "no labels were given, so the predicted class of each query is explained", guessed=True)
        return Check("target", True, "explained: the loss of the labels that were given")


def _said(model: nn.Module, inputs: Sequence[Any]) -> Any:
    with undisturbed((model,)), torch.no_grad():
        return said(model, inputs)


def _joined(outputs: Sequence[Any]) -> Any:
    """Outputs of batches, as of one: tensors along the first dimension, tuples part by part."""
    if isinstance(outputs[0], Tensor):
        return torch.cat(list(outputs))
    if isinstance(outputs[0], tuple | list):
        return tuple(_joined(parts) for parts in zip(*outputs, strict=True))
    raise OutputError(f"the model returns {type(outputs[0]).__name__}; wrap it so that it returns a tensor or a tuple of tensors")


def _part(output: Any, rows: slice) -> Any:
    return output[rows] if isinstance(output, Tensor) else tuple(_part(each, rows) for each in output)


def _device(output: Any) -> torch.device:
    return output.device if isinstance(output, Tensor) else _device(output[0])
