"""torchrun: this program runs in several processes, and each takes its share of the blocks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ..errors import OptionError
from .local import raised

__all__ = ["Ranks", "ranks"]

PAUSE = 0.05

X = TypeVar("X")


@dataclass
class Ranks:
    """Where a process stands among the others. They meet at torchrun's store, which survives the death of any of them.

    Attributes:
        device: its own GPU, if there are any.
    """

    rank: int
    size: int
    store: Any
    device: str | None
    meetings: int = 0

    def share(self, blocks: Iterator[X]) -> Iterator[X]:
        """Every so many-th of what is left, beginning with its own number."""
        return islice(blocks, self.rank, None, self.size)

    def wait(self) -> None:
        """Until all are here, however long that takes."""
        self.meetings += 1
        for name in ("here", "seen") if self.rank == 0 else ("here",):
            self.store.add(f"{name} {self.meetings}", 1)
            while self.store.add(f"{name} {self.meetings}", 0) < self.size:
                time.sleep(PAUSE)
        if self.rank:  # the first may keep the store, and leaves when nobody asks any more
            self.store.add(f"seen {self.meetings}", 1)

    def first(self, work: Callable[[], Any]) -> None:
        """The first rank does it, while the others wait; what it raises, all raise.

        Raises:
            PellucidError: what the first rank raised.
        """
        if self.rank == 0:
            try:
                work()
            except Exception as error:
                self.store.set("first", json.dumps([type(error).__name__, str(error), "the first rank"]))
                raise
            self.store.set("first", "[]")
        else:
            while not self.store.check(["first"]):
                time.sleep(PAUSE)
            if told := json.loads(self.store.get("first")):
                raise raised(*told)


@contextmanager
def ranks() -> Iterator[Ranks]:
    """The processes that torchrun started.

    Raises:
        OptionError: torchrun did not start this.
    """
    if not dist.is_available():
        raise OptionError("this torch was built without torch.distributed; give engine='local'")
    if not dist.is_initialized() and "RANK" not in os.environ:
        raise OptionError("engine='torchrun' is for a program that torchrun started: torchrun --nproc-per-node 2 script.py")
    if dist.is_initialized():
        store, rank, size = dist.distributed_c10d._get_default_store(), dist.get_rank(), dist.get_world_size()
    else:
        store, rank, size = next(iter(rendezvous("env://")))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = f"cuda:{local % torch.cuda.device_count()}" if torch.cuda.is_available() else None
    _runs.append(rank)
    # torchrun keeps its store when it starts all ranks again: what an earlier attempt said there is none of ours.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    yield Ranks(rank, size, PrefixStore(f"pellucid {attempt} of {size} {len(_runs)}", store), device)


_runs: list[int] = []  # every rank calls run as often as the others
