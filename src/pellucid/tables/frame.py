"""Tables as people have them (frames, records, arrays, tensors) as named columns, and back as they were."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import InputError
from .columns import both_of, is_pandas, numbers_of, objects_of, the_pandas, values_of

__all__ = ["Group", "Table", "fitted_to", "joined_with", "listed", "read_table"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """A column, or the columns of a category: its name, and where its columns are."""

    name: str
    at: tuple[int, ...]
    words: tuple[str, ...] = ()


# (the columns' names as the user has them, columns) -> a table
Kind = Callable[[Sequence[Any], Sequence[Any]], Any]


def _frame(labels: Sequence[Any], columns: Sequence[Any]) -> Any:
    return the_pandas().DataFrame(dict(zip(labels, columns, strict=True)))


def _records(labels: Sequence[Any], columns: Sequence[Any]) -> Any:
    return [dict(zip(labels, row, strict=True)) for row in zip(*columns, strict=True)]


def _rows(labels: Sequence[Any], columns: Sequence[Any]) -> Any:
    return [list(row) for row in zip(*columns, strict=True)]


def _array(labels: Sequence[Any], columns: Sequence[Any]) -> Any:
    return np.stack(list(columns), 1)


def _tensors(labels: Sequence[Any], columns: Sequence[Any]) -> Any:
    return torch.stack(list(columns), 1)


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one length (pandas Series, arrays or tensors), and the kind of table that is made of them."""

    names: tuple[str, ...]
    columns: tuple[Any, ...]
    kind: Kind
    labels: tuple[Any, ...] = ()
    named: bool = True

    def built(self, columns: Sequence[Any]) -> Any:
        """These columns as the user's kind of table."""
        return self.kind(self.labels, columns)

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self.columns[0])

    @property
    def device(self) -> torch.device:
        first = self.columns[0]
        return first.device if isinstance(first, Tensor) else torch.device("cpu")

    def where(self, name: str, what: str) -> int:
        """The place of a column.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self.names:
            raise InputError(f"{what} names the column {name!r}, which does not exist; the columns are {listed(self.names)}")
        return self.names.index(name)

    def chosen(self, names: Sequence[Any], what: str) -> Table:
        """These columns, in this order."""
        at = [self.where(str(name), what) for name in names]
        names, columns = (tuple(own[i] for i in at) for own in (self.names, self.columns))
        return replace(self, names=names, columns=columns, labels=tuple(self.labels[i] for i in at) if self.labels else ())


def listed(names: Sequence[str]) -> str:
    """Names in an error, a dozen at most."""
    return ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def read_table(data: Any, columns: Sequence[Any] | None, what: str) -> Table:
    """The columns of a table of any kind.

    Raises:
        InputError: no table, no rows or columns, or columns that do not exist or have one name.
    """
    if is_pandas(data, "Series"):
        data = data.to_frame().T.infer_objects()
    data = [data] if isinstance(data, Mapping) else data
    if is_pandas(data, "DataFrame"):
        table = _of_frame(data)
    elif isinstance(data, list | tuple) and data and isinstance(data[0], Mapping):
        table = _of_records(data, what)
    else:
        table = _of_grid(data, columns, what)
    if not table.columns or not table.size:
        rows = table.size if table.columns else "no"
        raise InputError(f"{what} has {rows} rows and {len(table.columns)} columns; give at least one row and one column")
    twice = [name for name, times in Counter(table.names).items() if times > 1]
    if twice:
        raise InputError(f"{what} has more than one column of the name {listed(twice)}; columns are told apart by their names")
    return table if columns is None or not table.named else table.chosen(columns, "columns")


def _of_frame(data: Any) -> Table:
    columns = tuple(data.iloc[:, i] for i in range(data.shape[1]))
    return Table(tuple(map(str, data.columns)), columns, _frame, tuple(data.columns))


def _of_records(data: Sequence[Mapping[Any, Any]], what: str) -> Table:
    keys = list(data[0])
    for i, row in enumerate(data):
        if set(row) != set(keys):
            raise InputError(f"row {i} of {what} has the columns {listed(list(row))}, and row 0 {listed(keys)}; give the same in every row")
    return Table(tuple(map(str, keys)), tuple(objects_of([row[key] for row in data]) for key in keys), _records, tuple(keys))


def _of_grid(data: Any, columns: Sequence[Any] | None, what: str) -> Table:
    """An array, a tensor, or rows of values; a single row where one dimension is missing and `what` allows it."""
    grid: Any
    kind: Kind
    if isinstance(data, Tensor):
        grid, kind = data.detach(), _tensors
    elif isinstance(data, np.ndarray):
        grid, kind = data, _array
    elif isinstance(data, list | tuple):
        flat = bool(data) and not isinstance(data[0], list | tuple | np.ndarray | Tensor)
        grid, kind = _grid([data] if flat and what == "background" else data, what), _rows
    else:
        raise InputError(f"{what} is {type(data).__name__}; give a DataFrame, an array, a tensor, or a list of rows")
    grid = grid[None] if grid.ndim == 1 and what == "background" else grid
    if grid.ndim != 2:
        raise InputError(f"{what} has shape {tuple(grid.shape)}; a table is (rows, columns): give one row as data[None]")
    width = grid.shape[1]
    if columns is not None and len(columns) != width:
        raise InputError(f"columns holds {len(columns)} names for {width} columns of {what}; give as many")
    names = tuple(f"feature {i}" for i in range(width)) if columns is None else tuple(map(str, columns))
    return Table(names, tuple(grid[:, i] for i in range(width)), kind, named=columns is not None and what == "data")


def _grid(rows: Sequence[Any], what: str) -> NDArray[Any]:
    """Rows of Python values, each as it is."""
    if not all(isinstance(row, list | tuple | np.ndarray | Tensor) for row in rows):
        raise InputError(f"{what} is a list of {type(rows[0]).__name__}; give a list of rows")
    widths = {len(row) for row in rows} or {0}
    if len(widths) > 1:
        raise InputError(f"the rows of {what} have {sorted(widths)} values; give as many in each")
    grid = np.empty((len(rows), *widths), dtype=object)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            grid[i, j] = value.item() if isinstance(value, np.generic | Tensor) else value
    return grid


def fitted_to(table: Table, model: Any) -> Table:
    """The table as the model takes it: floats for a torch module, a frame for an estimator that was fitted on one."""
    if isinstance(model, nn.Module):
        return _as_tensor(table, model)
    wanted = getattr(model, "feature_names_in_", None)
    if wanted is None or is_pandas(table.columns[0], "Series") or set(map(str, wanted)) != set(table.names):
        return table
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        return table
    ordered = table.chosen(wanted, "the model")
    return _of_frame(pandas.DataFrame({name: list(column) for name, column in zip(ordered.names, ordered.columns, strict=True)}))


def _as_tensor(table: Table, model: nn.Module) -> Table:
    if isinstance(table.columns[0], Tensor):
        return table
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    columns = tuple(torch.tensor(_floats(*each)).to(like) for each in zip(table.names, table.columns, strict=True))
    return replace(table, columns=columns, kind=_tensors)


def _floats(name: str, column: Any) -> Array:
    found = numbers_of(column)
    if found is None:
        wrong = next((value for value in values_of(column) if not isinstance(value, Real)), f"cells of type {column.dtype}")
        raise InputError(
            f"column {name!r} holds {wrong!r}, and a torch module takes numbers; give a function that encodes the table as model"
        )
    return found


def joined_with(table: Table, rows: Table) -> Table:
    """The rows of both."""
    return replace(table, columns=tuple(map(both_of, table.columns, rows.columns)))
