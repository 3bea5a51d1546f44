"""Trains the models of the zoo: `python -m pellucid.zoo.train [name ...]`."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from .data import LOADERS, Data, Split
from .models import MODELS
from .shelf import check
from .words import PADDING, UNKNOWN

__all__ = ["RECIPES", "Recipe", "accuracy", "fit", "main", "train"]

WEIGHTS = Path(__file__).parent / "weights"
SEED = 0


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Chosen on a part of the training examples; the held-out part never had a say."""

    epochs: int
    rate: float
    decay: float
    batch: int = 64
    change: Callable[[Tensor], Tensor] = torch.clone
    """What is done to the examples of a batch, at random, so that the model learns that it does not matter."""


def _shifted(images: Tensor) -> Tensor:
    down, across = torch.randint(-1, 2, (2,)).tolist()
    return F.pad(images, (1, 1, 1, 1))[..., 1 + down : 9 + down, 1 + across : 9 + across]


def _flipped(images: Tensor) -> Tensor:
    return images.flip(-1) if torch.rand(()) < 0.5 else images


def _forgetful(ids: Tensor) -> Tensor:
    return ids.masked_fill((torch.rand(ids.shape) < 0.2) & (ids != PADDING), UNKNOWN)


RECIPES: Mapping[str, Recipe] = {
    "digits": Recipe(epochs=40, rate=3e-3, decay=1e-2, change=_shifted),
    "tiles": Recipe(epochs=40, rate=3e-3, decay=1e-1, batch=32, change=_flipped),
    "cancer": Recipe(epochs=60, rate=3e-3, decay=1.0, batch=32),
    "sentences": Recipe(epochs=8, rate=4e-3, decay=2.0, change=_forgetful),
}


def fit(model: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> None:
    """Train in place with AdamW, the rate rising and falling once; the last weights are the result."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    steps = recipe.epochs * -(-len(x) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    model.train()
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(x)).split(recipe.batch):
            loss = F.cross_entropy(_logits(model, recipe.change(x[chosen])), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = model(x) if x.is_floating_point() else model(x, x != PADDING)
    return logits


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """The part of a split's examples that the model gets right."""
    right = [_logits(model, x).argmax(1) == y for x, y in zip(split.x.split(256), split.y.split(256), strict=True)]
    return torch.cat(right).double().mean().item()


def train(name: str, folder: Path = WEIGHTS) -> dict[str, Any]:
    """Train one model, write `NAME.safetensors` and `NAME.json` to the folder, and return what the latter says."""
    check(name)
    data = LOADERS[name]()
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = MODELS[name](data.facts)
        fit(model, data.train.x, data.train.y, RECIPES[name])
    report = _report(name, model, data, time.perf_counter() - started)
    folder.mkdir(parents=True, exist_ok=True)
    # Not `save_file`, whose files only their owner may read.
    (folder / f"{name}.safetensors").write_bytes(save(model.state_dict()))
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _report(name: str, model: nn.Module, data: Data, seconds: float) -> dict[str, Any]:
    versions = {package: version(package) for package in ("torch", "numpy", "scikit-learn")}
    return {
        "name": name,
        "held_out_accuracy": accuracy(model, data.held_out),
        "train_size": len(data.train.y),
        "held_out_size": len(data.held_out.y),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seed": SEED,
        "seconds": round(seconds, 1),
        "versions": {"python": platform.python_version(), **versions},
        "classes": list(data.classes),
        **data.facts,
    }


def main(names: Sequence[str] = ()) -> None:
    """Train the named models, or all, on one thread: small models are slower on two, and differ."""
    torch.set_num_threads(1)
    for name in names or tuple(LOADERS):
        report = train(name)
        size = (WEIGHTS / f"{name}.safetensors").stat().st_size
        print(
            f"{name:10} held-out accuracy {report['held_out_accuracy']:.3f} on {report['held_out_size']}, "
            f"{report['parameters']} parameters, {size / 1000:.0f} kB, {report['seconds']} s"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
