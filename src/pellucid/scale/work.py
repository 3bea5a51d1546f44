"""What a worker does: it reads a block, explains it and stores it; reading and storing go on beside the model."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import FileError
from ..model import modules_of
from .block import Answer, answered
from .explainer import DTYPES, Explainer
from .manifest import Done
from .rows import Rows
from .source import Source
from .store import Store
from .tuning import tuned

__all__ = ["Report", "Session", "Work", "through"]

Report = Callable[[Done], None]


@dataclass(frozen=True, eq=False)
class Work:
    """All that a worker needs to know."""

    explainer: Explainer
    source: Source
    folder: Path
    block: int
    seed: int
    strict: bool = False
    threads: int | None = None
    device: str | None = None
    attempts: Mapping[int, int] = field(default_factory=dict)

    def bounds(self, number: int) -> tuple[int, int]:
        """The first example of a block, and the one behind its last."""
        first = number * self.block
        return first, first + self.block if self.source.count is None else min(first + self.block, self.source.count)


class Session:
    """A worker at work: the model is loaded once."""

    def __init__(self, work: Work) -> None:
        if work.threads is not None:
            torch.set_num_threads(work.threads)
        self.work = work
        self.store = Store.open(work.folder)
        explainer = work.explainer.loaded()
        self.ways = tuple(self.store.facts.get("tuned") or ())
        self.explainer = tuned(placed(explainer, work.device), self.ways)
        self.names = work.source.names_of(tuple(self.store.facts["classes"]))

    def read(self, number: int, rows: Rows | None = None) -> Rows | Done:
        """The block's examples, where the model is; or the line, if the block turns out to be stored."""
        first, stop = self.work.bounds(number)
        attempt = self.work.attempts.get(number, 0)
        if self.store.has(number, attempt):
            with suppress(FileError):  # it cannot be read, and is made again
                return self.store.adopt(number, stop - first if rows is None else rows.size, attempt)
        return self.work.source.read(first, stop) if rows is None else rows

    def explain(self, rows: Rows) -> Answer:
        """The answer, and nothing of it on a device."""
        answer = answered(self.explainer, fed(rows, self.explainer), self.work.seed, self.work.strict, self.names)
        if answer.explanation is None or not self.ways:
            return answer
        cost = replace(answer.explanation.cost, tuned=self.ways)
        return replace(answer, explanation=replace(answer.explanation, cost=cost))

    def write(self, number: int, answer: Answer) -> Done:
        """Stored."""
        return self.store.write(number, self.work.bounds(number)[0], answer, self.work.attempts.get(number, 0))

    def do(self, number: int, rows: Rows | None = None) -> Done:
        """All of it, one after the other."""
        read = self.read(number, rows)
        return read if isinstance(read, Done) else self.write(number, self.explain(read))

    def close(self) -> None:
        self.store.close()


def placed(explainer: Explainer, device: str | None) -> Explainer:
    """On that device and in its dtype: a copy, if that is another than the model's."""
    roots = modules_of(explainer.model) if explainer.model is not None else ()
    model: Any = explainer.model
    if explainer.dtype is not None or device is not None:
        if not isinstance(model, nn.Module):
            from ..errors import OptionError

            raise OptionError("a dtype or a device is for a module; the model is a function: move what it calls, or give the module")
        parameters = [t for root in roots for t in (*root.parameters(), *root.buffers())]
        wanted = DTYPES.get(explainer.dtype or "")
        odd = any(
            (wanted and t.is_floating_point() and t.dtype != wanted) or (device and t.device != torch.device(device)) for t in parameters
        )
        if odd:
            import copy

            model = copy.deepcopy(model).to(device=device, dtype=wanted)
    return explainer.with_model(model)


def fed(rows: Rows, explainer: Explainer) -> Rows:
    """The examples on the model's device and in the run's dtype."""
    roots = modules_of(explainer.model) if explainer.model is not None else ()
    device = next((p.device for root in roots for p in root.parameters()), None)
    dtype = DTYPES.get(explainer.dtype or "")
    if dtype is None and (device is None or device.type == "cpu"):
        return rows

    def move(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: move(part) for name, part in value.items()}
        if isinstance(value, tuple):
            return tuple(map(move, value))
        return value.to(device, dtype if value.is_floating_point() else None) if isinstance(value, torch.Tensor) else value

    return replace(rows, inputs=move(rows.inputs), keywords=move(dict(rows.keywords)), baselines=move(rows.baselines))


def through(session: Session, blocks: Iterable[tuple[int, Rows | None]], report: Report) -> None:
    """All blocks: one is read ahead, and one is written behind, while one is explained.

    Data that draw at random are read in turn, where their draws and the model's do not meet.
    """
    way = _ahead if session.work.source.quiet else _in_turn
    with _Behind(session, report) as behind, closing(way(session, blocks)) as blocks_read:
        for number, read in blocks_read:
            if isinstance(read, Done):
                behind.report(read)
            else:
                behind.put(number, session.explain(read))


def _in_turn(session: Session, blocks: Iterable[tuple[int, Rows | None]]) -> Generator[tuple[int, Rows | Done]]:
    for number, rows in blocks:
        yield number, session.read(number, rows)


def _ahead(session: Session, blocks: Iterable[tuple[int, Rows | None]]) -> Generator[tuple[int, Rows | Done]]:
    held: queue.Queue[Any] = queue.Queue(1)
    ended = threading.Event()

    def put(value: Any) -> bool:
        while not ended.is_set():
            try:
                held.put(value, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for number, found in _in_turn(session, blocks):
                if not put((number, found)):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=read, daemon=True, name="pellucid-read")
    thread.start()
    try:
        while (found := held.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        ended.set()
        thread.join(1)  # it may wait for a block that never comes


class _Behind:
    """Writes what was explained, one block behind; an error comes up at the next block, or at the end."""

    def __init__(self, session: Session, report: Report) -> None:
        self.session, self.report = session, report
        self._waiting: queue.Queue[tuple[int, Answer] | None] = queue.Queue(1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, daemon=True, name="pellucid-write")

    def __enter__(self) -> _Behind:
        self._thread.start()
        return self

    def put(self, number: int, answer: Answer) -> None:
        self._look()
        self._waiting.put((number, answer))

    def _write(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self._error is None:
                try:
                    self.report(self.session.write(*item))
                except BaseException as error:
                    self._error = error

    def _look(self) -> None:
        if self._error is not None:
            raise self._error

    def __exit__(self, kind: Any, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()
        self.session.close()
        if kind is None:
            self._look()
