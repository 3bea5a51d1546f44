"""A case: what one method says about the examples, with everything that metrics ask about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Run
from ..errors import InputError, OptionError
from ..explanation import Found, Pooling
from ..inputs import Tensors, as_tensors
from ..metrics.removal import Fill, Shared
from ..model import modules_of
from ..target import resolve
from ..task import Kind
from ..view import InputView
from .ways import Way

__all__ = ["Case", "Setting", "pooled_map"]

# Over which dimension the numbers of one place lie, by the kind of the data and the dimensions of an input.
POOLED: dict[tuple[str, int], int] = {("image", 4): 1, ("text", 3): 2}


@dataclass(frozen=True, eq=False)
class Setting:
    """What all methods have in common.

    Attributes:
        view: the examples, with their targets.
        fill: what stands in for removed places.
        run: the run that remembers what was removed.
        seed: of everything random.
        kind: of the data, which says what a place is: a pixel, a token, a column.
        truth: `(B or 1, ...)` booleans, where the object is; None: not known.
        classes: how many the model has, where it has classes.
    """

    view: InputView
    fill: Fill
    run: Shared
    seed: int
    kind: Kind
    truth: Tensor | None = None
    classes: int = 0


@dataclass(frozen=True, eq=False)
class Case:
    """What one method says, and how to ask it again.

    Attributes:
        setting: what all methods have in common.
        way: the method.
        found: what it said about the examples.
        rivals: the maps of all methods by name, for agreement; filled in when all are known.
    """

    setting: Setting
    way: Way
    found: Found
    rivals: Mapping[str, Tensors] = field(default_factory=dict)

    @property
    def view(self) -> InputView:
        """The examples, with their targets."""
        return self.setting.view

    @cached_property
    def attributions(self) -> Tensors:
        """`(B, ...)` for each input, as the method returns them."""
        return self._one_each(self.found, self.view.size)

    @cached_property
    def maps(self) -> Tensors:
        """For each input one number for each place: pixel, token or column."""
        return self._maps(self.found, self.view)

    @cached_property
    def truth(self) -> Tensor:
        """Where the object is.

        Raises:
            OptionError: nobody said it.
        """
        if self.setting.truth is None:
            raise OptionError("this metric compares with where the object is; give truth= (B, H, W) booleans")
        return self.setting.truth

    @cached_property
    def single(self) -> Tensor:
        """The map of the only input.

        Raises:
            InputError: there are several.
        """
        if len(self.maps) != 1:
            raise InputError(f"this metric is of one input, and there are {len(self.maps)}; leave it out")
        return self.maps[0]

    def again(self, points: Tensors, count: int) -> Tensors:
        """Attributions of points around the examples: every example `count` times in a row, each for its own target."""
        view = self.view.moved(tuple(_copies(p, count) for p in points)) if count > 1 else replace(self.view, features=points)
        found = self._one_each(self.way.of(view, self._run()), view.size)
        return tuple(_rows(a, count) for a in found)

    def scores(self, points: Tensors, count: int) -> Tensor:
        """`(rows,)`: the scores of such points."""
        view = self.view.moved(tuple(_copies(p, count) for p in points)) if count > 1 else replace(self.view, features=points)
        return _rows(self.setting.run.scores(view, 1, lambda at, _: tuple(f[None, at] for f in view.features))[0, 0], count)

    def of_model(self, model: nn.Module) -> Tensors:
        """Maps of another model, for the same examples and targets."""
        call = replace(self.view.call, model=model)
        view = replace(self.view, call=call, roots=modules_of(model), at_once=None)
        return self._maps(self.way.of(view, self._run()), view)

    def of_targets(self, targets: Any) -> Tensors:
        """Maps for other targets."""
        view = replace(self.view, pick=resolve(targets, self.view.size))
        return self._maps(self.way.of(view, self._run()), view)

    def _run(self) -> Run:
        return Run(self.setting.run.at_most, False)

    def _one_each(self, found: Found, size: int) -> Tensors:
        if len(found.values[0]) != 1:
            raise OptionError(f"the target has {len(found.values[0])} scores for each example; evaluate one at a time")
        if found.values[0].shape[1] != size:
            raise InputError("the model gives one score for the whole batch, and a metric is of one example; give one at a time")
        return tuple(v[0] for v in found.values)

    def _maps(self, found: Found, view: InputView) -> Tensors:
        values = self._one_each(found, view.size)
        return tuple(pooled_map(v, f, self.setting.kind, found.pooling) for v, f in zip(values, view.features, strict=True))


POOLINGS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "sum": lambda v, dim: v.sum(dim, keepdim=True),
    "mean": lambda v, dim: v.mean(dim, keepdim=True),
    "norm": lambda v, dim: v.norm(dim=dim, keepdim=True),
}


def pooled_map(values: Tensor, feature: Tensor, kind: str, pooling: Pooling) -> Tensor:
    """One number for each place of an input; dimensions that do not tell places apart have length 1."""
    dim = POOLED.get((kind, feature.dim()))
    if dim is None or values.dim() != feature.dim() or values.shape[dim] == 1:
        return values
    return POOLINGS[pooling](values, dim)


def _copies(points: Tensor, count: int) -> Tensor:
    """Every example so many times in a row -> whole copies of the batch one after another."""
    return points.reshape(-1, count, *points.shape[1:]).transpose(0, 1).flatten(0, 1)


def _rows(values: Tensor, count: int) -> Tensor:
    """The other way round."""
    return values.reshape(count, -1, *values.shape[1:]).transpose(0, 1).flatten(0, 1)


def checked_truth(truth: Any, size: int) -> Tensor | None:
    """`(B or 1, ...)` booleans.

    Raises:
        InputError: another number of examples.
    """
    if truth is None:
        return None
    (found,) = as_tensors(truth, "truth")
    if len(found) not in (1, size):
        raise InputError(f"truth has {len(found)} entries for {size} examples; give one for each, or one for all")
    return torch.as_tensor(found)
