"""A question: what `explain` was asked, but for the method's own options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .inside import Layer
from .task import Kind

__all__ = ["Question"]


@dataclass(frozen=True, eq=False)
class Question:
    """The arguments of `pellucid.explain`, by their names."""

    model: Callable[..., Any]
    inputs: Any
    target: Any
    method: str
    baselines: Any = None
    args: Any = ()
    kwargs: Mapping[str, Any] | None = None
    classes: Sequence[str] = ()
    names: Sequence[str] = ()
    layer: Layer | Sequence[Layer] | None = None
    of_input: bool = False
    neuron: Any = None
    kind: Kind | None = None
    picture: Any = None
    seed: int | None = None
    strict: bool = False
    at_most: int | None = None
    progress: bool | None = None
    tokenizer: Any = None
    embeddings: str | Sequence[str] | None = None
