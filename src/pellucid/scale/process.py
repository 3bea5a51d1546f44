"""A worker process: blocks come through a pipe, lines go back; it ends when the pipe does."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue
from typing import Any

__all__ = ["main"]


def main(handle: int, packed: str, device: str) -> None:
    """Until there is nothing left to do."""
    pipe = Connection(handle)
    try:
        from .work import Session, through

        work = pickle.loads(Path(packed).read_bytes())
        session = Session(replace(work, device=None if device == "-" else device))
        waiting: Queue[Any] = Queue()
        threading.Thread(target=_listen, args=(pipe, waiting), daemon=True).start()
        sending = threading.Lock()

        def report(message: Any) -> None:
            with sending:
                pipe.send(message)

        report("ready")
        through(session, _blocks(waiting), report)
    except BaseException as error:
        pipe.send((type(error).__name__, str(error), traceback.format_exc()))
        raise SystemExit(1) from error


def _listen(pipe: Connection, waiting: Queue[Any]) -> None:
    """Where the one who started the run is gone, nobody wants the rest: the process ends at once."""
    while True:
        try:
            message = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)
        except Exception:  # what cannot be unpickled here would else be waited for
            traceback.print_exc()
            os._exit(1)
        waiting.put(message)
        if message is None:
            return


def _blocks(waiting: Queue[Any]) -> Iterator[Any]:
    while (message := waiting.get()) is not None:
        yield message


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
