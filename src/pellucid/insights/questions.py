"""Questions about an example, and their answers: which model, which method, which class, with which edit."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..batch import Run
from ..errors import OptionError
from ..explain import explain
from ..explanation import Explanation
from ..inputs import Tensors
from ..methods import DISTRIBUTIONS, EVERY, MAPS
from ..metrics import deletion, insertion
from ..model import modules_of
from ..target import target as an_output
from ..view import at_input
from .arguments import checked, layer_of, layers_of
from .given import Given
from .jobs import Ticket
from .subject import Ready, Subject
from .told import finite_or_none, told_explanation

__all__ = ["Answer", "Question", "Watched", "ask", "curves"]

IN_PIECES = {"feature_ablation", "lime", "shapley", "banzhaf", "owen"}
GRID = 8  # a picture is hidden in about so many pieces across


@dataclass(frozen=True)
class Question:
    """What is asked about an example.

    Attributes:
        model, index: which model, which example.
        edit: what is changed in the example first.
        method, options, layer, seed: how it is explained.
        target: a class; None for the predicted one, or for the output itself.
        versus: another class, whose score is subtracted.
        probability: whether the probability is explained instead of the score.
    """

    model: int
    index: int
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    target: int | None = None
    versus: int | None = None
    probability: bool = False
    layer: str = ""
    seed: int = 0
    edit: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Given, models: int, size: int) -> Question:
        """From a request.

        Raises:
            OptionError: no such model, example, method or option, or a value that it does not take.
        """
        method, options = checked(given.text("method", "integrated_gradients"), given.fields_of("options"))
        classes = {name: given.whole(name, 0, 10**9) for name in ("target", "versus") if given.fields.get(name) is not None}
        return cls(
            given.whole("model", 0, models - 1, 0), given.whole("index", 0, size - 1), method, options, classes.get("target"),
            classes.get("versus"), given.flag("probability"), given.text("layer"), given.whole("seed", 0, 2**31, 0), given.fields_of("edit")
        )  # fmt: skip

    @cached_property
    def key(self) -> str:
        """The same for the same question."""
        return json.dumps([self.index, *self.settings, self.edit], sort_keys=True)

    @property
    def settings(self) -> list[Any]:
        """All but the example."""
        return [self.model, self.method, self.options, self.target, self.versus, self.probability, self.layer, self.seed]

    @property
    def method_key(self) -> str:
        """The same for questions that cost about the same."""
        return json.dumps([self.model, self.method, self.options, self.layer], sort_keys=True)

    @property
    def passes(self) -> int | None:
        """How many examples the model will see, about, as the method's options say."""
        options = {p.name: p.default for p in inspect.signature(EVERY[self.method]).parameters.values()} | self.options
        counts = (options.get(name) for name in ("steps", "samples", "evaluations"))
        return next((count for count in counts if isinstance(count, int)), None)

    @property
    def manner(self) -> str:
        """The settings without the model, for comparing examples."""
        return json.dumps(self.settings[1:], sort_keys=True)


@dataclass(frozen=True, eq=False)
class Answer:
    """An explanation, and what a page is told of it."""

    question: Question
    explanation: Explanation
    told: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes, about."""
        tensors = (*self.explanation.attributions, *self.explanation.features, *(self.explanation.baselines or ()))
        return sum(t.numel() * t.element_size() for t in tensors) * 2 + sum(_length(part) for part in self.told["parts"]) + 4096

    @property
    def mass(self) -> float:
        """The sum of the magnitudes of what a person sees; NaN where one is not finite."""
        return math.nan if self.told["mass"] is None else float(self.told["mass"])


def _length(part: dict[str, Any]) -> int:
    return len(part["values"]) + (len(part["picture"]["data"]) if part["picture"] else 0)


class Watched:
    """A model that asks the ticket before each call, so that a request that was given up stops at the next one."""

    def __init__(self, model: Callable[..., Any], ticket: Ticket) -> None:
        self.model, self.ticket = model, ticket
        self.__qualname__ = (
            type(model).__name__ if isinstance(model, torch.nn.Module) else getattr(model, "__qualname__", type(model).__name__)
        )
        # Where the library looks for the modules that a callable runs.
        self.__dict__.update({f"module_{i}": root for i, root in enumerate(modules_of(model))})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output."""
        self.ticket.tick(len(args[0]) if args and isinstance(args[0], Tensor) and args[0].dim() else 1)
        return self.model(*args, **kwargs)


References = Callable[[Sequence[torch.Size]], Tensors | None]


def ask(subject: Subject, ready: Ready, question: Question, ticket: Ticket, references: References) -> Answer:
    """Explain.

    Args:
        references: other examples of these shapes, for methods that compare with a distribution.

    Raises:
        What `pellucid.explain` raises, and Cancelled.
    """
    sample = ready.sample
    options: dict[str, Any] = dict(question.options)
    baselines: Any = sample.baselines
    if question.method in DISTRIBUTIONS and baselines is None:
        baselines = references([x.shape[1:] for x in sample.inputs])
    if question.method in IN_PIECES:
        options["feature_mask"] = pieces(ready)
    if question.method in MAPS:
        options["layer"] = _layer(subject, question.layer)
    part = ready.parts[0]
    kind: Any = "tensor" if part.kind == "empty" else part.kind
    found = explain(
        Watched(subject.model, ticket),
        sample.inputs,
        _target(subject, question),
        question.method,
        baselines=baselines,
        kwargs=sample.keywords,
        classes=subject.classes if subject.targeted else (),
        names=part.names,
        kind=kind,
        picture=part.picture,
        seed=question.seed,
        progress=False,
        **options,
    )
    found = replace(found, options={name: value for name, value in found.options.items() if name != "feature_mask"})
    return Answer(question, found, {"key": question.key, "model": question.model, "index": question.index} | told_explanation(found, ready))


def _layer(subject: Subject, layer: str) -> str:
    layers = layers_of(subject)
    if not layer and layers:
        return layer_of(subject)
    if layer not in layers:
        raise OptionError(f"{layer!r} is not one of the layers that hold pictures: {', '.join(layers[:8]) or 'there are none'}")
    return layer


def _target(subject: Subject, question: Question, probability: bool = False) -> Any:
    if not subject.targeted or (question.target is None and not (probability or question.probability)):
        return None
    one, other = question.target, question.versus
    if not (probability or question.probability):
        return an_output(one) - an_output(other) if other is not None else one

    def chance(output: Any) -> Tensor:
        chances = output if bool((output >= 0).all()) and bool(((output.sum(1) - 1).abs() < 1e-3).all()) else output.softmax(1)
        first: Tensor = chances[:, one] if one is not None else chances.max(1).values
        return first if other is None else first - chances[:, other]

    words = "the predicted class" if one is None else subject.class_name(one)
    chance.__name__ = f"probability of {words}" + (f" less that of {subject.class_name(other)}" if other is not None else "")
    return chance


def pieces(ready: Ready) -> tuple[Tensor, ...]:
    """What a person would take away as one piece: a square of a picture, a token with its whole embedding, a column."""
    masks, start = [], 0
    for part, x in zip(ready.parts, ready.sample.inputs, strict=True):
        mask = _pieces(x, part.kind) + start
        start = int(mask.max()) + 1
        masks.append(mask)
    return tuple(masks)


def _pieces(x: Tensor, kind: str) -> Tensor:
    if kind == "image" and x.dim() == 4:
        down, across = (torch.arange(n, device=x.device) // max(1, -(-n // GRID)) for n in x.shape[2:])
        return (down[:, None] * (int(across.max()) + 1) + across)[None, None]
    if kind == "text" and x.dim() == 3:
        return torch.arange(x.shape[1], device=x.device).view(1, -1, 1)
    return torch.arange(x[0].numel(), device=x.device).view(1, *x.shape[1:])


def _by_place(attribution: Tensor, kind: str) -> Tensor:
    """A pixel with all its colours, a token with its embedding, as one."""
    axis = {"image": 1, "text": 2}.get(kind)
    return attribution.sum(axis, keepdim=True) if axis is not None and attribution.dim() > 2 else attribution


def curves(subject: Subject, ready: Ready, answer: Answer, ticket: Ticket, steps: int = 10) -> dict[str, Any]:
    """How the score falls when what was called important is taken away, and rises when it is shown (Petsiuk et al. 2018)."""
    question, sample = answer.question, ready.sample
    classes = bool(answer.explanation.predictions is not None) and question.versus is None
    if classes and question.target is None:
        question = replace(question, target=int(answer.explanation.predictions[0]))  # type: ignore[index]
    view = at_input(Watched(subject.model, ticket), sample.inputs, _target(subject, question, probability=classes), kwargs=sample.keywords)
    places = tuple(_by_place(a, part.kind) for a, part in zip(answer.explanation.attributions, ready.parts, strict=True))
    fill = sample.baselines if sample.baselines is not None else tuple(torch.zeros_like(x) for x in sample.inputs)
    found = {
        name: metric(view, places, fill, steps=steps, run=Run(progress=False)).scores[0]
        for name, metric in (("deletion", deletion), ("insertion", insertion))
    }
    told = {name: [finite_or_none(v) for v in scores.tolist()] for name, scores in found.items()}
    return told | {"probability": classes, "means": {name: finite_or_none(float(scores.mean())) for name, scores in found.items()}}
