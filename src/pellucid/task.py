"""A task: a model together with what it takes to feed it a raw example and to read its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Kind", "Sample", "Task"]

Kind = Literal["image", "table", "text", "series", "tensor", "examples", "several"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One raw example, ready for the model: a batch of one.

    Attributes:
        inputs: what is attributed, each tensor `(1, ...)`.
        keywords: what the model needs besides, by name (an attention mask, say); not attributed.
        baselines: the reference the example is compared with, one entry per input; None means zeros.
        names: a name for each thing that gets a bar or a highlight: columns of a table, tokens of a text.
        picture: `(H, W, 3)` or `(H, W)` uint8: the image as a person sees it.
        entries: the same by name, as the task's `whole` model takes it.
    """

    inputs: tuple[Tensor, ...]
    keywords: Mapping[str, Any] = field(default_factory=dict)
    baselines: tuple[Tensor | float, ...] | None = None
    names: tuple[str, ...] = ()
    picture: NDArray[np.uint8] | None = None
    entries: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """A model with its classes, and a function from a raw example (PIL image, row of numbers, str) to a `Sample`.

    `pellucid explain module:function` takes a function that returns a task, or a bare module for images and tables.

    Attributes:
        whole, tokenizer: the model as it takes entries by name, of which `model` is a function of tensors; and what names tokens.
    """

    model: nn.Module
    kind: Kind
    prepare: Callable[[Any], Sample]
    classes: tuple[str, ...] = ()
    whole: nn.Module | None = None
    tokenizer: Any = None
