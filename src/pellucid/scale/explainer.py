"""What every example of a run is asked: the arguments of `explain`, but for the examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..explain import explain
from ..explanation import Explanation
from ..methods import find
from ..model import modules_of
from ..question import Question
from ..trust.identity import identity, layer_of
from ..trust.provenance import hash_of, hash_of_weights
from .rows import Rows

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
        if dtype is not None and dtype not in DTYPES:
            raise OptionError(f"dtype is {dtype!r}; give one of {', '.join(DTYPES)}")
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
        """The same question about another copy of the model."""
        found = Explainer.__new__(Explainer)
        vars(found).update(vars(self) | {"model": model, "load": None})
        return found

    def identity(self) -> dict[str, Any]:
        """Words that tell it from another: method, target, options, weights. It must be loaded."""
        roots = modules_of(self.model) if self.model is not None else ()
        options = {name: _words(value, roots) for name, value in sorted(self.options.items()) if name not in ("at_most",)}
        weights = hash_of_weights(roots)
        named = type(self.model).__name__ if isinstance(self.model, nn.Module) else identity(self.model)
        return {"method": self.method, "target": _words(self.target, roots), "options": options, "dtype": self.dtype, "model": named,
                "weights": weights}  # fmt: skip

    def explain(self, rows: Rows, seed: int, names: Sequence[str] = (), classes: Sequence[str] = ()) -> Explanation:
        """The examples' explanation, in one."""
        options: dict[str, Any] = dict(self.options)
        if names and "layer" not in options:
            options.setdefault("names", tuple(names))
        if classes:
            options.setdefault("classes", tuple(classes))
        if rows.keywords:
            options["kwargs"] = dict(options.get("kwargs") or {}) | dict(rows.keywords)
        if rows.baselines is not None:
            options.setdefault("baselines", rows.baselines)
        assert self.model is not None
        return explain(self.model, rows.inputs, self._target(rows), self.method, seed=seed, progress=False, **options)

    def _target(self, rows: Rows) -> Any:
        if self.target != LABEL or LABEL in self.options.get("classes", ()):
            return self.target
        if not rows.labels:
            raise OptionError("target is 'label', and the data have no labels; give another target, or say where the label is: label=")
        return list(rows.labels)


def _words(value: Any, roots: tuple[nn.Module, ...]) -> Any:
    if isinstance(value, Tensor):
        return hash_of([("", value)])
    if isinstance(value, nn.Module):
        return next((layer_of(root, value) for root in roots if any(m is value for m in root.modules())), repr(value))
    if isinstance(value, Mapping):
        return {str(name): _words(part, roots) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_words(part, roots) for part in value]
    return value if isinstance(value, int | float | str | bool | None) else identity(value)
