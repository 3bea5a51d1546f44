"""How things are measured: interleaved repetitions in one process, peaks of memory in processes of their own."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping

Work = Callable[[], object]
LEAST = 0.02


def interleaved(works: Mapping[str, Work], rounds: int = 7, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each work in each round; in every round all works run in turn, short ones often enough for `LEAST`."""
    for _ in range(warmup):
        for work in works.values():
            work()
    times = {name: max(1, round(LEAST / _seconds(work, 1))) for name, work in works.items()}
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(_seconds(work, times[name]) / times[name])
    return found


def _seconds(work: Work, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        work()
    return time.perf_counter() - start


def ratio(found: Mapping[str, list[float]], over: str, under: str) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(found[over], found[under], strict=True))


def median(found: Mapping[str, list[float]], name: str) -> float:
    """Median seconds."""
    return statistics.median(found[name])


def _peak(make: Callable[[], Work], pipe: object) -> None:
    work = make()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = _status("VmRSS")
    work()
    pipe.send(_status("VmHWM") - before)  # type: ignore[attr-defined]


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))


def peak_memory(make: Callable[[], Work]) -> int:
    """Bytes by which the resident size rises while `make()()` runs, in a fresh process (Linux)."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(make, there))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return int(found)
