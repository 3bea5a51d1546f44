"""TracIn: training and test examples compared by their gradients at checkpoints of the training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FileError, InputError, OptionError
from ..progress import Bar
from .gradients import sample_gradients
from .loss import Loss
from .parts import SampleGradients

__all__ = ["Checkpoints", "projected", "self_influence", "tracin"]

# (model, inputs, labels, loss, layers) -> the gradients of a batch
Gradients = Callable[..., SampleGradients]
# (model, checkpoint) -> the learning rate of its step; the model then has its weights
Load = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints of a model's training, and how one is loaded into it."""

    model: nn.Module
    each: Sequence[Any]
    load: Load

    @contextmanager
    def loaded(self) -> Iterator[Iterator[float]]:
        """The learning rate of each, the model having its weights; afterwards it has its own again.

        Raises:
            OptionError: there are none. FileError: one that cannot be loaded, or does not fit the model.
        """
        if not self.each:
            raise OptionError("there are no checkpoints; give at least one")
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        try:
            yield map(self._rate, self.each)
        finally:
            self.model.load_state_dict(own)

    def _rate(self, checkpoint: Any) -> float:
        try:
            rate = self.load(self.model, checkpoint)
        except (OSError, RuntimeError, KeyError, ValueError, EOFError) as error:
            raise FileError(f"the checkpoint {checkpoint!r} cannot be loaded into the model: {error}") from error
        return 1.0 if rate is None else float(rate)


def tracin(
    checkpoints: Checkpoints,
    train: Iterable[Sequence[Any]],
    queries: Iterable[Sequence[Any]],
    loss: Loss | None,
    query_loss: Loss | None = None,
    layers: Sequence[nn.Module] | None = None,
    aggregate: bool = False,
    progress: bool | None = None,
    gradients: Gradients = sample_gradients,
) -> Tensor:
    """`sum over checkpoints of rate * gradient(train) . gradient(query)`, `(queries, train)`: proponents positive.

    Each checkpoint is loaded once, each batch goes forward and backward once for each. Gradients are never multiplied out where their
    inner products follow from what layers receive and return.
    Source: Pruthi et al. 2020, equation 1 (TracInCP).

    Args:
        train, queries: batches (inputs, ..., labels), in the same order every time they are iterated.
        loss: of training examples; query_loss: of queries, the same by default.
        layers: compare the gradients of these only.
        aggregate: add up the queries, `(1, train)`.
        gradients: what gives the gradients of a batch, as `sample_gradients` does.

    Raises:
        InputError: no examples, or a loader whose size changes.
    """
    total: Tensor | None = None
    rows = _length(train)
    with checkpoints.loaded() as rates, Bar(len(checkpoints.each) * (rows or 0), "influence", progress) as bar:
        for rate in rates:
            asked = _gathered(checkpoints.model, queries, query_loss or loss, layers, gradients)
            parts = []
            for batch in train:
                own = gradients(checkpoints.model, batch[:-1], batch[-1], loss, layers)
                parts.append(rate * asked.dot(own))
                bar.update(parts[-1].shape[1])
            if not parts:
                raise InputError("the training data holds no examples")
            scores = torch.cat(parts, 1)
            scores = scores.sum(0, keepdim=True) if aggregate else scores
            if total is not None and total.shape != scores.shape:
                raise InputError(
                    f"the data had {total.shape[1]} examples, and now has {scores.shape[1]}; give loaders that repeat themselves"
                )
            total = scores if total is None else total + scores
    assert total is not None  # there is at least one checkpoint
    return total


def self_influence(
    checkpoints: Checkpoints,
    train: Iterable[Sequence[Any]],
    loss: Loss | None,
    layers: Sequence[nn.Module] | None = None,
    progress: bool | None = None,
    gradients: Gradients = sample_gradients,
) -> Tensor:
    """`sum over checkpoints of rate * |gradient|^2`, `(train,)`: high for what is learned against the rest, as with a wrong label.

    Source: Pruthi et al. 2020, section 4.1.
    """
    total: Tensor | None = None
    with checkpoints.loaded() as rates, Bar(len(checkpoints.each) * (_length(train) or 0), "self influence", progress) as bar:
        for rate in rates:
            parts = []
            for batch in train:
                parts.append(rate * gradients(checkpoints.model, batch[:-1], batch[-1], loss, layers).squared())
                bar.update(len(parts[-1]))
            if not parts:
                raise InputError("the training data holds no examples")
            total = torch.cat(parts) if total is None else total + torch.cat(parts)
    assert total is not None  # there is at least one checkpoint
    return total


def projected(
    checkpoints: Checkpoints,
    data: Iterable[Sequence[Any]],
    loss: Loss | None,
    layers: Sequence[nn.Module] | None = None,
    project: Callable[[int, SampleGradients], Tensor] | None = None,
    gradients: Gradients = sample_gradients,
) -> Tensor:
    """Vectors `(examples, dimensions)` whose inner products are the influences, or nearly: gradients times the root of the rate.

    Args:
        project: from the number of a checkpoint and gradients to vectors; by default the gradients, multiplied out.
    """
    found = []
    with checkpoints.loaded() as rates:
        for number, rate in enumerate(rates):
            each = (gradients(checkpoints.model, batch[:-1], batch[-1], loss, layers) for batch in data)
            found.append(torch.cat([rate**0.5 * (g.rows() if project is None else project(number, g)) for g in each]))
    return torch.cat(found, 1)


def _gathered(
    model: nn.Module, data: Iterable[Sequence[Any]], loss: Loss | None, layers: Sequence[nn.Module] | None, gradients: Gradients
) -> SampleGradients:
    found = [gradients(model, batch[:-1], batch[-1], loss, layers) for batch in data]
    if not found:
        raise InputError("there are no queries; give at least one example")
    return found[0].joined(found[1:])


def _length(data: Any) -> int | None:
    known = getattr(data, "dataset", None)
    try:
        return len(known) if known is not None else None
    except TypeError:
        return None
