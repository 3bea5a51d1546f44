"""How many points reach the model: in calls of a size found here, counted, shown as progress, halved when memory ends.

Two verbs touch the model, `view.score` and `gradients`; `Run` wraps both and nothing else does. A method describes its
points lazily, `points(examples, steps) -> tensors (steps, b, ...)`, so that memory does not grow with their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .blocks import Part, Points, Sum, Verb, Work
from .errors import OutputError, PellucidError, TargetError
from .explanation import Check
from .inputs import Tensors
from .inside import Layer, Look, Place, look, neuron_of, placed
from .lean import Lean, Recorder, can_be_lean, shaped
from .line import Line
from .memory import USUAL_GROWTH, Forward, budget, bytes_of, bytes_per_example, is_out, release, rows_within
from .model import undisturbed
from .picks import PerExample, Same, Whole
from .progress import Bar
from .rowwise import is_row_by_row
from .view import InputView, View, back, gradients, leaves_at, stacked

__all__ = ["Ends", "Inside", "Part", "Points", "Run", "Sum", "elsewhere"]

# Cheaper passes cost one more to find, and some microseconds per operation.
LEAN_FROM, LEAN_BYTES = 8, 32 * 2**20

X = TypeVar("X")


class Ends(NamedTuple):
    """A view whose examples may or may not share calls (`view.at_once`), and its scores `(T, B)` here and elsewhere."""

    view: View
    here: Tensor
    there: Tensor


class Inside(NamedTuple):
    """What one watched pass found at a place: scores `(T, B)`, gradients `(T, B, ...)`, activations `(B, ...)`."""

    place: Place
    scores: Tensor
    gradients: Tensors
    activations: Tensors


@dataclass
class Run:
    """One use of a model: the limits it is under, and what it has cost so far.

    Args:
        at_most: examples per call at most; None: found from the bytes of activations that an example costs.
        progress: show a progress bar; None: only when the work takes longer than two seconds.
    """

    at_most: int | None = None
    progress: bool | None = None
    forwards: int = 0
    backwards: int = 0
    calls: int = 0
    alone: bool = False
    lean: Lean | None = None
    seen: tuple[View, Tensor] | None = None

    def output(self, view: InputView) -> Any:
        """Whatever the model returns for the features."""
        with undisturbed(view.roots), torch.no_grad():
            self.count(view.features)
            return view.call(tuple(f.clone() for f in view.features))

    def place(self, view: InputView, layers: Layer | Sequence[Layer] | Place, of_input: bool = False) -> Look:
        """Where layers are, what they hold for the features, and the scores."""
        self.count(view.features)
        with undisturbed(view.roots):
            seen = look(view, layers, of_input)
        self.seen = view, seen.scores.detach()
        return seen

    def checks(self) -> Iterator[Check]:
        """What was noticed about the model while it ran."""
        if self.alone:
            yield Check("batching", True, "examples do not score the same in one call as alone, so every point had a call of its own")

    def scores(self, view: View, count: int, points: Points, label: str = "") -> Tensor:
        """The scores at `count` points, `(T, count, B)`; `(T, count, 1)` of a model with one score for a whole batch."""
        view = self.ready(view, count)
        found: list[Tensor] = []

        def keep(part: Part) -> None:
            width = view.size if part.scores.shape[2] == len(range(view.size)[part.examples]) else 1
            if not found:
                found.append(part.scores.new_empty(len(part.scores), count, width))
            found[0][:, part.steps, part.examples if width > 1 else slice(None)] = part.scores

        self.each(view, count, points, lambda block, at, *_: self.score(block, at), keep, label)
        return found[0]

    def gradients(self, view: View, count: int, points: Points, fold: Callable[[Part], None], label: str = "") -> None:
        """Give `fold` the scores and gradients at `count` points, part by part."""
        self.each(self.ready(view, count), count, points, lambda block, at, *_: self.gradient(block, at), fold, label)

    def here(self, view: View) -> Tensor:
        """The scores `(T, B)` at the view's own features, in one call."""
        with undisturbed(view.roots):
            return self.score(view, view.features)[0]

    def settle(self, view: View, other: Tensors, count: int = 1) -> Ends:
        """Find how examples may share a call, and score the features and one other point on the way.

        Examples may share a call if the model gives them the scores they have alone. That is tried, under each reading
        of the additional arguments, on the features stacked with the other point. Otherwise every point has its own
        call: right for graphs, for models whose examples see each other, and for those with one score for a batch.
        The same comparison decides about cheaper passes (`lean`), where `count` points make them worthwhile.
        """
        with undisturbed(view.roots):
            try:
                return self._settled(view, other, count)
            except (RuntimeError, MemoryError) as error:
                if not is_out(error) or view.size == 1:
                    raise
        release()  # the batch is too large for one call
        view = view if view.at_once else self._divided(view)
        here, there = (self._scores_at(view, at) for at in (view.features, other))
        return Ends(view, here, there)

    def contrast(self, view: View, other: Tensors, count: int, points: Points, label: str = "") -> tuple[Ends, Tensor]:
        """What `settle` finds, and the scores `(T, count, B)` at further points: short work all in the one call that settles it."""
        if view.at_once is None and not self.progress and (count + 2) * view.size <= (self.at_most or math.inf):
            try:
                with undisturbed(view.roots):
                    if self._is_short(view, count + 2):
                        return self._in_one_call(view, other, count, points)
            except (RuntimeError, MemoryError) as error:
                if not is_out(error):
                    raise
        ends = self.settle(view, other, count)
        return ends, self.scores(ends.view, count, points, label)

    def _in_one_call(self, view: View, other: Tensors, count: int, points: Points) -> tuple[Ends, Tensor]:
        further = stacked(points(slice(0, view.size), slice(0, count)))
        ends = self._settled(view, tuple(torch.cat(both) for both in zip(other, further, strict=True)), 1)
        there = ends.there.unflatten(1, (count + 1, -1))
        return Ends(ends.view, ends.here, there[:, 0]), there[:, 1:]

    def _scores_at(self, view: View, point: Tensors) -> Tensor:
        return self.scores(view, 1, lambda examples, _: tuple(p[None, examples] for p in point))[:, 0]

    def _settled(self, view: View, other: Tensors, count: int) -> Ends:
        """`other` may be several copies of the batch, one after another; `there` then has as many."""
        if view.at_once is None and self._needs_no_proof(view, other, count):
            every, _ = self.score(view, tuple(torch.cat(both) for both in zip(view.features, other, strict=True)))
            return Ends(_known(view, True), every[:, : view.size], every[:, view.size :])
        alone = self.seen[1] if self.seen is not None and self.seen[0] is view else self.score(view, view.features)[0]
        if view.at_once is None:
            # The features come last: what refers to examples by number (edges) is right for the first copy in any case.
            pair = tuple(torch.cat(ends) for ends in zip(other, view.features, strict=True))
            for reading in view.readings() if alone.shape[1] == view.size else ():
                self.lean = self._leaner(reading, count)
                both = self._try(reading, pair)
                if (
                    both is not None
                    and both.shape[1] == pair[0].shape[0]
                    and _same(both[:, -view.size :], alone, both[:, : view.size] - both[:, -view.size :])
                ):
                    return Ends(_known(reading, True), alone, both[:, : -view.size])
            view, self.alone, self.lean = _known(view, False), True, None
        copies = zip(*(o.split(view.size) for o in other), strict=True)
        return Ends(view, alone, torch.cat([self.score(view, copy)[0] for copy in copies], 1))

    def _needs_no_proof(self, view: View, other: Tensors, count: int) -> bool:
        """Whether examples cannot see each other, and cheaper passes are not worth looking for."""
        if not isinstance(view, InputView) or view.call.arguments or view.call.keywords or len(view.features) > 1 or self.seen is not None:
            return False
        if not isinstance(view.pick, Same | PerExample | Whole):  # a function of the whole output may do anything with its rows
            return False
        short = len(other[0]) + view.size <= (self.at_most or math.inf) and (count < LEAN_FROM or self._is_short(view, count))
        return short and is_row_by_row(view.call.model, view.features[0].dim())

    def ready(self, view: View, count: int) -> View:
        """The view with `at_once` known, if it matters."""
        if view.at_once is not None:
            return view
        if count > 1:
            return self.settle(view, elsewhere(view.features), count).view
        return self._divided(view) if self._large(view) else view

    def _large(self, view: View) -> bool:
        if self.at_most is not None:
            return view.size > self.at_most
        return view.size > 1 and bytes_of(view.features) * USUAL_GROWTH > budget(view.features[0].device)

    def _divided(self, view: View) -> View:
        """The view under a reading in which a part of the batch scores as it does within a larger part."""
        few, more = slice(0, max(1, min(2, view.size // 2))), slice(0, min(4, view.size))
        with undisturbed(view.roots):
            for reading in view.readings():
                parts = [self._try(part, part.features) for part in (reading.examples(few), reading.examples(more))]
                if parts[0] is not None and parts[1] is not None and _same(parts[0], parts[1][:, few]):
                    return _known(reading, True)
        self.alone = True
        return _known(view, False)

    def _try(self, view: View, points: Tensors) -> Tensor | None:
        try:
            return self.score(view, points)[0]
        except (OutputError, RuntimeError, ValueError, IndexError, TypeError) as error:
            if is_out(error) or isinstance(error, TargetError):
                raise
            return None  # the model itself refuses this reading

    def each(
        self, view: View, count: int, points: Points, verb: Verb, keep: Callable[[Part], None], label: str, forward: Forward | None = None
    ) -> None:
        """All steps of all examples, in blocks as large as the limit allows; the limit halves when memory ends.

        `forward` is how the verb goes forward, where it keeps less of the graph than a score does.
        """
        try:
            with undisturbed(view.roots), Bar(count * view.size, label, self.progress) as bar:
                work = Work(points, verb, keep, self._rows(view, forward))
                for done in work.all(view, slice(0, view.size), slice(0, count)):
                    bar.update(done)
        except (RuntimeError, MemoryError) as error:
            if view.at_once is not None or not is_out(error):
                raise
            release()  # one call for all examples was too much, and whether they can be divided is not known yet
            self.each(self._divided(view), count, points, verb, keep, label, forward)

    def _rows(self, view: View, forward: Forward | None = None) -> int:
        """Examples per call."""
        if self.at_most is not None:
            return max(1, self.at_most)
        if view.at_once is None:
            return view.size
        if not view.at_once:
            return 1
        return rows_within(view, self.count, forward)

    def score(self, view: View, points: Tensors) -> tuple[Tensor, Tensors]:
        self.count(points)
        with torch.no_grad():
            return self.leanly(view.score, points), ()

    def gradient(self, view: View, points: Tensors) -> tuple[Tensor, Tensors]:
        """Scores and gradients of one call."""
        self.count(points)
        scores, found = self.leanly(lambda at: gradients(view, at), points)
        self.backwards += len(points[0]) * len(scores)
        return scores, found

    def inside(
        self, view: InputView, layers: Layer | Sequence[Layer] | Place, of_input: bool = False, points: Tensors | None = None
    ) -> Inside:
        """One watched pass, and the gradients of its scores with respect to what was seen."""
        at = view.features if points is None else points
        self.count(at)
        seen = look(view, layers, of_input, graph=True, points=at)
        self.backwards += seen.rows * len(seen.scores)
        if not seen.place.shared or seen.rows == 1:
            return Inside(seen.place, seen.scores.detach(), seen.gradients(), seen.features)
        self.count(at)  # the gradient of what all share is that of all: each needs a copy of its own
        own = placed(view if points is None else view.moved(points), seen.place, seen.features)
        return Inside(seen.place, *gradients(own, own.features), seen.features)

    def chained(self, view: InputView, place: Place, neuron: Any, points: Tensors) -> tuple[Tensor, Tensors]:
        """Scores of one call, and the gradients through one neuron alone: that of the score to it times its own to the points."""
        self.count(points)
        with torch.inference_mode(False), torch.enable_grad():
            leaves = leaves_at(points)
            seen = look(view, place, graph=True, points=leaves)
            through = seen.gradients()[0]
            picked = neuron_of(neuron, view.size).scores
            activation = picked(seen.place.features(seen.held, seen.rows)[0], seen.rows)
            weights = torch.stack([picked(gradient, seen.rows)[0] for gradient in through])
            own = back(activation, leaves)
        self.backwards += 2 * len(points[0])
        return seen.scores.detach(), tuple(weights.view(*weights.shape, *(1,) * (g.dim() - 2)) * g for g in own)

    def along(self, view: View, points: Tensors, line: Line, nodes: Tensor, weights: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Scores `(1, rows)` of one call, and gradients `(1, rows, ...)` but for what `line` gathers itself."""
        self.count(points)
        scores, found = self.leanly(lambda at: _along(view, at, line, nodes, weights), points, line)
        found = line.gather(found)
        self.backwards += len(points[0])
        return scores, tuple(None if g is None else g[None] for g in found)

    def leanly(self, work: Callable[[Tensors], X], points: Tensors, line: Line | None = None) -> X:
        """The work in cheaper passes while that goes well, as it is otherwise."""
        if self.lean is not None:
            try:
                with self.lean if line is None else self.lean.along(line):
                    return work(shaped(points))
            except Exception as error:
                if is_out(error) or isinstance(error, PellucidError):
                    raise
                self.lean = None
        return work(points)

    def _leaner(self, view: View, count: int) -> Lean | None:
        """Cheaper passes, where the model allows them and the work is long enough to pay for finding out."""
        if count < LEAN_FROM or not can_be_lean(view.roots, view.features) or self._is_short(view, count):
            return None
        try:
            one = view.examples(slice(0, 1))
            with torch.no_grad(), Recorder(view.roots) as recorder:
                self.score(one, one.features)
            return Lean(recorder.pairs)
        except (RuntimeError, ValueError, IndexError, TypeError):  # a reading that the model refuses, or one it cannot be watched in
            return None

    def _is_short(self, view: View, count: int) -> bool:
        """Whether so many points take little memory together."""
        try:
            return count * view.size * bytes_per_example(view, self.count) < LEAN_BYTES
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if is_out(error):
                raise
            return False  # the model refuses an example by itself

    def count(self, points: Tensors) -> None:
        """Another call of the model, with these points."""
        self.calls += 1
        self.forwards += points[0].shape[0]


def _along(view: View, points: Tensors, line: Line, nodes: Tensor, weights: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Scores, and gradients: the line's own, then those of the points."""
    with torch.inference_mode(False), torch.enable_grad():
        leaves = leaves_at(points)
        line.at(leaves, nodes, weights)
        scores = view.score(leaves)
        return scores.detach(), line.differentiated(scores, leaves)


def _known(view: View, at_once: bool) -> View:
    found: View = replace(view, at_once=at_once)  # type: ignore[type-var]
    return found


def _same(found: Tensor, alone: Tensor, change: Tensor | None = None) -> bool:
    """Equal up to the rounding that another batch size brings.

    That is a few units in the last place of the scores, and may be more where a network cancels; but it must stay small
    beside the `change` of the score that is to be explained.
    """
    if not alone.is_floating_point():
        return torch.equal(found, alone)
    eps = torch.finfo(alone.dtype).eps
    rounding = (4 if eps > 1e-4 else 64) * eps
    if float(torch.dist(found, alone, math.inf)) <= rounding * float(alone.abs().max()):
        return True  # the usual case, at the least cost
    largest = torch.abs(alone - alone.mean() if change is None else change).max().nan_to_num(posinf=0.0)
    tolerance = max(rounding * float(alone.abs().max().nan_to_num(posinf=0.0)), min(1e-3, 4 * rounding) * float(largest))
    return torch.allclose(found, alone, rtol=0.0, atol=tolerance, equal_nan=True)


def elsewhere(features: Tensors) -> Tensors:
    """Another point than the features, by which it shows whether examples see each other: other values in another order."""
    return tuple(0.7 * f.flip(0) if f.is_floating_point() else f.flip(0) for f in features)
