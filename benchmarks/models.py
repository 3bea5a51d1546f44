"""The shapes that are measured: ResNet-18, wide and narrow perceptrons, with random weights (time does not depend on them)."""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions around a shortcut, as in He et al. 2016; one ReLU used twice in place, or two that are not."""

    def __init__(self, before: int, after: int, stride: int, shared: bool = True) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.second, self.other = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=shared)
        self.last = self.relu if shared else nn.ReLU()
        same = stride == 1 and before == after
        self.shortcut = nn.Identity() if same else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = self.other(self.second(self.relu(self.norm(self.first(x)))))
        return self.last(y + self.shortcut(x))


def resnet18(classes: int = 1000, shared: bool = True) -> nn.Module:
    """The ResNet-18 shape, in eval mode; `shared`: each block uses one ReLU twice, as is usual and as Captum's DeepLift refuses."""
    torch.manual_seed(0)
    widths = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=shared), nn.MaxPool2d(3, 2, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)]
    return nn.Sequential(*stem, *(Block(*width, shared) for width in widths), *head).eval()


def mlp(*widths: int) -> nn.Module:
    """Linear layers with ReLUs between."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


class Bert(nn.Module):
    """The BERT shape with six layers, from embeddings to logits."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        torch.manual_seed(0)
        sizes = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1024}
        self.bert = BertForSequenceClassification(BertConfig(vocab_size=100, **sizes)).eval()

    def forward(self, embeddings: Tensor) -> Tensor:
        logits: Tensor = self.bert(inputs_embeds=embeddings).logits
        return logits


@functools.cache
def digits(activation: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    """A small strided CNN trained on scikit-learn's digits, and 48 held-out images."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = torch.tensor(data.images / 16).float()[:, None], torch.tensor(data.target)
    torch.manual_seed(0)
    order = torch.randperm(len(images))
    train, held = order[:1400], order[1400:1448]
    layers = [nn.Conv2d(1, 16, 3, padding=1), activation(), nn.Conv2d(16, 32, 3, padding=1, stride=2), activation()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 64), activation(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(25):
        for batch in train[torch.randperm(len(train))].split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimiser.step()
    return model.eval(), images[held]
