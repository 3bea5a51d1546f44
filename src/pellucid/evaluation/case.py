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
from ..inputs import Tensors, as_tensors, joined
from ..metrics.removal import Fill, Shared
from ..metrics.steps import places_of, split
from ..model import modules_of
from ..seeds import generator
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
        settled: the view, with how its examples share calls found out, for points around them.
        spent: what was used besides `run`.
    """

    view: InputView
    fill: Fill
    run: Shared
    seed: int
    kind: Kind
    truth: Tensor | None = None
    classes: int = 0
    settled: InputView | None = None
    spent: list[Run] = field(default_factory=list)

    def one_more(self) -> Run:
        """A run whose cost counts."""
        self.spent.append(Run(self.run.at_most, False))
        return self.spent[-1]


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
    def ordered(self) -> Tensors:
        """The maps as ranks from 0; of equal numbers a choice at random goes first, so that a constant map has any order."""
        rows = joined(tuple(places.double() for places in places_of(self.view.features, self.maps, "attribution")), 1)
        mixed = torch.randperm(rows.shape[1], generator=generator(self.setting.seed, 0)).to(rows.device)
        ranks = rows[:, mixed].argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        return split(torch.zeros_like(rows).index_copy_(1, mixed, ranks.to(rows)), self.maps)

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
        view, copies = self.setting.settled or self.view, tuple(_copies(p, count) for p in points)
        if count == 1 or view.at_once:
            return tuple(_rows(a, count) for a in self._attributed(view, copies))
        # Copies that share a call would see each other.
        parts = [self._attributed(view, part) for part in zip(*(c.split(view.size) for c in copies), strict=True)]
        return tuple(_rows(torch.cat(each), count) for each in zip(*parts, strict=True))

    def _attributed(self, view: InputView, points: Tensors) -> Tensors:
        copies = len(points[0]) // view.size
        moved = view.moved(points) if copies > 1 else replace(view, features=points)
        return self._one_each(self.way.of(moved, self.setting.one_more()), moved.size)

    def of_model(self, model: nn.Module) -> Tensors:
        """Maps of another model, for the same examples and targets."""
        call = replace(self.view.call, model=model)
        view = replace(self.view, call=call, roots=modules_of(model), at_once=None)
        return self._maps(self.way.of(view, self.setting.one_more()), view)

    def of_targets(self, targets: Any) -> Tensors:
        """Maps for other targets."""
        view = replace(self.view, pick=resolve(targets, self.view.size))
        return self._maps(self.way.of(view, self.setting.one_more()), view)

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
