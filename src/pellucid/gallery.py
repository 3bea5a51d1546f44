"""Examples as a person sees them: pictures, texts and rows, with their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Gallery", "Thing"]

# A picture `(H, W)` or `(H, W, 3)` of uint8, a text, or a row of a table.
Thing = NDArray[np.uint8] | str | Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Gallery:
    """Queries, and the training examples that matter most to them.

    Attributes:
        asked, asked_labels: one of each query.
        indices: which training examples are here.
        things, labels: one of each of these.
        unit: what their scores are measured in.
        sides: what positive and negative scores mean, with the query's label in the place of {}; one side where signs mean nothing.
    """

    asked: tuple[Thing, ...]
    asked_labels: tuple[str, ...]
    indices: tuple[int, ...]
    things: tuple[Thing, ...]
    labels: tuple[str, ...]
    unit: str = ""
    sides: tuple[str, ...] = ("for the label {}", "against the label {}")

    def words(self) -> dict[str, Any]:
        """What is written as JSON; of pictures, nothing."""
        return {
            "asked": [_plain(thing) for thing in self.asked],
            "asked_labels": self.asked_labels,
            "indices": self.indices,
            "things": [_plain(thing) for thing in self.things],
            "labels": self.labels,
            "unit": self.unit,
            "sides": self.sides,
        }

    def pictures(self) -> dict[str, Tensor]:
        """The pictures by name, as tensors."""
        groups = {"asked": self.asked, "things": self.things}
        found = {f"{name}.{i}": thing for name, group in groups.items() for i, thing in enumerate(group)}
        return {name: torch.from_numpy(np.ascontiguousarray(thing)) for name, thing in found.items() if isinstance(thing, np.ndarray)}

    @classmethod
    def of(cls, words: Mapping[str, Any], pictures: Mapping[str, Tensor]) -> Gallery:
        """What `words` and `pictures` gave."""

        def things(name: str) -> tuple[Thing, ...]:
            return tuple(pictures[f"{name}.{i}"].numpy() if thing is None else thing for i, thing in enumerate(words[name]))

        lists = (tuple(words["asked_labels"]), tuple(words["indices"]), things("things"), tuple(words["labels"]))
        return cls(things("asked"), *lists, words["unit"], tuple(words["sides"]))


def _plain(thing: Thing) -> Any:
    return None if isinstance(thing, np.ndarray) else thing if isinstance(thing, str) else dict(thing)
