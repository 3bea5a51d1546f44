"""What the models say about every example: predicted in batches, kept as a few numbers for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..model import undisturbed
from ..target import tensor_of
from ..task import Sample
from .examples import Label
from .jobs import Ticket, told_error
from .subject import Ready, Subject

__all__ = ["Said", "chances_of", "class_of", "is_binary", "predict", "said_of", "scores_of"]

TOP = 10


@dataclass(frozen=True)
class Said:
    """What a model says about an example.

    Attributes:
        top: the classes with the highest scores, `(class, score, probability)`; empty where the model has no classes.
        value: the output, where it is one number.
        loss: the cross-entropy of the label (of several, the mean over all classes), or the squared error; None without a label.
        present: the classes that have at least 0.5, where an example may have several; None where it has one.
        error: why there is no answer.
        healthy: whether the explanation that is stored with it is; None where none is.
    """

    top: tuple[tuple[int, float, float], ...] = ()
    value: float | None = None
    loss: float | None = None
    error: dict[str, Any] | None = None
    present: tuple[int, ...] | None = None
    healthy: bool | None = None

    @property
    def predicted(self) -> int | None:
        """The class with the highest score."""
        return self.top[0][0] if self.top else None

    @property
    def confidence(self) -> float | None:
        """Its probability."""
        return self.top[0][2] if self.top else None

    def right(self, label: Label) -> bool | None:
        """Whether that is the label; None where there is none, or no class was predicted."""
        if label is None or self.predicted is None:
            return None
        return self.predicted == label if self.present is None else self.present == label

    def names(self, classes: Sequence[int]) -> bool:
        """Whether any of these classes is predicted."""
        said = (self.predicted,) if self.present is None else self.present
        return any(one in classes for one in said)


def predict(subject: Subject, ready: Sequence[Ready], labels: Sequence[Label], ticket: Ticket) -> list[Said]:
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


def _group(subject: Subject, samples: list[Sample], labels: list[Label], ticket: Ticket) -> list[Said]:
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


def said_of(subject: Subject, row: Tensor, label: Label) -> Said:
    """From the scores of one example."""
    if len(row) == 1 and not is_binary(subject, row):
        output = float(row[0])
        return Said(value=output, loss=None if label is None or isinstance(label, tuple) else (output - label) ** 2)
    scores, chances = (found(subject, row[None])[0] for found in (scores_of, chances_of))
    best = scores.argsort(descending=True, stable=True)[:TOP].tolist()
    top = tuple((i, float(scores[i]), float(chances[i])) for i in best)
    value = float(row[0]) if len(row) == 1 else None
    present = None if subject.exclusive or len(row) == 1 else tuple((chances >= 0.5).nonzero()[:, 0].tolist())
    return Said(top, value, _loss(chances, label), present=present)


def _loss(chances: Tensor, label: Label) -> float | None:
    if isinstance(label, tuple):
        right = chances.clone()
        absent = [i for i in range(len(chances)) if i not in label]
        right[absent] = 1 - right[absent]
        return float(-right.clamp_min(1e-12).log().mean())
    known = class_of(label)
    return -math.log(max(float(chances[known]), 1e-12)) if known is not None and 0 <= known < len(chances) else None


def class_of(label: Label) -> int | None:
    """The class that a label names; data sets often hold classes as 0.0 and 1.0."""
    return int(label) if isinstance(label, int | float) and float(label).is_integer() else None


def is_binary(subject: Subject, output: Tensor) -> bool:
    """Whether one output tells two classes apart."""
    return subject.targeted and len(subject.classes) == 2 and output.shape[-1] == 1


def scores_of(subject: Subject, output: Tensor) -> Tensor:
    """`(B, C)`; of one output that tells two classes apart, also the score of the first: what the second lacks."""
    if not is_binary(subject, output):
        return output
    return torch.cat([1 - output if _gives_chances(subject, output) else -output, output], 1)


def chances_of(subject: Subject, output: Tensor) -> Tensor:
    """Probabilities `(B, C)` of the classes."""
    given = _gives_chances(subject, output)
    if is_binary(subject, output):
        chance = output if given else output.sigmoid()
        return torch.cat([1 - chance, chance], 1)
    return output if given else output.softmax(1) if subject.exclusive else output.sigmoid()


def _gives_chances(subject: Subject, output: Tensor) -> bool:
    if subject.scores is not None:
        return subject.scores == "probabilities"
    if subject.exclusive and output.shape[-1] > 1:
        return bool((output >= 0).all()) and bool(((output.sum(1) - 1).abs() < 1e-3).all())
    return any(isinstance(list(root.modules())[-1], nn.Sigmoid) for root in subject.roots)
