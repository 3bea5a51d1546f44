"""Batches that come in their order only, as loaders and generators give them, taken apart into examples."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..loaders import passed
from .rows import One, Reader, Rows, together
from .source import Source, mark_of, told

__all__ = ["Singles", "Stream", "apart", "collated"]

FEW = 8


class Stream(Source):
    """A loader of an iterable data set, a list of batches, a generator of batches or of labelled examples."""

    kind = "stream"
    quiet = False

    def __init__(self, batches: Iterable[Any], reader: Reader) -> None:
        self.batches, self.reader = batches, reader
        self._head: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"batches": (), "_head": []}  # workers are sent their blocks

    def each(self, count: int) -> Iterator[Rows]:
        """Of the first batch; one that comes only once is kept for later."""
        rows = _taken(self._peeked(), self.reader)
        return (rows.some(place, place + 1) for place in range(min(count, len(rows))))

    def first(self, count: int) -> Rows:
        """The same, together."""
        return _taken(self._peeked(), self.reader).some(0, count)

    def _peeked(self) -> Any:
        if self._head:
            return self._head[0]
        batch = next(iter(passed(self.batches)), None)
        if batch is None:
            raise InputError("the data hold no examples; give at least one")
        if isinstance(self.batches, Iterator):
            self._head = [batch]
        return batch

    def _all(self) -> Iterator[Any]:
        head, self._head = self._head, []
        return itertools.chain(head, passed(self.batches))

    def read(self, start: int, stop: int) -> Rows:
        """Not by number.

        Raises:
            InputError: always.
        """
        raise InputError("a stream cannot be read by number; give a data set that has a length")

    def blocks(self, size: int) -> Iterator[Rows]:
        """So many examples at a time, from the beginning."""
        held: list[One | str] = []
        for batch in self._all():
            held += apart(_taken(batch, self.reader))
            while len(held) >= size:
                yield self._block(held[:size])
                held = held[size:]
        if held:
            yield self._block(held)

    def _block(self, held: list[One | str]) -> Rows:
        read = [(place, one) for place, one in enumerate(held) if isinstance(one, One)]
        failed = {place: words for place, words in enumerate(held) if isinstance(words, str)}
        return together(read, len(held), failed=failed, form=self.form)

    def mark(self) -> str:
        """Of the first batch."""
        return mark_of([_taken(self._peeked(), self.reader)])


def collated(
    raw: list[tuple[int, Any]], collate: Callable[[list[Any]], Any], reader: Reader, size: int, failed: Mapping[int, str], form: str = ""
) -> Rows:
    """What a loader's collate_fn makes of the examples at their places; of each by itself, where it fails for all of them together."""
    places, items = [place for place, _ in raw], [item for _, item in raw]
    try:
        held = _each_of(items, collate, reader) if items else []
    except Exception:
        held = [_alone(item, collate, reader) for item in items]
    failed = dict(failed) | {place: words for place, words in zip(places, held, strict=True) if isinstance(words, str)}
    read = [(place, one) for place, one in zip(places, held, strict=True) if isinstance(one, One)]
    return together(read, size, failed=failed, form=form)


def _each_of(items: list[Any], collate: Callable[[list[Any]], Any], reader: Reader) -> list[One | str]:
    rows = _batch(collate(items), reader)
    if rows.size != len(items):
        raise InputError(f"collate_fn made {rows.size} examples of {len(items)}; a run needs one for each")
    return apart(rows)


def _alone(item: Any, collate: Callable[[list[Any]], Any], reader: Reader) -> One | str:
    try:
        return _each_of([item], collate, reader)[0]
    except Exception as error:
        return told(error)


class Singles:
    """Examples that come in their order only, a few at a time, each read by itself."""

    def __init__(self, data: Iterable[Any], reader: Reader) -> None:
        self.data, self.reader = data, reader

    def __iter__(self) -> Iterator[Rows]:
        examples = iter(self.data)
        while items := list(itertools.islice(examples, FEW)):
            read, failed = [], {}
            for place, item in enumerate(items):
                try:
                    read.append((place, self.reader(item)))
                except Exception as error:
                    failed[place] = told(error)
            yield together(read, len(items), failed=failed)


def _taken(item: Any, reader: Reader) -> Rows:
    """A batch, or one example if its label is a single one."""
    if isinstance(item, Rows):
        return item
    return together([(0, reader(item))], 1) if _is_example(item, reader) else _batch(item, reader)


def _is_example(item: Any, reader: Reader) -> bool:
    inputs, label = _split(item, reader)
    if isinstance(inputs, list):
        return False
    if label is not None:
        return isinstance(label, str | numbers.Number | np.generic) or (isinstance(label, Tensor | np.ndarray) and label.ndim == 0)
    parts = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    return all(isinstance(part, str | numbers.Number) for part in parts)


def _batch(batch: Any, reader: Reader) -> Rows:
    """A batch of a loader, taken apart as an example is.

    Raises:
        InputError: its inputs and its labels are not as many.
    """
    inputs, labels = _split(batch, reader)
    inputs = _as_batch(inputs)
    sizes = {len(v) for v in (inputs.values() if isinstance(inputs, Mapping) else [inputs] if isinstance(inputs, list) else inputs)}
    if len(sizes) != 1:
        raise InputError(f"a batch holds {' and '.join(map(str, sorted(sizes)))} examples in its parts; they must hold as many")
    size = sizes.pop()
    known = _labels(labels)
    if known and len(known) != size:
        raise InputError(f"a batch holds {size} examples and {len(known)} labels; say what the label is: label=, or label='' for none")
    rows = Rows(inputs, tuple(range(size)), size, known)
    if reader.prepare is None:
        return rows
    prepared, failed = [], {}
    for place in range(size):
        try:
            prepared.append((place, reader(_whole(rows.some(place, place + 1)))))
        except Exception as error:
            failed[place] = told(error)
    found = together(prepared, size, failed=failed)
    own = found.labels or tuple(known[p] for p in found.places if known)
    return Rows(found.inputs, found.places, size, own, (), found.keywords, found.baselines, found.failed)


def _split(batch: Any, reader: Reader) -> tuple[Any, Any]:
    """Inputs and labels; a list of texts is one of texts."""
    if isinstance(batch, list) and all(isinstance(text, str) for text in batch):
        return batch, None
    return Reader(None, reader.columns, reader.label)._split(batch)


def _as_batch(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _values(part) for name, part in inputs.items()}
    if isinstance(inputs, tuple) or (isinstance(inputs, list) and not (inputs and isinstance(inputs[0], str))):
        return tuple(map(_values, inputs))
    return inputs if isinstance(inputs, list) else (_values(inputs),)


def _values(part: Any) -> Any:
    """Tensors `(n, ...)`, or texts.

    Raises:
        InputError: neither.
    """
    if isinstance(part, np.ndarray):
        return torch.from_numpy(np.array(part))
    if (isinstance(part, Tensor) and part.dim()) or (isinstance(part, list | tuple) and all(isinstance(text, str) for text in part)):
        return list(part) if isinstance(part, tuple) else part
    raise InputError(f"a batch holds {type(part).__name__}; it must hold tensors (n, ...) or lists of texts, and a list of labels")


def _labels(labels: Any) -> tuple[Any, ...]:
    if isinstance(labels, Tensor | np.ndarray):
        flat = labels.reshape(len(labels)) if labels.ndim and np.prod(labels.shape) == len(labels) else None
        return () if flat is None else tuple(flat.tolist())
    return tuple(labels) if isinstance(labels, list | tuple) else ()


def _whole(rows: Rows) -> Any:
    inputs = rows.inputs
    if isinstance(inputs, Mapping):
        return {name: value[0] for name, value in inputs.items()}
    return inputs[0] if isinstance(inputs, list) else (inputs[0][0] if len(inputs) == 1 else tuple(x[0] for x in inputs))


def apart(rows: Rows) -> list[One | str]:
    """Each example by itself, and what was wrong with those that are none."""
    found: list[One | str] = [rows.failed.get(place, "") for place in range(rows.size)]
    for row, place in enumerate(rows.places):
        found[place] = rows.one(row)
    return found
