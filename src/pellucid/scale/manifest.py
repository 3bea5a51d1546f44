"""Which blocks are done: lines that are only ever added, a file for each worker, so that nobody waits for another."""

from __future__ import annotations

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
    """One line: a block that is stored, what it holds and what it cost."""

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
            self._file = self.path.open("ab")
        self._file.write((json.dumps(dict(words)) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more lines for now."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Manifest:
    """What all lines say together, in a byte for each block; `refresh` reads only what is new."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "manifest"
        self.stored = bytearray()
        self.count = 0
        self.total = Done(-1, 0)
        self.blocks: int | None = None  # how many there are, once the end of a stream has been seen
        self.examples: int | None = None
        self._read: dict[str, int] = {}
        self.refresh()

    def __contains__(self, number: int) -> bool:
        return number < len(self.stored) and bool(self.stored[number])

    def refresh(self) -> Manifest:
        """Read the lines that came since; half a line, cut off when a worker was killed, is none."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path.name, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path.name] = self._read.get(path.name, 0) + len(line)
                    self._take(line)
        return self

    def _take(self, line: bytes) -> None:
        try:
            words = json.loads(line)
        except ValueError:
            return
        if "end" in words:
            self.blocks, self.examples = words["end"], words["examples"]
        elif words["block"] not in self:
            done = Done(**{field.name: words[field.name] for field in fields(Done) if field.name in words})
            self.stored.extend(bytes(max(0, done.block + 1 - len(self.stored))))
            self.stored[done.block] = 1
            self.count += 1
            self.total = _sum(self.total, done)


def _sum(total: Done, done: Done) -> Done:
    one, other = asdict(total), asdict(done)
    added = {
        name: one[name] + other[name] for name in ("examples", "failed", "unhealthy", "forwards", "backwards", "calls", "seconds", "bytes")
    }
    return Done(-1, **added, peak_memory=max(total.peak_memory, done.peak_memory))
