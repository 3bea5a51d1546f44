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
    table = Table(
        caption="gap: how far the parts are from adding up to the whole; – where a method does not promise it", caption_justify="left"
    )
    table.add_column("prediction", min_width=27)
    table.add_column("method", no_wrap=True)
    table.add_column("gap", justify="right", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("health")
    for section in sections:
        heads = [section.title, *_predicted(section.explanations[0])] + [""] * len(section.explanations)
        for i, explanation in enumerate(section.explanations):
            table.add_row(heads[i], *_row(explanation), end_section=i == len(section.explanations) - 1)
    console.print(table)


def _predicted(explanation: Explanation) -> Iterator[str]:
    yield _prediction(explanation)
    yield f"explained: {explanation.target.removeprefix('output ')}"


def _row(explanation: Explanation) -> Iterator[str]:
    completeness = explanation.check("completeness")
    failed = [check.name for check in explanation.health if not check.passed]
    yield explanation.method
    yield "–" if completeness is None or completeness.value is None else f"{100 * completeness.value:.2g} %"
    yield f"{explanation.cost.seconds:.3f}"
    yield "✓" if not failed else "look at " + ", ".join(failed)


def _prediction(explanation: Explanation) -> str:
    if explanation.predictions is None or explanation.confidences is None:
        return f"{float(explanation.scores[0]):.4g}"
    index, classes = int(explanation.predictions[0]), explanation.display.classes
    name = classes[index] if index < len(classes) else f"class {index}"
    return f"{name} ({100 * float(explanation.confidences[0]):.1f} %)"
