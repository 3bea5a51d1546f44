"""Which columns are one category, and the rows that stand in for what is taken away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..perturb import columns_of
from ..show.numbers import count
from .columns import cells_at, is_missing, like_one, numbers_of, values_of
from .frame import Group, Table, listed, read_table

__all__ = ["background_of", "grouped", "is_dear"]

TYPICAL_FROM = 20  # rows of which a typical one can be made
EXACT_ROWS = 2**18  # rows for each example that exact values may take before a sample is taken instead


def grouped(names: Sequence[str], categories: Mapping[str, Sequence[Any]] | str | None) -> list[Group]:
    """What gets one attribution each, in the order of the columns.

    Raises:
        InputError: categories of columns that do not exist, or that share one.
    """
    if categories is None:
        return [Group(name, (i,)) for i, name in enumerate(names)]
    if isinstance(categories, str):
        if not any(categories in name for name in names):
            raise InputError(f"categories={categories!r} is in no column's name; the columns are {listed(names)}")
        ids = columns_of(names, categories)[0].tolist()
        owner = {name: name.split(categories)[0] if categories in name else name for name in names}
        own = [[place for place, number in enumerate(ids) if number == i] for i in range(max(ids) + 1)]
        return [
            _group(owner[names[at[0]]], at, names) if owner[names[at[0]]] != names[at[0]] else Group(names[at[0]], tuple(at)) for at in own
        ]
    places = {category: _places(names, category, given) for category, given in categories.items()}
    times = Counter(place for at in places.values() for place in at)
    if twice := [names[place] for place, count in times.items() if count > 1]:
        raise InputError(f"the column {twice[0]!r} is in more than one category; a column belongs to one")
    found = [_group(category, at, names) for category, at in places.items()]
    return sorted(found + [Group(name, (i,)) for i, name in enumerate(names) if i not in times], key=lambda group: group.at[0])


def _places(names: Sequence[str], category: str, given: Sequence[Any]) -> list[int]:
    wanted = [given] if isinstance(given, str) else list(map(str, given))
    if not wanted:
        raise InputError(f"category {category!r} has no columns; name at least one")
    if unknown := [name for name in wanted if name not in names]:
        raise InputError(f"category {category!r} names the column {unknown[0]!r}, which does not exist; the columns are {listed(names)}")
    return [names.index(name) for name in wanted]


def _group(category: str, at: Sequence[int], names: Sequence[str]) -> Group:
    """A category; its values are told by what its columns' names have besides its own."""
    return Group(category, tuple(at), tuple(names[i].removeprefix(category).lstrip("=_-:/. ") or names[i] for i in at))


def background_of(table: Table, background: Any, groups: Sequence[Group]) -> Table:
    """The rows that stand in for what is taken away, in the table's columns.

    Raises:
        InputError: other columns than the data's, or no background and too few rows to make one.
    """
    if background is None:
        if table.size < TYPICAL_FROM:
            raise InputError(
                f"no background was given, and {count(table.size, 'row')} of data are too few to make a typical one ({TYPICAL_FROM}); give "
                "background= some rows that stand for what is usual, such as rows of the training data"
            )
        return _typical(table, groups)
    rows = read_table(background, None, "background")
    if not (rows.named and table.named):
        if len(rows.names) != len(table.names):
            raise InputError(f"background has {len(rows.names)} columns and data {len(table.names)}; give the same columns")
        return rows
    lacking, further = ([n for n in a if n not in b] for a, b in ((table.names, rows.names), (rows.names, table.names)))
    if lacking or (further and isinstance(background, Mapping)):
        words = [f"it lacks {listed(lacking)}"] * bool(lacking) + [f"only it has {listed(further)}"] * bool(further)
        raise InputError(f"background has other columns than data: {'; '.join(words)}; give the same columns")
    return rows.chosen(table.names, "data")


def _typical(table: Table, groups: Sequence[Group]) -> Table:
    """One row: means of numbers, the most frequent of all else."""
    columns: list[Any] = list(table.columns)
    for group in groups:
        own = [table.columns[i] for i in group.at]
        means = numbers_of(own[0]) if len(own) == 1 and not _is_truth(own[0]) else None
        if means is not None and not np.isnan(means).all():
            columns[group.at[0]] = like_one(own[0], float(np.nanmean(means)))
            continue
        row = torch.tensor([_most_frequent(list(zip(*map(values_of, own), strict=True)))])
        for i, column in zip(group.at, own, strict=True):
            columns[i] = cells_at(column, row)
    return replace(table, columns=tuple(columns))


def _is_truth(column: Any) -> bool:
    return all(isinstance(value, bool | np.bool_) or is_missing(value) for value in values_of(column))


def _most_frequent(rows: Sequence[tuple[Any, ...]]) -> int:
    """The number of a row that is there most often; of those without missing values, if there are any."""
    known = [i for i, row in enumerate(rows) if not any(map(is_missing, row))] or range(len(rows))
    keys = [repr(rows[i]) for i in known]
    return known[keys.index(Counter(keys).most_common(1)[0][0])]


def is_dear(groups: int, rows: int) -> bool:
    """Whether all coalitions with all references are too many, where a sample in rounds would take them all."""
    return 10 < groups <= 16 and 2**groups * rows > EXACT_ROWS
