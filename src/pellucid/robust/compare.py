"""Attacks compared: a metric of the model's outputs without and with each, over attempts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError, OutputError, warn
from .trials import Trials, grouped

__all__ = ["ORIGINAL", "Attack", "Metric", "compare", "measured", "over", "real"]

ORIGINAL = "Original"

Metric = Any
"""A number or tensor, or a (named) tuple of these."""


@dataclass(frozen=True)
class Attack:
    """A perturbation of inputs, and how it is to be tried.

    Args:
        function: of the inputs: an attack, an augmentation, a corruption.
        name: what the result is called.
        attempts: how often a random one is tried.
        before: whether it comes before preprocessing.
        options: its arguments.
        asked: names of further arguments, which belong to the batch, such as labels.
    """

    function: Callable[..., Any]
    name: str
    attempts: int = 1
    before: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    asked: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise OptionError(f"the attack {self.name!r} is {type(self.function).__name__}; give a function of the inputs")
        if self.attempts < 1:
            raise OptionError(f"the attack {self.name!r} has {self.attempts} attempts; at least one is needed")
        if self.name == ORIGINAL:
            raise OptionError(f"an attack cannot be called {ORIGINAL!r}: so is the result without one; give it another name")

    def arguments(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Its arguments for a batch of which this is known."""
        for name in self.asked:
            if name not in known:
                warn("attack", f"the attack {self.name!r} asks for {name!r}, which is not given: it does without")
        return {**{name: known[name] for name in self.asked if name in known}, **self.options}


def compare(
    trials: Trials,
    metric: Callable[..., Metric],
    attacks: Sequence[Attack] | Mapping[str, Callable[..., Any]],
    together: int = 1,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The metric without an attack, and after each.

    Args:
        trials: the model and a batch.
        metric: of the model's output, and `known` by keyword: a number, a tensor whose first dimension is the examples
            (or one), or a tuple of these, also a named one.
        attacks: each with a name of its own; or functions of the inputs by their names.
        together: how many perturbations share a call of the model.
        known: what belongs to the batch, such as labels.

    Returns:
        Under `"Original"` the metric without an attack; under each attack's name its `"mean"`, of several attempts also
        `"min"` and `"max"`, as tensors, in the metric's form: `Summary().add(...)` makes statistics, a table and a picture of it.

    Raises:
        OptionError: two attacks of one name. InputError, OutputError: see `Trials.outputs`; a metric that is no number, or changes
            its shape.

    >>> trials = Trials(torch.nn.Softmax(1), torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    >>> push = Attack(lambda x, by: x - by * torch.tensor([1.0, 0.0]), "push", options={"by": 2.0})
    >>> compare(trials, lambda output: (output.argmax(1) == 0).float(), [push])
    {'Original': tensor([1., 1.]), 'push': {'mean': tensor([0., 1.])}}
    """
    attacks = _attacks(attacks)
    found: dict[str, Metric] = {ORIGINAL: None, **{attack.name: None for attack in attacks}}
    if len(found) <= len(attacks):
        raise OptionError(f"two attacks have one name among {[attack.name for attack in attacks]}; give each its own")
    for group in grouped(_inputs(trials, attacks, known or {}), together):
        outputs = trials.outputs([given for _, given in group])
        for (name, _), output in zip(group, outputs, strict=True):
            found[name] = _added(found[name], metric(output, **(known or {})))
    results = {attack.name: _read(found[attack.name], STATISTICS if attack.attempts > 1 else STATISTICS[:1]) for attack in attacks}
    return {ORIGINAL: over(attrgetter("mean"), found[ORIGINAL]), **results}


def _attacks(given: Any) -> list[Attack]:
    if isinstance(given, Mapping):
        return [Attack(function, name) for name, function in given.items()]
    for attack in given:
        if not isinstance(attack, Attack):
            raise OptionError(f"an attack is {type(attack).__name__}; give Attack(function, name), or functions by name: {{name: f}}")
    return list(given)


def _inputs(trials: Trials, attacks: Sequence[Attack], known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the model gets, made when it is needed."""
    yield ORIGINAL, trials.ready
    for attack in attacks:
        arguments = attack.arguments(known)
        for _ in range(attack.attempts):
            yield attack.name, trials.perturbed(attack.function, attack.before, arguments)[0]


@dataclass(eq=False)
class _Running:
    """Mean, least and largest of tensors of one shape, place by place. Source: Welford 1962."""

    weight: float = 0
    mean: Tensor | None = None
    min: Tensor | None = None
    max: Tensor | None = None

    def add(self, value: Tensor, weight: float = 1) -> _Running:
        """See another."""
        self.weight += weight
        if self.mean is None or self.min is None or self.max is None:
            self.mean, self.min, self.max = real(value), value, value
            return self
        if value.shape != self.mean.shape:
            raise OutputError(f"the metric has shape {tuple(value.shape)} after {tuple(self.mean.shape)}; it must keep its shape")
        self.mean = self.mean + (real(value) - self.mean) * weight / self.weight
        self.min, self.max = torch.minimum(self.min, value), torch.maximum(self.max, value)
        return self


STATISTICS = ("mean", "min", "max")


def _added(running: Metric, metric: Metric) -> Metric:
    """Running statistics in the form of the metric, which have seen it."""
    seen = over(lambda _: _Running(), metric) if running is None else running
    return over(lambda one, value: one.add(measured(value)), seen, metric)


def _read(running: Metric, statistics: Sequence[str]) -> dict[str, Metric]:
    """What was seen, by name."""
    return {what: over(attrgetter(what), running) for what in statistics}


def over(function: Callable[..., Any], *metrics: Metric) -> Metric:
    """The function of each number of metrics of the same form."""
    if not isinstance(metrics[0], tuple):
        return function(*metrics)
    return getattr(type(metrics[0]), "_make", tuple)([over(function, *parts) for parts in zip(*metrics, strict=True)])


def measured(value: Any) -> Tensor:
    """A metric as a tensor of its own."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Real | np.ndarray):
        return torch.tensor(float(value)) if isinstance(value, Real) else torch.as_tensor(value)
    raise OutputError(f"the metric is {value!r}; it must be a number, a tensor with one for each example, or a tuple of these")


def real(value: Tensor) -> Tensor:
    """Numbers that have a mean."""
    # MPS has no float64.
    return value if value.is_floating_point() else value.to(torch.float32 if value.device.type == "mps" else torch.float64)
