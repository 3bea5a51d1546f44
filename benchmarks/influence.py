"""`python -m benchmarks.influence`: TracIn's time and memory beside Captum's, and how well wrong labels are found.

A plain pass is what training does: forward, the summed loss, and its gradient with respect to all parameters, of the same rows in
the same batches, once for each checkpoint. Reading the data and the checkpoints is not part of it, except where that is said.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import functools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import captum
import captum.influence
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pellucid.captum.influence
from benchmarks.measure import Work, interleaved, median, peak_memory, ratio
from benchmarks.models import mlp
from pellucid.dynamics import SUSPICIONS, Recorder, suspicion
from pellucid.influence import Checkpoints, self_influence
from pellucid.zoo.data import digits

CHECKPOINTS, BATCH, SMALLER = 2, 64, 32
SEEDS, FLIPPED, EPOCHS = (3, 4, 5), 0.05, 30
GOALS = {"self influence": 0.85, "area_under_margin": 0.9, "learning_epoch": 0.8}

Row = tuple[str, str, str]


def perceptron() -> nn.Module:
    """85k parameters."""
    return mlp(64, 256, 256, 10)


def convolutional() -> nn.Module:
    """207k parameters, for pictures of 28 x 28."""
    torch.manual_seed(0)
    stages = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10)).eval()


@dataclass
class Loads:
    """Loads checkpoints, and counts; their folder lives as long."""

    calls: int = 0
    folder: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)

    def __call__(self, model: nn.Module, path: str) -> float:
        self.calls += 1
        model.load_state_dict(torch.load(path))
        return 1.0


@dataclass
class Setting:
    """A model at two random checkpoints, training data and queries, in batches."""

    model: nn.Module
    shape: tuple[int, ...]
    size: int
    queries: int
    loads: Loads = field(default_factory=Loads)

    def __post_init__(self) -> None:
        self.paths = [f"{self.loads.folder.name}/{number}.pt" for number in range(CHECKPOINTS)]
        for seed, path in enumerate(self.paths):
            torch.manual_seed(seed)
            for layer in self.model.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    layer.reset_parameters()
            torch.save(self.model.state_dict(), path)
        self.data = TensorDataset(torch.randn(self.size, *self.shape), torch.randint(10, (self.size,)))
        self.asked = torch.randn(self.queries, *self.shape), torch.randint(10, (self.queries,))

    def tracin(self, library: str, batch: int = BATCH) -> Callable[[], Tensor]:
        """The influence of all training examples on all queries, by `pellucid`, `captum`, or `captum`'s `sample-wise` path."""
        module = pellucid.captum.influence if library == "pellucid" else captum.influence
        by_batch = library == "sample-wise"
        loss = nn.CrossEntropyLoss(reduction="sum" if by_batch else "none")
        method = module.TracInCP(
            self.model, DataLoader(self.data, batch), self.paths, self.loads, loss_fn=loss, sample_wise_grads_per_batch=by_batch
        )
        return functools.partial(method.influence, self.asked)

    def plain(self, reading: bool = False) -> Work:
        """Plain passes; with `reading`, also of the data by a loader and of the checkpoints."""
        loader = DataLoader(self.data, BATCH)
        held = list(loader)
        parameters = list(self.model.parameters())

        def passes() -> None:
            for path in self.paths:
                if reading:
                    self.loads(self.model, path)
                for x, y in (self.asked, *(loader if reading else held)):
                    torch.autograd.grad(F.cross_entropy(self.model(x), y, reduction="sum"), parameters)

        return passes


CASES: dict[str, tuple[Callable[[], Setting], tuple[str, str, str]]] = {
    "perceptron, 85k parameters": (lambda: Setting(perceptron(), (64,), 2048, 64), (">= 35", ">= 10", "<= 1.7")),
    "small CNN, 207k parameters": (lambda: Setting(convolutional(), (1, 28, 28), 512, 32), (">= 20", ">= 3", "<= 1.7")),
}


def speed(name: str) -> Iterator[Row]:
    """Ratios of times of one case, after a look whether the results are the same."""
    make, goals = CASES[name]
    setting = make()
    works: dict[str, Work] = {}
    results, loads = {}, {}
    for library in ("pellucid", "captum", "sample-wise"):
        work = setting.tracin(library)
        before = setting.loads.calls
        works[library], results[library] = work, work()
        loads[library] = setting.loads.calls - before
    works["smaller"] = setting.tracin("sample-wise", SMALLER)
    own = results["pellucid"]
    off = max(float((other - own).abs().max() / own.abs().max()) for other in results.values())
    assert off < 1e-4, f"{name}: the results differ by {off}"
    passes = interleaved({"pellucid": works["pellucid"], "plain": setting.plain(), "reading": setting.plain(True)}, rounds=11)
    found = interleaved(works, rounds=3, warmup=0)
    yield f"{name}, {setting.size} examples, {setting.queries} queries:", "", ""
    yield "captum's time / time", f"{ratio(found, 'captum', 'pellucid'):.1f}", goals[0]
    yield "captum's sample-wise time / time", f"{ratio(found, 'sample-wise', 'pellucid'):.1f}", goals[1]
    yield f"  the same, captum's in batches of {SMALLER}", f"{ratio(found, 'smaller', 'pellucid'):.1f}", ""
    yield "time / plain passes", f"{ratio(passes, 'pellucid', 'plain'):.2f}", goals[2]
    yield "time / plain passes and reading", f"{ratio(passes, 'pellucid', 'reading'):.2f}", ""
    times = [median(passes, "pellucid"), *(median(found, library) for library in ("captum", "sample-wise")), median(passes, "plain")]
    yield "milliseconds (pellucid, captum, sample-wise, plain)", ", ".join(f"{1000 * t:.0f}" for t in times), ""
    yield "checkpoints loaded (pellucid, captum, sample-wise)", ", ".join(map(str, loads.values())), "2"
    yield "largest difference, in parts of the largest score", f"{off:.0e}", "< 1e-04"


def _of_size(size: int) -> Work:
    return Setting(perceptron(), (64,), size, 8).tracin("pellucid")


def memory() -> Iterator[Row]:
    """Peaks at two sizes of the training data."""
    peaks = [peak_memory(functools.partial(_of_size, size)) for size in (2048, 8192)]
    yield "perceptron, 8 queries: extra peak memory", ", ".join(f"{p / 2**20:.1f} MiB" for p in peaks), "the same"
    yield "  at 2048 and 8192 examples; the scores alone", ", ".join(f"{8 * 4 * n / 2**20:.1f} MiB" for n in (2048, 8192)), ""


def planted(seed: int) -> dict[str, float]:
    """Average precision of each measure, where labels of digits were changed before a small CNN was trained on them."""
    data = digits().train
    torch.manual_seed(seed)
    labels, wrong = data.y.clone(), torch.randperm(len(data.y))[: round(FLIPPED * len(data.y))]
    labels[wrong] = (labels[wrong] + torch.randint(1, 10, (len(wrong),))) % 10
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser, recorder, kept = torch.optim.Adam(model.parameters(), 2e-3), Recorder(), []
    for epoch in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(64):
            logits = model(data.x[batch])
            recorder.update(batch, logits, labels[batch])
            optimiser.zero_grad()
            F.cross_entropy(logits, labels[batch]).backward()
            optimiser.step()
        if (epoch + 1) in (EPOCHS // 4, EPOCHS // 2, 3 * EPOCHS // 4, EPOCHS):
            kept.append({name: value.clone() for name, value in model.state_dict().items()})
    scores = {by: suspicion(recorder.dynamics, by) for by in SUSPICIONS}
    loader = DataLoader(TensorDataset(data.x, labels), 256)
    scores["self influence"] = self_influence(Checkpoints(model, kept, _set), loader, nn.CrossEntropyLoss())
    changed = (labels != data.y).int()
    return {by: float(average_precision_score(changed, score)) for by, score in scores.items()}


def _set(model: nn.Module, state: Any) -> None:
    model.load_state_dict(state)


def main() -> None:
    """Print both tables."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(f"TracInCP, {CHECKPOINTS} checkpoints, batches of {BATCH}, torch {torch.__version__}, captum {captum.__version__}, 1 thread\n")
    print(f"{'what':56}{'measured':24}goal")
    for rows in (*map(speed, CASES), memory()):
        for what, figure, goal in rows:
            print(f"{what:56}{figure:24}{goal}".rstrip(), flush=True)
    print(f"\nDigits, {FLIPPED:.0%} of the labels changed, {EPOCHS} epochs of a small CNN: average precision, {len(SEEDS)} seeds\n")
    print(f"{'measure':24}{'mean':>8}{'lowest':>8}{'goal':>8}")
    found = [planted(seed) for seed in SEEDS]
    for by in sorted(found[0], key=lambda by: (by not in GOALS, by)):
        own = [each[by] for each in found]
        print(f"{by:24}{sum(own) / len(own):8.3f}{min(own):8.3f}{GOALS.get(by, ''):>8}".rstrip())


if __name__ == "__main__":
    main()
