"""An explanation of codes told in the names, numbers and words of the table."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..explanation import Display, Explanation
from ..show.scale import array_of, pooled
from .columns import codes_of, is_missing, the_pandas, values_of, word_of
from .frame import Group, Table

__all__ = ["by_group", "told_of"]

Array = NDArray[np.float64]


def by_group(found: Explanation, groups: Sequence[Group]) -> Explanation:
    """Attributions of columns as those of their categories."""
    if all(len(group.at) == 1 for group in groups):
        return found
    how = found.display.pooling
    parts = [found.attribution[:, list(group.at)] for group in groups]
    values = [torch.from_numpy(pooled(array_of(part), 1, how)).to(part) for part in parts]
    return replace(found, attributions=(torch.stack(values, 1),), errors=None)


def told_of(
    found: Explanation, model: Any, ask: str, table: Table, pool: Table, references: int, groups: Sequence[Group]
) -> Explanation:  # fmt: skip
    """The explanation in numbers and words of cells, instead of codes."""
    numbers = torch.from_numpy(np.stack([_numbers_of(group, pool) for group in groups], 1)).to(found.attribution.device)
    values = numbers if not found.features[0].is_floating_point() else numbers.to(found.features[0])
    one = values[table.size :].expand(table.size, -1) if references == 1 else None
    cells = zip(*(_cells(group, table) for group in groups), strict=True)
    display = Display("table", tuple(group.name for group in groups), found.display.classes, None, found.display.pooling, tuple(cells))
    origin = replace(
        found.provenance, model=_name_of(model), inputs=_hash(table), versions=dict(found.provenance.versions) | _versions(model)
    )
    return replace(
        found,
        features=(values[: table.size],),
        baselines=None if one is None else (one,),
        confidences=None if ask == "decision_function" else found.confidences,
        display=display,
        provenance=origin,
    )


def _numbers_of(group: Group, pool: Table) -> Array:
    """A column's numbers; of a category, the number of the column that is set."""
    coded = np.stack([codes_of(pool.columns[i]) for i in group.at], 1)
    single: Array = (
        coded[:, 0] if len(group.at) == 1 else np.where((coded != 0).sum(1) == 1, np.argmax(coded != 0, 1).astype(float), np.nan)
    )
    return single


def _cells(group: Group, table: Table) -> list[str]:
    """What stands in each row, in words."""
    rows = zip(*(values_of(table.columns[i]) for i in group.at), strict=True)
    return [_cell(row, group.words) for row in rows]


def _cell(values: Sequence[Any], words: Sequence[str]) -> str:
    """A cell, or the columns of a category that are set."""
    if not words:
        return word_of(values[0])
    if all(not is_missing(value) and value in (0, 1) for value in values):
        return ", ".join(word for word, value in zip(words, values, strict=True) if value) or "none"
    return ", ".join(f"{word} {word_of(value)}" for word, value in zip(words, values, strict=True))


def _name_of(model: Any) -> str:
    return type(model).__name__ if isinstance(model, nn.Module) else str(getattr(model, "__qualname__", type(model).__name__))


def _versions(model: Any) -> dict[str, str]:
    """The versions of the libraries that the model and the table come from."""
    names = [type(model).__module__.split(".")[0], *(["pandas"] if the_pandas() else [])]
    found = {name: str(getattr(sys.modules[name], "__version__", "")) for name in names if name in sys.modules}
    return {name: version for name, version in found.items() if version and name != "torch"}


def _hash(table: Table) -> str:
    digest = hashlib.sha256()
    for name, column in zip(table.names, table.columns, strict=True):
        digest.update(f"{name} {column.dtype} {values_of(column)!r}\n".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
