"""The chosen examples as a table for other programs: what each is, what the models say of it, and what its explanation was like."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .catalogue import Filter, Row
from .predictions import Said
from .subject import Subject

if TYPE_CHECKING:
    from .session import Session

__all__ = ["table_of"]

FORMULA = ("=", "+", "-", "@", "\t", "\r")
SAID = ("predicted", "confidence", "output", "loss", "correct", "error")


def table_of(session: Session, asked: Filter) -> dict[str, Any]:
    """The chosen rows, in their order, as CSV: six columns for each model, and mass and health of those explained as `asked.method`."""
    text, chosen = io.StringIO(), session.catalogue.chosen(asked)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_plain(_heading(session.subjects)))
    for row in chosen:
        writer.writerow(_plain(_cells(session, row, asked)))
    return {"name": "examples.csv", "text": text.getvalue(), "rows": len(chosen)}


def _heading(subjects: Sequence[Subject]) -> Iterator[str]:
    yield from ("index", "example", "label")
    for subject in subjects:
        yield from SAID if len(subjects) == 1 else (f"{subject.name}: {word}" for word in SAID)
    yield from ("mass", "healthy")


def _cells(session: Session, row: Row, asked: Filter) -> Iterator[Any]:
    yield from (row.index, row.title, session.catalogue.label(row))
    for i, subject in enumerate(session.subjects):
        yield from _said(subject, row, row.said[i] if i < len(row.said) else None)
    yield from row.found.get((asked.model, asked.method), ("", ""))


def _said(subject: Subject, row: Row, said: Said | None) -> tuple[Any, ...]:
    error = row.error or (None if said is None else said.error)
    if said is None:
        return "", "", "", "", "", _told(error)
    several = said.present if said.present is not None else () if said.predicted is None else (said.predicted,)
    predicted = ", ".join(map(subject.class_name, several))
    return predicted, said.confidence, said.value, said.loss, said.right(row.label), _told(error)


def _told(error: dict[str, Any] | None) -> str:
    return "" if error is None else f"{error['type']}: {error['message']}"


def _plain(cells: Iterator[Any]) -> list[Any]:
    """A spreadsheet runs what begins like a formula, so texts that do begin with an apostrophe."""
    return [f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell for cell in cells]
