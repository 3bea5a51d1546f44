"""Ray: actors that hold the model take blocks, on whatever machines the cluster has; lost ones are replaced."""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from ..errors import OptionError, need
from .batches import Stream
from .local import pickled, raised
from .manifest import Done
from .work import Report, Session, Work, through

__all__ = ["on_ray"]

AT_ONCE = 4  # blocks of one task: the next is read while one is explained


class Actor:
    """A session in a process of Ray's. What it is asked for twice, because another was lost on the way, it finds stored."""

    def __init__(self, packed: bytes, device: str | None) -> None:
        work = pickle.loads(packed)
        self.session = Session(replace(work, device=device))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The lines of some blocks, or what stopped them."""
        lines: list[str] = []
        try:
            numbers = [int(number) for number in batch["id"]]
            through(self.session, ((number, None) for number in numbers), lambda done: lines.append(json.dumps(asdict(done))))
        except Exception as error:
            lines.append(json.dumps([type(error).__name__, str(error), traceback.format_exc()]))
        return {"line": lines}


def on_ray(work: Work, count: int, report: Report, workers: int | str) -> None:
    """Blocks `0` to `count` through Ray Data, which holds back where results are not taken, and repeats what was lost.

    Raises:
        OptionError: what cannot be pickled, or more workers than the cluster has room for.
    """
    ray, data = need("ray", "scale"), need("ray.data", "scale")
    if isinstance(work.source, Stream):
        raise OptionError("batches that come in one order only cannot be divided among machines; give a data set that has a length")
    packed = pickled(replace(work, threads=1))
    with _cluster(ray):
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        number = (gpus or cpus) if workers == "all" else int(workers)
        if number > (gpus or cpus):
            raise OptionError(
                f"workers is {workers}, but the Ray cluster has {gpus or cpus} {'GPUs' if gpus else 'CPUs'}; give 'all', or fewer"
            )
        context = data.DataContext.get_current()
        shown, log = context.enable_progress_bars, logging.getLogger("ray.data")
        context.enable_progress_bars, level = False, log.level  # there is a bar already
        log.setLevel(logging.ERROR)
        try:
            blocks = data.range(count, override_num_blocks=max(1, -(-count // AT_ONCE)))
            pool = data.ActorPoolStrategy(size=number)
            given = (packed, "cuda" if gpus else None)
            # Half a core in Ray's books: the rest is for what hands out the numbers, which else would wait for ever.
            lines = blocks.map_batches(
                Actor, fn_constructor_args=given, batch_size=AT_ONCE, compute=pool, num_gpus=1 if gpus else None, num_cpus=0.5
            )
            for row in lines.iter_rows():
                _hear(json.loads(row["line"]), report)
        finally:
            context.enable_progress_bars = shown
            log.setLevel(level)


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """The cluster that is connected, or else one of this machine, for as long as the run."""
    if ray.is_initialized():
        yield
        return
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": {"PYTHONPATH": paths}})
    try:
        yield
    finally:
        ray.shutdown()


def _hear(message: Any, report: Report) -> None:
    if isinstance(message, list):
        raise raised(*message)
    report(Done(**message))
