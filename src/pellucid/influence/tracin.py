"""TracIn: training and test examples compared by their gradients at checkpoints of the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..progress import Bar
from .checkpoints import Checkpoints
from .examples import Batch, Examples, examples_of
from .gradients import PerExample
from .loss import Loss
from .parts import SampleGradients, within
from .store import Store

__all__ = ["projected", "self_influence", "tracin"]

# (model, loss, layers) -> a function of the inputs and labels of a batch
Gradients = Callable[..., Callable[[Sequence[Any], Any], SampleGradients]]


def tracin(
    checkpoints: Checkpoints,
    train: Any,
    queries: Any,
    loss: Loss | None,
    query_loss: Loss | None = None,
    layers: Sequence[nn.Module] | None = None,
    aggregate: bool = False,
    progress: bool | None = None,
    gradients: Gradients = PerExample,
    store: Store | None = None,
    memory: int | None = None,
) -> Tensor:
    """`sum over checkpoints of rate * gradient(train) . gradient(query)`, `(queries, train)`: proponents positive.

    Each checkpoint is loaded once, each batch goes forward and backward once for each. Gradients are never multiplied out where their
    inner products follow from what layers receive and return.
    Source: Pruthi et al. 2020, equation 1 (TracInCP).

    Args:
        train, queries: `Examples`, or what they are made of: a loader, a data set, tensors, a list of batches.
        loss: of training examples; query_loss: of queries, the same by default.
        layers: compare the gradients of these only.
        aggregate: add up the queries, `(1, train)`.
        gradients: what gives the gradients of batches, as `PerExample` does.
        store: keeps the scores as they come; an interrupted run goes on from there.
        memory: bytes of gradients that are held at a time; more queries take more passes. None: all queries together.

    Raises:
        InputError: no examples, or a loader that gives others in the next pass.
    """
    train, queries, kept = examples_of(train), examples_of(queries, "queries"), store or Store()
    total: Tensor = torch.zeros(())
    with (
        checkpoints.loaded() as rates,
        Bar(len(checkpoints.each) * len(train), "influence", progress) as bar,
        within(None if memory is None else memory // 8),
    ):
        for number, rate in enumerate(rates):
            pieces = []
            first = 0
            for asked in _groups(checkpoints.model, queries, query_loss or loss, layers, gradients, memory):
                against = _against(checkpoints.model, asked, loss, layers, gradients)
                name = f"scores-{number}-{first}-{first + len(asked)}"
                pieces.append(kept.rows(name, train.on(checkpoints.model), against, bar).joined().T)
                first += len(asked)
            scores = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            scores = scores.sum(0, keepdim=True) if aggregate else scores
            total = rate * scores if number == 0 else total.add_(scores, alpha=rate)
    return total


def _against(
    model: nn.Module, asked: SampleGradients, loss: Loss | None, layers: Sequence[nn.Module] | None, gradients: Gradients
) -> Callable[[Batch], Tensor]:
    """Inner products `(B, C)` of a batch's gradients with those of the queries."""
    own = gradients(model, loss, layers)
    return lambda batch: own(batch[:-1], batch[-1]).dot(asked)


def self_influence(
    checkpoints: Checkpoints,
    train: Any,
    loss: Loss | None,
    layers: Sequence[nn.Module] | None = None,
    progress: bool | None = None,
    gradients: Gradients = PerExample,
) -> Tensor:
    """`sum over checkpoints of rate * |gradient|^2`, `(train,)`: high for what is learned against the rest, as with a wrong label.

    Source: Pruthi et al. 2020, section 4.1.
    """
    train, total = examples_of(train), torch.zeros(())
    with checkpoints.loaded() as rates, Bar(len(checkpoints.each) * len(train), "self influence", progress) as bar:
        for rate in rates:
            parts, own = [], gradients(checkpoints.model, loss, layers)
            for batch in train.on(checkpoints.model):
                parts.append(rate * own(batch[:-1], batch[-1]).squared())
                bar.update(len(parts[-1]))
            total = total + torch.cat(parts)
    return total


def projected(
    checkpoints: Checkpoints,
    data: Any,
    loss: Loss | None,
    layers: Sequence[nn.Module] | None = None,
    project: Callable[[int, SampleGradients], Tensor] | None = None,
    gradients: Gradients = PerExample,
) -> Tensor:
    """Vectors `(examples, dimensions)` whose inner products are the influences, or nearly: gradients times the root of the rate.

    Args:
        project: from the number of a checkpoint and gradients to vectors; by default the gradients, multiplied out.
    """
    found, data = [], examples_of(data, "the data")
    with checkpoints.loaded() as rates:
        for number, rate in enumerate(rates):
            own, pieces = gradients(checkpoints.model, loss, layers), []
            for batch in data.on(checkpoints.model):
                one = own(batch[:-1], batch[-1])
                pieces.append(rate**0.5 * (one.rows() if project is None else project(number, one)))
            found.append(torch.cat(pieces))
    return torch.cat(found, 1)


def _groups(
    model: nn.Module, data: Examples, loss: Loss | None, layers: Sequence[nn.Module] | None, gradients: Gradients, memory: int | None
) -> Iterator[SampleGradients]:
    """The gradients of the queries, as many together as memory holds; at least a batch."""
    waiting: list[SampleGradients] = []
    of_batch = gradients(model, loss, layers)
    for batch in data.on(model):
        own = of_batch(batch[:-1], batch[-1])
        if waiting and memory is not None and sum(each.held for each in waiting) + own.held > memory:
            yield waiting[0].joined(waiting[1:])
            waiting = []
        waiting.append(own)
    yield waiting[0].joined(waiting[1:])
