"""Small random models of the kinds that people explain, in float64 so that laws are sharp."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mlp(nn.Module):
    def __init__(self, features: int = 5, classes: int = 3, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features, 12), activation(), nn.Linear(12, 8), activation(), nn.Linear(8, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Conv(nn.Module):
    """Batch-norm, a residual addition, in-place and functional ReLUs."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.other = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(6, classes)
        for norm in (self.norm, self.other):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(x)))
        x = F.relu(x + self.other(self.second(x)))
        return self.head(F.max_pool2d(x, 2).mean((2, 3)))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, a: Tensor, b: Tensor, scale: Any = 1.0, shift: Any = 0.0) -> Tensor:
        return self.out(torch.tanh(self.a(a) * scale + self.b(b)) + shift)


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Mlp(5, 1, nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, 0]


class Tagger(nn.Module):
    """One output for every place of a sequence: `(B, T, C)`."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(3, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0])


class Embedded(nn.Module):
    """Explained at its embeddings; `ids` go in as well, for methods without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.attention = nn.Embedding(11, 6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.is_floating_point() else self.embedding(x)
        return self.out(F.gelu(x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


@dataclass
class Case:
    """A model with inputs that suit it."""

    name: str
    model: nn.Module
    inputs: tuple[Tensor, ...]
    target: Any
    extra: tuple[Any, ...] = ()
    targets: tuple[Any, ...] = field(default=())

    def __repr__(self) -> str:
        return self.name


def cases(dtype: torch.dtype = torch.float64) -> list[Case]:
    """All the models, made anew, in eval mode."""
    torch.manual_seed(1)
    rand = lambda *shape: torch.randn(*shape, dtype=dtype)  # noqa: E731
    per_example = (torch.tensor([0, 2, 1]), [1, 0, 2], 2, torch.tensor([1]))
    found = [
        Case("mlp", Mlp(), (rand(3, 5),), 1, targets=per_example),
        Case("smooth", Mlp(activation=nn.GELU), (rand(3, 5),), [0, 2, 1], targets=per_example),
        Case("conv", Conv(), (rand(3, 2, 6, 6),), torch.tensor([3, 0, 1]), targets=per_example),
        Case("two inputs", TwoInputs(), (rand(3, 4), rand(3, 3)), 2, targets=per_example),
        Case("with arguments", TwoInputs(), (rand(3, 4), rand(3, 3)), 0, (rand(3, 1), 0.5), targets=per_example),
        Case("regression", Regression(), (rand(3, 5),), None, targets=(None,)),
        Case("sequence", Tagger(), (rand(3, 4, 3),), (2, 1), targets=((0, 3), [(0, 1), (1, 2), (3, 0)])),
        Case("embedding", Embedded(), (rand(3, 4, 6),), 0, targets=per_example),
    ]
    for case in found:
        case.model.to(dtype).eval()
    return found


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that explaining must not change."""
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grads": {name: p.grad for name, p in model.named_parameters()},
        "modes": {name: m.training for name, m in model.named_modules()},
        "attributes": {name: sorted(vars(m)) for name, m in model.named_modules()},
        "hooks": {name: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for name, m in model.named_modules()},
        "rng": torch.get_rng_state(),
    }


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name, value in before["values"].items():
        assert torch.equal(value, after["values"][name]), name
    assert torch.equal(before["rng"], after["rng"])
    for what in ("requires_grad", "grads", "modes", "attributes", "hooks"):
        assert before[what] == after[what], what
