"""Where examples come from: tensors, data sets, loaders, files; each door leads to a source."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset, default_collate

from ..errors import InputError, OptionError
from ..loaders import refuse_shuffled
from ..trust.provenance import hash_of
from .batches import Singles, Stream, collated
from .rows import Reader, Rows, together
from .source import Source, told

__all__ = ["Items", "Tensors", "source_of"]


class Tensors(Source):
    """Inputs `(N, ...)`, labels last, in memory: a block is a slice."""

    kind = "tensors"

    def __init__(self, tensors: Sequence[Tensor], reader: Reader) -> None:
        if len({len(t) for t in tensors}) > 1:
            raise InputError(f"the data have {' and '.join(str(len(t)) for t in tensors)} rows; inputs and labels must have as many")
        place = reader.label if isinstance(reader.label, int) else -1
        if not -len(tensors) <= place < len(tensors):
            raise InputError(f"label is {place}, and the data are {len(tensors)} tensors; give a place among them, or '' for no label")
        self.tensors, self.reader = tensors, reader
        last = tensors[place]
        numbers = last.dim() == 1 or (last.dim() == 2 and last.shape[1] == 1 and not last.is_floating_point())
        labelled = len(tensors) > 1 and reader.label != "" and numbers
        self.labels = last.flatten() if labelled else None
        self.inputs = tuple(t for i, t in enumerate(tensors) if not labelled or i != place % len(tensors))
        self.count = len(tensors[0])

    def read(self, start: int, stop: int) -> Rows:
        """A slice."""
        size = stop - start
        labels = () if self.labels is None else tuple(self.labels[start:stop].tolist())
        return Rows(tuple(t[start:stop] for t in self.inputs), tuple(range(size)), size, labels)

    def mark(self) -> str:
        """Of all of it: it is in memory."""
        return hash_of((str(i), t) for i, t in enumerate(self.tensors))[:16]


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
            if self.collate is not None:
                return collated(raw, self.collate, self.reader, stop - start, failed, self.form)
        return together(read, stop - start, failed=failed, form=self.form)


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
        FileError: a folder or file that cannot be used. OptionError: a size of what is no folder.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, str | Path):
        from .places import place_of

        return place_of(Path(data), reader, size)
    if size is not None:
        raise OptionError(f"size is {size!r}, and only the pictures of a folder are resized; leave it out, or resize in prepare=")
    if type(data).__name__ == "DataFrame":
        raise InputError("data is a DataFrame; give tensors (torch.tensor(frame[columns].values), labels), or write it to a Parquet file")
    if isinstance(data, Tensor):
        return _of_tensors((data,), reader, seed)
    if isinstance(data, tuple) and data and isinstance(data[0], Tensor | np.ndarray) and all(map(_is_column, data)):
        return _of_tensors([_column(part, reader, i + 1 == len(data) > 1) for i, part in enumerate(data)], reader, seed)
    if isinstance(data, DataLoader):
        return _of_loader(data, reader, seed)
    if isinstance(data, TensorDataset):
        return _of_tensors(data.tensors, reader, seed)
    numbered = hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, Mapping)
    if numbered and not isinstance(data, IterableDataset):
        return Stream(data, reader) if _is_batches(data) else Items(data, reader, seed=seed)
    if isinstance(data, IterableDataset):
        return Stream(Singles(data, reader), reader)
    if isinstance(data, Iterable) and not isinstance(data, Mapping | bytes):
        return Stream(data, reader)
    part = f" one of its parts (data[{next(iter(data))!r}])," if isinstance(data, Mapping) and data else ""
    ways = "a DataLoader, a data set, tensors, a folder of images, or a CSV or Parquet file"
    raise InputError(f"data is {type(data).__name__}; give{part} {ways}")


def _is_column(part: Any) -> bool:
    return isinstance(part, Tensor | np.ndarray | list)


def _column(part: Any, reader: Reader, last: bool) -> Tensor:
    """All examples' inputs, or labels."""
    if isinstance(part, Tensor):
        return part
    try:
        found = torch.from_numpy(np.array(part))
    except (TypeError, ValueError) as error:
        words = "give numbers, or a list of examples with labels in words: list(zip(inputs, labels))"
        raise InputError(f"the data hold a {type(part).__name__} that is no array of numbers ({error}); {words}") from error
    return found if last or found.dtype != torch.float64 else found.to(reader.dtype)


def _of_tensors(tensors: Sequence[Tensor], reader: Reader, seed: int) -> Source:
    return Tensors(tensors, reader) if reader.prepare is None else Items(TensorDataset(*tensors), reader, seed=seed)


def _is_batches(data: Any) -> bool:
    """Whether a list holds batches `(inputs, labels)` rather than examples: their labels are many."""
    first = data[0] if isinstance(data, list) and data else None
    if not isinstance(first, tuple | list) or len(first) < 2 or not all(isinstance(part, Tensor) for part in (first[0], first[-1])):
        return False
    many = len(first[-1]) if first[-1].dim() in (1, 2) and first[-1].numel() == len(first[-1]) else 0
    return first[0].dim() > 1 and many == len(first[0])


def _of_loader(loader: DataLoader[Any], reader: Reader, seed: int) -> Source:
    """A loader that goes straight through a data set is that data set; another is a stream."""
    refuse_shuffled(loader, "the loader")
    own = type(loader) is DataLoader and type(loader.batch_sampler) is BatchSampler and loader.batch_sampler.sampler is loader.sampler
    plain = own and isinstance(loader.sampler, SequentialSampler) and isinstance(loader.dataset, Sized) and not loader.drop_last
    if not plain:
        return Stream(loader, reader)
    if isinstance(loader.dataset, TensorDataset) and loader.collate_fn is default_collate:
        return _of_tensors(loader.dataset.tensors, reader, seed)
    return Items(loader.dataset, reader, None if loader.collate_fn is default_collate else loader.collate_fn, seed)
