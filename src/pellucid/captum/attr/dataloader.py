"""Captum's `DataLoaderAttribution`: features of all batches of a loader, attributed for one metric of the whole."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ...batch import Run
from ...errors import InputError, OptionError, OutputError, warn
from ...explanation import Found
from ...inputs import Call, Tensors, expanded
from ...model import modules_of, undisturbed
from ...perturb import Groups, groups_of, shapley
from ...perturb.shapley import EXACT_GROUPS
from ...picks import Every
from ...progress import Bar
from ...view import InputView
from .base import Attribution, BaselineType, report
from .perturbation import FeatureAblation
from .shapley import ShapleyValues, ShapleyValueSampling, all_coalitions

__all__ = ["DataLoaderAttribution", "InputRole"]

Reduce = Callable[[Any, Any, tuple[Any, ...]], Any]
# What `reduce` may hold for all coalitions of one pass; those that do not fit wait for the next.
STATE_BYTES = 2**29


class InputRole(IntEnum):
    """What an element of a batch is for: attributed, given to the model only, or neither."""

    need_attr = 0
    need_forward = 1
    no_forward = 2


class DataLoaderAttribution(Attribution):
    """The fall of a metric of a whole data set when a feature is replaced in all its examples."""

    def __init__(self, attr_method: Attribution) -> None:
        if type(attr_method) not in METHODS:
            names = ", ".join(method.__name__ for method in METHODS)
            raise OptionError(f"attr_method is {type(attr_method).__name__}; over a loader there are {names}: give one, or explain batches")
        super().__init__(attr_method.forward_func)
        self.attr_method = attr_method

    def attribute(
        self,
        dataloader: Iterable[Any],
        input_roles: tuple[int, ...] | None = None,
        baselines: BaselineType = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        reduce: Reduce | None = None,
        to_metric: Callable[[Any], Any] | None = None,
        perturbations_per_pass: int = 1,
        show_progress: bool = False,
        return_input_shape: bool = True,
    ) -> Any:
        """Attributions `(numbers of the metric, ...)` of one example's shape, or `(numbers, features)` without `return_input_shape`.

        `reduce(so_far, output, inputs)` gathers what the metric needs, by default all outputs; `to_metric` makes the metric of it.
        `perturbations_per_pass=1`, the default, does in each pass over the loader as much as memory allows.
        """
        if not isinstance(perturbations_per_pass, int) or perturbations_per_pass < 1:
            raise OptionError(f"perturbations_per_pass is {perturbations_per_pass!r}; it must be an integer of at least 1")
        limit, roots = None if perturbations_per_pass == 1 else perturbations_per_pass, modules_of(self.forward_func)
        with undisturbed(roots), torch.no_grad():
            reader = _Reader(dataloader)
            features = _Features.of(reader.first, _roles(input_roles, reader.first), baselines, feature_mask)
            metric = _Metric(reader, features, self.forward_func, reduce or _concatenated, to_metric, limit, show_progress)
            row = torch.ones(1, features.groups.count, dtype=torch.float64, device=features.device)
            view = InputView((row,), Call(lambda rows: _floating(metric(rows > 0)), 1), Every(), roots, True)
            found = METHODS[type(self.attr_method)](view, metric)
        report(view, found)
        if not return_input_shape:
            return features.by_id(found.values[0][:, 0])
        values = tuple(v[:, 0] for v in features.groups.spread(found.values[0].transpose(1, 2)))
        return values if reader.several else values[0]

    def attribute_future(self) -> None:
        """Not over a loader, in Captum neither."""
        raise NotImplementedError("attribute_future is not implemented for DataLoaderAttribution")


def _concatenated(so_far: Tensor | None, output: Tensor, _: Any) -> Tensor:
    return output if so_far is None else torch.cat([so_far, output])


def _floating(values: Tensor) -> Tensor:
    return values if values.is_floating_point() else values.double()


def _roles(given: Any, batch: tuple[Any, ...]) -> list[InputRole]:
    known = [int(role) for role in InputRole]
    roles = [InputRole.need_attr] * len(batch) if given is None else list(given)
    if len(roles) != len(batch) or any(role not in known for role in roles) or InputRole.need_attr not in roles:
        raise OptionError(
            f"input_roles is {given!r} for batches of {len(batch)}; give each element need_attr (0), need_forward (1) or no_forward (2) "
            "of InputRole, and need_attr to one at least"
        )
    for i, (role, value) in enumerate(zip(roles, batch, strict=True)):
        if role == InputRole.need_attr and (not isinstance(value, Tensor) or not value.dim()):
            raise InputError(
                f"element {i} of a batch is {type(value).__name__}; only tensors of examples have features: give it another role"
            )
    return [InputRole(role) for role in roles]


class _Reader:
    """Passes over a loader, the first of which also shows a batch; all with the same random state, so that they are alike."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader, self.passes = loader, 0
        own = (getattr(place, "generator", None) for place in (loader, getattr(loader, "sampler", None)))
        self._random = [torch.default_generator, *(source for source in own if isinstance(source, torch.Generator))]
        self._states = [source.get_state() for source in self._random]
        self._begun = iter(loader)
        first = next(self._begun, None)
        if first is None:
            raise InputError("the loader gives no batch; give it one at least")
        self.several, self.first = isinstance(first, tuple | list), _batch(first)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        self.passes += 1
        batches = self._begun if self.passes == 1 else self._again()
        if self.passes == 1:
            yield self.first
        for batch in map(_batch, batches):
            if len(batch) != len(self.first):
                raise InputError(f"a batch has {len(batch)} elements, and the first has {len(self.first)}; all need the same")
            yield batch

    def __len__(self) -> int:
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except TypeError:
            return 0

    def _again(self) -> Iterator[Any]:
        for source, state in zip(self._random, self._states, strict=True):
            source.set_state(state)
        batches = iter(self.loader)
        first = next(batches, None)
        if first is None:
            raise InputError(f"the loader is empty in pass {self.passes}; give one that starts again, or a larger perturbations_per_pass")
        if not _alike(self.first, _batch(first)):
            warn("loader", "the loader gives other batches in each pass, which attributions then reflect; give it shuffle=False")
        yield first
        yield from batches


def _batch(given: Any) -> tuple[Any, ...]:
    if isinstance(given, tuple | list):
        return tuple(given)
    if isinstance(given, Tensor):
        return (given,)
    raise InputError(f"the loader gives {type(given).__name__}; a batch must be a tensor or a tuple: make one in collate_fn")


def _alike(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    pairs = [(a, b) for a, b in zip(one, other, strict=False) if isinstance(a, Tensor) and isinstance(b, Tensor)]
    return all(a.shape == b.shape and bool(((a == b) | (a != a)).all()) for a, b in pairs)


@dataclass
class _Features:
    """Which places of a batch's elements belong to which group, and what replaces them.

    Ids and baselines are as small as they were given, so that they also fit batches of other lengths.
    """

    roles: list[InputRole]
    groups: Groups
    ids: Tensors
    baselines: Tensors
    columns: list[int]
    device: torch.device

    @classmethod
    def of(cls, batch: tuple[Any, ...], roles: list[InputRole], baselines: Any, masks: Any) -> _Features:
        """From the first batch and what the user gave."""
        inputs = tuple(x for x, role in zip(batch, roles, strict=True) if role == InputRole.need_attr)
        examples = tuple(x.new_empty(1, *x.shape[1:]) for x in inputs)
        groups, whole = groups_of(examples, masks), expanded(examples, baselines)
        given_ids, given_baselines = (_listed(given, len(inputs)) for given in (masks, baselines))
        ids = tuple(i if m is None else _as_given(i, m) for i, m in zip(groups.ids, given_ids, strict=True))
        values = tuple(_as_given(w, b) for w, b in zip(whole, given_baselines, strict=True))
        return cls(roles, groups, ids, values, _columns(given_ids, groups.count), inputs[0].device)

    def perturbed(self, batch: tuple[Any, ...], kept: Tensor) -> tuple[Any, ...]:
        """The batch with baselines for the groups that are not kept."""
        rest = iter(zip(self.ids, self.baselines, strict=True))
        return tuple(_mixed(x, kept, *next(rest)) if role == InputRole.need_attr else x for x, role in zip(batch, self.roles, strict=True))

    def arguments(self, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the model gets."""
        return tuple(x for x, role in zip(batch, self.roles, strict=True) if role != InputRole.no_forward)

    def by_id(self, values: Tensor) -> Tensor:
        """Numbers of groups `(T, groups)` as `(T, ids)`: zero for ids that no feature has."""
        if self.columns[0] < 0:
            raise InputError(f"feature_mask has the id {self.columns[0]}, which no column can stand for; use ids from 0")
        found = values.new_zeros(len(values), self.columns[-1] + 1)
        found[:, self.columns] = values
        return found


def _listed(given: Any, count: int) -> list[Any]:
    return list(given) if isinstance(given, tuple | list) else [given] * count


def _as_given(whole: Tensor, given: Any) -> Tensor:
    """A part of what was spread over an example, of the size that it was given in."""
    shape = tuple(given.shape) if isinstance(given, Tensor) else ()
    if not shape and whole.numel():
        return whole.flatten()[0]
    return whole[tuple(slice(0, n) for n in shape)] if len(shape) == whole.dim() else whole


def _columns(masks: list[Any], count: int) -> list[int]:
    """The user's ids, in order; what has no mask has those behind."""
    given = [m.flatten().cpu().long() for m in masks if m is not None]
    known = torch.unique(torch.cat(given)).tolist() if given else []
    behind = known[-1] + 1 if known else 0
    return [*known, *range(behind, behind + count - len(known))]


def _mixed(x: Tensor, kept: Tensor, ids: Tensor, baseline: Tensor) -> Tensor:
    try:
        found = torch.where(kept.to(x.device)[ids], x, baseline)
    except RuntimeError:
        found = baseline
    if found.shape != x.shape:
        raise InputError(
            f"a batch of shape {tuple(x.shape)} fits neither the features of the first, {tuple(ids.shape)}, nor the baseline of shape "
            f"{tuple(baseline.shape)}; give batches of one shape, or a mask and baselines that broadcast"
        )
    return found


class _States:
    """What was gathered for each coalition of a pass; where it takes too much memory, the later half is left for another pass."""

    def __init__(self, count: int, limited: bool) -> None:
        self.values: list[Any] = [None] * count
        self._sizes, self._total, self._limited = [0] * count, 0, limited

    def put(self, i: int, value: Any, weigh: bool) -> None:
        """The state of one coalition."""
        self.values[i] = value
        if self._limited or not weigh:
            return
        before, self._sizes[i] = self._sizes[i], _bytes(value)
        self._total += self._sizes[i] - before
        if self._total > STATE_BYTES:
            keep = max(1, sum(size > 0 for size in self._sizes) // 2)
            del self.values[keep:], self._sizes[keep:]
            self._total = sum(self._sizes)


def _bytes(value: Any) -> int:
    leaves = pytree.tree_leaves(vars(value) if hasattr(value, "__dict__") and not isinstance(value, Tensor) else value)
    return sum(int(getattr(leaf, "nbytes", 0)) or sys.getsizeof(leaf) for leaf in leaves)


@dataclass
class _Metric:
    """The metric of coalitions of groups, each found once, in as few passes over the loader as memory and `limit` allow."""

    reader: _Reader
    features: _Features
    forward: Callable[..., Any]
    reduce: Reduce
    to_metric: Callable[[Any], Any] | None
    limit: int | None
    progress: bool
    known: dict[bytes, Tensor] = field(default_factory=dict)

    def __call__(self, kept: Tensor) -> Tensor:
        """`(coalitions, numbers)` for booleans `(coalitions, groups)`, True where a group is kept."""
        rows = kept.cpu().bool()
        keys = [row.tobytes() for row in np.packbits(rows.numpy(), axis=1)]
        missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in self.known}
        with Bar(len(missing) * len(self.reader), "loader", self.progress) as bar:
            while missing:
                for key, found in zip(list(missing), self._pass(list(missing.values()), bar), strict=False):
                    self.known[key] = found
                    del missing[key]
        metrics = [self.known[key] for key in keys]
        sizes = sorted({len(numbers) for numbers in metrics})
        if len(sizes) > 1:
            raise OutputError(
                f"the metric has {sizes[0]} numbers for some inputs and {sizes[-1]} for others; perturbed or not, it must have as many: "
                "change to_metric"
            )
        return torch.stack(metrics)

    def _pass(self, rows: list[Tensor], bar: Bar) -> list[Tensor]:
        """The metrics of the first few."""
        most = math.inf if self.limit is None else self.limit + (not self.known)  # what is unperturbed goes along
        states = _States(int(min(len(rows), most)), self.limit is not None)
        for number, batch in enumerate(self.reader, 1):
            for _ in self._gather(states, batch, rows, weigh=number & (number - 1) == 0):  # at 1, 2, 4, ...: weighing takes time
                bar.update(1)
        return [self._finished(state) for state in states.values]

    def _gather(self, states: _States, batch: tuple[Any, ...], rows: list[Tensor], weigh: bool) -> Iterator[int]:
        i = 0
        while i < len(states.values):  # which may become fewer
            perturbed = self.features.perturbed(batch, rows[i])
            output = self.forward(*self.features.arguments(perturbed))
            states.put(i, self.reduce(states.values[i], output, perturbed), weigh)
            yield i
            i += 1

    def _finished(self, state: Any) -> Tensor:
        found = state if self.to_metric is None else self.to_metric(state)
        if not isinstance(found, Tensor | int | float):
            raise OutputError(f"the metric is {type(found).__name__}; it must be a tensor or a number: return one from to_metric")
        flat = torch.as_tensor(found, dtype=None if isinstance(found, Tensor) else torch.float64).detach().flatten()
        return (flat.long() if flat.dtype == torch.bool else flat).to(self.features.device)


def _ablated(view: InputView, metric: _Metric) -> Found:
    """The fall of the metric without each group."""
    count = view.features[0].shape[1]
    kept = torch.cat([torch.ones(1, count), 1 - torch.eye(count)]) > 0
    found = metric(kept)
    return Found(((found[:1] - found[1:]).T[:, None],), found[:1].T)


def _shapley(evaluations: Callable[[Groups], int]) -> Callable[[InputView, _Metric], Found]:
    def found(view: InputView, metric: _Metric) -> Found:
        groups = groups_of(view.features)
        asked, count = evaluations(groups), groups.count
        exact = count <= EXACT_GROUPS and 2**count - 2 <= asked
        metric(_coalitions(count) if exact else torch.stack([torch.ones(count), torch.zeros(count)]))  # all that is known to be needed
        values = shapley(view, (torch.zeros_like(view.features[0]),), groups, asked, run=Run(sys.maxsize))
        return Found((values.values[0].to(values.scores.dtype),), values.scores, seed=values.seed, spread=values.spread)

    return found


def _coalitions(count: int) -> Tensor:
    """All, the whole one first."""
    return (torch.arange(2**count - 1, -1, -1)[:, None] >> torch.arange(count)) % 2 > 0


METHODS: dict[type[Attribution], Callable[[InputView, _Metric], Found]] = {
    FeatureAblation: _ablated,
    ShapleyValues: _shapley(all_coalitions),
    ShapleyValueSampling: _shapley(lambda groups: 25 * max(1, groups.count - 1)),
}
