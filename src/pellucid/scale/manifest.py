"""Which blocks are done: lines that are only ever added, a file for each worker, so that nobody waits for another."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

__all__ = ["Done", "Line", "Manifest"]


@dataclass(frozen=True)
class Done:
    """One line: a block that is stored, what it holds and what it cost; of several attempts, the last counts."""

    block: int
    examples: int
    failed: int = 0
    unhealthy: int = 0
    forwards: int = 0
    backwards: int = 0
    calls: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    bytes: int = 0
    worker: str = ""
    again: bool = False
    attempt: int = 0


class Line:
    """Adds lines to a worker's own file; a line is there when `add` returns, also after a power cut."""

    def __init__(self, folder: Path, worker: str = "") -> None:
        self.worker = worker or f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.path = folder / "manifest" / f"{self.worker}.jsonl"
        self._file: Any = None

    def add(self, words: Mapping[str, Any]) -> None:
        """Append, whole."""
        if self._file is None:
            self.path.parent.mkdir(exist_ok=True)
            self._file = self.path.open("ab", buffering=0)  # nothing is left for close to write, where the disk is full
        line = (json.dumps(dict(words)) + "\n").encode()
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more lines for now."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Manifest:
    """What all lines say together, in a byte for each block; `refresh` reads only what is new.

    Attributes:
        attempts: of blocks that were made again, which attempt counts.
        failing: blocks that hold examples which failed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "manifest"
        self.attempts: dict[int, int] = {}
        self.blocks: int | None = None  # how many there are, once the end of a stream has been seen
        self.examples: int | None = None
        self._begin()
        self.refresh()

    def _begin(self) -> None:
        self.stored = bytearray()
        self.count = 0
        self.total = Done(-1, 0)
        self.failing: set[int] = set()
        self._read: dict[str, int] = {}
        self._outdated = False

    def __contains__(self, number: int) -> bool:
        return number < len(self.stored) and bool(self.stored[number])

    def attempt(self, number: int) -> int:
        """Which attempt at a block counts."""
        return self.attempts.get(number, 0)

    def refresh(self) -> Manifest:
        """Read the lines that came since; half a line, cut off when a worker was killed, is none."""
        self._read_on()
        if self._outdated:  # what was summed holds attempts that no longer count
            self._begin()
            self._read_on()
        return self

    def _read_on(self) -> None:
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path.name, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path.name] = self._read.get(path.name, 0) + len(line)
                    self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            words = json.loads(line)
            if "end" in words:
                self.blocks, self.examples = int(words["end"]), int(words["examples"])
                return
            done = Done(**{field.name: words[field.name] for field in fields(Done) if field.name in words})
            latest = self.attempt(done.block)
            if done.attempt > latest:
                self.attempts[done.block] = done.attempt
            if done.block in self:
                self._outdated = self._outdated or done.attempt > latest
            elif done.attempt >= latest:
                self._add(done)
        except (ValueError, KeyError, TypeError, IndexError):  # no line of ours
            return

    def _add(self, done: Done) -> None:
        total = _sum(self.total, done)
        self.stored.extend(bytes(max(0, done.block + 1 - len(self.stored))))
        self.stored[done.block] = 1
        self.count += 1
        self.total = total
        if done.failed:
            self.failing.add(done.block)


def _sum(total: Done, done: Done) -> Done:
    one, other = asdict(total), asdict(done)
    added = {
        name: one[name] + other[name] for name in ("examples", "failed", "unhealthy", "forwards", "backwards", "calls", "seconds", "bytes")
    }
    return Done(-1, **added, peak_memory=max(total.peak_memory, done.peak_memory))
