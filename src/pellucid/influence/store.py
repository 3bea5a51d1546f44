"""What was computed, kept in a folder as it comes, so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import FileError
from ..progress import Bar
from .examples import Batch, size_of

__all__ = ["Rows", "Store"]

ROWS, SECONDS = 1024, 20.0  # a shard is written after so many examples, or so much time


class Store:
    """A folder of safetensors files that belongs to one run; without a folder everything stays in memory.

    Args:
        run: words and numbers that say which run this is; what was stored by another is refused.

    Raises:
        FileError: the folder cannot be used, or belongs to another run.
    """

    def __init__(self, folder: str | Path | None = None, run: Mapping[str, Any] | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        words = json.loads(json.dumps(dict(run or {}), default=str))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            told = self.folder / "run.json"
            if not told.exists():
                _written(told, lambda path: path.write_text(json.dumps(words, indent=1), encoding="utf-8"))
            before = json.loads(told.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileError(f"store={str(folder)!r} cannot be used: {error}; name a folder that can be written to") from error
        for name in sorted(before.keys() | words.keys()):
            if before.get(name) != words.get(name):
                raise FileError(
                    f"store={str(folder)!r} belongs to another run: {name} was {before.get(name)!r} and now is {words.get(name)!r}; "
                    "name another folder, or delete this one"
                )

    def tensor(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What is stored under the name, or else what is made now."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.safetensors"
        return self._load(path) if path.exists() else self._keep(path, make())

    def rows(self, name: str, batches: Iterable[Batch], make: Callable[[Batch], Tensor], bar: Bar) -> Rows:
        """`make(batch)`, a row for each example of the batch, of all batches; those that are stored are not made again."""
        found: list[Tensor | Path] = []
        waiting: list[Tensor] = []
        place, since, skip = 0, time.monotonic(), 0
        for batch in batches:
            size = size_of(batch)
            bar.update(size)
            if skip == 0 and not waiting and (path := self._shard(name, place)) is not None and path.exists():
                found.append(path)
                skip = len(self._load(path))
                place += skip
            if skip:
                skip -= size
                if skip < 0:
                    raise FileError(f"{str(self.folder)!r} was stored with batches of another size; use the same, or another folder")
                continue
            waiting.append(make(batch))
            if self.folder is not None and (sum(map(len, waiting)) >= ROWS or time.monotonic() - since > SECONDS):
                place += self._flush(name, place, waiting, found)
                since = time.monotonic()
        self._flush(name, place, waiting, found)
        return Rows(found, self)

    def _flush(self, name: str, place: int, waiting: list[Tensor], found: list[Tensor | Path]) -> int:
        if not waiting:
            return 0
        rows, path = torch.cat(waiting), self._shard(name, place)
        if path is not None:
            self._keep(path, rows)
        found.append(rows if path is None else path)
        waiting.clear()
        return len(rows)

    def _shard(self, name: str, place: int) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}-{place:010}.safetensors"

    def _keep(self, path: Path, values: Tensor) -> Tensor:
        _written(path, lambda to: save_file({"values": values.detach().cpu().contiguous()}, to))
        return values

    def _load(self, path: Path) -> Tensor:
        try:
            return load_file(path)["values"]
        except (OSError, SafetensorError, KeyError) as error:
            raise FileError(f"{str(path)!r} cannot be read: {error}; delete it, and it is made again") from error


class Rows:
    """Rows that were made batch by batch, in pieces that are in memory or on disk."""

    def __init__(self, pieces: list[Tensor | Path], store: Store) -> None:
        self._pieces, self._store = pieces, store

    def __iter__(self) -> Iterator[Tensor]:
        for piece in self._pieces:
            yield piece if isinstance(piece, Tensor) else self._store._load(piece)

    def joined(self) -> Tensor:
        """All of them."""
        return torch.cat(list(self))


def _written(path: Path, write: Callable[[Path], Any]) -> None:
    """Whole, or not at all: an interruption leaves no half of a file behind.

    Raises:
        FileError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    try:
        write(part)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise FileError(f"cannot write {str(path)!r}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
