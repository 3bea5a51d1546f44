"""What every example of a run is asked: the arguments of `explain`, but for the examples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import OptionError, PellucidError, TargetError
from ..explain import explain
from ..explanation import Explanation
from ..methods import find
from ..model import modules_of
from ..question import Question
from ..target import resolve
from ..text import labels_of
from ..trust.identity import identity, layer_of
from ..trust.provenance import hash_of, hash_of_weights
from .rows import NAMELESS, Names, Rows
from .source import lasting

__all__ = ["LABEL", "Explainer"]

LABEL = "label"
GIVEN = {"model", "inputs", "target", "method", "seed", "strict", "progress", "picture"}
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


class Explainer:
    """A model, a method and its options, to be asked about many examples.

    Args:
        model: a module or any callable of tensors.
        method: a name in `pellucid.METHODS`, `MAPS` or `ATTENTIONS`.
        target: as in `pellucid.explain`; "label" is each example's own label. None: the predicted class.
        load: instead of a model, a function that makes it: every worker calls it once. For models that cannot be pickled.
        dtype: "float16", "bfloat16", "float32" or "float64": a copy of the model computes in it, and is given inputs of it.
        options: what else `pellucid.explain` takes: baselines, layer, classes, at_most, ... and the method's own options.

    Raises:
        OptionError: neither or both of model and load, an unknown method, option or dtype.

    >>> Explainer(nn.Linear(4, 3), "integrated_gradients", target=1, steps=20)
    Explainer(integrated_gradients of Linear, target 1, steps=20)
    """

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        method: str = "integrated_gradients",
        target: Any = None,
        *,
        load: Callable[[], Any] | None = None,
        dtype: str | None = None,
        **options: Any,
    ) -> None:
        if (model is None) == (load is None):
            raise OptionError("give a model, or load=, a function that makes one; not both")
        if model is not None and not callable(model):
            raise OptionError(f"model is {type(model).__name__}; give a torch module or a function of tensors")
        if load is not None and not callable(load):
            raise OptionError(f"load is {type(load).__name__}; give a function that makes the model")
        if dtype is not None and dtype not in DTYPES:
            raise OptionError(f"dtype is {dtype!r}; give one of {', '.join(DTYPES)}")
        if isinstance(target, list) or (isinstance(target, Tensor | np.ndarray) and np.prod(target.shape) > 1):
            raise OptionError("target is a list; each example's own target is its label: give the labels with the data, and target='label'")
        if refused := GIVEN & set(options):
            raise OptionError(f"{sorted(refused)[0]} is given to the run, or by the data; leave it out of the explainer")
        known = {field.name for field in fields(Question)}
        self.method = find(method, {name: value for name, value in options.items() if name not in known})[0]
        self.model, self.target, self.load, self.dtype, self.options = model, target, load, dtype, options

    def __repr__(self) -> str:
        named = (
            type(self.model).__name__ if isinstance(self.model, nn.Module) else getattr(self.model or self.load, "__qualname__", "a model")
        )
        told = "".join(f", {name}={value!r}" for name, value in self.options.items() if isinstance(value, int | float | str))
        return f"Explainer({self.method} of {named}, target {self.target!r}{told})"

    def loaded(self) -> Explainer:
        """The same, with its model made, and without what spreads it over devices: a run does that itself.

        A model in DistributedDataParallel would send its buffers round in every forward, and wait for ranks that have none to do.
        """
        if self.load is None:
            spread = isinstance(self.model, nn.DataParallel | nn.parallel.DistributedDataParallel)
            return self.with_model(self.model.module) if spread else self  # type: ignore[union-attr]
        made = self.load()
        if not callable(made):
            raise OptionError(f"load gave {type(made).__name__}; it must give a model")
        return self.with_model(made)

    def with_model(self, model: Callable[..., Any] | None) -> Explainer:
        """The same question about another copy of the model; layers are known by their names there."""
        found = Explainer.__new__(Explainer)
        options = dict(self.options)
        if "layer" in options and isinstance(self.model, nn.Module) and isinstance(model, nn.Module):
            options["layer"] = _named(options["layer"], self.model, model)
        vars(found).update(vars(self) | {"model": model, "load": None, "options": options})
        return found

    def identity(self) -> dict[str, Any]:
        """Words that tell it from another: method, target, options, structure, weights. It must be loaded."""
        roots = modules_of(self.model) if self.model is not None else ()
        options = {name: _words(value, roots) for name, value in sorted(self.options.items()) if name not in ("at_most",)}
        weights = hash_of_weights(roots)
        named = type(self.model).__name__ if isinstance(self.model, nn.Module) else lasting(identity(self.model))
        return {"method": self.method, "target": _words(self.target, roots), "options": options, "dtype": self.dtype, "model": named,
                "structure": _structure(roots), "weights": weights}  # fmt: skip

    @property
    def reading(self) -> torch.dtype:
        """Of numbers that have no type of their own: the model's."""
        if self.dtype is not None:
            return DTYPES[self.dtype]
        roots = modules_of(self.model) if self.model is not None else ()
        return next((p.dtype for root in roots for p in root.parameters() if p.is_floating_point()), torch.get_default_dtype())

    def explain(self, rows: Rows, seed: int, names: Names = NAMELESS) -> Explanation:
        """The examples' explanation, in one."""
        options: dict[str, Any] = dict(self.options)
        if "layer" not in options and isinstance(rows.inputs, tuple) and rows.inputs[0].shape[1:] == (len(names.columns),):
            options.setdefault("names", names.columns)
        if rows.names and "layer" not in options:
            options.setdefault("names", rows.names[0])
            if rows.inputs[0].dim() == 3 and rows.inputs[0].shape[1] == len(rows.names[0]):
                options.setdefault("kind", "text")
        if names.classes and not self.classes:
            options["classes"] = names.classes
        if rows.keywords:
            options["kwargs"] = dict(options.get("kwargs") or {}) | dict(rows.keywords)
        if rows.baselines is not None:
            options.setdefault("baselines", rows.baselines)
        assert self.model is not None
        target = self._labels(rows, names) if self.by_label else self.target
        found = explain(self.model, rows.inputs, target, self.method, seed=seed, progress=False, **options)
        if found.display.kind != "text" or not rows.names or found.display.tokens:
            return found
        return replace(found, display=replace(found.display, tokens=rows.names))

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, as they were given or as the model has them."""
        return tuple(self.options.get("classes", ())) or (labels_of(modules_of(self.model)) if self.model is not None else ())

    @property
    def by_label(self) -> bool:
        """Whether each example is asked about its own label."""
        return isinstance(self.target, str) and self.target == LABEL and LABEL not in self.options.get("classes", ())

    def _labels(self, rows: Rows, names: Names) -> list[Any]:
        """Each example's label as a target; that of a folder by its name, if the classes have names."""
        if not rows.labels:
            raise OptionError("target is 'label', and the data have no labels; give another target, or say where the label is: label=")
        own, folders = self.classes or names.classes, names.labels
        if not folders or own == folders or (len(own) == len(folders) and not set(own) & set(folders)):
            return list(rows.labels)
        if odd := [name for name in folders if name not in own]:
            known = f"the classes are {', '.join(own[:20])}" if own else "the model has another number of classes, without names"
            raise TargetError(f"the folder {odd[0]!r} is no class: {known}; give classes=, the names of the folders in the output's order")
        return [None if label is None else folders[label] for label in rows.labels]

    def targets(self, found: Explanation, rows: Rows, names: Names = NAMELESS) -> list[str]:
        """What was explained of each example."""
        classes, check = found.display.classes, found.check("target")
        if check is not None and check.guessed and found.predictions is not None and len(found.predictions) == len(rows):
            return [str(resolve(int(own), 1, classes)) for own in found.predictions]
        if self.by_label and len(rows.labels) == len(rows):
            return [_said(label, classes) for label in self._labels(rows, names)]
        return [found.target] * len(rows)


def _said(label: Any, classes: Sequence[str]) -> str:
    try:
        return str(resolve(label, 1, classes))
    except PellucidError:
        return str(label)


def _named(layer: Any, model: nn.Module, other: nn.Module) -> Any:
    """A layer of one model as another copy of it knows it: its name there."""
    if isinstance(layer, list):
        return [_named(part, model, other) for part in layer]
    if isinstance(layer, tuple):
        return (_named(layer[0], model, other), *layer[1:])
    before, now = dict(model.named_modules()), dict(other.named_modules())
    if isinstance(layer, str) and layer not in now and layer in before:  # named through a wrapper that is gone
        return next((name for name, module in now.items() if module is before[layer] and name), layer)
    if not isinstance(layer, nn.Module) or any(module is layer for module in now.values()):
        return layer
    return next((name for name, module in before.items() if module is layer and name), layer)


def _structure(roots: tuple[nn.Module, ...]) -> str:
    """A mark of the modules, and of their modes."""
    words = " ".join(f"{lasting(repr(root))} {[module.training for module in root.modules()]}" for root in roots)
    return hashlib.blake2b(words.encode(), digest_size=8).hexdigest()


def _words(value: Any, roots: tuple[nn.Module, ...]) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        return hash_of([("", torch.as_tensor(value))])
    if isinstance(value, nn.Module):
        return next((layer_of(root, value) for root in roots if any(m is value for m in root.modules())), lasting(repr(value)))
    if isinstance(value, Mapping):
        return {str(name): _words(part, roots) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_words(part, roots) for part in value]
    return value if isinstance(value, int | float | str | bool | None) else lasting(identity(value))
