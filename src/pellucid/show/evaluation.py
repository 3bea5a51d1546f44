"""Evaluations as people read them: a table of means coloured by rank, curves with bands, Markdown, HTML and a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..errors import OptionError
from .colour import LINES, ink_on
from .fitting import cut, inches, legible
from .frame import sheet
from .numbers import count, literal, number
from .style import CARD

if TYPE_CHECKING:
    from ..evaluation import Evaluation

__all__ = ["draw_curves", "draw_ranks", "html", "markdown", "terminal"]

LONGEST = 2.2  # inches of a name
ARROWS = {"high": "↑", "low": "↓", "": ""}
CELL, ROW, HEAD = 0.92, 0.34, 1.25
LEGEND = "mean ± half its 95 % interval; ↑ more is better, ↓ less is better; darker is a better rank"
CONTROL = {"random": ("#8a8a8a", (0, (1, 1.2))), "constant": ("#8a8a8a", (0, (5, 2)))}


def draw_ranks(evaluation: Evaluation) -> Figure:
    """Every mean in its cell, half the width of its 95 % interval under it, coloured by its rank in the row.

    >>> import torch; from pellucid import evaluate
    >>> found = evaluate(torch.nn.Linear(3, 1), torch.randn(3, 3), None, ["saliency"], ["sparseness"], seed=0)
    >>> draw_ranks(found).texts[0].get_text()
    '3 methods by 1 metric, 3 examples'
    """
    labels = [_label(name) for name in evaluation.metrics]
    left = max(inches(label, 8.5) for label in labels) + 0.25
    wide, tall = CELL * len(evaluation.methods) + 0.15, ROW * len(labels)
    page = sheet(max(5.5, left + wide + HEAD * 0.7), tall + HEAD + 0.1, [*_words(evaluation)], [*_notes(evaluation)])
    axes = page.axes(left, HEAD, wide, tall)
    axes.set(xlim=(0, wide / CELL), ylim=(len(labels), 0), xticks=[], yticks=[])
    axes.set_axis_off()
    for row, (name, label) in enumerate(zip(evaluation.metrics, labels, strict=True)):
        axes.text(-0.08, row + 0.5, label, ha="right", va="center", fontsize=8.5)
        _cells(axes, evaluation, name, row)
    for column, method in enumerate(evaluation.methods):
        marked = literal(cut(method, LONGEST)) + (" ⚠" if evaluation.health.get(method) else "")
        style: dict[str, Any] = {"style": "italic", "color": "#5a5a5a"} if method in evaluation.controls else {}
        axes.text(_at(evaluation, column) + 0.42, -0.12, marked, rotation=40, ha="left", va="bottom", fontsize=8.5, **style)
    return legible(page.figure)


def _at(evaluation: Evaluation, column: int) -> float:
    """Controls stand a little apart."""
    return column + (0.15 if evaluation.methods[column] in evaluation.controls else 0)


def _label(metric: str) -> str:
    from ..evaluation import METRICS

    return f"{metric.replace('_', ' ')} {ARROWS[METRICS[metric].better]}".strip()


def _words(evaluation: Evaluation) -> Iterator[str]:
    yield f"{count(len(evaluation.methods), 'method')} by {count(len(evaluation.metrics), 'metric')}, {count(len(evaluation), 'example')}"
    yield LEGEND


def _notes(evaluation: Evaluation) -> Iterator[str]:
    if failed := {method: names for method, names in evaluation.health.items() if names}:
        yield "failed health checks: " + "; ".join(f"{method}: {', '.join(names)}" for method, names in failed.items())
    yield from (check.message for check in evaluation.checks)
    lost = {(m, k): len(evaluation) - evaluation.numbers(m, k) for m in evaluation.methods for k in evaluation.metrics}
    if some := [f"{m} by {k}: {n}" for (m, k), n in lost.items() if 0 < n < len(evaluation)]:
        yield f"examples without a number, which means leave out: {'; '.join(some[:6])}{' and more' if len(some) > 6 else ''}"
    for (method, metric), why in [*evaluation.failures.items()][:4]:
        yield f"{method}{' by ' + metric if metric else ''}: {why}"[:220]
    if len(evaluation.failures) > 4:
        yield f"and {len(evaluation.failures) - 4} more that failed: see failures"


def _cells(axes: Axes, evaluation: Evaluation, metric: str, row: int) -> None:
    ranks = evaluation.ranks(metric)
    worst = max(ranks.values(), default=1)
    for column, method in enumerate(evaluation.methods):
        left, mean = _at(evaluation, column), evaluation.mean(method, metric)
        share = 1 - (ranks.get(method, 1) - 1) / max(1, worst - 1)
        colour = _shade(share) if method in ranks else "#f4f4f4"
        axes.add_patch(Rectangle((left + 0.02, row + 0.03), 0.96, 0.94, facecolor=colour, edgecolor="none"))
        ink = ink_on(colour)
        if math.isnan(mean):
            axes.text(left + 0.5, row + 0.5, "–", ha="center", va="center", fontsize=8.5, color=ink)
            continue
        low, high = evaluation.interval(method, metric)
        half = "" if math.isnan(low) else f"± {number((high - low) / 2, 2 if high - low < 20 else 3)}"
        axes.text(left + 0.5, row + (0.34 if half else 0.5), number(mean), ha="center", va="center", fontsize=8.5, color=ink)
        axes.text(left + 0.5, row + 0.73, half, ha="center", va="center", fontsize=6.5, color=ink)


def _shade(share: float) -> str:
    """White to blue; the darkest that still lets small print be read."""
    return matplotlib.colors.to_hex(matplotlib.colormaps["Blues"](0.02 + 0.66 * share))


def draw_curves(evaluation: Evaluation, *, width: float = 9.0) -> Figure:
    """Deletion and insertion: the mean score by the share of the places, with bands of 95 %.

    Raises:
        OptionError: neither was evaluated, or more methods than lines that can be told apart.
    """
    names = [metric for metric in evaluation.metrics if any((method, metric) in evaluation.curves for method in evaluation.methods)]
    if not names:
        raise OptionError("there are no curves: evaluate deletion or insertion; draw('ranks') shows the other metrics")
    known = [m for m in evaluation.methods if m not in evaluation.controls]
    if len(known) > len(LINES):
        raise OptionError(f"{len(known)} methods have more lines than can be told apart; evaluate at most {len(LINES)} at a time")
    beside = max(inches(cut(m, LONGEST), 8.5) for m in evaluation.methods) + 0.75
    each = (width - beside - 0.75 * len(names)) / len(names)
    words = [f"scores of {count(len(evaluation), 'example')} while places are removed or shown", "means with 95 % bands"]
    page = sheet(width, 3.4, words)
    drawn: dict[str, Any] = {}
    for i, name in enumerate(names):
        axes = page.axes(0.65 + i * (each + 0.75), 0.3, each, 2.6)
        drawn |= {m: _line(axes, evaluation, m, name, known) for m in evaluation.methods if (m, name) in evaluation.curves}
        better = {"deletion": "lower is better", "insertion": "higher is better"}[name]
        axes.set_title(f"{name}: {better}", fontsize=9.5, loc="left")
        axes.set(xlim=(0, 100), xlabel="most important places " + {"deletion": "removed", "insertion": "shown"}[name] + ", %")
        axes.tick_params(labelsize=8.5)
        axes.spines[["top", "right"]].set_visible(False)
    page.figure.axes[0].set_ylabel("score")
    page.figure.legend(handles=[*drawn.values()], loc="center right", fontsize=8.5, frameon=False)
    return legible(page.figure)


def _line(axes: Axes, evaluation: Evaluation, method: str, metric: str, known: Sequence[str]) -> Any:
    rows = evaluation.curves[method, metric].numpy()
    rows = rows[np.isfinite(rows).all(1)]
    across = np.linspace(0, 100, rows.shape[1])
    colour, dash = CONTROL.get(method, LINES[0]) if method in evaluation.controls else LINES[known.index(method)]
    heights = rows.mean(0) if len(rows) else np.full(rows.shape[1], np.nan)
    (line,) = axes.plot(across, heights, color=colour, linestyle=dash, linewidth=1.6, label=literal(cut(method, LONGEST)))
    if len(rows) > 1:
        drawn = np.random.default_rng(0).integers(len(rows), size=(500, len(rows)))
        low, high = np.quantile(rows[drawn].mean(1), [0.025, 0.975], axis=0)
        axes.fill_between(across, low, high, color=colour, alpha=0.12, linewidth=0)
    return line


def markdown(evaluation: Evaluation) -> str:
    """Methods down, metrics across."""
    best = {metric: [m for m, rank in evaluation.ranks(metric).items() if rank == 1] for metric in evaluation.metrics}
    lines = ["| method | " + " | ".join(map(_label, evaluation.metrics)) + " |", "|---" * (1 + len(evaluation.metrics)) + "|"]
    for method in evaluation.methods:
        cells = [_cell(evaluation, method, metric) for metric in evaluation.metrics]
        shown = [f"**{cell}**" if method in best[metric] else cell for cell, metric in zip(cells, evaluation.metrics, strict=True)]
        lines.append(f"| {method.replace('|', chr(92) + '|')} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _cell(evaluation: Evaluation, method: str, metric: str) -> str:
    mean, (low, high) = evaluation.mean(method, metric), evaluation.interval(method, metric)
    if math.isnan(mean):
        return "–"
    return number(mean) + ("" if math.isnan(low) else f" ({number(low)} to {number(high)})")


def html(evaluation: Evaluation) -> str:
    """A table for a notebook, metrics down, methods across."""
    head = "".join(f"<th scope='col'>{escape(m)}</th>" for m in evaluation.methods)
    rows = "".join(_html_row(evaluation, metric) for metric in evaluation.metrics)
    title, _ = _words(evaluation)
    notes = "".join(f"<p class='failure'>⚠ {escape(note)}</p>" for note in _notes(evaluation))
    return (
        f"<style>{CARD}</style><article class='pellucid' style='max-width:none;overflow-x:auto'><p class='headline'>{escape(title)}</p>"
        f"<p class='details'>means, 95 % intervals in brackets; ↑ more is better, ↓ less is better; the best in bold</p>"
        f"<table><thead><tr><th scope='col'>metric</th>{head}</tr></thead><tbody>{rows}</tbody></table>{notes}</article>"
    )


def _html_row(evaluation: Evaluation, metric: str) -> str:
    ranks = evaluation.ranks(metric)
    cells = [escape(_cell(evaluation, method, metric)) for method in evaluation.methods]
    shown = (f"<b>{cell}</b>" if ranks.get(m) == 1 else cell for m, cell in zip(evaluation.methods, cells, strict=True))
    return f"<tr><th scope='row'>{escape(_label(metric))}</th>{''.join(f'<td class=number>{cell}</td>' for cell in shown)}</tr>"


def terminal(evaluation: Evaluation) -> Any:
    """A table for `rich.print`, metrics down, methods across; the best in bold."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title, _ = _words(evaluation)
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("metric")
    for method in evaluation.methods:
        table.add_column(method, justify="right", style="dim" if method in evaluation.controls else "")
    for metric in evaluation.metrics:
        ranks = evaluation.ranks(metric)
        cells = [Text(_short(evaluation, m, metric), "bold" if ranks.get(m) == 1 else "") for m in evaluation.methods]
        table.add_row(_label(metric), *cells)
    notes = [Text(f"⚠ {note}", "bold") for note in _notes(evaluation)]
    return Group(table, Text("means; ↑ more is better, ↓ less is better, the best in bold", "dim"), *notes)


def _short(evaluation: Evaluation, method: str, metric: str) -> str:
    mean = evaluation.mean(method, metric)
    return "–" if math.isnan(mean) else number(mean)
