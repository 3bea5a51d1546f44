"""An evaluation: every metric of every method for every example, as a table, with intervals, and as pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import FileError, OptionError
from ..explanation import Check, Cost
from .metrics import METRICS, Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Evaluation"]

RESAMPLES = 2000
PICTURES = ("ranks", "curves")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of methods: one number for each example.

    Attributes:
        methods: the methods and, last, the controls, in the order asked for.
        metrics: by name.
        scores: `(B,)` float64 for each (method, metric); NaN where it is not defined or failed.
        controls: which of the methods know nothing of the model.
        curves: of deletion and insertion `(B, steps + 1)` for each (method, metric): the scores on the way.
        failures: for each (method, metric) that could not be had, or (method, ""), why not.
        health: for each method the names of the checks that it failed.
        checks: what was noticed about the scores of removed places.
        cost: of everything; removed, of which the scores of removed places, each set once for all methods and metrics.
        seed: of everything random.
        target: what was explained, in words.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    scores: Mapping[tuple[str, str], Tensor]
    controls: tuple[str, ...] = ()
    curves: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)
    failures: Mapping[tuple[str, str], str] = field(default_factory=dict)
    health: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    cost: Cost = field(default_factory=Cost)
    removed: Cost = field(default_factory=Cost)
    seed: int = 0
    target: str = ""

    def __len__(self) -> int:
        """How many examples."""
        return len(self.scores[self.methods[0], self.metrics[0]])

    def mean(self, method: str, metric: str) -> float:
        """Over the examples that have a number, infinite ones too; NaN where none has."""
        known = self._known(method, metric)
        return float(known.mean()) if len(known) else math.nan

    def numbers(self, method: str, metric: str) -> int:
        """How many examples have a number."""
        return len(self._known(method, metric))

    def interval(self, method: str, metric: str, level: float = 0.95) -> tuple[float, float]:
        """Of the mean, by resampling the examples (Efron 1979, percentile bootstrap); NaN of fewer than two, or infinite ones.

        Raises:
            OptionError: a level that is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise OptionError(f"level is {level}; give a share between 0 and 1, such as 0.95")
        return _interval(self._known(method, metric), level)

    def ranks(self, metric: str) -> dict[str, int]:
        """The place of each method by its mean, 1 the best; of those without a mean, or of a metric with no better, none.

        >>> found = Evaluation(("a", "b"), ("deletion",), {("a", "deletion"): torch.ones(2), ("b", "deletion"): torch.zeros(2)})
        >>> found.ranks("deletion")
        {'a': 2, 'b': 1}
        """
        better = self._metric(metric).better
        means = {method: self.mean(method, metric) * (1 if better == "low" else -1) for method in self.methods}
        known = {method: mean for method, mean in means.items() if better and not math.isnan(mean)}
        return {method: 1 + sum(_less(other, mean) for other in known.values()) for method, mean in known.items()}

    def against(self, metric: str, control: str = "random") -> dict[str, float]:
        """How likely such differences from a control would be if a method were no better: the p-value of a signed-rank test.

        Source: Wilcoxon 1945, one-sided, pairs by example. NaN where fewer than two examples differ.

        Raises:
            OptionError: a control that was not evaluated, or a metric of which neither more nor less is better.
        """
        better = self._metric(metric).better
        if control not in self.methods or not better:
            raise OptionError(f"{control!r} was not evaluated, or neither more nor less of {metric} is better; there is nothing to test")
        sign = 1 if better == "high" else -1
        rest = [method for method in self.methods if method not in self.controls]
        return {m: _no_better(sign * (self.scores[m, metric] - self.scores[control, metric])) for m in rest}

    def table(self) -> list[dict[str, Any]]:
        """A row for each method and metric: method, metric, mean, low and high end of the 95 % interval, rank, examples."""
        ranks = {metric: self.ranks(metric) for metric in self.metrics}
        rows = []
        for method in self.methods:
            for metric in self.metrics:
                low, high = self.interval(method, metric)
                known = len(self._known(method, metric))
                own = {"method": method, "metric": metric, "mean": self.mean(method, metric), "low": low, "high": high}
                rows.append(own | {"rank": ranks[metric].get(method), "examples": known})
        return rows

    def frame(self) -> Any:
        """`table` as a pandas data frame.

        Raises:
            MissingExtra: pandas is not installed.
        """
        from ..errors import need

        return need("pandas", "pandas").DataFrame(self.table())

    def markdown(self) -> str:
        """The means and 95 % intervals as a table in Markdown: methods down, metrics across, the best in bold."""
        from ..show.evaluation import markdown

        return markdown(self)

    def draw(self, what: str = "ranks", **options: Any) -> Figure:
        """A figure: "ranks", every mean in its cell, coloured by rank; "curves", deletion and insertion with 95 % bands.

        Raises:
            OptionError: another picture, or no curves to draw.
        """
        from ..show import evaluation

        if what not in PICTURES:
            raise OptionError(f"there is no picture {what!r} of an evaluation; choose one of {', '.join(map(repr, PICTURES))}")
        pictures = {"ranks": evaluation.draw_ranks, "curves": evaluation.draw_curves}
        return pictures[what](self, **options)

    def save(self, path: str | Path) -> Path:
        """Write everything as JSON; what is not finite as null, or "infinite".

        Raises:
            FileError: the file cannot be written.
        """
        words = {
            "format": "pellucid-evaluation-1",
            "methods": self.methods,
            "controls": self.controls,
            "metrics": {name: {"better": METRICS[name].better, "says": METRICS[name].says} for name in self.metrics},
            "target": self.target,
            "seed": self.seed,
            "scores": {m: {k: _plain(self.scores[m, k]) for k in self.metrics} for m in self.methods},
            "curves": [[*where, [_plain(row) for row in rows]] for where, rows in self.curves.items()],
            "failures": [[*where, why] for where, why in self.failures.items()],
            "health": self.health,
            "checks": [asdict(check) | {"value": None} for check in self.checks],
            "cost": asdict(self.cost),
            "removed": asdict(self.removed),
            "table": [{name: _number(value) for name, value in row.items()} for row in self.table()],
        }
        try:
            Path(path).write_text(json.dumps(words, indent=1, allow_nan=False), encoding="utf-8")
        except OSError as error:
            raise FileError(f"cannot write the evaluation to {str(path)!r}: {error}; name a file in a folder that exists") from error
        return Path(path)

    def _metric(self, name: str) -> Metric:
        if name not in self.metrics:
            raise OptionError(f"{name!r} was not evaluated; the metrics are {', '.join(self.metrics)}")
        return METRICS[name]

    def _known(self, method: str, metric: str) -> Tensor:
        try:
            values = self.scores[method, metric].double()
        except KeyError:
            raise OptionError(f"{method!r} by {metric!r} was not evaluated; methods {self.methods}, metrics {self.metrics}") from None
        return values[~values.isnan()]

    def __repr__(self) -> str:
        return f"Evaluation({len(self.methods)} methods x {len(self.metrics)} metrics, {len(self)} examples)"

    def __rich__(self) -> Any:
        from ..show.evaluation import terminal

        return terminal(self)

    def _repr_html_(self) -> str:
        from ..show.evaluation import html

        return html(self)


def _plain(values: Tensor) -> list[Any]:
    return [_number(value) for value in values.tolist()]


def _number(value: Any) -> Any:
    """As JSON has it."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else "infinite"


def _less(one: float, other: float) -> bool:
    """By more than rounding."""
    return one < other and not math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def _interval(values: Tensor, level: float) -> tuple[float, float]:
    if len(values) < 2 or not bool(values.isfinite().all()):
        return math.nan, math.nan
    source = torch.Generator().manual_seed(0)
    means = values.cpu()[torch.randint(len(values), (RESAMPLES, len(values)), generator=source)].mean(1)
    low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=means.dtype)).tolist()
    return low, high


def _no_better(differences: Tensor) -> float:
    from scipy.stats import wilcoxon

    known = differences[differences.isfinite() & (differences != 0)]
    return float(wilcoxon(known.cpu().numpy(), alternative="greater").pvalue) if len(known) > 1 else math.nan
