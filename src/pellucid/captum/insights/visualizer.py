"""Captum Insights' `AttributionVisualizer`: models, features and batches, looked at through `pellucid.insights`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...errors import InputError, OptionError
from ...insights.app import Insights
from ...insights.examples import Examples, Label
from ...insights.jobs import Ticket
from ...insights.predictions import Said, predict
from ...insights.subject import Ready, Subject, subjects_of
from ...methods import find
from ...model import modules_of
from ...task import Sample
from .features import BaseFeature, FeatureOutput

if TYPE_CHECKING:
    from ...insights.questions import Answer, Question

__all__ = ["AttributionVisualizer", "Batch", "FilterConfig", "OutputScore", "VisualizationOutput"]

TOP = 4
# Captum's arguments under the names that the methods here have.
OPTIONS: dict[str, dict[str, str | None]] = {
    "Integrated Gradients": {"n_steps": "steps", "method": "rule"},
    "Occlusion": {"sliding_window_shapes": "window", "strides": "stride"},
    "Feature Ablation": {"perturbations_per_eval": None},
}


class OutputScore(NamedTuple):
    """A class and its score; `index` hides the method of tuples, as Captum's does."""

    score: float
    index: int  # type: ignore[assignment]
    label: str


class VisualizationOutput(NamedTuple):
    """What is shown of one example and one model."""

    feature_outputs: list[FeatureOutput]
    actual: OutputScore | None
    predicted: list[OutputScore]
    active_index: int | None
    model_index: int


class FilterConfig(NamedTuple):
    """Which examples are shown, and how they are explained."""

    attribution_method: str = "Integrated Gradients"
    attribution_arguments: dict[str, Any] = {"n_steps": 25, "method": "gausslegendre"}  # noqa: RUF012
    prediction: str = "all"
    classes: list[str] = []  # noqa: RUF012
    num_examples: int = 4


class Batch:
    """Some examples.

    Args:
        inputs: `(B, ...)`, or a tuple of such: one for each feature.
        labels: `(B,)`, or None.
        additional_args: what the model gets after the inputs, not attributed: a tuple, or a single argument; of a tensor the first
            dimension is the examples.
    """

    def __init__(self, inputs: Tensor | tuple[Tensor, ...], labels: Tensor | None, additional_args: Any = None) -> None:
        self.inputs, self.labels, self.additional_args = inputs, labels, additional_args


class _Positional:
    """A model whose further arguments come together."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model
        self.__qualname__ = type(model).__name__
        self.__dict__.update({f"module_{i}": root for i, root in enumerate(modules_of(model))})

    def __call__(self, *inputs: Tensor, args: tuple[Any, ...] = ()) -> Any:
        return self.model(*inputs, *args)


class _One(NamedTuple):
    """One example of a batch."""

    inputs: tuple[Tensor, ...]
    args: tuple[Any, ...]


def _examples(dataset: Iterable[Batch]) -> Iterator[tuple[_One, int | float | None]]:
    for batch in dataset:
        inputs = batch.inputs if isinstance(batch.inputs, tuple) else (batch.inputs,)
        given = batch.additional_args
        args = given if isinstance(given, tuple) else () if given is None else (given,)
        size = len(inputs[0])
        for i in range(size):
            own = tuple(a[i : i + 1] if isinstance(a, Tensor) and a.dim() and len(a) == size else a for a in args)
            label = None if batch.labels is None else batch.labels.reshape(-1)[i].item()
            yield _One(tuple(x[i : i + 1] for x in inputs), own), label


class AttributionVisualizer:
    """Look at predictions and attributions of one or several models.

    Args:
        models: a module, or a list of modules.
        classes: names of the classes.
        features: one for each argument of the model that is attributed.
        dataset: batches; read as far as is looked at, and kept.
        score_func: from the model's output to the scores that are shown; None: the output itself.
        use_label_for_attr: whether the output has an entry for each class; False: the output is one number, which is attributed.

    Raises:
        OptionError: models that are none, features that are no features.

    >>> from pellucid.captum.insights.features import GeneralFeature
    >>> batches = [Batch(torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1]))]
    >>> shown = AttributionVisualizer(torch.nn.Linear(3, 2), ["no", "yes"], GeneralFeature("row", ["a", "b", "c"]), batches)
    >>> len(shown.visualize()), shown.visualize()[0].feature_outputs[0].name
    (4, 'row')
    >>> shown.insights.close()
    """

    def __init__(
        self,
        models: Any,
        classes: list[str],
        features: list[BaseFeature] | BaseFeature,
        dataset: Iterable[Batch],
        score_func: Callable[..., Any] | None = None,
        use_label_for_attr: bool = True,
    ) -> None:
        self.models = list(models) if isinstance(models, list | tuple) else [models]
        self.features = list(features) if isinstance(features, list | tuple) else [features]
        if not all(isinstance(feature, BaseFeature) for feature in self.features):
            raise OptionError(f"features is {features!r}; give features of pellucid.captum.insights.features, one for each input")
        self.classes, self.dataset = list(classes), dataset
        self.score_func, self.use_label_for_attr = score_func, use_label_for_attr
        from ...insights.session import Session  # what draws comes when something is looked at

        self._config = FilterConfig()
        named = subjects_of(self.models, self.classes)
        kind = self.features[0].visualization_type()
        self.subjects = tuple(
            Subject(s.name, _Positional(s.model), self._ready, s.classes, kind, score_func, use_label_for_attr, self._glimpse)
            for s in named
        )
        self.insights = Insights(Session(self.subjects, Examples(_examples(dataset), None, self.classes), "Captum Insights"))

    def _ready(self, one: Any) -> Ready:
        if len(one.inputs) != len(self.features):
            raise InputError(f"a batch has {len(one.inputs)} inputs, and there are {len(self.features)} features; give one for each input")
        inputs = tuple(_transformed(f.input_transforms, x) for f, x in zip(self.features, one.inputs, strict=True))
        baselines = tuple(
            _transformed(f.baseline_transforms[:1], x) if f.baseline_transforms else torch.zeros_like(x)
            for f, x in zip(self.features, inputs, strict=True)
        )
        parts = tuple(feature.part(x) for feature, x in zip(self.features, one.inputs, strict=True))
        return Ready(Sample(inputs, {"args": one.args}, baselines), parts)

    def _glimpse(self, one: Any) -> Any:
        part = self.features[0].part(one.inputs[0])
        return (
            part.picture
            if part.picture is not None
            else " ".join(part.names)
            if part.kind == "text"
            else dict(zip(part.names, part.cells, strict=False))
        )

    def get_insights_config(self) -> dict[str, Any]:
        """The classes, the methods and the arguments of each."""
        from ...insights.arguments import offered

        methods = offered(self.subjects)
        return {
            "classes": self.classes,
            "methods": [method["name"] for method in methods],
            "method_arguments": {method["name"]: method["arguments"] for method in methods},
            "selected_method": self._config.attribution_method,
        }

    def render(self, debug: bool = True) -> None:
        """Show the widget in a notebook.

        Raises:
            MissingExtra: anywidget is not installed.
        """
        from IPython.display import display

        display(self.insights.widget())  # type: ignore[no-untyped-call]

    def serve(self, blocking: bool = False, debug: bool = False, port: int | None = None, bind_all: bool = False) -> int:
        """Serve the page and print the link to it; returns the port.

        Args:
            blocking: until Ctrl-C.
            debug: without effect.
            port: None finds a free one.
            bind_all: let other machines reach it; a warning says what that means.
        """
        serving = self.insights.serve("0.0.0.0" if bind_all else "127.0.0.1", port or 0, expose=bind_all)
        print(f"\nFetch data and view Insights at {serving.url}\n")
        if blocking:
            serving.wait()
        return serving.port

    def visualize(self) -> list[VisualizationOutput]:
        """What is shown of the first examples that pass the filter, for each model; fewer where there are no more."""
        return list(self._outputs())

    def _outputs(self) -> Iterator[VisualizationOutput]:
        from ...insights.questions import Question

        examples, config, found = self.insights.session.examples, self._config, 0
        method, options = _translated(config.attribution_method, config.attribution_arguments)
        index = 0
        while found < config.num_examples and examples.upto(index + 1) > index:
            example = examples[index]
            ready = self._ready(example.raw)
            kept = [(i, said) for i, said in enumerate(self._said(ready, example.label)) if self._passes(said, example.label)]
            for i, said in kept:
                yield self._output(i, Question(i, index, method, options), example, ready, said)
            found, index = found + len(kept), index + 1

    def _said(self, ready: Ready, label: Label) -> list[Said]:
        return [predict(subject, [ready], [label], _ticket())[0] for subject in self.subjects]

    def _passes(self, said: Said, label: Label) -> bool:
        predicted, config = said.predicted, self._config
        if config.classes and (predicted is None or self.classes[predicted] not in config.classes):
            return False
        if config.prediction == "all" or label is None:
            return True
        if config.prediction not in ("correct", "incorrect"):
            raise OptionError(f"prediction is {config.prediction!r}; give 'all', 'correct' or 'incorrect'")
        return (predicted == label) == (config.prediction == "correct")

    def _output(self, model: int, question: Question, example: Any, ready: Ready, said: Said) -> VisualizationOutput:
        if said.error is not None:
            raise InputError(f"example {question.index}: the model raised {said.error['type']}: {said.error['message']}")
        from ...insights.questions import ask

        answer = ask(self.subjects[model], ready, question, _ticket(), lambda shapes: None)
        shares = _shares_of(answer)
        parts = zip(self.features, answer.explanation.attributions, example.raw.inputs, shares, strict=True)
        outputs = [feature.visualize(a, x, share) for feature, a, x, share in parts]
        actual = None if example.label is None else OutputScore(100, int(example.label), self.classes[int(example.label)])
        predicted = [OutputScore(score, i, self.classes[i]) for i, score, _ in said.top[:TOP]]
        return VisualizationOutput(outputs, actual, predicted, said.predicted if actual is None else actual.index, model)


def _ticket() -> Ticket:
    return Ticket(float("inf"), lambda rows: None)


def _transformed(transforms: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """The example without its batch dimension through all of them."""
    if not transforms:
        return x
    found = x.squeeze(0)
    for transform in transforms:
        found = transform(found)
    return found.unsqueeze(0)


def _shares_of(answer: Answer) -> list[float]:
    """Each input's sum of attributions, in parts of the sum of their magnitudes."""
    sums = [float(a.sum()) for a in answer.explanation.attributions]
    total = sum(map(abs, sums))
    return [s / total if total else 0.0 for s in sums]


def _translated(method: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Captum's method and arguments under the names that they have here."""
    names: dict[str, str | None] = OPTIONS.get(method, {})
    renamed = {names.get(name, name): value for name, value in arguments.items() if value is not None}
    return find(method, {})[0], {name: value for name, value in renamed.items() if name is not None}
