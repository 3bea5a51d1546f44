"""What is printed of attacks and corruptions: a line for each record, and tables for `rich.print`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..show.example import headline
from ..show.numbers import count, number, percent

if TYPE_CHECKING:
    from rich.console import Group

    from ..explanation import Explanation
    from .moved import Moved
    from .robustness import Robustness
    from .summary import Row

__all__ = ["moved", "prediction", "robustness", "said", "summary"]

MOST = 20  # examples of a table


def table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, note: str = "") -> Group:
    """Numbers under their names, the first columns to the left."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    found = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, name in enumerate(names):
        found.add_column(name, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        found.add_row(*map(Text, row))
    return Group(Text(title, "bold"), found, *([Text(note, "dim")] if note else []))


def prediction(explanation: Explanation, example: int) -> str:
    """The class and its probability, or the score."""
    return headline(explanation, example).removeprefix("predicted ")


def said(found: Moved) -> str:
    """How many predictions changed, by how large a change, and how far the attributions moved, in the middle."""
    parts = [f"{found.before.method.replace('_', ' ')} of {count(len(found), 'example')}"]
    if found.flipped is not None:
        parts.append(f"{count(int(found.flipped.sum()), 'prediction')} changed")
    parts.append(f"values moved by up to {number(float(found.largest.max()))}")
    middle = [number(float(torch.nanmedian(each)), 2) for each in (found.rank_correlation, found.top_overlap)]
    return "; ".join([*parts, f"medians: rank correlation {middle[0]}, top-{found.k} overlap {middle[1]}"])


def moved(found: Moved) -> Any:
    """A row for each example."""
    rows = [
        [str(i), prediction(found.before, i), prediction(found.after, i)]
        + [number(float(each[min(i, len(each) - 1)])) for each in (found.largest, found.length, found.rank_correlation, found.top_overlap)]
        for i in range(min(len(found), MOST))
    ]
    names = ["#", "before", "after", "L-inf", "L2", "ranks", f"top-{found.k}"]
    note = "L-inf, L2: of the change; ranks, top-k: how far the attributions agree"
    left = f"\nthe first {MOST} of {len(found)} examples" if len(found) > MOST else ""
    return table(said(found), names, rows, 3, note + left)


def robustness(found: Robustness) -> Any:
    """A row for each corruption, a column for each severity."""
    rows = [
        [name.replace("_", " "), *map(percent, accuracy), percent(sum(accuracy) / len(accuracy))]
        for name, accuracy in zip(found.corruptions, found.accuracy.tolist(), strict=True)
    ]
    error = float(found.corruption_error().mean())
    note = f"mean corruption error {percent(error)}, {percent(error - 1 + found.clean_accuracy)} more than without corruption"
    title = f"right about {percent(found.clean_accuracy)} of {count(len(found.clean), 'image')} as they are; at severity"
    return table(title, ["corruption", *(f"{severity:g}" for severity in found.severities), "mean"], rows, 1, note)


def summary(rows: Sequence[Row], statistics: Sequence[str]) -> Any:
    """A row for each attack and each part of the metric."""
    parts = any(row.part for row in rows)
    made = [
        [row.attack, *([row.part] if parts else []), *(number(row.numbers[name]) for name in statistics), str(row.size)] for row in rows
    ]
    return table(
        "attacks compared: statistics of all values", ["attack", *(["metric"] if parts else []), *statistics, "values"], made, 1 + parts
    )
