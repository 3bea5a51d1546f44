"""Examples that a method goes through several times: batches `(inputs, ..., labels)` in an order that must not change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ..errors import InputError, OptionError
from ..loaders import passed, refuse_shuffled

__all__ = ["Batch", "Examples", "examples_of", "mark_of", "size_of"]

Batch = Sequence[Any]


class Examples:
    """Batches, gone through as often as needed; what the first pass gave, every other pass must give.

    Args:
        data: a `DataLoader`, a `Dataset` of `(input, ..., label)`, a batch as a tuple of tensors `(inputs, ..., labels)`, or a list of such
            batches.
        batch_size: of data sets, and of tuples of tensors.
        what: the name in messages.

    Raises:
        InputError: a loader that shuffles, or data of another form.

    >>> examples = Examples((torch.randn(5, 3), torch.arange(5)), batch_size=2)
    >>> len(examples), [len(batch[0]) for batch in examples]
    (5, [2, 2, 1])
    """

    def __init__(self, data: Any, batch_size: int = 64, what: str = "the training data") -> None:
        if batch_size < 1:
            raise OptionError(f"batch_size is {batch_size}; at least one example is needed")
        self.data, self.what = _batches(data, batch_size, what), what
        refuse_shuffled(self.data, what)
        self._seen: list[bytes] | None = None

    def __len__(self) -> int:
        """How many examples there are, where that is known before they were seen; else 0."""
        known = getattr(self.data, "dataset", None)
        if known is None and isinstance(self.data, list):
            return sum(map(size_of, self.data))
        return len(known) if isinstance(known, Sized) else 0

    @property
    def largest(self) -> int:
        """How many examples the first batch has: as many as any."""
        return size_of(next(passed(self.data)))

    def on(self, model: nn.Module) -> Iterator[Batch]:
        """The batches, where the model is."""
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        for batch in self:
            yield [x.to(device) if isinstance(x, Tensor) else x for x in batch]

    def __iter__(self) -> Iterator[Batch]:
        marks = []
        for batch in passed(self.data):
            size_of(batch)
            marks.append(mark_of(batch))
            self._compare(marks)
            yield batch
        if not marks:
            again = "; an iterator can be gone through once only: give a list or a loader" if self._seen else ""
            raise InputError(f"{self.what} holds no examples{again}")
        if self._seen is not None and len(marks) != len(self._seen):
            raise InputError(f"{self.what} had {len(self._seen)} batches and now has {len(marks)}; it must be the same in every pass")
        self._seen = marks

    @property
    def digest(self) -> str:
        """What tells these examples from others, once they have been gone through; empty before."""
        return hashlib.blake2b(b"".join(self._seen), digest_size=16).hexdigest() if self._seen else ""

    def _compare(self, marks: Sequence[bytes]) -> None:
        place = len(marks) - 1
        if self._seen is not None and (place >= len(self._seen) or marks[place] != self._seen[place]):
            raise InputError(
                f"{self.what} is not the same in every pass: batch {place} has changed; turn off shuffling and random augmentation, so "
                "that a score belongs to an example"
            )


def examples_of(data: Any, what: str = "the training data") -> Examples:
    """Examples as they are, or made of what is given."""
    return data if isinstance(data, Examples) else Examples(data, what=what)


def size_of(batch: Batch) -> int:
    """How many examples a batch has.

    Raises:
        InputError: it is none, or has no tensor that would tell.
    """
    if not isinstance(batch, tuple | list):
        raise InputError(f"a batch is {type(batch).__name__}; each must be (inputs, ..., labels)")
    first = next((x for x in batch if isinstance(x, Tensor)), None)
    if first is None or not first.dim():
        raise InputError("a batch has no tensor; give (inputs, ..., labels) with the examples along dimension 0")
    return len(first)


def _batches(data: Any, batch_size: int, what: str) -> Iterable[Batch]:
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=batch_size)
    if isinstance(data, tuple) and data and all(isinstance(part, Tensor) for part in data):
        if len({len(part) for part in data}) > 1:
            raise InputError(f"{what} has {' and '.join(str(len(part)) for part in data)} rows; inputs and labels must have as many")
        return DataLoader(TensorDataset(*data), batch_size=batch_size)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Tensor | Mapping):
        return data
    raise InputError(f"{what} is {type(data).__name__}; give a DataLoader, a Dataset, a tuple (inputs, ..., labels) or a list of such")


def mark_of(batch: Batch) -> bytes:
    """What tells batches apart."""
    digest = hashlib.blake2b(digest_size=8)
    for part in batch:
        if isinstance(part, Tensor) and part.numel():
            digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif not isinstance(part, Tensor):
            digest.update(repr(part)[:1000].encode())
    return digest.digest()
