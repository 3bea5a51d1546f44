"""A folder that a run fills block by block: a block is there whole, or not at all, and is never written twice.

run.json                    which run this is; another is not mixed in
manifest/WORKER.jsonl       a line for each block that is done, only ever added to
blocks/000/0000000012.safetensors   the explanation of the block's examples, as `Explanation.save` writes it
blocks/000/0000000012.parquet       a row for each example: prediction, score, health, cost, error
blocks/000/0000000012.1.parquet     the same of a block that was made a second time, instead of the first
arrays.zarr                 the large tensors of all blocks, if the run keeps them so
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FileError, OptionError, need
from ..explanation import Explanation
from .arrays import Arrays
from .block import Answer
from .columns import COLUMNS, columns_of
from .manifest import Done, Line, Manifest
from .source import LOST

__all__ = ["FORMAT", "Store"]

FORMAT = "pellucid-run-1"
BIG = ("attributions", "features", "errors")
ENDINGS = ("safetensors", "parquet")
IN_A_FOLDER = 1000
AGAIN = "what is stored stays; make room and run again: it goes on where it was"


class Store:
    """The folder of a run.

    Attributes:
        facts: what `run.json` says.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder, self.facts = folder, dict(facts)
        self.arrays = Arrays(folder / "arrays.zarr", facts["tensors"]) if facts["arrays"] == "zarr" else None
        self._line: Line | None = None
        self._known: Manifest | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """A store that is there.

        Raises:
            FileError: it is none.
        """
        path = Path(folder)
        try:
            facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise ValueError(f"format {facts['format']!r} is not {FORMAT!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(
                f"{str(folder)!r} holds no run of pellucid ({type(error).__name__}: {error}); give the folder of one"
            ) from error
        return cls(path, facts)

    @classmethod
    def begin(cls, folder: Path, facts: Mapping[str, Any]) -> Store:
        """A new store in an empty folder.

        Raises:
            FileError: it cannot be written, or holds something else.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            others = [entry.name for entry in os.scandir(folder) if entry.name not in ("lock", "run.json")]
            if others:
                raise FileError(f"out={str(folder)!r} holds other files ({others[0]}); name a folder that is empty, or not there yet")
            words = json.dumps({"format": FORMAT, **facts}, indent=1)
            _whole(folder / "run.json", lambda path: path.write_text(words, encoding="utf-8"))
        except OSError as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"out={str(folder)!r} cannot be used: {error}; name a folder that can be written to") from error
        return cls.open(folder)

    def check(self, run: Mapping[str, Any]) -> None:
        """Whether this is that run.

        Raises:
            FileError: it is another.
        """
        before, now = self.facts["run"], json.loads(json.dumps(dict(run), default=str))
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name) and not (name == "mark" and _same_mark(before.get(name), now.get(name))):
                raise FileError(
                    f"out={str(self.folder)!r} belongs to another run: {name} was {_short(before.get(name))} and now is "
                    f"{_short(now.get(name))}; name another folder, or delete this one"
                )

    def mended(self, mark: Any) -> None:
        """The data have another mark from now on.

        Raises:
            FileError: it cannot be written.
        """
        self.facts["run"] = self.facts["run"] | {"mark": mark}
        try:
            _whole(self.folder / "run.json", lambda path: path.write_text(json.dumps(self.facts, indent=1), encoding="utf-8"))
        except OSError as error:
            raise FileError(f"out={str(self.folder)!r} cannot be written to: {error}; {AGAIN}") from error

    @staticmethod
    def clean(folder: Path) -> None:
        """Halves of files that a killed worker left behind go; nobody may be writing."""
        for path in (*folder.glob("*.part*"), *folder.glob("blocks/*/*.part*")):
            path.unlink(missing_ok=True)

    def path(self, number: int, ending: str, attempt: int = 0) -> Path:
        """Where a block lies."""
        which = f".{attempt}" if attempt else ""
        return self.folder / "blocks" / f"{number // IN_A_FOLDER:03}" / f"{number:010}{which}.{ending}"

    def has(self, number: int, attempt: int = 0) -> bool:
        """Whether the block's files are there: each was renamed when it was whole, the shard first."""
        return all(self.path(number, ending, attempt).exists() for ending in ENDINGS)

    def adopt(self, number: int, examples: int, attempt: int = 0) -> Done:
        """A block that is there after all: another worker had it before, or was killed between the last file and the line.

        Only then a line is added.

        Raises:
            FileError: it cannot be read.
        """
        if self._known is None:
            self._known = Manifest(self.folder)
        if number in self._known.refresh() and self._known.attempt(number) >= attempt:
            return Done(number, examples, again=True)
        rows = self.rows(number, attempt=attempt).to_pydict()
        done = Done(
            number, examples, sum(e is not None for e in rows["error"]),
            sum(not h for h, e in zip(rows["healthy"], rows["error"], strict=True) if e is None),
            round(sum(f or 0 for f in rows["forwards"])), round(sum(b or 0 for b in rows["backwards"])),
            seconds=sum(s or 0 for s in rows["seconds"]), bytes=self._bytes(number, attempt), again=True, attempt=attempt,
        )  # fmt: skip
        return self._told(done)

    def write(self, number: int, first: int, answer: Answer, attempt: int = 0) -> Done:
        """One block: the shard, the rows, the line, in this order; then earlier attempts go.

        Raises:
            FileError: no room, or no right to write.
        """
        try:
            columns = columns_of(answer, first)
            folder = self.path(number, "").parent
            folder.mkdir(parents=True, exist_ok=True)
            self._write_shard(self.path(number, "safetensors", attempt), first, answer)
            _whole(self.path(number, "parquet", attempt), lambda path: _write_rows(columns, path))
            _settle(folder)
            done = self._told(self._done(number, answer, columns, attempt))
            for path in (self.path(number, ending, before) for before in range(attempt) for ending in ENDINGS):
                path.unlink(missing_ok=True)
            return done
        except (OSError, SafetensorError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"block {number} cannot be written to {str(self.folder)!r}: {error}; {AGAIN}") from error

    def _done(self, number: int, answer: Answer, columns: Mapping[str, list[Any]], attempt: int) -> Done:
        unhealthy = sum(not h for h, e in zip(columns["healthy"], columns["error"], strict=True) if e is None)
        cost = {} if answer.explanation is None else asdict(answer.explanation.cost)
        cost.pop("tuned", None)  # stands in the facts of the run
        size, failed = answer.rows.size, len(answer.failed)
        return Done(number, size, failed, unhealthy, **cost, bytes=self._bytes(number, attempt), attempt=attempt)

    def _bytes(self, number: int, attempt: int) -> int:
        return sum(self.path(number, ending, attempt).stat().st_size for ending in ENDINGS)

    def _told(self, done: Done) -> Done:
        if self._line is None:
            self._line = Line(self.folder)
        done = replace(done, worker=self._line.worker)
        self._line.add(asdict(done))
        return done

    def close(self) -> None:
        """Nothing more is written."""
        if self._line is not None:
            self._line.close()

    def _write_shard(self, file: Path, first: int, answer: Answer) -> None:
        tensors, words = _told_by(answer.explanation, self.facts["keep_inputs"])
        if self.arrays is not None:
            big = {name: tensor for name, tensor in tensors.items() if name in self.arrays.tensors}
            self.arrays.write(first, answer.rows.size, answer.places, big)
            tensors = {name: tensor for name, tensor in tensors.items() if name not in big}
        told = {"pellucid": json.dumps(words, default=str)} if words else {}
        _whole(file, lambda path: save_file(tensors, path, told))

    def words(self, number: int, attempt: int = 0) -> dict[str, Any] | None:
        """What is said of the block in words; None of a block in which every example failed."""
        with self._reading(number, attempt) as file:
            told = (file.metadata() or {}).get("pellucid")
            return None if told is None else json.loads(told)

    def tensors(
        self, number: int, start: int, stop: int, first: int, places: list[int], only: str = "", attempt: int = 0
    ) -> dict[str, Tensor]:
        """Of the block's explanation, rows `start` to `stop`; `places` are all its rows' places in the block."""
        with self._reading(number, attempt) as file:
            found = {}
            for name in file.keys():  # noqa: SIM118
                if only and not name.startswith(only):
                    continue
                part = file.get_slice(name)
                whole = part.get_shape()[:1] != [len(places)] or name.split(".")[0] in ("picture", "part", "gallery")
                found[name] = file.get_tensor(name) if whole else part[start:stop]
        if self.arrays is not None:
            found |= self.arrays.read(first, places[start:stop], only)
        return found

    @contextmanager
    def _reading(self, number: int, attempt: int) -> Iterator[Any]:
        path = self.path(number, "safetensors", attempt)
        try:
            with safe_open(path, "pt") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise FileError(f"{str(path)!r} cannot be read: {error}; delete it and run again, and it is made again") from error

    def rows(self, number: int, columns: list[str] | None = None, attempt: int = 0) -> Any:
        """The block's rows, a pyarrow table.

        Raises:
            FileError: the file cannot be read.
        """
        path = self.path(number, "parquet", attempt)
        try:
            return need("pyarrow.parquet", "scale").read_table(path, columns=columns)
        except (OSError, ValueError) as error:
            raise FileError(f"{str(path)!r} cannot be read: {error}; delete it and run again, and it is made again") from error


def _told_by(explanation: Explanation | None, inputs: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and words of an explanation; of a baseline that all examples share, one row."""
    if explanation is None:
        return {"none": torch.zeros(0)}, {}
    if explanation.baselines is not None:
        explanation = replace(explanation, baselines=tuple(map(_shared, explanation.baselines)))
    tensors = {name: tensor for name, tensor in explanation._tensors() if inputs or not name.startswith("features.")}
    return tensors, explanation._words()


def _shared(rows: Tensor) -> Tensor:
    return rows[:1] if len(rows) > 1 and (rows.stride(0) == 0 or torch.equal(rows, rows[:1].expand_as(rows))) else rows


def _same_mark(before: Any, now: Any) -> bool:
    """Whether each example that could be read both times has the mark that it had."""
    one, other = str(before).split(" "), str(now).split(" ")
    return len(one) == len(other) and all(a == b or LOST in (a, b) for a, b in zip(one, other, strict=True))


def _write_rows(columns: Mapping[str, list[Any]], path: Path) -> None:
    arrow, parquet = need("pyarrow", "scale"), need("pyarrow.parquet", "scale")
    values = {name: arrow.array(columns[name], None if kind is None else getattr(arrow, kind)()) for name, kind in COLUMNS.items()}
    parquet.write_table(arrow.table(values), path, compression="zstd")


def _whole(path: Path, write: Any) -> None:
    """A file appears when all of it is on the disk."""
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    try:
        write(part)
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """The names in the folder are on the disk, too."""
    with suppress(OSError):  # folders cannot be opened everywhere
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _short(value: Any) -> str:
    return text if len(text := repr(value)) <= 80 else f"{text[:77]}..."


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While the block runs, no other run writes here; the lock goes with the process.

    Raises:
        OptionError: another does. FileError: the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("ab")
    except OSError as error:
        raise FileError(f"out={str(folder)!r} cannot be used: {error}; name a folder that can be written to") from error
    with file:
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OptionError(f"another run is writing to out={str(folder)!r}; wait for it, or name another folder") from error
        yield
