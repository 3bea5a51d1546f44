"""Edits of an example: another text, other values in its columns, a part of its picture that is hidden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .subject import Ready, Subject

__all__ = ["editable", "edited"]

LONGEST = 20_000  # letters of a text
BOXES = 32


def editable(raw: Any, ready: Ready) -> str:
    """What can be edited: "text", "values", "box", or nothing."""
    if ready.known is not None:
        return ""
    if isinstance(raw, str):
        return "text"
    if _numbers(raw) is not None and ready.parts[0].kind == "table" and len(ready.parts[0].names) == len(_numbers(raw) or ()):
        return "values"
    return "box" if ready.parts[0].kind == "image" and ready.sample.inputs[0].dim() == 4 else ""


def _numbers(raw: Any) -> list[float] | None:
    if isinstance(raw, np.ndarray | Tensor):
        return [float(v) for v in raw] if raw.ndim == 1 else None
    flat = isinstance(raw, list | tuple) and raw and all(isinstance(v, Real) for v in raw)
    return [float(v) for v in raw] if flat else None


def edited(subject: Subject, raw: Any, edit: Mapping[str, Any]) -> Ready:
    """The example with that edit, ready for the model.

    Args:
        edit: `{"text": ...}`, `{"values": {column: number}}` or `{"boxes": [[left, top, right, bottom], ...]}` in parts of the picture.

    Raises:
        InputError: an edit that does not fit the example. And whatever `prepare` raises.
    """
    if not edit:
        return subject.ready(raw)
    if isinstance(raw, str) and isinstance(edit.get("text"), str):
        if len(edit["text"]) > LONGEST:
            raise InputError(f"the text has {len(edit['text'])} letters; give at most {LONGEST}")
        return subject.ready(edit["text"])
    if _numbers(raw) is not None and isinstance(edit.get("values"), Mapping):
        return _with_values(subject, raw, edit["values"])
    if isinstance(edit.get("boxes"), list):
        return _hidden(subject.ready(raw), [_box(box) for box in edit["boxes"][:BOXES]])
    raise InputError(f"the edit {', '.join(edit)} does not fit this example; a text takes text, a row values, a picture boxes")


def _with_values(subject: Subject, raw: Any, values: Mapping[str, Any]) -> Ready:
    names = subject.ready(raw).parts[0].names
    changed = raw.clone() if isinstance(raw, Tensor) else np.array(raw, copy=True) if isinstance(raw, np.ndarray) else list(raw)
    for name, value in values.items():
        if name not in names or isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(float(value)):
            raise InputError(f"{name!r} is {value!r}; give one of the columns {', '.join(names[:8])}, ..., and a finite number")
        changed[names.index(name)] = float(value)
    return subject.ready(type(raw)(changed) if isinstance(raw, tuple) else changed)


def _box(box: Any) -> tuple[float, float, float, float]:
    fits = isinstance(box, list) and len(box) == 4 and all(isinstance(v, Real) and 0 <= float(v) <= 1 for v in box)
    if not fits or not (box[0] < box[2] and box[1] < box[3]):
        raise InputError(f"the box is {box!r}; give [left, top, right, bottom] in parts of the picture, from 0 to 1")
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


def _hidden(ready: Ready, boxes: list[tuple[float, float, float, float]]) -> Ready:
    """The picture with boxes in its mean colour: black would be an edge of its own."""
    x = ready.sample.inputs[0]
    if x.dim() != 4:
        raise InputError(f"the first input has shape {tuple(x.shape)}; boxes are for pictures (1, C, H, W)")
    moved, picture = x.clone(), None if ready.parts[0].picture is None else np.array(ready.parts[0].picture, copy=True)
    colour = x.mean((2, 3), keepdim=True) if x.is_floating_point() else torch.zeros_like(x[:, :, :1, :1])
    for box in boxes:
        moved[(..., *_pixels(box, x.shape[2], x.shape[3]))] = colour
        if picture is not None:
            picture[_pixels(box, picture.shape[0], picture.shape[1])] = picture.mean((0, 1))
    sample = replace(ready.sample, inputs=(moved, *ready.sample.inputs[1:]), picture=picture)
    return Ready(sample, (replace(ready.parts[0], picture=picture), *ready.parts[1:]))


def _pixels(box: tuple[float, float, float, float], height: int, width: int) -> tuple[slice, slice]:
    """At least one pixel."""
    left, top, right, bottom = box
    rows = slice(min(int(top * height), height - 1), max(int(np.ceil(bottom * height)), int(top * height) + 1))
    return rows, slice(min(int(left * width), width - 1), max(int(np.ceil(right * width)), int(left * width) + 1))
