"""How attributions become numbers between -1 and 1: sums over channels, signs, outliers; zeros and NaN are welcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, OptionError

__all__ = ["SIGNS", "Array", "Scaled", "array_of", "finite", "one_of", "pooled", "scaled"]

Array = NDArray[np.float64]

SIGNS: Mapping[str, Callable[[Array], Array]] = {
    "positive": lambda values: np.maximum(values, 0),
    "absolute_value": np.abs,
    "negative": lambda values: np.minimum(values, 0),
    "all": lambda values: values,
}
_NOTHING = {"positive": "no attribution is positive", "negative": "no attribution is negative"}


@dataclass(frozen=True, eq=False)
class Scaled:
    """Attributions made comparable, and what was done to them.

    Attributes:
        values: in [-1, 1], in [0, 1] where one sign or the magnitude was asked for; NaN where they were not finite.
        unit: the attribution that 1 stands for (negative for the sign "negative"; 0 if there is nothing but zeros).
        lost: how many values were not finite.
        clipped: whether values beyond `unit` were drawn like `unit`.
        notes: what a reader must be told: nothing but zeros, values that are not finite.
    """

    values: Array
    unit: float
    lost: int
    clipped: bool
    notes: tuple[str, ...]


def array_of(values: Any) -> Array:
    """Numbers of any kind (a tensor on any device, of any precision; an array; a list) as float64.

    Raises:
        InputError: they are not numbers.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().to(torch.float64).numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        kind = type(values).__name__
        raise InputError(f"cannot draw {kind}: {error}; give a tensor or an array of numbers") from error


_POOLED: Mapping[str, Callable[[Array, Any], Array]] = {
    "sum": lambda values, axes: values.sum(axis=axes),
    "mean": lambda values, axes: values.mean(axis=axes),
    "norm": lambda values, axes: np.sqrt((values**2).sum(axis=axes)),
}


def pooled(values: Array, axes: int | tuple[int, ...], how: str = "sum") -> Array:
    """The sum, mean or Euclidean norm over some axes; whatever is not finite stays so, and one value keeps its sign."""
    with np.errstate(all="ignore"):
        total = values.sum(axis=axes)
        return total if total.size == values.size else _POOLED[how](values, axes)


def finite(values: Array) -> Array:
    """The same numbers with zero in place of NaN and infinities."""
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def one_of(value: str, table: Iterable[str], what: str) -> str:
    """The value, if it is one of the table's.

    Raises:
        OptionError: it is not.
    """
    known = tuple(table)
    if value not in known:
        raise OptionError(f"{what} {value!r} is unknown; choose one of {', '.join(map(repr, known))}")
    return value


def scaled(values: Any, sign: str = "all", outliers: float = 2) -> Scaled:
    """Keep one sign, then divide by the magnitude below which all but `outliers` percent of the total magnitude lie.

    Zero stays zero, so that it always has the neutral colour.

    Raises:
        OptionError: an unknown sign, or outliers outside 0 to 100. InputError: nothing to draw.
    """
    if not 0 <= outliers <= 100:
        raise OptionError(f"outliers {outliers!r} is not a percentage; give a number from 0 to 100")
    signed = SIGNS[one_of(sign, SIGNS, "sign")](array_of(values))
    if not signed.size:
        raise InputError(f"there is nothing to draw in attributions of shape {signed.shape}; give at least one value")
    lost = ~np.isfinite(signed)
    limit = _limit(np.abs(signed[~lost]), outliers)
    unit = -limit if sign == "negative" else limit
    with np.errstate(all="ignore"):
        shares = np.where(lost, np.nan, signed / unit if limit else 0.0)
    clipped = bool((np.abs(shares[~lost]) > 1).any())
    count = int(lost.sum())
    return Scaled(np.clip(shares, -1, 1), unit, count, clipped, tuple(_notes(count, signed.size, limit, sign)))


def _limit(magnitudes: Array, outliers: float) -> float:
    """The smallest magnitude that, with all smaller ones, makes up 100 - outliers percent of the total."""
    ordered = np.sort(magnitudes, axis=None)
    ordered = ordered[ordered > 0]
    if not ordered.size:
        return 0.0
    with np.errstate(all="ignore"):
        reached = np.cumsum(ordered)
        index = int(np.searchsorted(reached, reached[-1] * 0.01 * (100.0 - outliers)))
    # By rounding, all of the total times 1.0 can lie a hair above the total.
    return float(ordered[min(index, ordered.size - 1)])


def _notes(lost: int, size: int, limit: float, sign: str) -> Iterable[str]:
    if lost:
        yield f"{lost} of {size} values are NaN or infinite (grey)"
    if not limit and lost < size:
        yield _NOTHING.get(sign, "all attributions are zero")
