"""A subject: a model under inspection, how it reads a raw example, and what a person sees of that example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import InputError, OptionError
from ..explanation import Explanation
from ..model import modules_of
from ..task import Kind, Sample, Task

if TYPE_CHECKING:
    from .predictions import Said

__all__ = ["Part", "Ready", "Subject", "fed", "part_of", "ready_of", "subjects_of", "title_of"]

TITLE = 400  # letters of an example that are searched and shown in lists


@dataclass(frozen=True, eq=False)
class Part:
    """What a person sees of one input.

    Attributes:
        name: of the input.
        kind: how it is drawn; "empty" is not.
        names: tokens of a text, columns of a table.
        cells: what stands in the columns, in words.
        picture: `(H, W)` or `(H, W, 3)` uint8.
    """

    name: str
    kind: Kind | str
    names: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    picture: NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class Ready:
    """An example ready for a model, and for a person: one part for each input; and its explanation, where that is stored."""

    sample: Sample
    parts: tuple[Part, ...]
    known: Explanation | None = None

    @property
    def size(self) -> int:
        """Bytes, about."""
        baselines = [b for b in self.sample.baselines or () if isinstance(b, Tensor)]
        pictures = sum(part.picture.nbytes for part in self.parts if part.picture is not None)
        return pictures + sum(t.numel() * t.element_size() for t in (*self.sample.inputs, *baselines)) + 1024


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, its name, and how it reads raw examples.

    Attributes:
        name: shown above its answers.
        model: a module, or any callable of tensors.
        ready: from a raw example to what the model is fed.
        classes: their names, in the order of the output.
        kind: of the first input.
        scored: from the model's output to the scores that are shown; None: as they are (probabilities by softmax).
        targeted: whether the output has classes to be explained; False: the output itself is.
        glimpse: a few words for lists, from the raw example.
        exclusive: whether an example has one class; False: any number of them.
        scores: what the output holds, "logits" or "probabilities"; None: found from it.
        titled: a few words of a raw example, where the glimpse has none.
        said: what it said of a raw example with that label, where that is stored; then nobody asks the model.
        methods: the only ones that it is explained by; empty for all that fit.
    """

    name: str
    model: Callable[..., Any]
    ready: Callable[[Any], Ready]
    classes: tuple[str, ...] = ()
    kind: Kind | str = "tensor"
    scored: Callable[[Any], Any] | None = None
    targeted: bool = True
    glimpse: Callable[[Any], Any] = field(default=lambda raw: raw)
    exclusive: bool = True
    scores: str | None = None
    titled: Callable[[Any], str] | None = None
    said: Callable[[Any, Any], Said] | None = None
    methods: tuple[str, ...] = ()

    def title(self, raw: Any) -> str:
        """A few words of a raw example; empty where it has none."""
        return title_of(self.glimpse(raw)) if self.titled is None else self.titled(raw)[:TITLE]

    @property
    def roots(self) -> tuple[nn.Module, ...]:
        """The modules that run."""
        return modules_of(self.model)

    def class_name(self, index: int) -> str:
        """The name of a class, or its number where there is none."""
        return self.classes[index] if 0 <= index < len(self.classes) else f"class {index}"


def subjects_of(
    models: Any,
    classes: Sequence[str] = (),
    kind: Kind | None = None,
    names: Sequence[str] = (),
    prepare: Callable[[Any], Any] | None = None,
) -> tuple[Subject, ...]:
    """Every model with a name: of one model, a sequence of models, or a mapping from names to models.

    Raises:
        OptionError: no model, or something that is none.
    """
    if isinstance(models, Mapping):
        named = [(str(name), model) for name, model in models.items()]
    else:
        several = list(models) if isinstance(models, list | tuple) else [models]
        named = [(f"Model {i + 1}" if len(several) > 1 else _name(model), model) for i, model in enumerate(several)]
    if not named:
        raise OptionError("models is empty; give a module, a pellucid.Task, or several of these")
    return tuple(_subject(name, model, tuple(classes), kind, tuple(names), prepare) for name, model in named)


def _name(model: Any) -> str:
    inner = model.model if isinstance(model, Task) else model
    return type(inner).__name__ if isinstance(inner, nn.Module) else getattr(inner, "__name__", type(inner).__name__)


def _subject(
    name: str, model: Any, classes: tuple[str, ...], kind: Kind | None, names: tuple[str, ...], prepare: Callable[[Any], Any] | None
) -> Subject:
    if isinstance(model, Subject):
        return model
    if isinstance(model, Task):
        reads = prepare or model.prepare
        return Subject(name, model.model, lambda raw: ready_of(reads(raw), raw, model.kind, names), classes or model.classes, model.kind)
    if not callable(model):
        raise OptionError(f"the model {name!r} is a {type(model).__name__}; give a torch module, a function of tensors, or a pellucid.Task")
    reads = prepare or (lambda raw: _bare(raw, model))
    return Subject(name, model, lambda raw: ready_of(reads(raw), raw, kind, names), classes, kind or "tensor")


def _bare(raw: Any, model: Callable[..., Any]) -> Sample:
    """Tensors and arrays without a batch dimension, pictures as `(C, H, W)` in [0, 1]."""
    if isinstance(raw, Sample):
        return raw
    if isinstance(raw, str):
        raise InputError("a bare model cannot read a text; give a pellucid.Task, or prepare=, a function from a text to a pellucid.Sample")
    if type(raw).__module__.partition(".")[0] == "PIL":
        picture = np.array(raw if raw.mode == "L" else raw.convert("RGB"))
        shown = torch.from_numpy(picture / np.float32(255))
        return Sample((fed(shown[None] if shown.dim() == 2 else shown.permute(2, 0, 1), model)[None],), picture=picture)
    several = isinstance(raw, tuple | list) and len(raw) > 0 and not isinstance(raw[0], Real)
    given = (x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x)) for x in (raw if several else (raw,)))
    return Sample(tuple(fed(x, model)[None] for x in given))


def fed(x: Tensor, model: Callable[..., Any]) -> Tensor:
    """The input on the model's device, and real numbers in its precision."""
    parameter = next((p for root in modules_of(model) for p in root.parameters() if p.is_floating_point()), None)
    return x if parameter is None else x.to(parameter.device, parameter.dtype if x.is_floating_point() else None)


def ready_of(sample: Any, raw: Any, kind: Kind | None = None, names: Sequence[str] = ()) -> Ready:
    """What was prepared, with one part for each input; the task's kind, names and picture are those of the first.

    Raises:
        InputError: `prepare` returned no sample.
    """
    if isinstance(sample, Ready):
        return sample
    if not isinstance(sample, Sample):
        raise InputError(f"prepare returned {type(sample).__name__}; it must return a pellucid.Sample")
    if names and not sample.names:
        sample = replace(sample, names=tuple(names))
    first = part_of(sample.inputs[0], "input" if len(sample.inputs) == 1 else "input 1", kind, sample.names, sample.picture, raw)
    return Ready(sample, (first, *(part_of(x, f"input {i}") for i, x in enumerate(sample.inputs[1:], 2))))


def part_of(
    x: Tensor, name: str, kind: Kind | None = None, names: tuple[str, ...] = (), picture: NDArray[np.uint8] | None = None, raw: Any = None
) -> Part:
    """What a person sees of an input `(1, ...)`; `raw` is the example as it was given."""
    from ..show.example import pixels  # drawing comes when something is looked at

    kind = kind or _kind(x, names)
    if kind == "image":
        return Part(name, kind, names, (), pixels(x[0].detach().cpu().double().numpy()) if picture is None else picture)
    if kind == "table" and x.dim() == 2:
        columns = names if len(names) == x.shape[1] else tuple(f"feature {i}" for i in range(x.shape[1]))
        return Part(name, kind, columns, _cells(x, raw))
    return Part(name, kind, names)


def _kind(x: Tensor, names: Sequence[str]) -> Kind:
    if x.dim() == 4 and x.shape[1] in (1, 3):
        return "image"
    if x.dim() == 3:
        return "text" if len(names) == x.shape[1] else "series"
    return "table" if x.dim() == 2 else "tensor"


def _cells(x: Tensor, raw: Any) -> tuple[str, ...]:
    """The columns as the raw example has them, if it has as many, else as the model is fed."""
    from ..show.thing import value_of

    try:
        values = np.asarray(raw.detach().cpu() if isinstance(raw, Tensor) else raw, dtype=object).reshape(-1).tolist()
    except (TypeError, ValueError):
        values = []
    return tuple(value_of(v) for v in (values if len(values) == x.shape[1] else x[0].tolist()))


def title_of(glimpse: Any) -> str:
    """A few words; empty where there are none."""
    if isinstance(glimpse, str):
        return " ".join(glimpse[: 2 * TITLE].split())[:TITLE]
    if isinstance(glimpse, Mapping):
        from ..show.thing import value_of

        return ", ".join(f"{k} {value_of(v)}" for k, v in list(glimpse.items())[:12])[:TITLE]
    return ""
