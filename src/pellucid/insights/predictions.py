"""What the models say about every example: predicted in batches, kept as a few numbers for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..model import undisturbed
from ..target import tensor_of
from ..task import Sample
from .jobs import Ticket, told_error
from .subject import Ready, Subject

__all__ = ["Said", "predict", "said_of"]

TOP = 10


@dataclass(frozen=True)
class Said:
    """What a model says about an example.

    Attributes:
        top: the classes with the highest scores, `(class, score, probability)`; empty where the model has no classes.
        value: the output, where it is one number.
        loss: the cross-entropy of the label, or the squared error; None without a label.
        error: why there is no answer.
    """

    top: tuple[tuple[int, float, float], ...] = ()
    value: float | None = None
    loss: float | None = None
    error: dict[str, Any] | None = None

    @property
    def predicted(self) -> int | None:
        """The class with the highest score."""
        return self.top[0][0] if self.top else None

    @property
    def confidence(self) -> float | None:
        """Its probability."""
        return self.top[0][2] if self.top else None


def predict(subject: Subject, ready: Sequence[Ready], labels: Sequence[int | float | None], ticket: Ticket) -> list[Said]:
    """What the model says, from as few calls as the shapes of the examples allow; an example that fails does so alone."""
    groups: dict[Any, list[int]] = {}
    for i, one in enumerate(ready):
        groups.setdefault(_shape(one.sample), []).append(i)
    found: dict[int, Said] = {}
    for members in groups.values():
        found |= dict(zip(members, _group(subject, [ready[i].sample for i in members], [labels[i] for i in members], ticket), strict=True))
    return [found[i] for i in range(len(ready))]


def _shape(sample: Sample) -> tuple[Any, ...]:
    """Samples of one shape, with the same things by keyword, can share a call."""
    given = [
        (n, (v.shape[1:], v.dtype) if isinstance(v, Tensor) and v.dim() and len(v) == 1 else id(v)) for n, v in sample.keywords.items()
    ]
    return (*((x.shape[1:], x.dtype) for x in sample.inputs), *sorted(given, key=lambda pair: pair[0]))


def _group(subject: Subject, samples: list[Sample], labels: list[int | float | None], ticket: Ticket) -> list[Said]:
    try:
        rows = _output(subject, samples, ticket)
        if len(samples) > 1 and (rows.dim() == 0 or len(rows) != len(samples)):
            raise ValueError("the output has another number of rows")
        return [said_of(subject, row, label) for row, label in zip(rows.reshape(len(samples), -1), labels, strict=True)]
    except Exception as error:  # the user's model
        if len(samples) == 1:
            return [Said(error=told_error(error))]
        return [_group(subject, [s], [label], ticket)[0] for s, label in zip(samples, labels, strict=True)]


def _output(subject: Subject, samples: list[Sample], ticket: Ticket) -> Tensor:
    ticket.tick(len(samples))
    first = samples[0]
    inputs = [torch.cat([s.inputs[i] for s in samples]) for i in range(len(first.inputs))]
    keywords = {name: _joined([s.keywords[name] for s in samples]) for name in first.keywords}
    with undisturbed(subject.roots), torch.no_grad():
        output = subject.model(*inputs, **keywords)
        return tensor_of(output if subject.scored is None else subject.scored(output)).detach().float().cpu()


def _joined(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, tuple):
        return tuple(_joined([value[i] for value in values]) for i in range(len(first)))
    return torch.cat(values) if isinstance(first, Tensor) and first.dim() and len(first) == 1 else first


def said_of(subject: Subject, row: Tensor, label: int | float | None) -> Said:
    """From the scores of one example."""
    if len(row) == 1:
        value = float(row[0])
        return Said(value=value, loss=None if label is None else (value - label) ** 2)
    chances = row if _is_distribution(row) else row.softmax(0)
    best = row.argsort(descending=True, stable=True)[:TOP].tolist()
    known = isinstance(label, int) and 0 <= label < len(row)
    loss = -math.log(max(float(chances[label]), 1e-12)) if known else None  # type: ignore[index]
    return Said(tuple((i, float(row[i]), float(chances[i])) for i in best), loss=loss)


def _is_distribution(row: Tensor) -> bool:
    return bool((row >= 0).all()) and abs(float(row.sum()) - 1) < 1e-3
