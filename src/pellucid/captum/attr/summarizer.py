"""Captum's summarizers: running statistics of a tensor, of each tensor of a tuple, and of each class."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError, OptionError
from .stat import S, Stat, StatValue

__all__ = ["ClassSummarizer", "Summarizer", "SummarizerSingleTensor"]

Summary = dict[str, StatValue | None]
KeyType = TypeVar("KeyType")


class SummarizerSingleTensor:
    """Statistics of one tensor, updated together; `summary_stats_indices` says which of them a summary shows."""

    def __init__(self, stats: list[Stat], summary_stats_indices: Sequence[int]) -> None:
        self._stats = _closed(stats)
        self._stat_to_stat = {stat: stat for stat in reversed(self._stats)}
        self._summary_stats = [stats[i] for i in summary_stats_indices]
        self._shape: torch.Size | None = None
        for stat in self._stats:
            stat._other_stats = self
            stat.init()

    def update(self, x: Tensor) -> None:
        """Another tensor of the same shape."""
        if self._shape not in (None, x.shape):
            raise InputError(f"a tensor of shape {tuple(x.shape)} after one of {tuple(self._shape or ())}; summarize each shape by itself")
        self._shape, x = x.shape, x.detach()
        for stat in self._stats:
            stat.update(x)

    def get(self, stat: S) -> S | None:
        """The statistic held here that equals the given one; None if there is none."""
        found: Any = self._stat_to_stat.get(stat)
        return found  # type: ignore[no-any-return]

    @property
    def summary(self) -> Summary:
        """What was found, by name."""
        return {stat.name: stat.get() for stat in self._summary_stats}


def _closed(stats: Sequence[Stat]) -> list[Stat]:
    """The statistics and all that they are made of, parts first."""
    order: list[Stat] = []

    def add(stat: Stat) -> None:
        for part in stat._needs():
            if part not in order:
                add(next((own for own in stats if own == part), part))
        order.append(stat)

    for stat in stats:
        if not any(known is stat for known in order):
            add(stat)
    return order


class Summarizer:
    """Statistics of a tensor, or of each tensor of a tuple, over all updates.

    >>> from pellucid.captum.attr import Max, Mean
    >>> summarizer = Summarizer([Mean(), Max()])
    >>> for x in torch.tensor([[1.0, 2.0], [3.0, 0.0]]):
    ...     summarizer.update(x)
    >>> summarizer.summary
    {'mean': tensor([2., 1.]), 'max': tensor([3., 2.])}
    """

    def __init__(self, stats: list[Stat]) -> None:
        self._stats = _distinct(stats)
        self._summarizers: list[SummarizerSingleTensor] = []
        self._is_inputs_tuple: bool | None = None

    def update(self, x: Any) -> None:
        """A tensor or number, or a tuple of these: of the same number and shapes each time."""
        tensors = _tensors(x)
        if self._is_inputs_tuple is None:
            self._is_inputs_tuple = isinstance(x, tuple)
            self._summarizers = [self._fresh() for _ in tensors]
        if self._is_inputs_tuple is not isinstance(x, tuple) or len(tensors) != len(self._summarizers):
            before = f"a tuple of {len(self._summarizers)}" if self._is_inputs_tuple else "a tensor"
            now = f"a tuple of {len(tensors)}" if isinstance(x, tuple) else "a tensor"
            raise InputError(f"the update has {now}, and those before had {before}; give the same each time, or use another summarizer")
        for summarizer, tensor in zip(self._summarizers, tensors, strict=True):
            summarizer.update(tensor)

    @property
    def summary(self) -> Summary | list[Summary] | None:
        """What was found, by name: one dictionary, or one for each tensor of the tuples; None before the first update."""
        if self._is_inputs_tuple is None:
            return None
        found = [summarizer.summary for summarizer in self._summarizers]
        return found if self._is_inputs_tuple else found[0]

    def _fresh(self) -> SummarizerSingleTensor:
        return SummarizerSingleTensor(copy.deepcopy(self._stats), range(len(self._stats)))


def _distinct(stats: Sequence[Stat]) -> list[Stat]:
    """Each once.

    Raises:
        OptionError: something is no statistic, or two different ones have one name.
    """
    found: dict[str, Stat] = {}
    for stat in stats:
        if not isinstance(stat, Stat):
            raise OptionError(f"stats has {stat!r}, which is no statistic; give instances: [Mean(), StdDev()]")
        if found.setdefault(stat.name, stat) != stat:
            raise OptionError(f"two different statistics are named {stat.name!r}; a summary has one of each name: give name=")
    return list(found.values())


def _tensors(x: Any) -> list[Tensor]:
    values = x if isinstance(x, tuple) else (x,)
    for value in values:
        if not isinstance(value, Tensor | int | float):
            raise InputError(f"the update has {type(value).__name__}; it must be a tensor, a number, or a tuple of these")
    return [value if isinstance(value, Tensor) else torch.tensor(float(value)) for value in values]


class ClassSummarizer(Summarizer, Generic[KeyType]):
    """Statistics of the examples of each class, and of all together."""

    def __init__(self, stats: list[Stat]) -> None:
        super().__init__(stats)
        self.summaries: dict[KeyType, Summarizer] = defaultdict(lambda: Summarizer(stats))

    def update(self, x: Any, labels: Any = None) -> None:
        """With labels, one for each example or one for all, each example is an update; without, `x` is one, of no class."""
        if labels is None:
            super().update(x)
            return
        tensors = _tensors(x)
        if len({tuple(tensor.shape[:1]) for tensor in tensors}) != 1 or not tensors[0].dim():
            shapes = [tuple(tensor.shape) for tensor in tensors]
            raise InputError(f"tensors of shapes {shapes}; with labels, dimension 0 of each must be the same examples")
        for label, *example in zip(_labels(labels, len(tensors[0])), *tensors, strict=True):
            self.summaries[label].update(tuple(example))
            super().update(tuple(example))

    @property
    def class_summaries(self) -> dict[KeyType, Summary | list[Summary] | None]:
        """The summary of each class, by its label."""
        return {label: summarizer.summary for label, summarizer in self.summaries.items()}


def _labels(labels: Any, size: int) -> list[Any]:
    """One label for each example, as keys: numbers for tensors."""
    if isinstance(labels, Tensor | np.ndarray):
        if labels.ndim > 1:
            raise InputError(f"labels have shape {tuple(labels.shape)}; one for each example is needed: ({size},)")
        labels = labels.reshape(-1).tolist()
    given = [label.item() if isinstance(label, Tensor) else label for label in (labels if isinstance(labels, list) else [labels])]
    if len(given) not in (1, size):
        raise InputError(f"{len(given)} labels for {size} examples; give one for each, or one for all")
    return given * size if len(given) == 1 else given
