"""What a source of examples is: it says what it holds, and gives any run of its examples again."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..trust.identity import identity
from ..trust.provenance import hash_of
from .rows import Names, Reader, Rows

__all__ = ["LOST", "Source", "lasting", "mark_of", "told"]

LOST = "-"  # the mark of an example that could not be read


class Source(ABC):
    """Examples by number.

    Attributes:
        kind: a word.
        count: how many there are; None: nobody knows before the end.
        names, classes: of columns and of labels, where the data know them.
        named: whether labels are only places among `classes`, as a folder's, so that a model with classes of its own knows them by name.
        quiet: whether reading leaves all random numbers alone, so that it may go on beside the model.
        form: shapes and types of the run's examples, once they are known.
    """

    kind = "data"
    count: int | None = None
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    named = False
    quiet = True
    form = ""
    reader: Reader

    @abstractmethod
    def read(self, start: int, stop: int) -> Rows:
        """The examples of that run; what is wrong with one of them is told and stops nothing."""

    def each(self, count: int) -> Iterator[Rows]:
        """So many from the beginning, or all, one by one.

        Raises:
            InputError: there are none.
        """
        if not self.count:
            raise InputError("the data hold no examples; give at least one")
        return (self.read(place, place + 1) for place in range(min(count, self.count)))

    def first(self, count: int) -> Rows:
        """So many from the beginning, or all, together."""
        return self.read(0, min(count, self.count or 0))

    def settle(self, folder: Path) -> None:
        """What workers need besides goes into the folder of the run: nothing, for most data."""
        return

    def identity(self) -> dict[str, Any]:
        """What tells these data from others: their number, a mark of what they hold, and how they are read."""
        told = {"data": self.kind, "examples": self.count, "mark": self.mark()}
        return told | {"columns": [list(self.reader.columns), self.reader.label], "prepare": self.prepared()}

    def names_of(self, classes: Sequence[str]) -> Names:
        """What the data call things; `classes` are the model's, if the data's are these."""
        return Names(tuple(self.names), tuple(classes), tuple(self.classes) if self.named else ())

    def prepared(self) -> str | None:
        """What `prepare` is."""
        return None if self.reader.prepare is None else lasting(identity(self.reader.prepare))

    def mark(self) -> str:
        """Hashes of what stands at the beginning, in the middle and at the end."""
        count = self.count or 0
        return " ".join(mark_of([self.read(place, place + 1)]) for place in sorted({0, count // 2, max(count - 1, 0)}) if place < count)


def lasting(words: str) -> str:
    """Without the addresses of objects, which are others in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", words)


def mark_of(read: Iterable[Rows]) -> str:
    """A hash of the inputs and labels; `LOST` where nothing could be read."""
    digest, some = hashlib.blake2b(digest_size=8), False
    for rows in read:
        some = some or len(rows) > 0
        parts = rows.inputs.items() if isinstance(rows.inputs, Mapping) else enumerate(rows.inputs)
        for name, value in parts:
            digest.update(hash_of([(str(name), value)]).encode() if isinstance(value, Tensor) else f"{name}{value!r}".encode())
        digest.update(repr(rows.labels).encode())
    return digest.hexdigest() if some else LOST


def told(error: BaseException) -> str:
    """An error in one line, as it is kept."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
