"""What a model returns: a tensor of scores, or an output with fields, of which one holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import OutputError

__all__ = ["fields_of", "in_words", "scores_in", "tensor_of"]


def tensor_of(output: Any) -> Tensor:
    """The output, if it is a tensor of real numbers; of one with fields its `logits`, or the only one that can be scores.

    Raises:
        OutputError: it is something else, or several fields can be.
    """
    if isinstance(output, Tensor) and not output.is_complex():
        return output
    if isinstance(output, int | float):
        return torch.tensor(float(output), dtype=torch.float64)
    known = fields_of(output)
    scores = [value for value in known.values() if isinstance(value, Tensor) and value.is_floating_point() and value.dim()]
    logits = known.get("logits")
    if isinstance(logits, Tensor) or len(scores) == 1:
        return logits if isinstance(logits, Tensor) else scores[0]
    kind = f"a complex tensor ({output.dtype})" if isinstance(output, Tensor) else type(output).__name__
    name = next((name for name, value in known.items() if value is scores[0]), "logits") if scores else "logits"
    raise OutputError(
        f"the model returned {kind}{f' with {in_words(known)}' if known else ''}, not a tensor of scores; "
        + (f"name the field: target=({name!r}, 3), or " if scores else "")
        + "give a function as target that takes one number per example out of it, such as target=lambda output: "
        + (f"output[{int(name)}][:, 3]" if name.isdigit() else f"output[{name!r}][:, 3]")
    )


def fields_of(output: Any) -> Mapping[str, Any]:
    """What an output holds by name: the entries of a mapping or a dataclass, those of a tuple by their number; none of others."""
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    if isinstance(output, tuple | list):
        return dict(zip(getattr(output, "_fields", None) or map(str, range(len(output))), output, strict=False))
    return {}


def in_words(known: Mapping[str, Any]) -> str:
    """The fields with their shapes."""
    shapes = (f"{name!r} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(name) for name, value in known.items())
    return ", ".join(shapes)


def scores_in(output: Any) -> Tensor | None:
    """The tensor of scores, or None where there is none or more than one."""
    try:
        return tensor_of(output)
    except OutputError:
        return None
