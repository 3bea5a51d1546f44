"""What tests of runs over data sets share: data, a model that takes colours only, pictures, what makes two explanations the same."""

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

PARTS = ("attributions", "features", "baselines", "errors")
NUMBERS = ("scores", "baseline_scores", "predictions", "confidences")


class Pairs(Dataset):
    """Examples one by one; some may be broken."""

    def __init__(self, x, y, broken=()):
        self.x, self.y, self.broken = x, y, set(broken)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        if i in self.broken:
            raise ValueError(f"number {i} is broken")
        return self.x[i], self.y[i]


def same(found, own, tolerance=1e-9):
    """All that an explanation says of one example, beside what it says alone."""
    for name in PARTS:
        some, other = getattr(found, name), getattr(own, name)
        assert (some is None) == (other is None), name
        for a, b in zip(some or (), other or (), strict=True):
            assert a.dtype == b.dtype, name
            assert a.shape == b.shape, name
            assert torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance), name
    for name in NUMBERS:
        a, b = getattr(found, name), getattr(own, name)
        assert (a is None) == (b is None), name
        assert a is None or torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance), name
    assert found.target == own.target
    assert found.provenance.inputs == own.provenance.inputs
    assert found.check("target").message == own.check("target").message
    shown, expected = found.display, own.display
    assert (shown.kind, shown.names, shown.classes, shown.tokens) == (expected.kind, expected.names, expected.classes, expected.tokens)
    return True


class Colours(nn.Module):
    """Takes colours only."""

    def __init__(self, outputs=2):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(3.0 * outputs).reshape(3, outputs) / 7)

    def forward(self, x):
        if x.shape[1] != 3:
            raise ValueError("three channels are needed")
        return x.mean((2, 3)) @ self.weight


def draw(path, mode="RGB", size=(8, 8), seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path, **options)
    return path
