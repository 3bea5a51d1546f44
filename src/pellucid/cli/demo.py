"""`pellucid demo`: one held-out example of each small model, explained by several methods, on one page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL.Image import Image
from rich.console import Console
from rich.markup import escape
from torch import Tensor, nn

from .. import zoo
from ..errors import MissingExtra, OptionError
from ..explain import explain
from ..explanation import Explanation
from ..methods import MAPS
from ..show import Section
from ..task import Sample, Task
from .blame import blaming, blaming_the_model
from .output import folder, summary, write

__all__ = ["demo"]

METHODS: dict[str, dict[str, Any]] = {
    "saliency": {},
    "input_x_gradient": {},
    "smoothgrad": {"samples": 50},
    "gradient_shap": {"samples": 200},
    "integrated_gradients": {"tolerance": 0.02},
    "feature_ablation": {},
}

INTRODUCTION = """Four small models, trained on real data, and for each one example that it was not trained on. Every method \
answers the same question: which parts of the input moved this prediction? Beside each answer stands what was checked \
about it and what it cost.

A picture that looks convincing can still be wrong. Completeness, where a method promises it, says whether the parts add \
up to the whole; the spread says what another seed would have changed."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the page and the pictures.")] = Path("pellucid-demo"),
    model: Annotated[list[str] | None, typer.Option(help=f"Only this model ({', '.join(zoo.NAMES)}); may be repeated.")] = None,
) -> None:
    """Explain one held-out example of each of the four small models; write a page and pictures."""
    console = Console()
    wanted = list(dict.fromkeys(_known(name) for name in model or zoo.NAMES))
    folder(out)
    sections = [section for name in wanted if (section := _section(name, console)) is not None]
    if not sections:
        raise MissingExtra(f"nothing is left to explain of {', '.join(wanted)}; choose another with --model")
    path = write(sections, out, "Pellucid: explanations you can check", INTRODUCTION)
    summary(sections, console)
    console.print(f"The page: [bold]{escape(str(path))}[/] (pictures beside it)", soft_wrap=True)


def _known(name: str) -> str:
    if name not in zoo.NAMES:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(zoo.NAMES)}", param_hint="--model")
    return name


def _section(name: str, console: Console) -> Section | None:
    try:
        task = getattr(zoo, name)()
        raw, label = zoo.held_out(name)[0]
    except MissingExtra as error:
        console.print(f"{name} is left out: {error}", markup=False)
        return None
    with console.status(f"explaining {name} ..."):
        explanations = [explained(task, raw, method, **options) for method, options in METHODS.items()]
    found = explanations[0]
    right = found.predictions is not None and int(found.predictions[0]) == label
    verdict = "right" if right else "wrong"
    said = f"The model ({100 * zoo.accuracy(name):.1f} % right on held-out data) is {verdict}: this is {task.classes[label]!r}."
    return Section(TITLES[name], said, explanations)


def explained(task: Task, raw: Any, method: str, target: Any = None, seed: int | None = 0, **options: Any) -> Explanation:
    """One raw example explained by one method, drawn as its task says."""
    with blaming(f"the task's prepare, given {_given(raw)},"):
        sample = task.prepare(raw)
    if not isinstance(sample, Sample):
        raise OptionError(f"the task's prepare returned {type(sample).__name__}; it must return a pellucid.Sample")
    if sample.entries is not None and task.whole is not None:
        return _of_entries(task.whole, task, sample, method, target, seed, options)
    at_layer = "layer" in options and "neuron" not in options and method not in MAPS
    if method == "feature_ablation" and task.kind in PIECES and not at_layer:
        options.setdefault("feature_mask", tuple(PIECES[task.kind](x) for x in sample.inputs))
    drawn: dict[str, Any] = {} if at_layer else {"names": sample.names, "kind": task.kind, "picture": sample.picture}
    with blaming_the_model():
        return explain(
            task.model,
            sample.inputs,
            target,
            method,
            baselines=sample.baselines,
            kwargs=sample.keywords,
            classes=task.classes,
            seed=seed,
            **drawn,
            **options,
        )


def _of_entries(
    whole: nn.Module, task: Task, sample: Sample, method: str, target: Any, seed: int | None, options: dict[str, Any]
) -> Explanation:
    """What a model says of its inputs by name."""
    known = {"classes": task.classes, "tokenizer": task.tokenizer, "picture": sample.picture}
    with blaming_the_model():
        return explain(whole, sample.entries, target, method, seed=seed, **known, **options)


def _given(raw: Any) -> str:
    kinds = ((str, "a text"), (list, "a row of numbers"), (Image, "an image"), (tuple, "a pair"))
    return next((words for kind, words in kinds if isinstance(raw, kind)), type(raw).__name__)


def _patches(x: Tensor) -> Tensor:
    """A grid of about eight by eight squares, all colours of a pixel together."""
    down, across = (torch.arange(n) // max(1, n // 8) for n in x.shape[2:])
    return (down[:, None] * len(across) + across)[None, None]


# What a person would take away as one piece: a square of a picture, a token with its whole embedding.
PIECES: dict[str, Callable[[Tensor], Tensor]] = {
    "image": _patches,
    "text": lambda x: torch.arange(x.shape[1]).view(1, -1, 1),
}

TITLES = {
    "digits": "A handwritten digit",
    "tiles": "A tile of a photograph",
    "cancer": "A biopsy in thirty numbers",
    "sentences": "A sentence of documentation",
}
