"""`python -m benchmarks.occlusion`: incremental occlusion against Captum's, in seconds per window, on one CPU thread.

Captum's time does not depend on where windows are, so it is measured on a coarser grid, per pass of the model. Incremental
occlusion is measured with all that happens once (three passes of a whole image), which many windows share.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import functools
import math
import warnings
from collections.abc import Iterator

import captum
import torch
from torch import Tensor, nn

from benchmarks.measure import Work, interleaved, median, ratio
from benchmarks.models import resnet18
from pellucid.perturb.incremental import window_scores
from pellucid.view import InputView, at_input

WINDOW = 15
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def vgg16(classes: int = 1000) -> nn.Module:
    """The VGG-16 shape, in eval mode; 0 is a max-pooling."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    before = 3
    for width in VGG16:
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)] if width else [nn.MaxPool2d(2)]
        before = width or before
    head = [nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, classes)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7), nn.Flatten(), *head).eval()


def grid(size: int, stride: int, window: int = WINDOW) -> Tensor:
    """Captum's windows: the last may reach beyond the border."""
    along = stride * torch.arange(1 + math.ceil((size - window) / stride))
    return torch.cartesian_prod(along, along)


def theirs(model: nn.Module, x: Tensor, stride: int, at_once: int) -> tuple[Work, int]:
    """Captum's occlusion on a grid of this stride (which it wants no larger than windows), and how many passes it takes."""
    method, window = captum.attr.Occlusion(model), max(WINDOW, stride)
    sizes = {"sliding_window_shapes": (3, window, window), "strides": (3, stride, stride), "perturbations_per_eval": at_once}
    return functools.partial(method.attribute, x, target=3, **sizes), len(grid(x.shape[2], stride, window)) + 1


def ours(view: InputView, starts: Tensor) -> Work:
    """Scores of these windows."""
    return functools.partial(window_scores, view, torch.zeros_like(view.features[0]), starts, (WINDOW, WINDOW))


def compared(name: str, model: nn.Module, size: int, stride: int, coarse: int, batches: tuple[int, ...], rounds: int) -> Iterator[str]:
    """Rows of the table."""
    x = torch.randn(1, 3, size, size)
    view, starts = at_input(model, x, 3), grid(size, stride)
    works, passes = {"ours": ours(view, starts)}, {"ours": len(starts)}
    for at_once in batches:
        works[f"captum {at_once}"], passes[f"captum {at_once}"] = theirs(model, x, coarse, at_once)
    found = {key: [t / passes[key] for t in times] for key, times in interleaved(works, rounds, warmup=0).items()}
    best = min((key for key in works if key != "ours"), key=lambda key: median(found, key))
    for key, what in (("captum 1", "captum, default"), (best, f"captum, best ({best.split()[1]} per call)"), ("ours", "incremental")):
        yield f"| {name}, {what} | {len(starts)} | {ratio(found, key, 'ours'):.1f} | {1e3 * median(found, key):.1f} |"


def main() -> None:
    """Print the table."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(f"Windows of {WINDOW} x {WINDOW}, torch {torch.__version__}, captum {captum.__version__}, CPU, 1 thread.\n")
    print("| what | windows | time / ours | ms per window |\n|---|---|---|---|")
    with torch.no_grad():
        for rows in (
            compared("ResNet-18, 224, stride 8", resnet18(), 224, 8, 32, (1, 4, 8, 16, 32), 2),
            compared("VGG-16, 224, stride 20", vgg16(), 224, 20, 75, (1, 4), 1),
            compared("VGG-16, 448, stride 40", vgg16(), 448, 40, 224, (1,), 1),
        ):
            for row in rows:
                print(row, flush=True)


if __name__ == "__main__":
    main()
