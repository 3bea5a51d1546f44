"""A view: what is attributed (the score) to what (the features). Every method works on any view.

    at_input(model, inputs)      features = the inputs      score = the chosen output

Layers as features and neurons as scores are further views; a method never knows which it has.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .inputs import Call, Tensors, as_tensors
from .model import modules_of
from .picks import Pick, Several
from .target import resolve

__all__ = ["InputView", "View", "at_input", "back", "gradients", "leaves_at", "stacked"]


class View(ABC):
    """A point and a score around it, for a batch of examples.

    Points are tuples of tensors like `features`, with any number of whole copies of the batch stacked along dimension 0.
    """

    features: Tensors
    roots: tuple[nn.Module, ...]
    at_once: bool | None
    own_gradient: Callable[[Tensors], Tensors] | None

    @abstractmethod
    def score(self, points: Tensors) -> Tensor:
        """`(targets, rows)`: the scores at the points. A model with one score for a whole batch gives `(targets, 1)`."""

    @abstractmethod
    def some(self, rows: Sequence[int]) -> View:
        """The same view of some of the examples."""

    def examples(self, chosen: slice) -> View:
        """The same view of a run of examples."""
        rows = range(self.size)[chosen]
        return self if len(rows) == self.size else self.some(rows)

    @abstractmethod
    def moved(self, points: Tensors) -> View:
        """The same view of other points: whole copies of the batch, each example with its target and arguments."""

    @abstractmethod
    def readings(self) -> Iterator[View]:
        """The view under each way of reading which arguments grow with the batch."""

    def targets(self) -> Sequence[View]:
        """The view of each target by itself."""
        return (self,)

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.features[0])


@dataclass(frozen=True, eq=False)
class InputView(View):
    """The model's inputs as features, an output of the model as score.

    `at_once` says whether examples may share a call: whether the model gives each the score that it has alone. None:
    not known yet. `own_gradient` replaces autograd where a caller brings gradients of its own.
    """

    features: Tensors
    call: Call
    pick: Pick
    roots: tuple[nn.Module, ...] = ()
    at_once: bool | None = None
    own_gradient: Callable[[Tensors], Tensors] | None = None

    def score(self, points: Tensors) -> Tensor:
        # Copies, because a model may work in place on what it is given.
        scores = self.pick.scores(self.call(tuple(p.clone() for p in points)), points[0].shape[0])
        return scores.to(torch.get_default_dtype()) if scores.dtype == torch.bool else scores  # truths have no differences

    def some(self, rows: Sequence[int]) -> InputView:
        features = tuple(f[rows.start : rows.stop] if isinstance(rows, range) else f[list(rows)] for f in self.features)
        return replace(self, features=features, call=self.call.at(rows), pick=self.pick.at(rows))

    def moved(self, points: Tensors) -> InputView:
        rows = [*range(self.size)] * (len(points[0]) // self.size)
        return replace(self, features=points, call=self.call.at(rows), pick=self.pick.at(rows))

    def targets(self) -> Sequence[View]:
        return [replace(self, pick=pick) for pick in self.pick.picks] if isinstance(self.pick, Several) else (self,)

    def readings(self) -> Iterator[InputView]:
        if not (self.call.arguments or self.call.keywords):
            yield self
            return
        for call in self.call.readings():
            yield replace(self, call=call)


def at_input(
    model: Callable[..., Any],
    inputs: Tensor | Sequence[Tensor],
    target: Any = None,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
) -> InputView:
    """The view of a model's output as a function of its inputs.

    Args:
        model: a module or any callable of tensors.
        inputs: `(B, ...)` or a tuple of such; what is attributed.
        target: which output is explained; every form of `pellucid.target.resolve`.
        args: what the model gets after the inputs, not attributed: a tuple, or a single argument.
        kwargs: what it gets by keyword.
        classes: names of the classes, for targets by name.

    Raises:
        InputError, TargetError: inputs or target in no known form.
    """
    features = as_tensors(inputs)
    arguments = args if isinstance(args, tuple) else () if args is None else (args,)
    call = Call(model, len(features[0]), arguments, dict(kwargs or {}))
    return InputView(features, call, resolve(target, call.size, classes), modules_of(model))


def gradients(view: View, points: Tensors) -> tuple[Tensor, Tensors]:
    """Scores `(targets, rows)` at the points, and their gradients, `(targets, rows, ...)` per feature tensor.

    One forward pass however many targets there are; features that a score does not use have gradient zero.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaves = leaves_at(points)
        if view.own_gradient is not None:
            with torch.no_grad():
                scores = view.score(leaves)
            return scores, tuple(g.detach()[None] for g in view.own_gradient(leaves))
        scores = view.score(leaves)
        return scores.detach(), back(scores, leaves)


def leaves_at(points: Tensors) -> Tensors:
    """The points as leaves of a new graph."""
    return tuple((p.clone() if p.is_inference() else p.detach()).requires_grad_() for p in points)


def back(scores: Tensor, leaves: Tensors, apart: bool = False) -> Tensors:
    """The gradients of every target's scores `(targets, rows)`, `(targets, rows, ...)` for each of the leaves.

    Several targets go back together, unless they are to go `apart` or cannot.
    """
    totals = scores.sum(1)
    if not totals.requires_grad:  # the score is a constant: nothing it was made of depends on the features
        return tuple(torch.zeros(len(totals), *leaf.shape).to(leaf) for leaf in leaves)
    if len(totals) == 1:
        found = torch.autograd.grad(totals.sum(), leaves, allow_unused=True, materialize_grads=True)
        return tuple(g.unsqueeze(0) for g in found)
    if not apart:
        try:
            # torch.func's vmap folds targets into the batch of every operation; `is_grads_batched` loops inside convolutions.
            each = torch.eye(len(totals), dtype=totals.dtype, device=totals.device)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="There is a performance drop")  # no worse than one target after another
                together: Tensors = torch.func.vmap(lambda weights: _grad(totals, leaves, weights))(each)
            return together
        except RuntimeError:  # an operation of the model has no batched backward
            pass
    each_found = [_grad(total, leaves) for total in totals]
    return tuple(torch.stack(parts) for parts in zip(*each_found, strict=True))


def _grad(outputs: Tensor, leaves: Tensors, weights: Tensor | None = None) -> Tensors:
    return torch.autograd.grad(outputs, leaves, weights, retain_graph=True, allow_unused=True, materialize_grads=True)


def stacked(points: Tensors) -> Tensors:
    """Points `(copies, B, ...)` as whole copies of the batch one after another, `(copies * B, ...)`."""
    return tuple(p.flatten(0, 1) for p in points)
