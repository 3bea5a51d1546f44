"""What a command leaves behind: one HTML page, a PNG for each explanation, and a table on the screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..errors import FileError
from ..explanation import Explanation
from ..show import Section, draw, page

__all__ = ["folder", "summary", "write"]


def folder(path: Path) -> Path:
    """The folder to write to, made if it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {str(path)!r}: {error.strerror}; choose another with --out") from error
    return path


def write(sections: list[Section], out: Path, title: str, introduction: str) -> Path:
    """Write the pictures and the page; returns the page's path."""
    for section in sections:
        for explanation in section.explanations:
            name = f"{_plain(section.title)}-{explanation.method}.png"
            draw(explanation).savefig(out / name, dpi=150)
    path = out / "index.html"
    path.write_text(page(sections, title, introduction), encoding="utf-8")
    return path.resolve()


def _plain(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def summary(sections: list[Section], console: Console) -> None:
    """A row for each explanation: prediction, method, completeness gap, seconds, health."""
    table = Table("example", "prediction", "explained", "method", "gap", "seconds", "health")
    for column in (4, 5):
        table.columns[column].justify = "right"
    for section in sections:
        for i, explanation in enumerate(section.explanations):
            table.add_row(section.title if i == 0 else "", *_row(explanation), end_section=i == len(section.explanations) - 1)
    console.print(table)


def _row(explanation: Explanation) -> Iterator[str]:
    completeness = explanation.check("completeness")
    failed = [check.name for check in explanation.health if not check.passed]
    yield _prediction(explanation)
    yield explanation.target.removeprefix("output ")
    yield explanation.method
    yield "no such law" if completeness is None or completeness.value is None else f"{100 * completeness.value:.2g} %"
    yield f"{explanation.cost.seconds:.2f}"
    yield "✓" if not failed else "look at " + ", ".join(failed)


def _prediction(explanation: Explanation) -> str:
    if explanation.predictions is None or explanation.confidences is None:
        return f"{float(explanation.scores[0]):.4g}"
    index, classes = int(explanation.predictions[0]), explanation.display.classes
    name = classes[index] if index < len(classes) else f"class {index}"
    return f"{name} ({100 * float(explanation.confidences[0]):.1f} %)"
