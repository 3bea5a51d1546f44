"""What was computed, kept in a folder as it comes, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FileError
from ..files import written
from ..progress import Bar
from .examples import Batch, mark_of, size_of

__all__ = ["Rows", "Store"]

ROWS, SECONDS = 1024, 20.0  # a shard is written after so many examples, or so much time


@dataclass
class _Waiting:
    """Rows that are not stored yet, since when, and what tells the examples that they are about.

    They are in one tensor that grows: small ones, kept one by one, would pin the memory of all that is freed between them.
    """

    since: float = field(default_factory=time.monotonic)
    digest: Any = field(default_factory=hashlib.blake2b)
    held: Tensor = field(default_factory=lambda: torch.empty(0))
    count: int = 0

    @property
    def rows(self) -> Tensor:
        return self.held[: self.count]

    @property
    def enough(self) -> bool:
        return self.count >= ROWS or time.monotonic() - self.since > SECONDS

    def add(self, rows: Tensor) -> None:
        end = self.count + len(rows)
        if end > len(self.held):
            larger = rows.new_empty(max(end, 2 * len(self.held), ROWS), *rows.shape[1:])
            if self.count:
                larger[: self.count] = self.rows
            self.held = larger
        self.held[self.count : end] = rows
        self.count = end


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
                written(told, lambda path: path.write_text(json.dumps(words, indent=1), encoding="utf-8"))
            before = json.loads(told.read_text(encoding="utf-8"))
            before.keys()
        except (OSError, ValueError, AttributeError) as error:
            raise FileError(f"store={str(folder)!r} cannot be used: {error}; name a folder that can be written to") from error
        for name in sorted(before.keys() | words.keys()):
            if before.get(name) != words.get(name):
                raise FileError(
                    f"store={str(folder)!r} belongs to another run: {name} was {before.get(name)!r} and now is {words.get(name)!r}; "
                    "name another folder, or delete this one"
                )

    def tensor(self, name: str, make: Callable[[], tuple[Tensor, str]]) -> tuple[Tensor, str]:
        """A tensor, and words that belong to it: stored under the name, or else made now."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            values, words = make()
            self._keep(path, values, words.encode())
        values, told = self._load(path)
        return values, told.decode()

    def rows(self, name: str, batches: Iterable[Batch], make: Callable[[Batch], Tensor], bar: Bar) -> Rows:
        """`make(batch)`, a row for each example of the batch, of all batches; those that are stored are not made again."""
        found: list[Tensor | Path] = []
        waiting = _Waiting()
        place, skip, stored = 0, 0, b""
        for batch in batches:
            bar.update(size_of(batch))
            if self.folder is None:
                waiting.add(make(batch))
                continue
            if not skip and not waiting.count and (path := self._shard(name, place)).exists():
                rows, stored = self._load(path)
                found.append(path)
                place, skip = place + len(rows), len(rows)
            waiting.digest.update(mark_of(batch))
            if skip:
                skip = self._skipped(skip - size_of(batch), waiting, stored)
                continue
            waiting.add(make(batch))
            if waiting.enough:
                place += self._flush(name, place, waiting, found)
                waiting = _Waiting()
        self._flush(name, place, waiting, found)
        return Rows(found, self)

    def _skipped(self, left: int, waiting: _Waiting, stored: bytes) -> int:
        """How many rows of a stored shard are left; at its end the examples must have been those that it is about."""
        if left < 0:
            raise FileError(f"{str(self.folder)!r} was stored with batches of another size; use the same, or another folder")
        if left == 0:
            if waiting.digest.digest() != stored:
                raise FileError(
                    f"{str(self.folder)!r} was stored for other training examples, or with batches of another size; give the same, or "
                    "another folder"
                )
            waiting.digest = hashlib.blake2b()
        return left

    def _flush(self, name: str, place: int, waiting: _Waiting, found: list[Tensor | Path]) -> int:
        if waiting.count and self.folder is None:
            found.append(waiting.rows)
        elif waiting.count:
            found.append(self._keep(self._shard(name, place), waiting.rows, waiting.digest.digest()))
        return waiting.count

    def _shard(self, name: str, place: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}-{place:010}.safetensors"

    def _keep(self, path: Path, values: Tensor, digest: bytes = b"") -> Path:
        written(path, lambda to: save_file({"values": values.detach().cpu().contiguous()}, to, {"examples": digest.hex()}))
        return path

    def _load(self, path: Path) -> tuple[Tensor, bytes]:
        """What is stored, and what tells its examples."""
        try:
            with safe_open(path, "pt") as file:
                return file.get_tensor("values"), bytes.fromhex((file.metadata() or {}).get("examples", ""))
        except (OSError, SafetensorError, KeyError) as error:
            raise FileError(f"{str(path)!r} cannot be read: {error}; delete it, and it is made again") from error


class Rows:
    """Rows that were made batch by batch, in pieces that are in memory or on disk."""

    def __init__(self, pieces: list[Tensor | Path], store: Store) -> None:
        self._pieces, self._store = pieces, store

    def __iter__(self) -> Iterator[Tensor]:
        for piece in self._pieces:
            yield piece if isinstance(piece, Tensor) else self._store._load(piece)[0]

    def joined(self) -> Tensor:
        """All of them."""
        pieces = list(self)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
