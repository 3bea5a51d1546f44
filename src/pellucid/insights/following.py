"""A request under way: its jobs, and who is told of them."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import OptionError
from .jobs import ENDS, Event, Job, Jobs, Listener, Work, told_error

__all__ = ["Following"]


class Following:
    """The jobs of one request; `tell` hears of each, and None when all are done."""

    def __init__(self, queue: Jobs, tell: Callable[[Event | None], None]) -> None:
        self.queue, self.tell = queue, tell
        self.jobs: list[tuple[Job, Listener]] = []
        self.open = 1

    def begin(self, number: int, key: str, work: Work, priority: int, stays: bool = False) -> None:
        """Have a job done; one that cannot be taken is told as an error."""
        listener = self._listener(number)
        try:
            job = self.queue.submit(key, work, listener, priority, stays)
        except OptionError as error:
            listener({"kind": "error", "error": told_error(error)})
        else:
            self.jobs.append((job, listener))

    def refuse(self, number: int, error: Exception) -> None:
        """There is no job of that number, and why."""
        self._listener(number)({"kind": "error", "error": told_error(error)})

    def _listener(self, number: int) -> Listener:
        """For the job of that number; nothing is told after its end."""
        ended: list[bool] = []

        def listen(event: Event) -> None:
            if ended:
                return
            if event["kind"] in ENDS:
                ended.append(True)
            self.tell({"n": number} | event)
            if ended:
                self.done()

        self.open += 1
        return listen

    def done(self) -> None:
        """One less is under way."""
        self.open -= 1
        if self.open == 0:
            self.tell(None)

    def stop(self) -> None:
        """No longer interested: what nobody else waits for is cancelled."""
        for job, listener in self.jobs:
            job.leave(listener)
