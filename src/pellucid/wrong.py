"""Why is this one wrong? The input, the training examples like it and those that moved it, and how far these can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import FileError, InputError
from .explain import explain
from .explanation import Explanation
from .inside import layer_named
from .model import said, undisturbed
from .target import target

if TYPE_CHECKING:
    from .dynamics import Dynamics
    from .show import Section

__all__ = ["WhyWrong", "why_wrong"]


@dataclass(frozen=True, eq=False)
class WhyWrong:
    """What can be said about one wrong prediction, on one page.

    Attributes:
        label, predicted: the classes' names.
        attribution: of the predicted class minus the right one, to the input.
        nearest: training examples by how like their activations are.
        influential: training examples by how they moved the loss of the right label.
        suspicion: `(N,)`, how wrong each training label looks; more is worse. suspicion_by: the measure.
        forgotten: `(N,)`, how often each was forgotten in training, where that was recorded.
    """

    label: str
    predicted: str
    attribution: Explanation
    nearest: Explanation
    influential: Explanation
    suspicion: Tensor
    suspicion_by: str
    forgotten: Tensor | None = None

    def rows(self, count: int = 6) -> list[dict[str, str]]:
        """The training examples that are shown, the most suspicious label first: what is known of each."""
        from .show.numbers import number
        from .show.training import ranked

        ranks = self.suspicion.nan_to_num(-torch.inf).argsort(descending=True, stable=True).argsort() + 1
        labels: dict[int, str] = {}
        for explanation in (self.nearest, self.influential):
            for side in ranked(explanation, 0, count)[: 1 if explanation is self.nearest else 2]:
                labels |= {each.index: each.label for each in side}
        return [
            {
                "training example": f"#{i}",
                "label": labels[i],
                "likeness": number(float(self.nearest.attribution[0, i]), signed=True),
                "influence": number(float(self.influential.attribution[0, i]), signed=True),
                f"suspicion ({self.suspicion_by})": f"{int(ranks[i])} of {len(ranks)}",
            }
            | ({} if self.forgotten is None else {"times forgotten": str(int(self.forgotten[i]))})
            for i in sorted(labels, key=lambda i: int(ranks[i]))
        ]

    def page(self) -> str:
        """One self-contained HTML page."""
        from .show import page

        return page(self._sections(), f"Why {self.predicted}, and not {self.label}?", self._introduction())

    def save(self, path: str | Path) -> Path:
        """Write the page.

        Raises:
            FileError: it cannot be written.
        """
        try:
            Path(path).write_text(self.page(), encoding="utf-8")
        except OSError as error:
            raise FileError(f"cannot write the page to {str(path)!r}: {error.strerror}; name a file in a folder that exists") from error
        return Path(path)

    def _repr_html_(self) -> str:
        from html import escape

        return f'<iframe srcdoc="{escape(self.page())}" style="width:100%;height:46rem;border:0" title="Why is this one wrong?"></iframe>'

    def __repr__(self) -> str:
        return f"WhyWrong(predicted {self.predicted}, labelled {self.label}; page() or save(path) shows it)"

    def _introduction(self) -> str:
        chance = self.attribution.confidences
        sure = "" if chance is None else f", {float(chance[0]):.0%} sure"
        return f"The model says {self.predicted}{sure}; the label is {self.label}. {self._verdict()}"

    def _verdict(self) -> str:
        """What the training examples suggest, in a sentence."""
        from .show.training import ranked

        near = [each.label for each in ranked(self.nearest, 0, 5)[0]]
        said, right = near.count(self.predicted), near.count(self.label)
        told = f"Of the {len(near)} nearest training examples, {said} are labelled {self.predicted} and {right} are labelled {self.label}."
        if right == 0 and said:
            return f"{told} Examples like it are missing under its label, or its own label is wrong."
        return told

    def _sections(self) -> Sequence[Section]:
        from .show import Section

        return [
            Section(
                f"What in the input speaks for {self.predicted} rather than {self.label}",
                f"The score of {self.predicted} minus that of {self.label}: red speaks for the wrong class, blue for the right one.",
                [self.attribution],
            ),
            Section(
                "The training examples most like it",
                f"By {self.nearest.display.gallery.unit}." if self.nearest.display.gallery else "",
                [self.nearest],
            ),
            Section("The training examples that moved it", "For and against the right label.", [self.influential]),
            Section("How far these training examples can be trusted", self._trust(), table=self.rows()),
        ]

    def _trust(self) -> str:
        """What the table says."""
        return (
            "Suspicion: the rank of the training label among all, 1 being the one that looks most wrong. A suspicious label among the "
            "examples that moved the prediction is worth a look."
        )


def why_wrong(
    model: nn.Module,
    train: Any,
    example: Sequence[Any],
    *,
    method: str | None = None,
    attribution: str = "integrated_gradients",
    dynamics: Dynamics | None = None,
    checkpoints: Any = None,
    load: Callable[[nn.Module, Any], Any] | None = None,
    loss: Callable[..., Tensor] | None = None,
    layers: Sequence[nn.Module | str] | None = None,
    layer: nn.Module | str | None = None,
    baselines: Any = None,
    batch_size: int = 64,
    classes: Sequence[str] = (),
    names: Sequence[str] = (),
    look: Callable[[tuple[Any, ...]], Any] | None = None,
    kept: int = 6,
    seed: int | None = None,
    progress: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> WhyWrong:
    """Everything that training data and input say about one wrong prediction.

    Args:
        train: training examples, as `pellucid.influence.influence` takes them.
        example: `(input, ..., label)`, as an item of a data set or as a batch of one.
        method: of influence; None: "tracin" with checkpoints, else "ek_fac".
        attribution: the method of the attribution to the input; of what the model says minus what is right.
        dynamics: what a `pellucid.dynamics.Recorder` recorded of the training examples: labels that look wrong by their margins, and how
            often each was forgotten. None: how wrong a label looks is told by its influence on itself.
        layer: whose activations say which examples are alike; None: what the last linear layer receives.
        baselines: for the attribution.
        options: of the influence method.
        model, checkpoints, load, loss, layers, batch_size, classes, names, look, kept, seed, progress: as for `influence`.

    Raises:
        InputError: the model is right, or the example is not one; and what `influence` and `explain` raise.

    >>> net, x = nn.Linear(4, 3), torch.randn(20, 4)
    >>> y = net(x).argmax(1)
    >>> why_wrong(net, (x, y), (x[0], (y[0] + 1) % 3), progress=False).nearest.attribution.shape
    torch.Size([1, 20])
    """
    from .influence import influence

    examples = _examples(train, batch_size)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    query = [part.to(device) if isinstance(part, Tensor) else part for part in _batched(example, examples)]
    predicted, label = _wrong(model, query, classes)
    common: dict[str, Any] = {
        "checkpoints": checkpoints, "load": load, "loss": loss, "classes": classes, "names": names, "look": look, "kept": kept,
        "seed": seed, "progress": progress, "batch_size": batch_size,
    }  # fmt: skip
    chosen = method or ("ek_fac" if checkpoints is None else "tracin")
    influential = influence(model, examples, [query], chosen, layers=layers, **common, **(options or {}))
    nearest = influence(model, examples, [query], "similarity", layer=layer, **common | {"checkpoints": None})
    inputs = tuple(part for part in query[:-1] if isinstance(part, Tensor))
    told = explain(
        model, inputs[0] if len(inputs) == 1 else inputs, target(predicted) - target(label), attribution,
        baselines=baselines, classes=classes, names=names if inputs[0].dim() == 2 else (), seed=seed, progress=progress,
    )  # fmt: skip
    suspicion, by, forgotten = _suspicion(model, examples, dynamics, checkpoints, load, loss, layers, progress)
    return WhyWrong(_name(label, classes), _name(predicted, classes), told, nearest, influential, suspicion, by, forgotten)


def _examples(train: Any, batch_size: int) -> Any:
    from .influence import Examples

    return train if isinstance(train, Examples) else Examples(train, batch_size)


def _batched(example: Sequence[Any], train: Any) -> list[Any]:
    """The example as a batch of one, whether or not it is one already."""
    if not isinstance(example, tuple | list) or len(example) < 2:
        raise InputError(f"example is {type(example).__name__}; give (input, ..., label), an item of a data set or a batch of one")
    like = next(iter(train))
    given = [torch.as_tensor(part) if isinstance(part, int | float) or hasattr(part, "__array__") else part for part in example]
    first, other = (next((part for part in parts if isinstance(part, Tensor)), None) for parts in (given, like))
    if first is None or other is None or first.dim() not in (other.dim(), other.dim() - 1):
        shape = None if first is None else tuple(first.shape)
        raise InputError(
            f"example has an input of shape {shape}, and those of the training data have {None if other is None else tuple(other.shape)}"
        )
    if first.dim() == other.dim():
        if len(first) != 1:
            raise InputError(f"example holds {len(first)} examples; give one")
        return [*given[:-1], _number(given[-1])]
    return [*(part[None] if isinstance(part, Tensor) else part for part in given[:-1]), _number(given[-1])]


def _number(label: Any) -> Tensor:
    """`(1,)`, the number of a class."""
    if not isinstance(label, Tensor) or label.numel() != 1 or label.is_floating_point():
        raise InputError(f"the label is {label!r}; give the number of a class")
    return label.reshape(1)


def _wrong(model: nn.Module, query: Sequence[Any], classes: Sequence[str]) -> tuple[int, int]:
    """The predicted class and the label.

    Raises:
        InputError: they are the same, or there are no classes.
    """
    with undisturbed((model,)), torch.no_grad():
        output = said(model, query[:-1])
    if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[1] < 2:
        raise InputError("why_wrong is about classes: the model must return (B, classes)")
    predicted, label = int(output.argmax(1)), int(query[-1])
    if not 0 <= label < output.shape[1]:
        raise InputError(f"the label is {label}, and the model has the classes 0 to {output.shape[1] - 1}")
    if predicted == label:
        raise InputError(f"the model is right: it predicts {_name(label, classes)}; use influence() or explain() to see why")
    return predicted, label


def _suspicion(
    model: nn.Module, examples: Any, dynamics: Dynamics | None, checkpoints: Any, load: Any, loss: Any, layers: Any, progress: bool | None
) -> tuple[Tensor, str, Tensor | None]:
    """How wrong each training label looks, by what measure, and how often each was forgotten."""
    from .dynamics import forgetting, suspicion
    from .influence import Checkpoints, self_influence

    if dynamics is not None:
        if len(examples) and len(dynamics) != len(examples):
            raise InputError(f"dynamics knows {len(dynamics)} examples, and there are {len(examples)}; give what was recorded of these")
        return suspicion(dynamics), "by margins", forgetting(dynamics).events
    chosen = None if layers is None else [layer_named((model,), each) if isinstance(each, str) else each for each in layers]
    saved = Checkpoints.given(model, checkpoints, load)
    own = self_influence(saved, examples, loss or nn.CrossEntropyLoss(reduction="none"), chosen, progress)
    return own.detach().cpu(), "by self influence", None


def _name(index: int, classes: Sequence[str]) -> str:
    return classes[index] if classes else str(index)
