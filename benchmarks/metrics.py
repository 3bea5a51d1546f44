"""What metrics cost: against captum on a small perceptron, against the bare passes on a ResNet, and in forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import captum.attr
import captum.metrics
import torch
from torch import Tensor

import pellucid
import pellucid.captum.attr
import pellucid.captum.metrics
from benchmarks import models
from benchmarks.measure import interleaved, median, ratio

__all__ = ["metrics"]

SAMPLES = 10


def metrics() -> Iterator[tuple[str, str, str]]:
    """Infidelity and the largest sensitivity of saliency, ten samples."""
    model = models.mlp(30, 64, 64, 2)
    for size in (1, 32):
        x, target = torch.randn(size, 30), torch.zeros(size, dtype=torch.long)
        for name, goal in (("infidelity", ">= 1.5"), ("sensitivity_max", ">= 3")):
            works = {library: _work(library, name, model, x, target, None) for library in ("pellucid", "captum")}
            found = interleaved(works, rounds=15, warmup=3)
            yield f"captum's time / time, {name}, perceptron, {size} examples", f"{ratio(found, 'captum', 'pellucid'):.2f}", goal
    model, x, target = models.resnet18(), torch.randn(4, 3, 64, 64), torch.arange(4)
    for name in ("infidelity", "sensitivity_max"):
        for most in (None, 16, 4):
            works = {"pellucid": _work("pellucid", name, model, x, target, most), "bare": _bare(name, model, x, most)}
            found = interleaved(works, rounds=7)
            what = f"time / bare passes, {name}, ResNet-18 shape, four images of 64 x 64, {most or 'any'} a call"
            yield what, f"{ratio(found, 'pellucid', 'bare'):.2f} ({1000 * median(found, 'pellucid'):.0f} ms)", "<= 1.15"
    yield from _shared(model)


def _work(library: str, name: str, model: torch.nn.Module, x: Tensor, target: Tensor, most: int | None) -> Callable[[], object]:
    made: Any = {"pellucid": pellucid.captum, "captum": captum}[library]
    options = {"target": target, "max_examples_per_batch": most}
    if name == "sensitivity_max":
        explained = made.attr.Saliency(model).attribute
        return lambda: made.metrics.sensitivity_max(explained, x, n_perturb_samples=SAMPLES, **options)
    perturbed = made.metrics.infidelity_perturb_func_decorator(False)(lambda inputs: inputs + 0.1 * torch.randn_like(inputs))
    attribution = torch.randn_like(x)
    return lambda: made.metrics.infidelity(model, perturbed, x, attribution, n_perturb_samples=SAMPLES, **options)


def _bare(name: str, model: torch.nn.Module, x: Tensor, most: int | None) -> Callable[[], object]:
    """As many examples through the model, in calls as large; forward, and for sensitivity backward too."""
    every = x.repeat(SAMPLES + 1, 1, 1, 1)

    def forward() -> None:
        with torch.no_grad():
            for part in every.split(most or len(every)):
                model(part)

    def backward() -> None:
        for part in every.split(most or len(every)):
            points = part.clone().requires_grad_()
            torch.autograd.grad(model(points)[:, 0].sum(), points)

    return forward if name == "infidelity" else backward


def _shared(model: torch.nn.Module) -> Iterator[tuple[str, str, str]]:
    """Deletion and insertion of 16 images by five methods."""
    x = torch.randn(16, 3, 64, 64)
    methods = ["saliency", "input_x_gradient", "gradient", "guided_backprop", "deconvolution"]
    asked = {"deletion": {"steps": 10}, "insertion": {"steps": 10}}
    found = pellucid.evaluate(model, x, [0] * 16, methods, asked, controls=(), seed=0)
    told = f"{found.removed.forwards} of {16 * len(methods) * 2 * 10}"
    yield "forwards of deletion and insertion, 16 images, 5 methods, 10 steps", told, "once a set"
