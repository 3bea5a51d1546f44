"""`python -m benchmarks.paddle_bridge`: what the bridge costs over Paddle itself, forward and backward, on one CPU thread."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import warnings

import torch

from benchmarks.measure import interleaved, median, ratio
from pellucid.paddle import as_torch

with warnings.catch_warnings(action="ignore"):
    import paddle

ROUNDS = 21


def cnn() -> paddle.nn.Layer:
    """Three convolutions, in eval mode."""
    n = paddle.nn
    stages = [n.Conv2D(3, 16, 3, padding=1), n.ReLU(), n.MaxPool2D(2), n.Conv2D(16, 32, 3, padding=1), n.ReLU(), n.MaxPool2D(2)]
    layer = n.Sequential(*stages, n.Conv2D(32, 32, 3, padding=1), n.ReLU(), n.AdaptiveAvgPool2D(1), n.Flatten(), n.Linear(32, 10))
    layer.eval()
    return layer


def main() -> None:
    """Print the line."""
    torch.set_num_threads(1)
    layer, x = cnn(), torch.randn(4, 3, 64, 64)
    bridge, given = as_torch(layer), paddle.to_tensor(x.numpy())

    def native() -> object:
        point = given.detach()
        point.stop_gradient = False
        return paddle.grad([layer(point).sum()], [point])

    def bridged() -> object:
        point = x.detach().requires_grad_()
        return torch.autograd.grad(bridge(point).sum(), point)

    found = interleaved({"native": native, "bridged": bridged}, ROUNDS, warmup=3)
    own, ours, over = 1e3 * median(found, "native"), 1e3 * median(found, "bridged"), 100 * (ratio(found, "bridged", "native") - 1)
    print(f"CNN, 4 x 3 x 64 x 64, forward and backward: Paddle {own:.2f} ms, bridged {ours:.2f} ms, overhead {over:+.1f} % (goal: 10 %)")


if __name__ == "__main__":
    main()
