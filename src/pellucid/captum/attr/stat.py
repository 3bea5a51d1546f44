"""Captum's running statistics of tensors, place by place: what a `Summarizer` can gather."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ...errors import OptionError

if TYPE_CHECKING:
    from .summarizer import SummarizerSingleTensor

__all__ = [
    "MSE",
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
    "Var",
]

StatValue = Tensor | int | float
Accumulate = Callable[[Tensor, Tensor], Tensor]
S = TypeVar("S", bound="Stat")


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
