"""One machine: in this process, or in processes of its own, each with a copy of the model; lost ones are replaced."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

import torch

from .. import errors
from ..errors import FileError, InputError, OptionError, PellucidError, need
from .manifest import Done
from .rows import Rows
from .work import Report, Session, Work, through

__all__ = ["alone_here", "devices_of", "in_processes"]

Block = tuple[int, Rows | None]
AT_ONCE = 3  # blocks that a worker has: one is read, one explained, one written
TRIES = 5  # a block that goes down with so many workers is what kills them


def alone_here(work: Work, blocks: Iterable[Block], report: Report) -> None:
    """In this process; its number of threads is afterwards as before."""
    threads = torch.get_num_threads()
    try:
        through(Session(work), blocks, report)
    finally:
        torch.set_num_threads(threads)


def devices_of(workers: int | str) -> list[str | None]:
    """A device for each worker: of "all", every GPU, or else every core of the CPU; None is where the model is.

    Raises:
        OptionError: no number of workers.
    """
    if workers == "all":
        gpus = torch.cuda.device_count()
        return [f"cuda:{i}" for i in range(gpus)] if gpus else [None] * _cores()
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise OptionError(f"workers is {workers!r}; give a whole number from 1, or 'all' for one on each GPU, or on each core")
    return [None] * workers


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(work: Work, blocks: Iterable[Block], report: Report, devices: list[str | None]) -> None:
    """In so many processes, which are this Python again: no file of the caller is run a second time.

    Raises:
        OptionError: the model or the data cannot be pickled; workers that die before they have done anything.
        FileError: there is no room for what they are given.
    """
    if os.name != "posix":
        raise OptionError('workers in processes of their own need a POSIX system; give workers=1, or engine="ray"')
    threads = max(1, torch.get_num_threads() // len(devices))
    given = pickled(replace(work, threads=threads))
    with tempfile.TemporaryDirectory(prefix="pellucid-") as folder:
        packed = Path(folder) / "work"
        try:
            packed.write_bytes(given)
        except OSError as error:
            raise FileError(f"what workers need cannot be written to {str(folder)!r}: {error}; make room there, or set TMPDIR") from error
        _Crew(packed, devices, iter(blocks), report).run()


def pickled(work: Work) -> bytes:
    """What workers get; classes of a notebook or a script travel along.

    Raises:
        OptionError: something in it cannot be pickled.
    """
    cloudpickle = need("cloudpickle", "scale")
    model, data = "give load=, a function that makes the model, or workers=1", "give data that can be, or workers=1"
    for what, part, remedy in (("the explainer", work.explainer, model), ("the data", work.source, data), ("the run", work, data)):
        try:
            found: bytes = cloudpickle.dumps(part, pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise OptionError(f"{what} cannot be pickled for other processes ({type(error).__name__}: {error}); {remedy}") from error
    return found


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    device: str | None
    blocks: dict[int, Rows | None] = field(default_factory=dict)
    ready: bool = False


@dataclass(eq=False)
class _Crew:
    """The workers, what each has, and what is left."""

    packed: Path
    devices: list[str | None]
    left: Iterator[Block]
    report: Report
    workers: list[_Worker] = field(default_factory=list)
    again: deque[Block] = field(default_factory=deque)
    lost: dict[int, int] = field(default_factory=dict)
    ended: bool = False
    useless: int = 0  # workers that died one after another before they were ready

    def run(self) -> None:
        try:
            self.again.extend(islice(self.left, len(self.devices)))
            self.workers = [self._start(device) for device in self.devices[: len(self.again)]]
            while self.workers and (self.again or not self.ended or any(worker.blocks for worker in self.workers)):
                for pipe in wait([worker.pipe for worker in self.workers]):
                    self._hear(next(worker for worker in self.workers if worker.pipe is pipe))
                self._feed_all()
            self._dismiss()
        finally:
            self._stop()

    def _start(self, device: str | None) -> _Worker:
        ours, theirs = Pipe()
        command = [sys.executable, "-m", "pellucid.scale.process", str(theirs.fileno()), str(self.packed), device or "-"]
        paths = os.pathsep.join([path or os.getcwd() for path in sys.path])
        # A session of its own: Ctrl-C is for the one who started the run, who tells the others.
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=os.environ | {"PYTHONPATH": paths}, start_new_session=True, stdin=subprocess.DEVNULL
        )
        theirs.close()
        return _Worker(process, ours, device)

    def _feed_all(self) -> None:
        """Give out blocks, in turn."""
        for depth in range(AT_ONCE):
            for worker in self.workers:
                if worker.ready and len(worker.blocks) <= depth and (block := self._next()) is not None:
                    worker.blocks[block[0]] = block[1]
                    with suppress(OSError):  # it has died, which shows when it is listened to
                        worker.pipe.send_bytes(pickle.dumps(block, pickle.HIGHEST_PROTOCOL))  # `send` would share tensors' memory

    def _next(self) -> Block | None:
        if self.again:
            return self.again.popleft()
        found = None if self.ended else next(self.left, None)
        self.ended = found is None
        return found

    def _hear(self, worker: _Worker) -> None:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return
        if message == "ready":
            worker.ready, self.useless = True, 0
        elif isinstance(message, Done):
            worker.blocks.pop(message.block, None)
            self.report(message)
        else:
            raise raised(*message)

    def _replace(self, worker: _Worker) -> None:
        """Another in the place of one that died, and what it had is done by whoever is free."""
        code = worker.process.wait()
        worker.pipe.close()
        if not worker.ready:
            self.useless += 1
            if self.useless >= 3:
                raise OptionError(f"workers end (code {code}) before they begin; what they wrote to standard error says why")
        for number, rows in worker.blocks.items():
            self.lost[number] = self.lost.get(number, 0) + 1
            if self.lost[number] >= TRIES:
                raise InputError(
                    f"block {number} was lost with {TRIES} workers (the last ended with code {code}): it may need more memory than there "
                    "is; give a smaller block=, or fewer workers; what is stored stays"
                )
            self.again.append((number, rows))
        self.workers[self.workers.index(worker)] = self._start(worker.device)

    def _dismiss(self) -> None:
        for worker in self.workers:
            with suppress(OSError):
                worker.pipe.send_bytes(pickle.dumps(None))
        for worker in self.workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(10)

    def _stop(self) -> None:
        for worker in self.workers:
            with suppress(OSError):
                worker.pipe.close()
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)
        for worker in self.workers:
            try:
                worker.process.wait(5)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


def raised(kind: str, words: str, trace: str) -> PellucidError:
    """A worker's error, as one of ours."""
    known: Any = getattr(errors, kind, None)
    found = known(words) if isinstance(known, type) and issubclass(known, PellucidError) else InputError(f"{kind}: {words}")
    found.add_note(f"in a worker:\n{trace}")
    return found
