"""A model as a function of what is attributed: embeddings of ids, ids themselves, entries of real numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..hooks import put
from .sites import Site

__all__ = ["KEPT", "Read", "holding", "keeping"]

KEPT, WORDS, STEADY = "pellucid kept {}", "pellucid words {}", "pellucid steady {}"


@dataclass(frozen=True, eq=False)
class Read:
    """The model, called with points: first what the sites return, then the entries that go in as they are.

    All entries come behind the points, as arguments and keywords that grow with them.

    Attributes:
        sites: embeddings whose output is given.
        direct: entries that are given themselves.
        places: entries that go by place.
        masks: for ids among the direct ones, the entry that hides a token, where one that is negative is to be hidden.
        steady: embeddings that return for other ids what they returned for those that were given: of places (`holding`).
    """

    model: Callable[..., Any]
    sites: Sequence[Site] = ()
    direct: Sequence[str] = ()
    places: Sequence[str] = ()
    masks: Mapping[str, str] | None = None
    steady: Sequence[Site] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        count = len(self.sites) + len(self.direct)
        points, behind = args[:count], args[count:]
        values = dict(zip(self.places, behind, strict=False)) | kwargs
        vectors = [self._vectors(i, values, point) for i, point in enumerate(points[: len(self.sites)])]
        for name, point in zip(self.direct, points[len(self.sites) :], strict=True):
            values |= self._hidden(name, point, values)
        by_place = [values.pop(name) for name in self.places]
        sites = (*self.sites, *self.steady)
        vectors += [values.pop(STEADY.format(i)) for i in range(len(self.steady))]
        layers, calls = [site.module for site in sites], [site.call for site in sites]
        with put(layers, tuple(site.back(v) for site, v in zip(sites, vectors, strict=True)), calls=calls):
            return self.model(*by_place, *behind[len(self.places) :], **values)

    @staticmethod
    def _vectors(index: int, values: dict[str, Any], point: Tensor) -> Tensor:
        """The point; where tokens are to be kept, their own vectors."""
        kept, words = values.pop(KEPT.format(index), None), values.pop(WORDS.format(index), None)
        return point if kept is None else torch.where(kept, words, point)

    def _hidden(self, name: str, point: Tensor, values: Mapping[str, Any]) -> dict[str, Any]:
        """The entry; ids below zero are hidden by the mask."""
        if self.masks is None or name not in self.masks:
            return {name: point}
        there = point >= 0
        mask = values.get(self.masks[name])
        mask = there.long() if mask is None else mask * there.to(mask.dtype)
        return {name: point.clamp_min(0), self.masks[name]: mask}


def keeping(sites: Sequence[Site], kept: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """Keywords by which each site's vectors stay what they are where they are to be kept, `(B, L)`."""
    found: dict[str, Tensor] = {}
    for i, (site, where) in enumerate(zip(sites, kept, strict=True)):
        if where is not None:
            found |= {KEPT.format(i): where[..., None], WORDS.format(i): site.feature}
    return found


def holding(sites: Sequence[Site]) -> dict[str, Tensor]:
    """Keywords by which embeddings return what they returned."""
    return {STEADY.format(i): site.feature for i, site in enumerate(sites)}
