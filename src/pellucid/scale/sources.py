"""Where examples come from: tensors, data sets, loaders; each says what it is, and gives any run of its examples again."""

from __future__ import annotations

import hashlib
import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, TensorDataset, default_collate

from ..errors import InputError
from ..loaders import passed, refuse_shuffled
from ..trust.provenance import hash_of
from .rows import One, Reader, Rows, together

__all__ = ["Items", "Source", "Stream", "Tensors", "source_of"]


class Source(ABC):
    """Examples by number.

    Attributes:
        kind: a word.
        count: how many there are; None: nobody knows before the end.
        names, classes: of columns and of labels, where the data know them.
        quiet: whether reading leaves all random numbers alone, so that it may go on beside the model.
    """

    kind = "data"
    count: int | None = None
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    quiet = True

    @abstractmethod
    def read(self, start: int, stop: int) -> Rows:
        """The examples of that run; what is wrong with one of them is told and stops nothing."""

    def first(self, count: int) -> Rows:
        """So many from the beginning, or all.

        Raises:
            InputError: there are none.
        """
        if not self.count:
            raise InputError("the data hold no examples; give at least one")
        return self.read(0, min(count, self.count))

    def settle(self, folder: Path) -> None:
        """What workers need besides goes into the folder of the run: nothing, for most data."""
        return

    def identity(self) -> dict[str, Any]:
        """What tells these data from others: their number, and a mark of some of them."""
        return {"data": self.kind, "examples": self.count, "mark": self.mark()}

    def mark(self) -> str:
        """A hash of what stands at the beginning, in the middle and at the end."""
        count = self.count or 0
        read = [self.read(place, place + 1) for place in sorted({0, count // 2, max(count - 1, 0)}) if place < count]
        return mark_of(read)


def mark_of(read: Iterable[Rows]) -> str:
    """A hash of the inputs."""
    digest = hashlib.blake2b(digest_size=12)
    for rows in read:
        parts = rows.inputs.items() if isinstance(rows.inputs, Mapping) else enumerate(rows.inputs)
        for name, value in parts:
            digest.update(hash_of([(str(name), value)]).encode() if isinstance(value, Tensor) else f"{name}{value!r}".encode())
        digest.update(repr((rows.labels, sorted(rows.failed))).encode())
    return digest.hexdigest()


class Tensors(Source):
    """Inputs `(N, ...)`, labels last, in memory: a block is a slice."""

    kind = "tensors"

    def __init__(self, tensors: Sequence[Tensor], reader: Reader) -> None:
        if len({len(t) for t in tensors}) > 1:
            raise InputError(f"the data have {' and '.join(str(len(t)) for t in tensors)} rows; inputs and labels must have as many")
        place = reader.label if isinstance(reader.label, int) else -1
        labelled = len(tensors) > 1 and reader.label != "" and tensors[place].dim() <= 1
        self.labels = tensors[place] if labelled else None
        self.inputs = tuple(t for i, t in enumerate(tensors) if not labelled or i != place % len(tensors))
        self.count = len(tensors[0])

    def read(self, start: int, stop: int) -> Rows:
        """A slice."""
        size = stop - start
        labels = () if self.labels is None else tuple(self.labels[start:stop].tolist())
        return Rows(tuple(t[start:stop] for t in self.inputs), tuple(range(size)), size, labels)


class Items(Source):
    """A data set that has a length and gives an example for a number (torch's, Hugging Face's, a list)."""

    kind = "data set"
    quiet = False  # transforms draw as they like

    def __init__(self, items: Any, reader: Reader, collate: Callable[[list[Any]], Any] | None = None, seed: int = 0) -> None:
        self.items, self.reader, self.collate, self.seed = items, reader, collate, seed
        self.count = len(items)
        known = getattr(items, "classes", None)
        self.classes = tuple(map(str, known)) if isinstance(known, list | tuple) else _names_of(items, reader)

    def read(self, start: int, stop: int) -> Rows:
        """Each by itself; those that raise are told. A transform that draws draws the same for the same example."""
        read, failed, raw = [], {}, []
        with _own_draws():
            for place, number in enumerate(range(start, stop)):
                try:
                    _draw_as(self.seed, number)
                    item = self.items[number]
                    raw.append((place, item))
                    if self.collate is None:
                        read.append((place, self.reader(item)))
                except Exception as error:
                    failed[place] = told(error)
            if self.collate is not None and raw:
                return _collated(raw, self.collate, self.reader, stop - start, failed)
        return together(read, stop - start, failed=failed)


def _collated(raw: list[tuple[int, Any]], collate: Callable[[list[Any]], Any], reader: Reader, size: int, failed: dict[int, str]) -> Rows:
    rows = _batch(collate([item for _, item in raw]), reader)
    if len(rows) != len(raw):
        raise InputError(f"collate_fn made {len(rows)} examples of {len(raw)}; a run needs one for each")
    return Rows(rows.inputs, tuple(place for place, _ in raw), size, rows.labels, (), rows.keywords, rows.baselines, failed)


def _batch(batch: Any, reader: Reader) -> Rows:
    """A batch of a loader, taken apart as an example is."""
    inputs, labels = Reader(None, reader.columns, reader.label)._split(batch)
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    elif isinstance(inputs, list) and not (inputs and isinstance(inputs[0], str)):
        inputs = tuple(inputs)
    first = next((v for v in (inputs.values() if isinstance(inputs, Mapping) else inputs) if isinstance(v, Tensor | list)), inputs)
    size = len(first)
    labels = labels.tolist() if isinstance(labels, Tensor) and labels.dim() == 1 else labels
    rows = Rows(inputs, tuple(range(size)), size, tuple(labels) if isinstance(labels, list | tuple) and len(labels) == size else ())
    if reader.prepare is None:
        return rows
    prepared = [(place, reader(_whole(rows.some(place, place + 1)))) for place in range(size)]
    found = together(prepared, size)
    return Rows(found.inputs, found.places, size, found.labels or rows.labels, (), found.keywords, found.baselines, found.failed)


def _whole(rows: Rows) -> Any:
    inputs = rows.inputs
    if isinstance(inputs, Mapping):
        return {name: value[0] for name, value in inputs.items()}
    return inputs[0] if isinstance(inputs, list) else (inputs[0][0] if len(inputs) == 1 else tuple(x[0] for x in inputs))


class Stream(Source):
    """Batches that come in their order only: a loader of an iterable data set, a list of batches."""

    kind = "stream"
    quiet = False

    def __init__(self, batches: Iterable[Any], reader: Reader) -> None:
        self.batches, self.reader = batches, reader
        self._head: list[Any] = []

    def first(self, count: int) -> Rows:
        """Of the first batch; one that comes only once is kept for later."""
        found = _batch(self._peeked(), self.reader)
        return found if len(found) <= count else found.some(0, count)

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
        raise InputError("a stream cannot be read by number; give a data set that has a length for torchrun and Ray")

    def blocks(self, size: int) -> Iterator[Rows]:
        """So many examples at a time, from the beginning."""
        held: list[tuple[Any, Any, Mapping[str, Any], Any]] = []
        for batch in self._all():
            rows = _batch(batch, self.reader)
            held += [_loose(rows, i) for i in range(len(rows))]
            while len(held) >= size:
                yield _block(held[:size])
                held = held[size:]
        if held:
            yield _block(held)

    def mark(self) -> str:
        """Of the first batch."""
        return mark_of([_batch(self._peeked(), self.reader)])


def _loose(rows: Rows, place: int) -> tuple[Any, Any, Mapping[str, Any], Any]:
    inputs = rows.inputs
    one: Any = (
        {n: v[place] for n, v in inputs.items()}
        if isinstance(inputs, Mapping)
        else inputs[place]
        if isinstance(inputs, list)
        else tuple(x[place] for x in inputs)
    )
    baselines = None if rows.baselines is None else tuple(b[place] if isinstance(b, Tensor) else b for b in rows.baselines)
    return one, rows.labels[place] if rows.labels else None, {n: k[place] for n, k in rows.keywords.items()}, baselines


def _block(held: list[tuple[Any, Any, Mapping[str, Any], Any]]) -> Rows:
    return together([(place, One(*one)) for place, one in enumerate(held)], len(held))


def told(error: BaseException) -> str:
    """An error in one line, as it is kept."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _names_of(items: Any, reader: Reader) -> tuple[str, ...]:
    """The classes' names of a Hugging Face data set."""
    features = getattr(items, "features", None)
    if not isinstance(features, Mapping):
        return ()
    names = [reader.label] if isinstance(reader.label, str) else ["label", "labels"]
    return next((tuple(features[n].names) for n in names if hasattr(features.get(n), "names")), ())


@contextmanager
def _own_draws() -> Iterator[None]:
    """Whatever draws inside, the user's random states are afterwards as before."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


def _draw_as(seed: int, number: int) -> None:
    mixed = int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=4).digest(), "little")
    torch.default_generator.manual_seed(mixed)
    random.seed(mixed)
    np.random.seed(mixed)


def source_of(data: Any, reader: Reader, seed: int = 0, size: tuple[int, int] | None = None) -> Source:
    """The door through which these data come.

    Raises:
        InputError: data of no known form, or a loader that shuffles.
        FileError: a folder or file that cannot be used.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, str | Path):
        from .places import place_of

        return place_of(Path(data), reader, size)
    if isinstance(data, Tensor):
        return _of_tensors((data,), reader, seed)
    if isinstance(data, tuple) and data and all(isinstance(part, Tensor) for part in data):
        return _of_tensors(data, reader, seed)
    if isinstance(data, DataLoader):
        return _of_loader(data, reader, seed)
    if isinstance(data, TensorDataset):
        return _of_tensors(data.tensors, reader, seed)
    if (
        not isinstance(data, IterableDataset)
        and hasattr(data, "__len__")
        and hasattr(data, "__getitem__")
        and not isinstance(data, Mapping)
    ):
        return Stream(data, reader) if _is_batches(data) else Items(data, reader, seed=seed)
    if isinstance(data, IterableDataset):
        return Stream(DataLoader(data, batch_size=64), reader)
    if isinstance(data, Iterable) and not isinstance(data, Mapping | bytes):
        return Stream(data, reader)
    raise InputError(f"data is {type(data).__name__}; give a DataLoader, a data set, tensors, a folder of images, or a CSV or Parquet file")


def _of_tensors(tensors: Sequence[Tensor], reader: Reader, seed: int) -> Source:
    return Tensors(tensors, reader) if reader.prepare is None else Items(TensorDataset(*tensors), reader, seed=seed)


def _is_batches(data: Any) -> bool:
    """Whether a list holds batches `(inputs, labels)` rather than examples: their labels are many."""
    first = data[0] if isinstance(data, list) and data else None
    return (
        isinstance(first, tuple | list)
        and isinstance(first[-1], Tensor)
        and first[-1].dim() == 1
        and len(first) > 1
        and len(first[-1]) == len(first[0])
    )


def _of_loader(loader: DataLoader[Any], reader: Reader, seed: int) -> Source:
    """A loader that goes straight through a data set is that data set; another is a stream."""
    refuse_shuffled(loader, "the loader")
    plain = isinstance(loader.sampler, SequentialSampler) and isinstance(loader.dataset, Sized) and not loader.drop_last
    if not plain:
        return Stream(loader, reader)
    if isinstance(loader.dataset, TensorDataset) and loader.collate_fn is default_collate:
        return _of_tensors(loader.dataset.tensors, reader, seed)
    return Items(loader.dataset, reader, None if loader.collate_fn is default_collate else loader.collate_fn, seed)
