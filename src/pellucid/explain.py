"""The door: `explain(model, inputs, target, method=...)` gives an `Explanation` with everything that was checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batch import Run
from .errors import OptionError
from .explanation import Check, Cost, Display, Explanation, Found, Pooling
from .inputs import Tensors, as_tensors, differentiable, draws, references
from .inside import ANYTHING, Layer, lifted, of_neuron, placed
from .memory import Peak
from .methods import ATTENTIONS, DISTRIBUTIONS, MAPS, WITHOUT_BASELINES, WITHOUT_GRADIENT, Asked, find
from .model import modules_of
from .output import scores_in
from .picks import PerExample, Pick, Several
from .question import Question
from .target import resolve
from .task import Kind
from .text import STATED, Each, Reading, is_named, labels_of, read
from .trust import health_of, provenance_of, refuse
from .view import InputView, at_input

__all__ = ["explain", "explain_each"]


def explain(
    model: Callable[..., Any],
    inputs: Any,
    target: Any = None,
    method: str = "integrated_gradients",
    *,
    baselines: Any = None,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    names: Sequence[str] = (),
    layer: Layer | Sequence[Layer] | None = None,
    of_input: bool = False,
    neuron: Any = None,
    kind: Kind | None = None,
    picture: Any = None,
    seed: int | None = None,
    strict: bool = False,
    at_most: int | None = None,
    progress: bool | None = None,
    tokenizer: Any = None,
    embeddings: str | Sequence[str] | None = None,
    **options: Any,
) -> Explanation:
    """Explain a batch of predictions, and check the explanation.

    Args:
        model: a module or any callable of tensors; afterwards it is as it was.
        inputs: `(B, ...)`, or a tuple of such; what is attributed. Or inputs by name (a dictionary, what a tokenizer returned, a
            dataclass), which the model gets as keywords, or texts: then real numbers are attributed as they are, token ids where
            an embedding looks them up, or, by methods that replace features, themselves (`pellucid.text`).
        target: which output: int, tuple, tensor or list (one per example), class name, `"cat - dog"`, an expression
            (`target("cat") - target("dog")`), a function of the output; `("start_logits", 3)` of an output with fields, `(3, "NOUN")`
            or `"Paris"` of a model that says something of every token. None: the output if it is one number per example, else the
            predicted class (or token, or answer) of each example, and `health` says so.
        method: a name in `pellucid.METHODS`, in `pellucid.MAPS` (class activation maps of a layer) or in `pellucid.ATTENTIONS`
            (attention maps of transformers); Captum's class names are understood too.
        baselines: what the inputs are compared with: None (zeros), a number, a tensor of the inputs' shape or of one
            example, a function of the input (`pellucid.perturb`: mean, blur, token), a tuple of these; for gradient_shap and
            deeplift_shap a distribution `(N, ...)` or a function that returns one; for perturbation methods also several
            references (`marginal`, `others`), over which scores are meant. Of token ids: "pad" (as None), "mask", a word, an id (int),
            ids, a text, "zeros" or a float for vectors, "removed" for hidden tokens; special tokens stay as they are.
        args: what the model gets after the inputs, not attributed: a tuple, or a single argument.
        kwargs: what it gets by keyword.
        classes: names of the classes.
        names: names of the columns of a table, or the tokens of a text, for pictures.
        layer: explain what a layer returns instead of the inputs: a module of the model or its name, a list of these;
            `(layer, number)` for one that runs more than once. Baselines are still given as inputs.
        of_input: what the layer receives instead of what it returns.
        neuron: explain an activation of that layer, by the inputs, instead of an output: int, tuple of ints and slices, or a
            function of the layer's activation; the target does not matter then.
        kind: how to draw (image, table, text, series, tensor); found from the shape if not said.
        picture: the (first) example as a person sees it, `(H, W)` or `(H, W, 3)` uint8; images only.
        seed: for random methods; None derives one from torch's random state without moving it.
        strict: raise where a health check fails, or where the target had to be guessed.
        at_most: examples per call of the model; None finds the number from the memory that an example takes.
        progress: a progress bar; None shows one when the work takes longer than two seconds.
        tokenizer: a tokenizer or processor of transformers, which names tokens and reads texts.
        embeddings: of inputs by name: "word" (the default), "all" (also of places and kinds of tokens), "sum" (what these add up
            to), or names of entries or of embeddings.
        options: the method's own. Of token ids, feature_mask may be "words".

    Raises:
        InputError: inputs, baselines or arguments that do not fit.
        TargetError: a target that the output does not have.
        OutputError: a model that returns something that cannot be scored.
        OptionError: an unknown method or option.
        UntrustedResult: `strict`, and a check that failed; IncompleteAttribution if the numbers do not add up.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> explanation = explain(net, torch.randn(2, 4), target=1, steps=20)
    >>> explanation.attribution.shape, explanation.cost.backwards
    (torch.Size([2, 4]), 40)
    """
    question = Question(
        model, inputs, target, method, baselines, args, kwargs, tuple(classes), tuple(names), layer, of_input,
        neuron, kind, picture, seed, strict, at_most, progress, tokenizer, embeddings
    )  # fmt: skip
    return _answers(question, options)[0]


def explain_each(
    model: Callable[..., Any],
    inputs: Any,
    targets: Sequence[Any],
    method: str = "integrated_gradients",
    **options: Any,
) -> list[Explanation]:
    """Explain several targets of the same examples from the same forward passes: one explanation for each target.

    Takes what `explain` takes, with a sequence of targets instead of one.

    >>> import torch
    >>> net = torch.nn.Linear(4, 3)
    >>> [e.target for e in explain_each(net, torch.randn(2, 4), [0, 2], "saliency")]
    ['output 0', 'output 2']
    """
    if not len(targets):
        raise OptionError("targets is empty; give at least one")
    options |= {name: tuple(options.get(name, ())) for name in ("classes", "names")}
    picks: Any = Each(tuple(targets))
    if not is_named(inputs, options.get("tokenizer"), options.get("embeddings")):
        size, classes = len(as_tensors(inputs)[0]), options["classes"] or labels_of(modules_of(model))
        picks = Several(tuple(resolve(target, size, classes) for target in targets))
    known = {field.name: options.pop(field.name) for field in fields(Question) if field.name in options}
    return _answers(Question(model, inputs, picks, method, **known), options)


def _answers(question: Question, options: Mapping[str, Any]) -> list[Explanation]:
    """One explanation for each target of the question."""
    name, original, told = find(question.method, {})[0], question.model, _words(options)
    run, start = Run(question.at_most, question.progress), time.perf_counter()
    reading = None
    if is_named(question.inputs, question.tokenizer, question.embeddings):
        reading = read(question, name, dict(options), run)
        question, options = reading.asked, reading.options
    name, method = find(name, options)
    classes = tuple(question.classes) or labels_of(modules_of(original))
    view = reading.view if reading is not None else _view(question, classes)
    peak = Peak(view.features[0].device)
    if name not in WITHOUT_GRADIENT and name not in ATTENTIONS and (question.layer is None or question.neuron is not None):
        differentiable(view.features)
    witness = _Witness(view.call.model, view.features)
    view = replace(view, call=replace(view.call, model=witness))
    guess = _guess(view, replace(question, classes=classes), reading, run)
    whole = replace(view, pick=guess.pick)
    view, baselines, where = _inside(whole, question, name, run)
    found = method(Asked(view, baselines, question.seed, run, question.layer, question.of_input), **options)
    if reading is None:
        output = None if question.neuron is not None else scores_in(run.output(whole) if witness.output is None else witness.output)
        question, predicted = _with_classes(question, classes, output), _predicted(output)
    else:
        found, predicted = reading.told(found, name), reading.predicted
    cost = Cost(run.forwards, run.backwards, run.calls, time.perf_counter() - start, peak.rise())
    picks = view.pick.picks if isinstance(view.pick, Several) else (view.pick,)
    common = Explanation(
        attributions=(),
        features=view.features,
        scores=found.scores,
        method=name,
        target="",
        options=told | where,
        baselines=found.baselines,
        predictions=predicted[0],
        confidences=predicted[1],
        cost=cost,
        provenance=provenance_of(original, view.roots, view.features, found.seed),
        display=_display(question, view.features, found.pooling, reading),
    )
    checks = (*run.checks(), *(() if reading is None else reading.checks))
    explanations = [_of_target(common, view, found.of_target(i), pick, guess.check, checks) for i, pick in enumerate(picks)]
    if question.strict:
        for explanation in explanations:
            refuse(explanation)
    return explanations


def _view(question: Question, classes: Sequence[str]) -> InputView:
    return at_input(question.model, question.inputs, question.target, question.args, question.kwargs, classes)


def _of_target(common: Explanation, view: InputView, found: Found, pick: Pick, chosen: Check, checks: Sequence[Check]) -> Explanation:
    return replace(
        common,
        attributions=tuple(v[0] for v in found.values),
        errors=None if found.errors is None else tuple(e[0] for e in found.errors),
        scores=found.scores[0],
        baseline_scores=None if found.baseline_scores is None else found.baseline_scores[0],
        target=str(pick),
        health=(replace(chosen, message=chosen.message.format(pick)), *checks, *health_of(view, found)),
    )


class _Witness:
    """The model; its output for the features is remembered, if it comes early, so that predictions cost no pass."""

    EARLY = 3

    def __init__(self, model: Callable[..., Any], features: Tensors) -> None:
        self._model, self._features = model, features
        self._left = self.EARLY
        self.output: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        points, wanted = args[: len(self._features)], self._left > 0
        wanted = wanted and all(
            type(p) is Tensor and p.shape == f.shape and torch.equal(p, f) for p, f in zip(points, self._features, strict=True)
        )
        self._left -= 1
        output = self._model(*args, **kwargs)
        if wanted:
            self.output, self._left = output.detach() if isinstance(output, Tensor) else output, 0
        return output


@dataclass(frozen=True)
class _Guess:
    """The target, and what `health` says about how it was found."""

    pick: Pick
    check: Check


def _guess(view: InputView, question: Question, reading: Reading | None, run: Run) -> _Guess:
    if question.neuron is not None:
        return _Guess(ANYTHING, STATED)
    if reading is not None:
        return _Guess(view.pick, reading.chosen)
    if question.target is not None:
        return _Guess(view.pick, STATED)
    return _guessed(scores_in(run.output(view)), view, question)


def _inside(view: InputView, question: Question, method: str, run: Run) -> tuple[InputView, Any, dict[str, Any]]:
    """The view that the question is about, the baselines of its features, and words for the place."""
    if method in MAPS:
        if question.layer is None or question.neuron is not None:
            raise OptionError(f"{method} is a map of what a layer holds: give layer= a module or its name, and no neuron")
        return view, None, {"layer": f"layer {question.layer}" if isinstance(question.layer, str) else "a layer"}
    if question.layer is None:
        if question.neuron is not None or question.of_input:
            raise OptionError("neuron and of_input belong to a layer; say which: layer=a module or its name")
        return view, question.baselines, {}
    if question.neuron is not None:
        return of_neuron(view, run.place(view, question.layer, question.of_input).place, question.neuron), question.baselines, {}
    seen = run.place(view, question.layer, question.of_input)
    inner, where = placed(view, seen.place, seen.features), {"layer": seen.place.words}
    if method in WITHOUT_BASELINES or (method in WITHOUT_GRADIENT and question.baselines is None):
        return inner, None, where
    points = draws(view.features, question.baselines) if method in DISTRIBUTIONS else references(view.features, question.baselines)
    if points[0].dim() == view.features[0].dim():
        return inner, lifted(view, seen.place, points), where
    at_layer = lifted(view, seen.place, tuple(p.flatten(0, 1) for p in points))
    return inner, tuple(p.unflatten(0, (-1, view.size)) for p in at_layer), where


def _guessed(output: Any, view: InputView, question: Question) -> _Guess:
    """The predicted class of each example, where the model has classes; else the output itself."""
    if not _has_classes(output):
        return _Guess(view.pick, STATED)
    indices = [int(best) for best in output.argmax(1)]
    pick = resolve(indices[0], view.size, question.classes) if len(set(indices)) == 1 else PerExample(tuple((i,) for i in indices))
    return _Guess(pick, Check("target", True, "no target was given, so the predicted class is explained: {}", guessed=True))


def _predicted(output: Any) -> tuple[Tensor | None, Tensor | None]:
    """Class and probability of each example, where the model has classes."""
    if not _has_classes(output):
        return None, None
    best = output.argmax(1)
    chance = output if _is_distribution(output) else output.softmax(1)
    return best, chance.gather(1, best[:, None])[:, 0]


def _with_classes(question: Question, known: Sequence[str], output: Any) -> Question:
    """The question with the names that are known of the classes, where the output has as many.

    Raises:
        OptionError: names were given, and the output has another number of classes.
    """
    given = question.classes
    if given and _has_classes(output) and len(given) != output.shape[1]:
        raise OptionError(
            f"classes holds {len(given)} names, but the model returns {output.shape[1]} numbers for each example; give as many names"
        )
    return replace(question, classes=known if output is None or output.shape[-1:] == (len(known),) else given)


def _has_classes(output: Any) -> bool:
    return isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] > 1 and output.is_floating_point()


def _is_distribution(output: Tensor) -> bool:
    return bool((output >= 0).all()) and torch.allclose(output.sum(1), torch.ones_like(output[:, 0]), atol=1e-3)


def _display(question: Question, features: Tensors, pooling: Pooling, reading: Reading | None) -> Display:
    picture = None if question.picture is None else np.asarray(question.picture)
    at_layer = question.layer is not None and question.neuron is None
    if reading is not None:
        return reading.display(features, pooling, at_layer, picture)
    kind = question.kind or ("image" if at_layer and features[0].dim() == 4 else _kind(features, question.names))
    return Display(kind, tuple(question.names), tuple(question.classes), picture, pooling)


def _kind(features: Tensors, names: Sequence[str]) -> Kind:
    """How to draw: by the shape of the first input."""
    first = features[0]
    if first.dim() == 4 and first.shape[1] in (1, 3):
        return "image"
    if first.dim() == 3 and len(names) == first.shape[1]:
        return "text"
    return {2: "table", 3: "series"}.get(first.dim(), "tensor")  # type: ignore[return-value]


def _words(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they can be written to a file."""
    plain = (str, int, float, bool, type(None))
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
    return {name: value if isinstance(value, plain) else _brief(value) for name, value in values.items()}


def _brief(value: Any) -> str:
    return f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else str(value)
