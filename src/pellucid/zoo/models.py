"""The four models, written as their users would have written them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .words import LONGEST, PADDING

__all__ = ["MODELS", "Cancer", "Digits", "Sentences", "Tiles"]


class Digits(nn.Module):
    """A small convolutional network: `(B, 1, 8, 8)` -> `(B, 10)`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(image))
        return logits


class Residual(nn.Module):
    """Two convolutions around which the input is added, through a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Tiles(nn.Module):
    """A small residual network: `(B, 3, 32, 32)` -> `(B, 8)`; `layer3` is the usual layer for Grad-CAM."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.layer1 = Residual(16, 16, 1)
        self.layer2 = Residual(16, 32, 2)
        self.layer3 = Residual(32, 64, 1)
        self.fc = nn.Linear(64, 8)

    def forward(self, image: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(image))))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


class Cancer(nn.Module):
    """A multilayer perceptron: `(B, 30)` -> `(B, 2)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, row: Tensor) -> Tensor:
        logits: Tensor = self.layers(row)
        return logits


class Attention(nn.Module):
    """Multi-head self-attention; the output of `weights` is what each token looks at, `(B, heads, T, T)`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.weights = nn.Softmax(-1)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (self._by_head(part(x)) for part in (self.query, self.key, self.value))
        similar = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        # The lowest finite number rather than -inf, which would make a text without any token NaN.
        similar = similar.masked_fill(~mask[:, None, None, :], torch.finfo(similar.dtype).min)
        read: Tensor = self.out((self.weights(similar) @ value).transpose(1, 2).flatten(2))
        return read

    def _by_head(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self.heads, -1))
        return split.transpose(1, 2)


class Block(nn.Module):
    """A transformer block, normalised before each of its two parts."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), mask))
        refined: Tensor = self.dropout(self.mlp(self.norm2(x)))
        return x + refined


class Sentences(nn.Module):
    """A small transformer: token ids `(B, T)` or their embeddings `(B, T, D)` -> `(B, 3)`, at most 64 tokens."""

    def __init__(self, tokens: int, width: int = 48, heads: int = 4, depth: int = 1) -> None:
        super().__init__()
        self.words = nn.Embedding(tokens, width, padding_idx=PADDING)
        self.position = nn.Parameter(torch.randn(LONGEST, width) * 0.1)
        self.dropout = nn.Dropout(0.3)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 3)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids `(B, T)` -> `(B, T, D)`, without their positions; the padding token is a vector of zeros."""
        embedded: Tensor = self.words(ids)
        return embedded

    def forward(self, embedded: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits from embeddings (or ids) and `mask (B, T)`, True at real tokens; without a mask all are real."""
        if not embedded.is_floating_point():
            embedded = self.embed(embedded)
        if mask is None:
            mask = torch.ones(embedded.shape[:2], dtype=torch.bool, device=embedded.device)
        x = self.dropout(embedded + self.position[: embedded.shape[1]])
        for block in self.blocks:
            x = block(x, mask)
        weight = mask.unsqueeze(-1).to(x.dtype)
        pooled = (self.norm(x) * weight).sum(1) / weight.sum(1).clamp(min=1)
        logits: Tensor = self.classifier(pooled)
        return logits


def _sentences(facts: Mapping[str, Any]) -> nn.Module:
    return Sentences(2 + len(facts["words"]))


MODELS: Mapping[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "digits": lambda facts: Digits(),
    "tiles": lambda facts: Tiles(),
    "cancer": lambda facts: Cancer(),
    "sentences": _sentences,
}
"""How each model is built from the facts of its data, with fresh weights."""
