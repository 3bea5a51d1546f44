"""What a run says of every example in a row of numbers and words: prediction, score, health, cost, error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..explanation import Explanation
from .block import Answer
from .parts import LIMITED, gaps, limit_of, no_signal

__all__ = ["COLUMNS", "columns_of", "written"]

COLUMNS = {
    "example": "int64",
    "key": "string",
    "label": None,
    "target": "string",
    "prediction": "int64",
    "predicted": "string",
    "confidence": "float64",
    "score": "float64",
    "baseline_score": "float64",
    "healthy": "bool_",
    "health": "string",
    "gap": "float64",
    "forwards": "float64",
    "backwards": "float64",
    "seconds": "float64",
    "row": "int64",
    "error": "string",
}


def columns_of(answer: Answer, first: int) -> dict[str, list[Any]]:
    """A list for each column, with an entry for each example of the block that begins with that number; None where there is none."""
    size = answer.rows.size
    columns: dict[str, list[Any]] = {name: [None] * size for name in COLUMNS}
    columns["example"] = list(range(first, first + size))
    for place, label in zip(answer.rows.places, written(answer.rows.labels), strict=False):
        columns["label"][place] = label
    for place, target in zip(answer.places, answer.targets, strict=False):
        columns["target"][place] = target
    for place, key in zip(answer.rows.places, answer.rows.keys, strict=False):
        columns["key"][place] = key
    columns["healthy"] = [False] * size
    for place, words in answer.failed.items():
        columns["error"][place] = words
    if answer.explanation is not None:
        for name, values in _told(answer.explanation).items():
            for place, value in zip(answer.places, values, strict=True):
                columns[name][place] = value
    return columns


def written(labels: Sequence[Any]) -> list[Any]:
    """Labels of one type: numbers, if all are numbers that a column can hold; else words."""
    kinds = {type(label) for label in labels if label is not None}
    small = all(abs(label) < 2**63 for label in labels if isinstance(label, int))
    if len(kinds) > 1 or not small:
        exact = kinds == {int, float} and all(float(label) == label or label != label for label in labels if label is not None)
        return [None if label is None else float(label) if exact else str(label) for label in labels]
    return list(labels)


def _told(explanation: Explanation) -> dict[str, list[Any]]:
    size = len(explanation)
    failed = _health(explanation)
    predictions = _plain(explanation.predictions, size)
    classes = explanation.display.classes
    own = gaps(explanation)
    cost = explanation.cost
    return {
        "prediction": predictions,
        "predicted": [classes[p] if p is not None and p < len(classes) else None for p in predictions],
        "confidence": _plain(explanation.confidences, size),
        "score": _plain(explanation.scores, size),
        "baseline_score": _plain(explanation.baseline_scores, size),
        "healthy": [not names for names in failed],
        "health": [", ".join(names) for names in failed],
        "gap": [None] * size if own is None else own.tolist(),
        "forwards": [cost.forwards / size] * size,
        "backwards": [cost.backwards / size] * size,
        "seconds": [cost.seconds / size] * size,
        "row": list(range(size)),
    }


def _plain(values: Tensor | None, size: int) -> list[Any]:
    if values is None:
        return [None] * size
    found = values.detach().double() if values.is_floating_point() else values.detach()
    return found.tolist() if len(found) == size else found.tolist() * size


def _health(explanation: Explanation) -> list[list[str]]:
    """The names of the checks that failed, for each example; what was said of all together is said of each."""
    size = len(explanation)
    shared = [check.name for check in explanation.health if not check.passed and check.name not in LIMITED]
    found = [list(shared) for _ in range(size)]
    for check in explanation.health:
        if check.passed or check.name not in LIMITED:
            continue
        for names, bad in zip(found, _bad(explanation, check.name), strict=True):
            if bad:
                names.append(check.name)
    return found


def _bad(explanation: Explanation, name: str) -> list[bool]:
    if name == "finite":
        lost = torch.stack([~torch.isfinite(a).flatten(1).all(1) for a in explanation.attributions]).any(0)
        scores = torch.isfinite(explanation.scores)
        return list(map(bool, (lost | ~scores) if len(scores) == len(lost) else lost))
    if name == "signal":
        return list(map(bool, no_signal(explanation)))
    own = gaps(explanation)
    return [True] * len(explanation) if own is None else [not gap <= limit_of(explanation) for gap in own.tolist()]
