"""Samples and explanations as JSON: numbers as base64 of float32, pictures as base64 of bytes, words as they are."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..explanation import Explanation
from ..show.example import unit_of
from ..show.scale import Array, array_of, pooled
from ..show.text import merged
from ..show.thing import thing_of
from .examples import Label
from .predictions import Said
from .subject import Part, Ready, Subject

__all__ = [
    "channels_of",
    "finite_or_none",
    "mass_of",
    "packed",
    "reduced",
    "seen_of",
    "told_explanation",
    "told_glimpse",
    "told_label",
    "told_part",
    "told_picture",
    "told_said",
]

THUMB = 40  # pixels of a picture in a list


def packed(values: Any) -> str:
    """Numbers as base64 of little-endian float32; NaN stays NaN."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()


def finite_or_none(value: float | None) -> float | None:
    """JSON knows no NaN."""
    return None if value is None or not math.isfinite(value) else float(value)


def told_picture(picture: NDArray[np.uint8] | None) -> dict[str, Any] | None:
    """Height, width, channels, bytes."""
    if picture is None:
        return None
    shaped = picture if picture.ndim == 3 else picture[:, :, None]
    height, width, channels = shaped.shape
    return {
        "height": height,
        "width": width,
        "channels": channels,
        "data": base64.b64encode(np.ascontiguousarray(shaped).tobytes()).decode(),
    }


def told_glimpse(glimpse: Any) -> dict[str, Any]:
    """What a list shows of a raw example: a small picture, or nothing (its title says the rest)."""
    if isinstance(glimpse, str | bytes | dict) or glimpse is None:
        return {}
    try:
        thing = thing_of(glimpse, stretch=True)
    except InputError:
        return {}
    if not isinstance(thing, np.ndarray):
        return {}
    small = Image.fromarray(thing)
    small.thumbnail((THUMB, THUMB))
    return {"picture": told_picture(np.asarray(small))}


def told_label(label: Label) -> Any:
    """A number, or a list of classes."""
    return list(label) if isinstance(label, tuple) else finite_or_none(label)


def told_said(subject: Subject, said: Said | None) -> dict[str, Any] | None:
    """What a model says of an example."""
    if said is None:
        return None
    top = [
        {"index": i, "name": subject.class_name(i), "score": finite_or_none(score), "probability": finite_or_none(chance)}
        for i, score, chance in said.top
    ]
    present = None if said.present is None else [subject.class_name(i) for i in said.present]
    return {"top": top, "present": present, "value": finite_or_none(said.value), "loss": finite_or_none(said.loss), "error": said.error}


def told_part(part: Part) -> dict[str, Any]:
    """What a person sees of one input."""
    words = (
        []
        if part.kind != "text"
        else [{"text": w.text, "pieces": list(w.pieces), "spaced": w.spaced, "special": w.special} for w in merged(part.names)]
    )
    return {
        "name": part.name,
        "kind": part.kind,
        "names": list(part.names),
        "cells": list(part.cells),
        "words": words,
        "picture": told_picture(part.picture),
    }


def channels_of(part: Part, x: Tensor) -> int:
    """Of a picture; 1 for what is none."""
    return x.shape[1] if part.kind == "image" and x.dim() == 4 else 1


def seen_of(explanation: Explanation, ready: Ready) -> list[Array]:
    """For each input the attributions of what a person sees: pixels, tokens, columns."""
    pairs = zip(ready.parts, explanation.attributions, strict=True)
    return [reduced(array_of(a[0]), part.kind, explanation.display.pooling) for part, a in pairs]


def mass_of(seen: Sequence[Array]) -> float:
    """The sum of their magnitudes."""
    return float(sum(np.abs(values).sum() for values in seen))


def reduced(values: Array, kind: str, pooling: str) -> Array:
    """One number for each thing that a person sees: a pixel, a token, a column."""
    if kind == "image" and values.ndim == 3:
        return pooled(values, 0, pooling)
    if kind == "text" and values.ndim > 1:
        return pooled(values, tuple(range(1, values.ndim)), pooling)
    while values.ndim > 2:
        values = pooled(values, 0, pooling)
    return values.reshape(1) if values.ndim == 0 else values


def told_explanation(explanation: Explanation, ready: Ready) -> dict[str, Any]:
    """All that a page shows of the explanation of one example."""
    seen = seen_of(explanation, ready)
    total = mass_of(seen)
    parts = [
        _part(part, values, total) | {"channels": channels_of(part, a)}
        for part, values, a in zip(ready.parts, seen, explanation.attributions, strict=True)
    ]
    completeness = explanation.check("completeness")
    return {
        "method": explanation.method,
        "options": {name: _plain(value) for name, value in explanation.options.items()},
        "target": explanation.target,
        "score": _first(explanation.scores),
        "baselineScore": None if explanation.baseline_scores is None else _first(explanation.baseline_scores),
        "additive": completeness is not None,
        "unit": unit_of(explanation),
        "mass": finite_or_none(total),
        "parts": parts,
        "healthy": explanation.healthy,
        "health": [asdict(check) | {"value": finite_or_none(check.value)} for check in explanation.health],
        "cost": asdict(explanation.cost),
        "seed": explanation.provenance.seed,
        "weights": explanation.provenance.weights[:12],
        "created": explanation.provenance.created,
    }


def _first(values: Tensor) -> float | None:
    return finite_or_none(float(values.reshape(-1)[0]))


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | bool | type(None)) else finite_or_none(value) if isinstance(value, float) else str(value)


def _part(part: Part, values: Array, total: float) -> dict[str, Any]:
    mass = float(np.abs(values).sum())
    found = told_part(part)
    if len(found["names"]) != values.shape[0] and values.ndim == 1:
        found["names"] = numbered(len(values), "token" if part.kind == "text" else "feature")
        found["words"] = [{"text": n, "pieces": [i], "spaced": True, "special": False} for i, n in enumerate(found["names"])]
    return found | {
        "shape": list(values.shape),
        "values": packed(values),
        "share": mass / total if total > 0 and math.isfinite(total) else None,
        "sum": finite_or_none(float(values.sum())),
    }


def numbered(count: int, word: str) -> Sequence[str]:
    """Names where there are none."""
    return [f"{word} {i}" for i in range(count)]
