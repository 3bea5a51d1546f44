"""Removal: the scores of the features without some of their places, remembered where several metrics or methods ask for the same."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..batch import Ends, Run
from ..errors import InputError, TargetError
from ..explanation import Check
from ..inputs import Baseline, Tensors, references
from ..memory import bytes_of
from ..perturb.evaluate import Scorer
from ..view import View
from .steps import Steps

__all__ = ["Fill", "Imputation", "Removal", "Shared", "removal_of"]


class Imputation(ABC):
    """What stands in for removed places where that depends on which are removed: on their neighbours, say."""

    @abstractmethod
    def check(self, features: Tensors) -> None:
        """Raise InputError where such features cannot be imputed."""

    @abstractmethod
    def __call__(self, features: Tensors, removed: Tensors) -> Tensors:
        """Points `(n, b, ...)` of features `(b, ...)` without the places `removed`, booleans that broadcast to `(n, b, ...)`."""


Fill = Baseline | Sequence[Baseline] | Imputation

# How much of the features is copied at a time where every example has sets of places of its own.
COPIED = 2**26


class Wanted(NamedTuple):
    """A set of places that was not scored yet: the example, its number in what is remembered, the places as bits."""

    example: int
    key: bytes
    bits: bytes


@dataclass(eq=False)
class Removal:
    """A view, and what stands in for the places that are removed.

    Attributes:
        scorer: the view and the fill; of an imputation the fill is what everything removed is compared with.
        imputation: what calculates the points, if not the fill alone.
        known: scores by example and places, if they are to be remembered.
    """

    scorer: Scorer
    imputation: Imputation | None = None
    known: dict[tuple[int, bytes], float] | None = None

    @property
    def checks(self) -> tuple[Check, ...]:
        """What a reader must know about the scores."""
        return self.scorer.checks

    def scores(self, steps: Steps, inserted: bool = False) -> tuple[Tensor, Tensor]:
        """`(B, 1)` the scores of the features, and `(B, steps)` those without each step's places, or with them only (`inserted`).

        Raises:
            InputError: a model with one score for several examples. TargetError: several targets.
        """
        if not steps.count:
            here = self.scorer.run.here(self.scorer.view).T
            return here, here[:, :0]
        if self.known is None or self.scorer.several > 1 or not self._settled(steps.count).view.at_once:
            return self._all(steps, inserted)
        return self._recalled(steps, inserted)

    def _settled(self, count: int) -> Ends:
        """How examples share calls. Where they must not, sets of places cannot be gathered from here and there."""
        scorer = self.scorer
        if scorer.ends is None:
            ends = scorer.run.settle(scorer.view, tuple(r[0] for r in scorer.references), count)
            self._check(ends.here)
            scorer.ends = ends
            if self.known is not None and ends.view.at_once:
                self.known.update(self._at_ends(ends))
        return scorer.ends

    def _all(self, steps: Steps, inserted: bool) -> tuple[Tensor, Tensor]:
        """In one go, steps of whole batches."""

        def points(examples: slice, numbers: Tensor, base: Tensors) -> Tensors:
            features = tuple(f[examples] for f in self.scorer.view.features)
            return self._points(features, tuple(c != inserted for c in steps.chosen(examples, numbers)), base)

        ends, found = self.scorer.scores(steps.count, points, lambda number: f"at step {number}")
        self._check(ends.here)
        return ends.here.T, found[0].T

    def _points(self, features: Tensors, removed: Tensors, base: Tensors) -> Tensors:
        if self.imputation is not None:
            return self.imputation(features, removed)
        return tuple(torch.where(r, b, x) for r, x, b in zip(removed, features, base, strict=True))

    def _check(self, here: Tensor) -> None:
        if len(here) > 1:
            raise TargetError(f"the view has {len(here)} targets, and a metric is of one; take each of view.targets()")
        if here.shape[1] != self.scorer.view.size:
            raise InputError(
                f"the model gives one score for the whole batch of {self.scorer.view.size}, and a metric is of one example; "
                "give one at a time"
            )

    def _recalled(self, steps: Steps, inserted: bool) -> tuple[Tensor, Tensor]:
        """Only what is not known yet is scored, each set of places of an example once."""
        scorer, known = self.scorer, self.known
        assert known is not None
        here = self._settled(steps.count).here.T
        rows = [list(self._sets(steps, inserted, example)) for example in range(scorer.view.size)]
        new = {(each.example, each.key): each for row in rows for each in row if (each.example, each.key) not in known}
        waiting = iter(new.values())
        most = max(scorer.view.size, COPIED // max(1, bytes_of(scorer.view.features) // scorer.view.size))
        while some := list(islice(waiting, most)):
            found = self._of(some)
            known.update({(each.example, each.key): float(score) for each, score in zip(some, found, strict=True)})
        values = [[known[each.example, each.key] for each in row] for row in rows]
        return here, torch.tensor(values, dtype=torch.float64).to(here)

    def _at_ends(self, ends: Ends) -> Iterator[tuple[tuple[int, bytes], float]]:
        """What is known from the start: nothing removed, and everything."""
        count = sum(f[0].numel() for f in self.scorer.view.features)
        for scores, removed in ((ends.here[0], False), (ends.there[0], True))[: 1 if self.imputation else 2]:
            key = _key(np.packbits(np.full(count, removed)).tobytes())
            yield from (((example, key), float(score)) for example, score in enumerate(scores))

    def _sets(self, steps: Steps, inserted: bool, example: int) -> Iterator[Wanted]:
        """The places that each step removes from an example."""
        shapes = [f.shape[1:] for f in self.scorer.view.features]
        for start in range(0, steps.count, 64):
            numbers = torch.arange(start, min(start + 64, steps.count))
            chosen = steps.chosen(slice(example, example + 1), numbers)
            parts = [(c != inserted).expand(len(numbers), 1, *shape).flatten(1).cpu() for c, shape in zip(chosen, shapes, strict=True)]
            for row in np.packbits(torch.cat(parts, 1).numpy(), 1):
                bits = row.tobytes()
                yield Wanted(example, _key(bits), bits)

    def _of(self, wanted: Sequence[Wanted]) -> Tensor:
        """`(wanted,)`: the scores of examples of which each lacks places of its own."""
        scorer, ends = self.scorer, self.scorer.ends
        assert ends is not None
        view = ends.view.some([each.example for each in wanted])
        base = tuple(r[0][[each.example for each in wanted]] for r in scorer.references)

        def points(examples: slice, _: slice) -> Tensors:
            features = tuple(f[examples] for f in view.features)
            removed = self._unpacked([each.bits for each in wanted[examples]])
            return self._points(features, tuple(r[None] for r in removed), tuple(b[None, examples] for b in base))

        found = scorer.run.scores(view, 1, points, scorer.label)[0, 0]
        if not bool(found.isfinite().all()):
            bad = [(float(score), each.example) for score, each in zip(found, wanted, strict=True) if not score.isfinite()]
            scorer.bad += [f"({score}) of example {example} with some places removed" for score, example in bad]
        return found

    def _unpacked(self, bits: Sequence[bytes]) -> Tensors:
        sizes = [f[0].numel() for f in self.scorer.view.features]
        rows = np.unpackbits(np.frombuffer(b"".join(bits), np.uint8).reshape(len(bits), -1), axis=1, count=sum(sizes))
        parts = torch.from_numpy(rows).bool().split(sizes, 1)
        return tuple(p.view(len(bits), *f.shape[1:]).to(f.device) for p, f in zip(parts, self.scorer.view.features, strict=True))


def _key(bits: bytes) -> bytes:
    return hashlib.blake2b(bits, digest_size=16).digest()


@dataclass
class Shared(Run):
    """A run whose removals remember their scores: metrics that get the same view, the same fill and this run share them."""

    removals: list[tuple[View, Fill, Removal]] = field(default_factory=list)

    def removal(self, view: View, fill: Fill, label: str) -> Removal:
        """The one for this view and this fill, the very objects, or equal imputations."""
        for known_view, known_fill, removal in self.removals:
            if known_view is view and (known_fill is fill or (isinstance(fill, Imputation) and known_fill == fill)):
                return removal
        removal = _removal(view, fill, self, label)
        removal.known = {}
        self.removals.append((view, fill, removal))
        return removal


def removal_of(view: View, fill: Fill, run: Run | None = None, label: str = "removal") -> Removal:
    """What scores the view without some of its places.

    Args:
        fill: what replaces, in every form of `pellucid.inputs.references`, or an `Imputation`.
        run: the limits of memory, and what it costs; one that is `Shared` remembers.

    Raises:
        InputError: a fill that does not fit.
    """
    return run.removal(view, fill, label) if isinstance(run, Shared) else _removal(view, fill, run or Run(), label)


def _removal(view: View, fill: Fill, run: Run, label: str) -> Removal:
    if not isinstance(fill, Imputation):
        return Removal(Scorer(view, references(view.features, fill, "fill"), run, label))
    fill.check(view.features)
    return Removal(Scorer(view, references(view.features, None), run, label), fill)
