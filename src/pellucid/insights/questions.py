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

from ..errors import OptionError
from ..explain import explain
from ..explanation import Explanation
from ..inputs import Tensors
from ..methods import DISTRIBUTIONS, EVERY, MAPS
from ..model import modules_of
from ..target import target as an_output
from .arguments import STORED, checked, layer_of, layers_of
from .given import Given
from .jobs import Ticket
from .predictions import chances_of, predict, scores_of
from .subject import Ready, Subject
from .told import told_explanation

__all__ = ["Answer", "Question", "References", "Watched", "aimed_at", "ask", "pieces", "target_of"]

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
    def of(cls, given: Given, subjects: Sequence[Subject], size: int) -> Question:
        """From a request.

        Raises:
            OptionError: no such model, example, method or option, or a value that it does not take.
        """
        model = given.whole("model", 0, len(subjects) - 1, 0)
        usual = (*subjects[model].methods, "integrated_gradients")[0]
        method, options = checked(given.text("method", usual), given.fields_of("options"))
        classes = {name: given.whole(name, 0, 10**9) for name in ("target", "versus") if given.fields.get(name) is not None}
        return cls(
            model, given.whole("index", 0, size - 1), method, options, classes.get("target"),
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
        if self.method not in EVERY:
            return None
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
    if question.method == STORED:
        return _answer(question, stored_of(ready, question), ready)
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
    aimed, single = aimed_at(subject, ready, question, ticket)
    kind: Any = "tensor" if part.kind == "empty" else part.kind
    found = explain(
        Watched(subject.model, ticket),
        sample.inputs,
        target_of(subject, aimed, single or question.probability),
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
    return _answer(question, found, ready)


def _answer(question: Question, found: Explanation, ready: Ready) -> Answer:
    return Answer(question, found, {"key": question.key, "model": question.model, "index": question.index} | told_explanation(found, ready))


def stored_of(ready: Ready, question: Question) -> Explanation:
    """What a run found.

    Raises:
        OptionError: no run did, or it answered another question.
    """
    if ready.known is None:
        raise OptionError("no run stored an explanation of this; choose a method")
    if question.target is not None or question.versus is not None or question.probability:
        raise OptionError(f"the run explained {ready.known.target}; for another target ask a model: results.insights(model)")
    return ready.known


def _layer(subject: Subject, layer: str) -> str:
    layers = layers_of(subject)
    if not layer and layers:
        return layer_of(subject)
    if layer not in layers:
        raise OptionError(f"{layer!r} is not one of the layers that hold pictures: {', '.join(layers[:8]) or 'there are none'}")
    return layer


def aimed_at(subject: Subject, ready: Ready, question: Question, ticket: Ticket) -> tuple[Question, bool]:
    """The question, and whether one output tells two classes apart; then with the class that it is about: the sign depends on it."""
    if not subject.targeted or len(subject.classes) != 2:
        return question, False
    said = predict(subject, [ready], [None], ticket)[0]
    if said.value is None or said.predicted is None:
        return question, False
    return replace(question, target=said.predicted if question.target is None else question.target), True


def target_of(subject: Subject, question: Question, computed: bool) -> Any:
    """What is explained; `computed`: of the probabilities, or of two classes' scores, and no output as it is."""
    one, other = question.target, question.versus
    if not subject.targeted or (one is None and not computed):
        return None
    if not computed:
        return an_output(one) - an_output(other) if other is not None else one
    reads = chances_of if question.probability else scores_of

    def aim(output: Any) -> Tensor:
        values = reads(subject, output)
        first: Tensor = values[:, one] if one is not None else values.max(1).values
        return first if other is None else first - values[:, other]

    words = "the predicted class" if one is None else subject.class_name(one)
    of, less = ("probability of ", " less that of ") if question.probability else ("", " less ")
    aim.__name__ = f"{of}{words}{'' if other is None else less + subject.class_name(other)}"
    return aim


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
