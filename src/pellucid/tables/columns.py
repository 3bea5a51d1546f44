"""A column of any type: its values, numbers and codes, and cells taken from it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..show.numbers import number
from ..show.scale import array_of

__all__ = [
    "both_of",
    "cells_at",
    "codes_of",
    "is_missing",
    "is_pandas",
    "like_one",
    "numbers_of",
    "objects_of",
    "the_pandas",
    "values_of",
    "word_of",
]

Array = NDArray[np.float64]


def values_of(column: Any) -> list[Any]:
    """Its cells as Python's own values."""
    found: list[Any] = column.tolist()
    return found


def is_missing(value: Any) -> bool:
    """None, NaN, and what pandas has for them."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, Real) and bool(value != value))


def numbers_of(column: Any) -> Array | None:
    """A column of numbers or truth values as floats, NaN where one is missing; None if it holds anything else."""
    if isinstance(column, Tensor):
        return array_of(column)
    kind = getattr(column.dtype, "kind", "O")
    if isinstance(column, np.ndarray) and kind in "biuf":
        return column.astype(np.float64)
    values = values_of(column) if kind in "biufO" and str(column.dtype) != "category" else [""]
    if not all(isinstance(value, Real) or is_missing(value) for value in values):
        return None
    return np.array([np.nan if is_missing(value) else float(value) for value in values])


def codes_of(column: Any) -> Array:
    """Numbers as they are; anything else by its place among the sorted words."""
    found = numbers_of(column)
    if found is not None:
        return found
    values = values_of(column)
    order = {word: i for i, word in enumerate(sorted({word_of(value) for value in values if not is_missing(value)}))}
    return np.array([np.nan if is_missing(value) else order[word_of(value)] for value in values])


def word_of(value: Any) -> str:
    """A cell as a person reads it."""
    if is_missing(value):
        return "missing"
    if isinstance(value, bool | np.bool_ | Integral) or not isinstance(value, Real):
        return str(value) or '""'
    return number(float(value))


def cells_at(column: Any, rows: Tensor) -> Any:
    """The column's cells of these rows."""
    if isinstance(column, Tensor):
        return column[rows]
    index = rows.cpu().numpy()
    return column[index] if isinstance(column, np.ndarray) else the_pandas().Series(column.array.take(index), dtype=column.dtype)


def like_one(column: Any, value: float) -> Any:
    """A column of one number, in the type of another."""
    whole = all(isinstance(v, Integral) or is_missing(v) for v in values_of(column))
    number_ = round(value) if whole and value == value else value
    if isinstance(column, Tensor):
        return column.new_tensor([number_])
    if isinstance(column, np.ndarray):
        return np.array([number_], dtype=column.dtype)
    return the_pandas().Series([number_]).astype(column.dtype)


def both_of(column: Any, more: Any) -> Any:
    """A column with another's cells below; values stay as they are, types widen if they must."""
    if isinstance(column, Tensor):
        below = torch.as_tensor(more if isinstance(more, Tensor) else values_of(more)).to(column.device)
        wide = torch.promote_types(column.dtype, below.dtype)
        return torch.cat([column.to(wide), below.to(wide)])
    if isinstance(column, np.ndarray):
        if column.dtype == object:
            return np.concatenate([column, objects_of(values_of(more))])
        below = _fitting(more if isinstance(more, np.ndarray) and more.dtype != object else np.asarray(values_of(more)), column)
        alike = (column.dtype.kind in "biuf") == (below.dtype.kind in "biuf") and below.dtype != object
        return np.concatenate([column, below]) if alike else np.concatenate([objects_of(values_of(column)), objects_of(values_of(more))])
    pandas = the_pandas()
    if not isinstance(more, pandas.Series):
        more = pandas.Series(values_of(more))
    if isinstance(column.dtype, pandas.CategoricalDtype):
        new = [value for value in dict.fromkeys(more.dropna().tolist()) if value not in column.cat.categories]
        column = column.cat.add_categories(new) if new else column
        more = more.astype(column.dtype)
    return pandas.concat([column, _fitting(more, column)], ignore_index=True)


def _fitting(cells: Any, column: Any) -> Any:
    """Cells in the type of a column, if that holds them."""
    if cells.dtype == column.dtype:
        return cells
    try:
        with np.errstate(all="ignore"):
            cast = cells.astype(column.dtype)
    except (TypeError, ValueError, OverflowError):
        return cells
    if cells.dtype.kind == column.dtype.kind == "f":  # as precise as the data is
        return cast
    same = (
        a == b if not (is_missing(a) or is_missing(b)) else is_missing(a) and is_missing(b)
        for a, b in zip(values_of(cast), values_of(cells), strict=True)
    )
    return cast if all(same) else cells


def the_pandas() -> Any:
    """Pandas, if the caller has imported it."""
    return sys.modules.get("pandas")


def is_pandas(value: Any, kind: str) -> bool:
    """Whether it is of that class of pandas."""
    return the_pandas() is not None and isinstance(value, getattr(the_pandas(), kind))


def objects_of(values: Sequence[Any]) -> NDArray[Any]:
    """A column of anything."""
    column = np.empty(len(values), dtype=object)
    column[:] = list(values)
    return column
