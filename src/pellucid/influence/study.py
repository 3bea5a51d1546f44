"""What an influence method is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..explanation import Check
from ..inside import layer_named
from ..progress import Bar
from .checkpoints import Checkpoints
from .curvature import Curvature
from .examples import Batch, Examples
from .gradients import PerExample
from .loss import Loss
from .parts import SampleGradients, within
from .representer import last_linear
from .store import Rows, Store

__all__ = ["Scored", "Study", "worst"]


@dataclass(frozen=True, eq=False)
class Study:
    """What an influence method is asked."""

    checkpoints: Checkpoints
    train: Examples
    queries: Examples
    loss: Loss
    query_loss: Loss
    layers: Sequence[nn.Module] | None = None
    store: Store = field(default_factory=Store)
    memory: int = 2**30
    seed: int = 0
    progress: bool | None = None

    @property
    def model(self) -> nn.Module:
        return self.checkpoints.model

    def bar(self, label: str, passes: float = 1) -> Bar:
        """Progress over the training examples of all checkpoints, in so many passes at most."""
        return Bar(round(passes * len(self.checkpoints.each) * len(self.train)), label, self.progress)

    def mean(self, of_one: Callable[[int], Tensor]) -> Tensor:
        """Of what is found at each checkpoint, by its number."""
        with self.checkpoints.loaded() as rates, within(self.memory // 8):
            return torch.stack([of_one(number) for number, _ in enumerate(rates)]).mean(0)

    def gradients(self, loss: Loss | None = None) -> Callable[[Batch], SampleGradients]:
        """Of batches, by the training loss or another."""
        own = PerExample(self.model, loss or self.loss, self.layers)
        return lambda batch: own(batch[:-1], batch[-1])

    def rows(self, name: str, of_batch: Callable[[Batch], Tensor], bar: Bar) -> Rows:
        """A row for each training example, kept where there is a store."""
        return self.store.rows(name, self.train.on(self.model), of_batch, bar)

    def curvature(self, kind: str) -> Curvature:
        return Curvature(self.model, self.train, self.loss, kind, self.layers)

    def layer(self, given: nn.Module | str | None) -> nn.Module:
        """A module by itself or by name; None: the last linear layer."""
        if isinstance(given, str):
            return layer_named((self.model,), given)
        return last_linear(self.model) if given is None else given


@dataclass(frozen=True, eq=False)
class Scored:
    """`(C, N)`, positive where a training example speaks for the query; what was noticed; in what unit; and what is explained."""

    values: Tensor
    checks: tuple[Check, ...]
    unit: str
    target: str = "the loss of {}"
    sides: tuple[str, ...] = ("for the label {}", "against the label {}")


def worst(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Of several checks of one name, one: one that failed, if any did."""
    found: dict[str, Check] = {}
    for check in checks:
        if check.name not in found or found[check.name].passed:
            found[check.name] = check
    return tuple(found.values())
