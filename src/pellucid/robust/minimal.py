"""The smallest parameter of a perturbation at which a model is no longer right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import OptionError, OutputError, TargetError
from .trials import Trials, grouped

__all__ = ["SEARCHES", "Grid", "Smallest", "all_right", "search_of", "smallest"]

Number = int | float


class Smallest(NamedTuple):
    """The perturbed inputs, as the perturbation returned them, and the parameter it had."""

    inputs: Any
    value: Number


@dataclass(frozen=True)
class Grid:
    """The values `low`, `low + step`, ... below `high`; whole numbers stay whole.

    >>> [Grid(0, 1, 0.25)[k] for k in range(4)], len(Grid(0.0, 1.1, 0.1))
    ([0.0, 0.25, 0.5, 0.75], 11)
    """

    low: Number
    high: Number
    step: Number

    def __post_init__(self) -> None:
        for value in (self.low, self.high, self.step):
            if not isinstance(value, Real):
                raise OptionError(f"a grid is of numbers, and {value!r} is none; give the smallest, the largest and the step")
        if not (self.low < self.high and self.step > 0 and math.isfinite(self.span)):
            raise OptionError(
                f"from {self.low} to {self.high} in steps of {self.step} there is no value to try; the smallest must be less than the "
                "largest, and the step more than zero"
            )

    @property
    def span(self) -> float:
        """The number of steps from low to high, whole where only rounding keeps it from that."""
        span = (self.high - self.low) / self.step
        return float(round(span)) if math.isfinite(span) and math.isclose(span, round(span), rel_tol=1e-9) else span

    def __len__(self) -> int:
        return math.ceil(self.span)

    def __getitem__(self, index: int) -> Number:
        return self.low + index * self.step


Tried = Callable[[Iterable[Number]], Smallest | None]


def linear(grid: Grid, attempts: int, tried: Tried) -> Smallest | None:
    """Every value, from below."""
    return tried(grid[k] for k in range(len(grid)) for _ in range(attempts))


def binary(grid: Grid, attempts: int, tried: Tried) -> Smallest | None:
    """Halve the range: right where the model, once wrong, stays wrong for larger values."""
    low, high, best = 0, grid.span, None
    while high > low:
        middle = low + max(int(high - low) // 2, int(high - low > 1))
        found = tried([grid[middle]] * attempts)
        best, last = found or best, middle == low
        low, high = (low, middle) if found else (middle, high)
        if last:
            break
    return best


SEARCHES: Mapping[str, Callable[[Grid, int, Tried], Smallest | None]] = {"linear": linear, "binary": binary}


def search_of(name: str) -> Callable[[Grid, int, Tried], Smallest | None]:
    """The search of that name.

    Raises:
        OptionError: there is none.
    """
    if not isinstance(name, str) or name.lower() not in SEARCHES:
        raise OptionError(f"the search {name!r} is not known; use one of {', '.join(map(repr, SEARCHES))}")
    return SEARCHES[name.lower()]


def smallest(
    trials: Trials,
    perturbation: Callable[..., Any],
    parameter: str,
    grid: Grid,
    right: Callable[[Any], Any],
    *,
    search: str = "linear",
    attempts: int = 1,
    together: int = 1,
    before: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Smallest | None:
    """The smallest value on the grid at which the model is wrong about the perturbed inputs; None where it is always right.

    Args:
        trials: the model and its inputs; give one example to learn about that example.
        perturbation: a function of the inputs, and of `parameter` by keyword: an attack, an augmentation, a corruption.
        parameter: the name of the argument that is varied.
        grid: its values.
        right: whether an output is right: `lambda output: all_right(output, labels)`, say.
        search: `"linear"` tries every value from below, `"binary"` halves the range.
        attempts: how often a random perturbation is tried at each value; one success is enough.
        together: how many perturbations share a call of the model.
        before: perturb what comes before `trials.preprocess`.
        options: further arguments of the perturbation.

    Raises:
        OptionError: an unknown search, no attempts. InputError, OutputError: see `Trials.outputs`.

    >>> trials = Trials(torch.nn.Softmax(1), torch.tensor([[1.0, 0.0]]))
    >>> push = lambda x, by: x - by * torch.tensor([1.0, 0.0])
    >>> smallest(trials, push, "by", Grid(0, 5, 0.5), lambda output: all_right(output, 0), search="binary").value
    1.5
    """
    if attempts < 1:
        raise OptionError(f"{attempts} attempts at each value; at least one is needed")

    def tried(values: Iterable[Number]) -> Smallest | None:
        for group in grouped(values, together):
            made = [trials.perturbed(perturbation, before, {**(options or {}), parameter: value}) for value in group]
            outputs = trials.outputs([ready for ready, _ in made])
            for (_, perturbed), value, output in zip(made, group, outputs, strict=True):
                if not _said(right(output)):
                    return Smallest(perturbed, value)
        return None

    return search_of(search)(grid, attempts, tried)


def _said(right: Any) -> bool:
    if isinstance(right, Tensor) and right.numel() != 1:
        raise OutputError(f"right returned {tuple(right.shape)}, and one truth is needed about all examples; end it with .all()")
    return bool(right)


def all_right(output: Any, target: Any) -> bool:
    """Whether the largest of each example's outputs `(B, C)` is at its target: a class for all, or one for each; of NaN none is.

    Raises:
        OutputError: an output of another form. TargetError: no target, another number of them, or a class that there is not.
    """
    if not isinstance(output, Tensor) or output.dim() != 2:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise OutputError(
            f"the model returned {got}; give a function that says whether that is right, or let it return (examples, classes)"
        )
    if target is None:
        raise TargetError(
            "no target says what is right; give the class, a list with one for each example, or a function that judges outputs"
        )
    labels = torch.as_tensor(target, device=output.device).reshape(-1)
    if len(labels) not in (1, len(output)):
        raise TargetError(f"{len(labels)} targets for {len(output)} examples; give one for each, or one for all")
    if len(labels) and not -1 < int(labels.min()) <= int(labels.max()) < output.shape[1]:
        raise TargetError(f"targets go from {int(labels.min())} to {int(labels.max())}, and there are {output.shape[1]} classes, from 0 on")
    return bool(((output.argmax(1) == labels) & ~output.isnan().any(1)).all())
