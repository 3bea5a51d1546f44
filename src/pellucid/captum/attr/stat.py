"""Captum's running statistics of tensors, place by place: `Summarizer`, `ClassSummarizer`, and what they can gather."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError, OptionError

__all__ = [
    "MSE",
    "ClassSummarizer",
    "CommonStats",
    "Count",
    "GeneralAccumFn",
    "Max",
    "Mean",
    "Min",
    "Stat",
    "StatValue",
    "StdDev",
    "Sum",
    "Summarizer",
    "SummarizerSingleTensor",
    "Var",
]

StatValue = Tensor | int | float
Summary = dict[str, StatValue | None]
Accumulate = Callable[[Tensor, Tensor], Tensor]
S = TypeVar("S", bound="Stat")
KeyType = TypeVar("KeyType")


class Stat:
    """A number for each place of the tensors seen so far; equal to another of the same class and parameters."""

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        self.params: dict[str, Any] = kwargs
        self._name = name
        self._other_stats: SummarizerSingleTensor | None = None

    def init(self) -> None:
        """Called once a summarizer holds the statistic, which may now look for others there."""
        return

    def update(self, x: Tensor) -> None:
        """See another tensor."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is updated")

    def get(self) -> StatValue | None:
        """What was found so far; None before the first tensor."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it found")

    @property
    def name(self) -> str:
        """The key in a summary: the name given, or the class name with the parameters."""
        if self._name is not None:
            return self._name
        return type(self).__name__.lower() + (f"({self.params})" if self.params else "")

    def _needs(self) -> Sequence[Stat]:
        """What must be updated before this one."""
        return ()

    def _get_stat(self, stat: S) -> S | None:
        if self._other_stats is None:
            raise OptionError(f"the statistic {self.name!r} is made of others, which a Summarizer holds: Summarizer([...]).update(x)")
        return self._other_stats.get(stat)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stat) and type(self) is type(other) and self.params == other.params

    def __hash__(self) -> int:
        return hash((type(self), frozenset(self.params.items())))


class Count(Stat):
    """How many tensors were seen."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.n: int | None = None

    def update(self, x: Tensor) -> None:
        """One more."""
        self.n = (self.n or 0) + 1

    def get(self) -> int | None:
        """How many; None before the first."""
        return self.n


class Mean(Stat):
    """The mean, in the dtype of the tensors (float64 for integers). Source: Welford 1962."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.rolling_mean: Tensor | None = None
        self.dtype = torch.float64

    def update(self, x: Tensor) -> None:
        """Move the mean towards the tensor."""
        count = _held(self, Count()).n
        if self.rolling_mean is None:
            self.rolling_mean = _wide(x).clone()
            self.dtype = x.dtype if x.is_floating_point() else self.rolling_mean.dtype
        else:
            self.rolling_mean = self.rolling_mean + (_wide(x) - self.rolling_mean) / count

    def get(self) -> Tensor | None:
        """The mean; None before the first tensor."""
        return None if self.rolling_mean is None else self.rolling_mean.to(self.dtype)

    def _needs(self) -> Sequence[Stat]:
        return (Count(),)


class MSE(Stat):
    """The sum of squared distances from the mean. Source: Welford 1962."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.mse: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """Add the tensor's part, which follows from the mean that already holds it."""
        count, mean = _held(self, Count()).n, _held(self, Mean()).rolling_mean
        if self.mse is None:
            self.mse = torch.zeros_like(mean)
        else:
            self.mse = self.mse + (_wide(x) - mean).square() * (count / (count - 1))

    def get(self) -> Tensor | None:
        """The sum; None before the first tensor."""
        return None if self.mse is None else self.mse.to(_held(self, Mean()).dtype)

    def _needs(self) -> Sequence[Stat]:
        return Count(), Mean()


class Var(Stat):
    """The variance, a sum of squares divided by `n - order`: zero where no more than `order` tensors were seen; float64."""

    def __init__(self, name: str | None = None, order: int = 0) -> None:
        super().__init__(_named("variance", order) if name is None else name, order=order)
        self.order = order

    def update(self, x: Tensor) -> None:
        """It follows from others."""
        return

    def get(self) -> Tensor | None:
        """The variance; None before the first tensor."""
        squares, count = _held(self, MSE()).mse, _held(self, Count()).n
        if squares is None:
            return None
        return torch.zeros_like(squares) if count <= self.order else squares / (count - self.order)

    def _needs(self) -> Sequence[Stat]:
        return Count(), MSE()


class StdDev(Stat):
    """The standard deviation: the root of the variance of that order."""

    def __init__(self, name: str | None = None, order: int = 0) -> None:
        super().__init__(_named("std_dev", order) if name is None else name, order=order)
        self.order = order

    def update(self, x: Tensor) -> None:
        """It follows from others."""
        return

    def get(self) -> Tensor | None:
        """The standard deviation; None before the first tensor."""
        variance = _held(self, Var(order=self.order)).get()
        return None if variance is None else variance.sqrt()

    def _needs(self) -> Sequence[Stat]:
        return (Var(order=self.order),)


class GeneralAccumFn(Stat):
    """What a function makes of the result so far and the next tensor."""

    def __init__(self, fn: Accumulate, name: str | None = None) -> None:
        super().__init__(name)
        self.result: Tensor | None = None
        self.fn = fn

    def update(self, x: Tensor) -> None:
        """Put the tensor to the result; the first one is the result."""
        self.result = x.clone() if self.result is None else self.fn(self.result, x)

    def get(self) -> Tensor | None:
        """The result; None before the first tensor."""
        return self.result

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and isinstance(other, GeneralAccumFn) and self.fn == other.fn

    __hash__ = Stat.__hash__


class Min(GeneralAccumFn):
    """The smallest."""

    def __init__(self, name: str | None = None, min_fn: Accumulate = torch.min) -> None:
        super().__init__(min_fn, name)


class Max(GeneralAccumFn):
    """The largest."""

    def __init__(self, name: str | None = None, max_fn: Accumulate = torch.max) -> None:
        super().__init__(max_fn, name)


class Sum(GeneralAccumFn):
    """The sum."""

    def __init__(self, name: str | None = None, add_fn: Accumulate = torch.add) -> None:
        super().__init__(add_fn, name)


def CommonStats() -> list[Stat]:
    """Mean, sample variance, sample standard deviation, minimum and maximum."""
    return [Mean(), Var(order=1), StdDev(order=1), Min(), Max()]


def _named(what: str, order: int) -> str:
    return {0: what, 1: f"sample_{what}"}.get(order, f"{what}({order})")


def _wide(x: Tensor) -> Tensor:
    """In the type to add up in; MPS has no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def _held(stat: Stat, part: Stat) -> Any:
    """The summarizer's own statistic that equals `part`."""
    found = stat._get_stat(part)
    if found is None:
        raise OptionError(f"the statistic {stat.name!r} needs {part.name!r}, which its summarizer does not hold; use Summarizer([...])")
    return found


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
