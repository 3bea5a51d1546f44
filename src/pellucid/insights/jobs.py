"""Work for the models: one piece at a time, in order of urgency, with progress, cancelling, and no piece done twice."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from ..errors import OptionError
from .kept import Kept

__all__ = ["Cancelled", "Event", "Job", "Jobs", "Listener", "Ticket", "Work", "told_error"]

Event = dict[str, Any]
Listener = Callable[[Event], None]
QUICK, USUAL, SLOW = 0, 1, 2
OFTEN = 0.1  # seconds between two words of progress


class Cancelled(BaseException):
    """The work was cancelled. Not an `Exception`: what retries after an error of the model must not retry after this."""


class TooLong(BaseException):
    """The work took longer than a request may."""


class Ticket:
    """What a piece of work asks now and then: whether it may go on."""

    def __init__(self, seconds: float, tell: Callable[[int], None]) -> None:
        self.seconds, self.tell = seconds, tell
        self.stop = threading.Event()
        self.used, self.since, self.rows = 0.0, 0.0, 0
        self.expected: int | None = None  # examples that the model will see, if that is known

    def tick(self, rows: int = 0) -> None:
        """So many examples are about to go to the model.

        Raises:
            Cancelled, TooLong: they may not.
        """
        if self.stop.is_set():
            raise Cancelled
        if self.used + time.monotonic() - self.since > self.seconds:
            raise TooLong
        self.rows += rows
        if rows:
            self.tell(self.rows)


Work = Callable[[Ticket], Generator[Event, None, Any]]


def told_error(error: BaseException) -> Event:
    """An error as a value: what a page says of it."""
    if isinstance(error, TooLong):
        return {"type": "TooLong", "message": "the work took longer than a request may, and was stopped; ask for fewer steps or samples"}
    try:
        message = "; ".join([str(error) or "no message", *getattr(error, "__notes__", ())])
    except Exception:  # the user's error, which cannot say what it is
        message = "no message"
    return {"type": type(error).__name__, "message": message[:2000]}


class Job:
    """A piece of work, and who listens to it. When all have left before it ended, it is cancelled (unless it `stays`)."""

    def __init__(self, key: str, work: Work, priority: int, seconds: float, stays: bool) -> None:
        self.key, self.priority, self.stays = key, priority, stays
        self.ticket = Ticket(seconds, self._rows)
        self.steps = work(self.ticket)
        self.state = "queued"
        self.end: Event | None = None
        self.value: Any = None
        self.finished = threading.Event()
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()
        self._told = 0.0

    def listen(self, listener: Listener) -> None:
        """Tell this one too; at once, if all is done."""
        with self._lock:
            if self.end is None:
                self._listeners.append(listener)
                return
        listener(self.end)

    def leave(self, listener: Listener) -> None:
        """Stop telling this one."""
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)
            if self.end is None and not self._listeners and not self.stays:
                self.ticket.stop.set()

    def emit(self, event: Event) -> None:
        """Tell everyone."""
        with self._lock:
            listeners = list(self._listeners)
            if event["kind"] in ENDS:
                self.end, self.state = event, event["kind"]
                self._listeners.clear()
        try:
            for listener in listeners:
                self._tell(listener, event)
        finally:
            if event["kind"] in ENDS:
                self.finished.set()

    def _tell(self, listener: Listener, event: Event) -> None:
        try:
            listener(event)
        except Exception:  # a page that can no longer be told must not stop the work of the others
            self.leave(listener)

    def _rows(self, rows: int) -> None:
        now = time.monotonic()
        if now - self._told > OFTEN:
            self._told = now
            self.emit({"kind": "passes", "passes": rows, "expected": self.ticket.expected})


ENDS = {"result", "error", "cancelled"}


class Jobs:
    """The queue, and the one thread that works it off.

    Args:
        most: how many may wait.
        seconds: how long one may work.
        size: bytes of results that are kept.
    """

    def __init__(self, most: int = 256, seconds: float = 600, size: int = 512 * 2**20) -> None:
        self.most, self.seconds = most, seconds
        self.kept = Kept(size)
        self.computed = 0
        self._live: dict[str, Job] = {}
        self._waiting: list[tuple[int, int, Job]] = []
        self._numbers = itertools.count()
        self._turn = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, key: str, work: Work, listener: Listener | None = None, priority: int = USUAL, stays: bool = False) -> Job:
        """The job of that key: what is kept already, what is under way, or a new one at the end of its queue.

        Raises:
            OptionError: too many wait already.
        """
        with self._turn:
            job = self._live.get(key)
            if job is None or job.ticket.stop.is_set() or job.end is not None:
                job = self._known(key) or self._new(key, work, priority, stays)
            if listener is not None:
                job.listen(listener)
            if job.state == "queued" and listener is not None:
                listener({"kind": "queued", "ahead": self._ahead(job)})
            return job

    def _known(self, key: str) -> Job | None:
        value = self.kept.get(key)
        if value is None:
            return None
        job = Job(key, _nothing, QUICK, self.seconds, True)
        job.value = value
        job.emit({"kind": "result", "value": getattr(value, "told", value)})
        return job

    def _new(self, key: str, work: Work, priority: int, stays: bool) -> Job:
        if len(self._live) >= self.most:
            self._end_given_up()
        if self._closed or len(self._live) >= self.most:
            why = "this session is closed" if self._closed else f"{self.most} pieces of work wait already"
            raise OptionError(f"{why}; wait until some are done, or cancel them")
        job = self._live[key] = Job(key, work, priority, self.seconds, stays)
        heapq.heappush(self._waiting, (priority, next(self._numbers), job))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="pellucid-insights", daemon=True)
            self._thread.start()
        self._turn.notify_all()
        return job

    def _ahead(self, job: Job) -> int:
        place = next((place for place in self._waiting if place[2] is job), None)
        return 0 if place is None else sum(other[:2] < place[:2] for other in self._waiting)

    def _end_given_up(self) -> None:
        """Clear what nobody waits for any more, however much it is, and tell the others once."""
        with self._turn:
            given_up = [place[2] for place in self._waiting if place[2].ticket.stop.is_set()]
            if not given_up:
                return
            self._waiting = [place for place in self._waiting if not place[2].ticket.stop.is_set()]
            heapq.heapify(self._waiting)
        for job in given_up:
            self._end(job, {"kind": "cancelled"})
        self._tell_places()

    def _tell_places(self) -> None:
        with self._turn:
            places = [(ahead, place[2]) for ahead, place in enumerate(sorted(self._waiting, key=lambda place: place[:2]))]
        for ahead, job in places:
            if job.state == "queued":
                job.emit({"kind": "queued", "ahead": ahead})

    def _work(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
            self._end_given_up()
            with self._turn:
                place = heapq.heappop(self._waiting) if self._waiting else None
            if place is not None:
                self._step(place)

    def _step(self, place: tuple[int, int, Job]) -> None:
        """One step of one job; if there are more, it waits again in its old place."""
        job = place[2]
        job.state, job.ticket.since = "running", time.monotonic()
        try:
            job.ticket.tick()
            event = next(job.steps)
            job.ticket.used += time.monotonic() - job.ticket.since
        except StopIteration as done:
            self._finish(job, done.value)
        except Cancelled:
            self._end(job, {"kind": "cancelled"})
        except BaseException as error:  # what failed is told, and work goes on, also after a model that asks to exit
            self._end(job, {"kind": "error", "error": told_error(error)})
        else:
            job.emit({"kind": "progress"} | event)
            with self._turn:
                heapq.heappush(self._waiting, place)
            return
        self._tell_places()

    def _finish(self, job: Job, value: Any) -> None:
        self.computed += 1
        job.value = value
        if hasattr(value, "told"):
            self.kept.put(job.key, value, value.size)
        self._end(job, {"kind": "result", "value": getattr(value, "told", value)})

    def _end(self, job: Job, event: Event) -> None:
        job.steps.close()
        with self._turn:
            if self._live.get(job.key) is job:
                del self._live[job.key]
        job.emit(event)

    def cancel(self, key: str) -> bool:
        """Stop the job of that key, whoever listens; False if there is none."""
        with self._turn:
            job = self._live.get(key)
        if job is not None:
            job.ticket.stop.set()
        return job is not None

    @property
    def waiting(self) -> int:
        """How many are not done."""
        return len(self._live)

    def close(self) -> None:
        """Stop all work; nothing new is taken."""
        with self._turn:
            self._closed = True
            for job in self._live.values():
                job.ticket.stop.set()
            self._turn.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)
        for job in list(self._live.values()):
            job.emit({"kind": "cancelled"})
        self._live.clear()


def _nothing(ticket: Ticket) -> Generator[Event, None, Any]:
    yield from ()
