"""The list of examples: what is known of each, which of them are asked for, in which order, and who confused what."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import OptionError
from .examples import Examples, Label
from .predictions import Said, class_of
from .subject import Subject

__all__ = ["SORTS", "Catalogue", "Filter", "Row"]


@dataclass(eq=False)
class Row:
    """What is known of an example without explaining it; `found` holds attribution mass and health of what was explained."""

    index: int
    label: Label = None
    title: str = ""
    said: tuple[Said, ...] = ()
    error: dict[str, Any] | None = None
    found: dict[tuple[int, str], tuple[float | None, bool]] = field(default_factory=dict)


@dataclass(frozen=True)
class Filter:
    """Which examples, and in which order.

    Attributes:
        model: whose predictions are meant.
        verdict: all, correct, incorrect, unlabelled or unreadable.
        predicted, labels: classes, any of them; empty for all.
        low, high: the confidence, both included.
        search: letters of the example, its label or its prediction.
        disagree: only where the models disagree.
        sort, descending: the order.
        method: whose attribution mass and health are sorted by.
    """

    model: int = 0
    verdict: str = "all"
    predicted: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    low: float = 0.0
    high: float = 1.0
    search: str = ""
    disagree: bool = False
    sort: str = "index"
    descending: bool = False
    method: str = ""

    @property
    def is_open(self) -> bool:
        """Whether every example passes, also one that no model has seen yet."""
        return (
            self.verdict == "all"
            and not (self.predicted or self.labels or self.search or self.disagree)
            and (self.low, self.high) == (0, 1)
        )


def _correct(row: Row, said: Said | None) -> bool | None:
    return None if said is None else said.right(row.label)


VERDICTS: Mapping[str, Callable[[Row, Said | None], bool]] = {
    "all": lambda row, said: True,
    "correct": lambda row, said: _correct(row, said) is True,
    "incorrect": lambda row, said: _correct(row, said) is False,
    "unlabelled": lambda row, said: row.label is None and row.error is None,
    "unreadable": lambda row, said: row.error is not None or (said is not None and said.error is not None),
}

# What is sorted by; None comes last, whatever the direction.
SORTS: Mapping[str, Callable[[Row, Filter], float | None]] = {
    "index": lambda row, asked: row.index,
    "confidence": lambda row, asked: None if (said := _said(row, asked.model)) is None else said.confidence,
    "loss": lambda row, asked: None if (said := _said(row, asked.model)) is None else said.loss,
    "value": lambda row, asked: None if (said := _said(row, asked.model)) is None else said.value,
    "mass": lambda row, asked: _found(row, asked, 0),
    "health": lambda row, asked: _found(row, asked, 1),
}


def _said(row: Row, model: int) -> Said | None:
    return row.said[model] if model < len(row.said) else None


def _found(row: Row, asked: Filter, which: int) -> float | None:
    found = row.found.get((asked.model, asked.method), (None, None))[which]
    return None if found is None else float(found)


class Catalogue:
    """Rows for all examples known so far."""

    def __init__(self, examples: Examples, subjects: Sequence[Subject]) -> None:
        self.examples, self.subjects = examples, tuple(subjects)
        self.rows: list[Row] = []
        self.scanned = 0
        self.upto(examples.size)

    def upto(self, stop: int) -> None:
        """Have rows for so many."""
        self.rows.extend(Row(i) for i in range(len(self.rows), stop))

    def chosen(self, asked: Filter) -> list[Row]:
        """The rows that pass, in order.

        Raises:
            OptionError: an unknown verdict or order, or no such model.
        """
        if asked.verdict not in VERDICTS or asked.sort not in SORTS:
            raise OptionError(
                f"verdict {asked.verdict!r}, sort {asked.sort!r}; verdicts are {', '.join(VERDICTS)}, orders {', '.join(SORTS)}"
            )
        if not 0 <= asked.model < len(self.subjects):
            raise OptionError(f"there is no model {asked.model}; they count from 0 to {len(self.subjects) - 1}")
        words = asked.search.casefold().split()
        kept = list(self.rows) if asked.is_open else [row for row in list(self.rows) if self._passes(row, asked, words)]
        return _sorted(kept, asked)

    def _passes(self, row: Row, asked: Filter, words: Sequence[str]) -> bool:
        said = _said(row, asked.model)
        if not VERDICTS[asked.verdict](row, said):
            return False
        if asked.predicted and (said is None or not said.names(asked.predicted)):
            return False
        if asked.labels and not any(one in asked.labels for one in (row.label if isinstance(row.label, tuple) else (row.label,))):
            return False
        sure = None if said is None else said.confidence
        if (asked.low, asked.high) != (0, 1) and (sure is None or not asked.low <= sure <= asked.high):
            return False
        if asked.disagree and len({said.present or said.predicted for said in row.said}) < 2:
            return False
        return not words or all(word in self._text(row, asked.model) for word in words)

    def _text(self, row: Row, model: int) -> str:
        """What is searched."""
        subject, said = self.subjects[model], _said(row, model)
        predicted = "" if said is None or said.predicted is None else subject.class_name(said.predicted)
        return f"#{row.index} {row.title} {self.label(row)} {predicted}".casefold()

    def label(self, row: Row) -> str:
        """The label in words."""
        if row.label is None:
            return ""
        if isinstance(row.label, tuple):
            return ", ".join(map(self.subjects[0].class_name, row.label)) or "none"
        classes = bool(self.subjects[0].classes) or any(said.top for said in row.said)
        known = class_of(row.label) if classes else None
        return f"{row.label:g}" if known is None else self.subjects[0].class_name(known)

    def confusion(self, asked: Filter) -> dict[str, Any]:
        """How often each label (row) was predicted as each class (column) among the chosen, and what share was right."""
        subject, counts = self.subjects[asked.model], dict[tuple[int, int], int]()
        for row in self.chosen(asked):
            said = _said(row, asked.model)
            label = class_of(row.label)
            if label is not None and said is not None and said.predicted is not None:
                counts[label, said.predicted] = counts.get((label, said.predicted), 0) + 1
        classes = sorted({c for pair in counts for c in pair} | set(range(len(subject.classes) if len(subject.classes) <= 30 else 0)))
        total, right = sum(counts.values()), sum(n for (label, predicted), n in counts.items() if label == predicted)
        return {
            "classes": [{"index": c, "name": subject.class_name(c)} for c in classes],
            "counts": [[counts.get((label, predicted), 0) for predicted in classes] for label in classes],
            "total": total,
            "accuracy": right / total if total else None,
        }


def _sorted(rows: list[Row], asked: Filter) -> list[Row]:
    if asked.sort == "index":
        return rows[::-1] if asked.descending else rows
    value = SORTS[asked.sort]
    keyed = [(value(row, asked), row) for row in rows]
    known = [(v, row) for v, row in keyed if v is not None and not math.isnan(v)]
    known.sort(key=lambda pair: (-pair[0] if asked.descending else pair[0], pair[1].index))
    return [row for _, row in known] + [row for v, row in keyed if v is None or math.isnan(v)]
