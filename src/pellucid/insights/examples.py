"""The examples that are looked at, read when they are needed: a data set, a list, or anything that can be iterated."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import InputError

__all__ = ["Example", "Examples", "Label", "Unreadable", "split"]


Label = int | float | tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class Example:
    """One raw example and its label: the number of a class, a measured value, several classes, or None."""

    raw: Any
    label: Label = None


@dataclass(frozen=True, eq=False)
class Unreadable:
    """An example that could not be read, and why."""

    error: Exception


class Examples:
    """Examples by number. What can be indexed is read again each time; what is iterated is kept as far as it was read.

    Args:
        data: examples, or pairs `(example, label)`; a sequence or data set (`len`, `[i]`), or an iterable. Of a `DataLoader`, its data set.
        labels: one for each example, where data holds none.
        classes: names of the classes, for labels that are names.
        exclusive: whether an example has one label; False: a collection of classes, or an array of 0 and 1.

    Raises:
        InputError: data that can neither be indexed nor iterated, or another number of labels.
    """

    def __init__(self, data: Any, labels: Sequence[Any] | None = None, classes: Sequence[str] = (), exclusive: bool = True) -> None:
        if isinstance(data, DataLoader):  # which gives batches; its data set gives examples
            data = data.dataset
        self.classes, self.labels, self.exclusive = tuple(classes), labels, exclusive
        self.indexed = hasattr(data, "__len__") and hasattr(data, "__getitem__")
        if not self.indexed and not hasattr(data, "__iter__"):
            raise InputError(f"data is a {type(data).__name__}; give a list, a data set with len() and [i], or an iterable")
        self.data = data
        if self.indexed and labels is not None and len(labels) != len(data):
            raise InputError(f"there are {len(labels)} labels for {len(data)} examples; give one for each")
        self.ended = self.indexed
        self.stopped: Exception | None = None
        self._kept: list[Any] = []
        self._next: Iterator[Any] | None = None if self.indexed else iter(data)
        self._lock = threading.RLock()

    @property
    def size(self) -> int:
        """How many there are, as far as that is known."""
        return len(self.data) if self.indexed else len(self._kept)

    def upto(self, stop: int) -> int:
        """Read on until there are so many, or no more; how many there are then."""
        with self._lock:
            while not self.ended and len(self._kept) < stop:
                self._pull()
            return min(stop, self.size)

    def _pull(self) -> None:
        try:
            self._kept.append(next(self._next))  # type: ignore[arg-type]
        except StopIteration:
            self.ended = True
        except Exception as error:  # the user's code: an iterator that raised is at its end
            self.ended, self.stopped = True, error

    def __getitem__(self, index: int) -> Example:
        """The example of that number.

        Raises:
            InputError: no such number. And whatever the data raises.
        """
        if not 0 <= index < self.size:
            raise InputError(f"there is no example {index}; they count from 0 to {self.size - 1}")
        with self._lock:
            found = self.data[index] if self.indexed else self._kept[index]
        raw, label = split(found, self.exclusive) if self.labels is None else (found, self.labels[index])
        return Example(raw, self._label(label))

    def read(self, indices: Sequence[int]) -> list[Example | Unreadable]:
        """These examples; in the place of one that cannot be read stands why."""
        return [_tried(lambda i=i: self[i]) for i in indices]  # type: ignore[misc]

    def _label(self, label: Any) -> Label:
        if not self.exclusive and label is not None:
            return self._labels(label)
        return self._single(label)

    def _labels(self, label: Any) -> tuple[int, ...]:
        """The classes of an example that may have several."""
        if isinstance(label, Tensor | np.ndarray) and label.ndim == 1:
            return tuple(i for i, given in enumerate(label.tolist()) if given)
        several = label if isinstance(label, list | tuple | set | frozenset) else [label]
        found = [self._single(one) for one in several]
        if not all(isinstance(one, int) for one in found):
            raise InputError(f"the labels {label!r} are no classes; give a list of classes, or an array with 0 or 1 for each")
        return tuple(sorted(set(found)))  # type: ignore[arg-type]

    def _single(self, label: Any) -> int | float | None:
        if isinstance(label, str):
            if label not in self.classes:
                raise InputError(f"the label {label!r} is not one of the classes {', '.join(self.classes[:10])}; give a name or a number")
            return self.classes.index(label)
        value = _plain(label)
        return int(value) if self.classes and isinstance(value, float) and value.is_integer() else value


def _tried(read: Callable[[], Example]) -> Example | Unreadable:
    try:
        return read()
    except Exception as error:  # the user's data set
        return Unreadable(error)


def _plain(label: Any) -> int | float | None:
    value = label.item() if (hasattr(label, "item") and getattr(label, "size", 1) in (1, ())) or isinstance(label, Tensor) else label
    if value is None or isinstance(value, bool | Integral):
        return None if value is None else int(value)
    if isinstance(value, Real):
        return None if math.isnan(value) else float(value)
    raise InputError(f"the label {label!r} is neither a number, nor a class name, nor None")


def split(found: Any, exclusive: bool = True) -> tuple[Any, Any]:
    """An example and its label: a pair whose second part can be a label is one, anything else is an example alone.

    >>> split(("a text", 3)), split("a text")
    (('a text', 3), ('a text', None))
    """
    if isinstance(found, tuple | list) and len(found) == 2 and (_can_be_label(found[1]) or (not exclusive and _can_be_labels(found[1]))):
        return found[0], found[1]
    return found, None


def _can_be_labels(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset) or (isinstance(value, Tensor | np.ndarray) and value.ndim == 1)


def _can_be_label(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0
    return value is None or isinstance(value, str | bool | Integral | Real)
