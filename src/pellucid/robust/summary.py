"""Attacks compared over many batches: statistics of a metric over all examples, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..errors import OptionError, OutputError
from .compare import ORIGINAL, Metric, measured, over, real

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STATISTICS", "Row", "Summary"]


def _std(values: Tensor) -> Tensor:
    """Of a sample; of one value it is not known."""
    return values.std(0) if len(values) > 1 else torch.full_like(values[0], torch.nan)


def _median(values: Tensor) -> Tensor:
    ordered = values.sort(0).values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


STATISTICS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda values: values.mean(0),
    "std": _std,
    "median": _median,
    "min": lambda values: values.amin(0),
    "max": lambda values: values.amax(0),
}
"""Of values `(n, ...)`, over the first dimension."""


class Row(NamedTuple):
    """One number of one result: of which attack, which part of the metric ("" if it has one), how many values, their statistics."""

    attack: str
    part: str
    size: int
    numbers: Mapping[str, float]


@dataclass(eq=False, repr=False)
class Summary:
    """Results of `compare` of many batches, and their statistics; `print` and `draw` show them.

    Args:
        per_example: every example counts the same; else every batch, however few examples it has.
        statistics: names in `pellucid.robust.STATISTICS`; "std" is that of a sample, with n - 1.

    Raises:
        OptionError: unknown statistics.

    >>> summary = Summary(statistics=["mean", "median"])
    >>> for values in ([1.0, 1.0, 1.0], [0.0]):
    ...     summary = summary.add({"Original": torch.tensor(values)})
    >>> summary.values()
    {'Original': {'mean': tensor(0.7500), 'median': tensor(1.)}}
    """

    per_example: bool = True
    statistics: Sequence[str] = tuple(STATISTICS)
    seen: dict[str, Metric] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.statistics:
            if name not in STATISTICS:
                raise OptionError(f"the statistic {name!r} is not known; use {', '.join(map(repr, STATISTICS))}")

    def add(self, results: Mapping[str, Any]) -> Summary:
        """Another batch; the summary itself.

        Raises:
            OutputError: a metric of another shape than before.
        """
        for key, metric in _flat(results):
            over(self._keep, self.seen.setdefault(key, over(lambda _: [], metric)), metric)
        return self

    def _keep(self, kept: list[Tensor], value: Any) -> None:
        found = real(measured(value))
        rows = found if self.per_example and found.dim() else found.mean(0)[None]
        if kept and kept[0].shape[1:] != rows.shape[1:]:
            raise OutputError(f"the metric of an example has shape {tuple(rows.shape[1:])} after {tuple(kept[0].shape[1:])}; keep it")
        kept.append(rows)

    def values(self) -> dict[str, dict[str, Metric]]:
        """`{"mean": ..., "std": ...}` by the attack's name; of several attempts by `"<name> Mean Attempt"`, and for `Min` and `Max`."""
        return {key: {name: over(_of(name), seen) for name in self.statistics} for key, seen in self.seen.items()}

    def rows(self) -> list[Row]:
        """One for each attack and each part of the metric, all statistics as numbers; more numbers of an example are averaged."""
        return [
            Row(key, part, len(values), {name: float(STATISTICS[name](values)) for name in STATISTICS})
            for key, seen in self.seen.items()
            for part, values in _parts(seen)
        ]

    def draw(self, width: float = 7.0) -> Figure:
        """The means as bars, with whiskers of one standard error; a line at what there is without an attack.

        Raises:
            OptionError: nothing was added, or too little room.
        """
        from .pictures import draw_summary

        return draw_summary(self.rows(), width)

    def __repr__(self) -> str:
        counted = max((row.size for row in self.rows()), default=0)
        return f"Summary({', '.join(self.seen) or 'nothing yet'}; {counted} {'examples' if self.per_example else 'batches'})"

    def __rich__(self) -> Any:
        from .printed import summary

        return summary(self.rows(), self.statistics)


def _of(name: str) -> Callable[[list[Tensor]], Tensor]:
    return lambda kept: STATISTICS[name](torch.cat(kept))


def _flat(results: Mapping[str, Any]) -> Iterator[tuple[str, Metric]]:
    for name, result in results.items():
        if name == ORIGINAL:
            yield name, result
        elif len(result) == 1:
            yield name, result["mean"]
        else:
            yield from ((f"{name} {what.title()} Attempt", value) for what, value in result.items())


def _parts(seen: Metric, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The numbers of each part of a metric, `(n,)`."""
    if not isinstance(seen, tuple):
        rows = torch.cat(seen)
        yield name, rows.reshape(len(rows), -1).double().mean(1) if rows.dim() > 1 else rows.double()
        return
    names = getattr(seen, "_fields", [str(i) for i in range(len(seen))])
    for own, part in zip(names, seen, strict=True):
        yield from _parts(part, f"{name}.{own}" if name else own)
