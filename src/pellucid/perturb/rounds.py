"""Sampling in rounds: coalitions are added until the values are good enough, or time is up; or once, to a number asked for."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import Ends
from ..errors import OptionError
from ..explanation import Check
from .estimators import Averages
from .evaluate import Design, Scorer, coalitions, floating
from .groups import Groups

__all__ = ["Sampled", "Sampler", "Until", "sampled"]

TOLERANCE = 0.05
MOST = 2**16  # coalitions
GROWTH = 1.5  # from round to round: an interrupted round loses a third
APART = 2.0  # standard errors between neighbours whose order is settled
TIED = 0.01  # of all values: neighbours this well known whose order does not matter


@dataclass(frozen=True)
class Until:
    """When sampling ends: at the first of these that is given. Without any, at a tolerance of 0.05.

    Attributes:
        tolerance: the standard error of all values of an example, in parts of their size.
        top: so many of the largest values (by magnitude) are in an order that their errors do not question.
        seconds: time has passed; the last round is cut to fit.
    """

    tolerance: float | None = None
    top: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("tolerance", self.tolerance), ("top", self.top), ("seconds", self.seconds)):
            if value is not None and not value > 0:
                raise OptionError(f"{name} is {value}; sampling can end at a positive number only")

    @classmethod
    def of(cls, tolerance: float | None, top: int | None, seconds: float | None) -> Until:
        """With the usual tolerance where nothing is said."""
        said = any(value is not None for value in (tolerance, top, seconds))
        return cls(tolerance if said else TOLERANCE, top, seconds)

    def reached(self, found: Averages) -> bool:
        """Whether values `(n, K)` are good enough."""
        return (self.tolerance is not None and error_of(found) <= self.tolerance) or (self.top is not None and self._settled(found))

    def _settled(self, found: Averages) -> bool:
        size = found.values.abs()
        order = size.argsort(0, descending=True)[: (self.top or 0) + 1]
        ranked, errors = size.gather(0, order), found.errors.gather(0, order)
        apart = errors[:-1].square() + errors[1:].square()
        known = TIED * found.values.norm(dim=0)
        settled = (-ranked.diff(dim=0) > APART * apart.sqrt()) | (apart.sqrt() <= known)
        return bool((settled | ~found.values.isfinite().all(0)).all())


def error_of(found: Averages) -> float:
    """The largest relative standard error of the examples; those without values, whose scores are NaN, have no say."""
    size, error = found.values.double().norm(dim=0), found.errors.double().norm(dim=0)
    relative = torch.where(error > 0, error / size, 0.0)[found.values.isfinite().all(0)]
    return float(relative.max()) if len(relative) else math.inf


class Sampler(ABC):
    """Which coalitions to evaluate, and what their scores say. Scores are `(coalitions, K)`, K targets times examples."""

    @abstractmethod
    def more(self, total: int) -> Tensor:
        """The coalitions `(m, groups)` that complete those given so far to about `total`; none when all are there."""

    @abstractmethod
    def estimate(self, scores: Tensor, full: Tensor, empty: Tensor) -> Averages:
        """Values and standard errors `(groups, K)` from all scores so far, and those `(K,)` of all groups and of none."""

    def first(self, groups: int) -> int:
        """How many coalitions the first of several rounds has."""
        return max(64, 4 * groups)

    most: int = MOST


class Sampled(NamedTuple):
    """What sampling came to: values and errors are `(groups, T * B)`."""

    ends: Ends
    averages: Averages
    checks: tuple[Check, ...]


def sampled(scorer: Scorer, groups: Groups, sampler: Sampler, until: int | Until) -> Sampled:
    """Evaluate so many coalitions, or round after round.

    Ctrl-C in a later round ends the sampling, not the program: what is known is returned, and said in a check.
    """
    table = _Table(scorer, groups)
    if isinstance(until, int):
        table.add(sampler.more(until))
        return Sampled(table.ends, table.estimate(sampler), scorer.checks)
    start, label, rounds = time.perf_counter(), scorer.label, 0
    words, found = "", Averages(torch.empty(0), torch.empty(0))
    for rounds, total in enumerate(_totals(sampler, groups, until, start, table), 1):
        scorer.label = f"{label}, round {rounds}"
        try:
            added = table.add(sampler.more(total))
            found = table.estimate(sampler)
        except KeyboardInterrupt:
            if rounds == 1:
                raise
            words = "interrupted "
            break
        if until.reached(found) or not added:
            break
    reached = until.reached(found) or not (words or until.tolerance or until.top)
    said = (
        f"{words}after {table.count} coalitions in {rounds} round{'s' if rounds > 1 else ''}: the standard error is {error_of(found):.2g}"
    )
    return Sampled(table.ends, found, (*scorer.checks, Check("sampling", reached, said + _wanted(until), error_of(found))))


def _wanted(until: Until) -> str:
    parts = [f"tolerance={until.tolerance:g}" if until.tolerance is not None else "", f"top={until.top}" if until.top is not None else ""]
    asked = ", ".join(part for part in parts if part)
    return " of the values" + (f"; asked: {asked}" if asked else "")


def _totals(sampler: Sampler, groups: Groups, until: Until, start: float, table: _Table) -> Iterator[int]:
    """How many coalitions there shall be after each round."""
    total = sampler.first(groups.count)
    yield total
    while table.count < sampler.most:
        total = min(int(total * GROWTH), sampler.most)
        if until.seconds is not None and math.isfinite(until.seconds):
            passed = time.perf_counter() - start
            affordable = int((until.seconds - passed) / passed * table.count)
            total = min(total, table.count + affordable - affordable % 2)
            if affordable < 2:
                return
        yield total


class _Table:
    """The scores of coalitions so far."""

    def __init__(self, scorer: Scorer, groups: Groups) -> None:
        self._scorer, self._groups = scorer, groups
        self._parts: list[Tensor] = []

    @property
    def ends(self) -> Ends:
        if self._scorer.ends is None:
            raise RuntimeError("no coalition was scored")
        return self._scorer.ends

    @property
    def count(self) -> int:
        return sum(map(len, self._parts))

    def add(self, kept: Tensor) -> int:
        if len(kept) or self._scorer.ends is None:
            _, scores = coalitions(self._scorer, self._groups, Design.of(kept))
            self._parts.append(floating(scores).transpose(0, 1).flatten(1))
        return len(kept)

    def estimate(self, sampler: Sampler) -> Averages:
        return sampler.estimate(torch.cat(self._parts), floating(self.ends.here).flatten(), floating(self.ends.there).flatten())
