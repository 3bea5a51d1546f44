"""`python -m benchmarks.scale`: what a run over a data set costs beside a bare loop, with one process and two, on Ray, on the disk.

All times are wall-clock unless they say CPU. On a machine that is busy with other work, wall-clock ratios of processes say little:
the CPU seconds beside them tell what the engine itself takes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pellucid
from pellucid import zoo
from pellucid.scale import Explainer, run
from pellucid.scale.block import Answer
from pellucid.scale.rows import Rows
from pellucid.scale.store import FORMAT, Store
from pellucid.zoo.data import digits

EXAMPLES, STEPS, BLOCK, ROUNDS = 10_000, 20, 256, 3
SIZES = (1_000, 100_000)
MEGABYTES = 512

Row = tuple[str, str, str]


def pictures(count: int) -> Tensor:
    """Digits, over and over."""
    x = digits().train.x
    return x.repeat(-(-count // len(x)), 1, 1, 1)[:count]


def used() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def taken(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), used()
    work()
    return time.perf_counter() - wall, used() - cpu


def loop(x: Tensor, model: nn.Module) -> None:
    """What one would write without an engine; nothing is kept."""
    for start in range(0, len(x), BLOCK):
        pellucid.explain(model, x[start : start + BLOCK], steps=STEPS, seed=0, progress=False)


def over(x: Tensor, model: nn.Module, **options: Any) -> Any:
    """A run into a folder that goes away."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("PELLUCID_BENCH_DIR")) as folder:
        return run(Explainer(model, steps=STEPS), x, Path(folder) / "run", block=BLOCK, tune=False, progress=False, **options).total


def overhead() -> Iterator[Row]:
    """In turn, so that whatever else the machine does falls on both."""
    model, x = zoo.digits().model, pictures(EXAMPLES)
    over(x[:BLOCK], model)
    ratios = []
    for _ in range(ROUNDS):
        bare, ours = taken(lambda: loop(x, model)), taken(lambda: over(x, model))
        ratios.append((ours[0] / bare[0], ours[1] / bare[1]))
    wall, cpu = (statistics.median(r[i] for r in ratios) for i in range(2))
    words = f"{100 * (wall - 1):+.1f} % wall, {100 * (cpu - 1):+.1f} % CPU"
    yield f"overhead over a bare loop, {EXAMPLES} digits, IG {STEPS}", words, "<= 5 %"


def rate(x: Tensor, model: nn.Module, workers: int, engine: str = "local") -> float:
    """Examples a second between the first block of the last worker to begin and the last block of all: starting up does not count."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("PELLUCID_BENCH_DIR")) as folder:
        options: dict[str, Any] = {"block": BLOCK, "tune": False, "progress": False, "workers": workers, "engine": engine}
        run(Explainer(model, steps=STEPS), x, Path(folder) / "run", **options)
        done = {path: path.stat().st_mtime for path in (Path(folder) / "run" / "blocks").rglob("*.parquet")}
        lines = [[json.loads(line)["block"] for line in path.open()] for path in (Path(folder) / "run" / "manifest").iterdir()]
        times = sorted(done.values())
        first = max(min(t for path, t in done.items() if int(path.stem) in blocks) for blocks in lines)
    return BLOCK * sum(t > first for t in times) / (times[-1] - first)


def speedup() -> Iterator[Row]:
    """In turn."""
    model, x = zoo.digits().model, pictures(2 * EXAMPLES)
    ratio = statistics.median(rate(x, model, 2) / rate(x, model, 1) for _ in range(ROUNDS))
    yield "two processes against one, after start-up", f"{ratio:.2f} x", ">= 1.7 x"


def on_ray() -> Iterator[Row]:
    """One actor against this process, after start-up."""
    import ray

    model, x = zoo.digits().model, pictures(EXAMPLES)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ratios = [len(x) / taken(lambda: loop(x, model))[0] / rate(x, model, 1, "ray") for _ in range(ROUNDS)]
    ray.shutdown()
    yield "Ray, one actor, over a bare loop, after start-up", f"{100 * (statistics.median(ratios) - 1):+.1f} % wall", "<= 5 %"


def disk() -> Iterator[Row]:
    """Blocks of pictures' size, against one plain write and sync of as many bytes."""
    x = torch.rand(55, 3, 224, 224)
    explanation = pellucid.Explanation((x,), (x.clone(),), torch.zeros(55), "saliency", "output")
    blocks = MEGABYTES * 2**20 // (2 * x.numel() * 4)
    with tempfile.TemporaryDirectory(dir=os.environ.get("PELLUCID_BENCH_DIR")) as folder:
        facts = {"format": FORMAT, "arrays": "safetensors", "keep_inputs": True, "block": 55, "run": {}}
        store = Store.begin(Path(folder) / "run", facts)
        answer = Answer(explanation, tuple(range(55)), Rows((x,), tuple(range(55)), 55), {})

        def ours() -> None:
            for number in range(blocks):
                store.write(number, number * 55, answer)

        def plain() -> None:
            values = memoryview(torch.cat([x, x]).numpy()).cast("B")
            for number in range(blocks):
                with open(Path(folder) / f"plain {number}", "wb") as file:
                    file.write(values)
                    file.flush()
                    os.fsync(file.fileno())

        speeds = [blocks * 2 * x.numel() * 4 / 2**20 / taken(work)[0] for work in (ours, plain)]
    yield "the store, 63 MiB a block, every block synced", f"{speeds[0]:.0f} MiB/s; the disk itself {speeds[1]:.0f}", ">= 200 or the disk's"


MEMORY = """
import resource, sys, tempfile, torch
from torch import nn
from torch.utils.data import Dataset
from pellucid.scale import Explainer, run

class Made(Dataset):
    def __len__(self): return int(sys.argv[1])
    def __getitem__(self, i): return torch.full((6,), float(i % 97))

torch.set_num_threads(1)
net = nn.Linear(6, 3)
with tempfile.TemporaryDirectory() as folder:
    def rise(count, where):
        sys.argv[1] = str(count)
        options = dict(block=256, progress=False, keep_inputs=False, workers=int(sys.argv[2]))
        run(Explainer(net, "gradient", 0), Made(), f"{folder}/{where}", **options)
    rise(1000, "first")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rise(int(sys.argv[3]), "second")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def memory() -> Iterator[Row]:
    """By how much the process that drives a run grows, after one of 1000 examples."""
    for workers in (1, 2):
        grown = []
        for count in SIZES:
            done = subprocess.run(
                [sys.executable, "-c", MEMORY, "1000", str(workers), str(count)], capture_output=True, text=True, check=True
            )
            grown.append(int(done.stdout.split()[-1]) / 1024)
        who = "the driver of two workers" if workers == 2 else "one process"
        yield f"memory of {who}, {SIZES[0]} and {SIZES[1]} examples", f"{grown[0]:+.1f} and {grown[1]:+.1f} MiB", "the same"


PARTS = {"overhead": overhead, "speedup": speedup, "disk": disk, "memory": memory, "ray": on_ray}


def main() -> None:
    """Print the table, or the parts that are named."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    chosen = [name for name in sys.argv[1:] if name in PARTS] or list(PARTS)
    print(f"{'what':62} {'measured':44} goal")
    for name in chosen:
        for what, figure, goal in PARTS[name]():
            print(f"{what:62} {figure:44} {goal}", flush=True)


if __name__ == "__main__":
    main()
