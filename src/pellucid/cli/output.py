"""What a command leaves behind: one HTML page, a PNG for each explanation, and a table on the screen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import FileError
from ..explanation import Explanation
from ..show import Section, draw, page
from ..show.example import said_of

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
    path = out / "index.html"
    document = page(sections, title, introduction)
    pictures = {f"{_plain(s.title)}-{e.method}.png": draw(e) for s in sections for e in s.explanations}
    try:
        for name, picture in pictures.items():
            picture.savefig(out / name, dpi=150)
        path.write_text(document, encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot write {str(error.filename or out)!r}: {error.strerror}; choose another folder with --out") from error
    return path.resolve()


def _plain(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def summary(sections: list[Section], console: Console) -> None:
    """For each section its prediction, and a row for each explanation: method, completeness gap, seconds, health."""
    for section in sections:
        console.print(_heading(section))
        console.print(_table(section.explanations))
        console.print()
    console.print("gap: how far the parts are from adding up to the whole; – where a method does not promise it")


def _heading(section: Section) -> Text:
    first = section.explanations[0]
    return Text.assemble((section.title, "bold"), f": {_prediction(first)}; explained: {first.target}")


def _table(explanations: Sequence[Explanation]) -> Table:
    """Narrow enough for 60 columns."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", min_width=20, overflow="fold")
    table.add_column("gap", justify="right", min_width=7)
    table.add_column("seconds", justify="right")
    table.add_column("health")
    for explanation in explanations:
        table.add_row(*_row(explanation))
    return table


def _row(explanation: Explanation) -> Iterator[str]:
    completeness = explanation.check("completeness")
    failed = [check.name for check in explanation.health if not check.passed]
    yield explanation.method
    yield "–" if completeness is None or completeness.value is None else f"{100 * completeness.value:.2g} %"
    yield f"{explanation.cost.seconds:.3f}"
    yield "✓ passed" if not failed else "look at " + ", ".join(failed)


def _prediction(explanation: Explanation) -> str:
    name = said_of(explanation, 0)
    if name is None or explanation.confidences is None:
        return f"{float(explanation.scores[0]):.4g}"
    return f"{name} ({100 * float(explanation.confidences[0]):.1f} %)"
