"""Attacks by gradients: the small change of each example that raises its loss most (or, targeted, lowers it)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from ..batch import Run, Sum
from ..errors import InputError, OptionError, TargetError, warn
from ..inputs import Tensors, differentiable
from ..model import in_train_mode
from ..seeds import generator, resolve_seed
from ..view import View
from .balls import Ball, Bound, ball_of, between

__all__ = ["Mask", "fgsm", "pgd"]

Mask = Tensor | Sequence[Tensor] | None
Bounds = tuple[Any, Any] | Bound
Masks = tuple[Tensor | None, ...]


def fgsm(
    view: View,
    epsilon: float,
    *,
    targeted: bool = False,
    mask: Mask = None,
    bounds: Bounds = (-math.inf, math.inf),
    threshold: float = 0.0,
    run: Run | None = None,
) -> Tensors:
    """The fast gradient sign method: `x' = x + epsilon * sign(gradient)`, one step as far as the ball allows.

    Source: Goodfellow, Shlens and Szegedy 2015 (Explaining and harnessing adversarial examples), section 4.

    Args:
        view: whose score the attack raises, one for each example: `at_loss`, or any other.
        epsilon: the largest change of a value.
        targeted: lower the score (the loss of a class wished for) instead.
        mask: of zeros and ones, as the features; where it is zero nothing changes.
        bounds: the least and the largest value of an input (numbers, or tensors that fit it), or a function that puts it
            between them.
        threshold: gradients no larger than this count as zero.

    Returns:
        Examples `(B, ...)` for each of the features, without a graph.

    Raises:
        OptionError: a negative epsilon, bounds the wrong way round. InputError: features that are not floating point, a mask or bounds
            of another shape, a model where a view belongs. TargetError: several scores for an example.

    >>> from pellucid.robust import at_loss
    >>> net = torch.nn.Linear(3, 2)
    >>> view = at_loss(net, torch.zeros(1, 3), torch.tensor([1]), torch.nn.CrossEntropyLoss())
    >>> change, = fgsm(view, 0.1)
    >>> torch.equal(change, 0.1 * (net.weight[0] - net.weight[1]).sign()[None])
    True
    """
    _at_least_zero(epsilon=epsilon, threshold=threshold)
    _finite(epsilon=epsilon)
    attack = _attack(view, targeted, mask, bounds, threshold, run)
    return attack.kept(attack.step(view.features, epsilon, torch.sign))


def pgd(
    view: View,
    radius: float,
    step_size: float,
    steps: int,
    *,
    norm: str | Ball = "Linf",
    targeted: bool = False,
    random_start: bool = False,
    seed: int | None = None,
    mask: Mask = None,
    bounds: Bounds = (-math.inf, math.inf),
    threshold: float = 0.0,
    run: Run | None = None,
) -> Tensors:
    """Projected gradient descent: steps uphill, each put back into the ball: `x_t+1 = P(x_t + step_size * direction)`.

    Source: Madry et al. 2018 (Towards deep learning models resistant to adversarial attacks), equation 2.

    Args:
        view: whose score the attack raises, one for each example: `at_loss`, or any other.
        radius: how far each example may go, in each of the features by itself.
        step_size: how far a step goes: each value by so much (`Linf`), the example along its gradient (`L2`).
        steps: their number.
        norm: `"Linf"`, `"L2"`, or a `Ball`.
        targeted: lower the score (the loss of a class wished for) instead.
        random_start: begin somewhere in the ball, the same for all examples, instead of in its middle.
        seed: of the start; None: follows from torch's random state, which is not moved.
        mask, bounds, threshold: see `fgsm`. Bounds win over the ball, where an input is itself beyond them.

    Returns:
        Examples `(B, ...)` for each of the features, without a graph.

    Raises:
        OptionError: an unknown norm, a negative radius, step size or number of steps. InputError, TargetError: see `fgsm`.

    >>> from pellucid.robust import at_loss
    >>> net, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    >>> view = at_loss(net, x, torch.tensor([0, 1, 1, 0]), torch.nn.CrossEntropyLoss(reduction="none"))
    >>> moved, = pgd(view, 0.5, 0.1, 10, norm="L2")
    >>> bool(((moved - x).norm(dim=1) < 0.5001).all()), bool((view.score((moved,)) > view.score((x,))).all())
    (True, True)
    """
    _at_least_zero(radius=radius, step_size=step_size, steps=steps, threshold=threshold)
    _finite(step_size=step_size, **({"radius": radius} if random_start else {}))
    if not isinstance(steps, Integral):
        raise OptionError(f"steps is {steps!r}; give a whole number of steps")
    ball, attack = ball_of(norm), _attack(view, targeted, mask, bounds, threshold, run)
    points = attack.start(ball, radius, resolve_seed(seed)) if random_start else tuple(f.clone() for f in view.features)
    for number in range(steps):
        moved = attack.step(points, step_size, ball.direction, first=not number)
        points = attack.kept(tuple(f + ball.inside(m - f, radius) for f, m in zip(view.features, moved, strict=True)))
    return points


def _at_least_zero(**options: Any) -> None:
    for name, value in options.items():
        known = isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)
        if not known:
            raise OptionError(f"{name} is {value!r}; it must be a number, zero or more, the same for all examples")
        if not value >= 0:
            raise OptionError(f"{name} is {value}; it must be zero or more (to lower the loss of a class, use targeted=True)")


def _finite(**options: Any) -> None:
    for name, value in options.items():
        if not math.isfinite(value):
            raise OptionError(f"{name} is {value}; so far from an example there is none: give a finite number")


@dataclass(frozen=True, eq=False)
class _Attack:
    """What is attacked, which way, and where it may change."""

    view: View
    sign: int
    masks: Masks
    bound: Bound
    threshold: float
    run: Run

    def step(self, points: Tensors, size: float, direction: Callable[[Tensor], Tensor], first: bool = True) -> Tensors:
        """Every example moved by so much."""
        gradients = self.gradients(points)
        if first:
            _look(gradients)
        found = zip(points, gradients, self.masks, strict=True)
        return tuple(p + self.sign * size * _masked(direction, self._clear(g), m) for p, g, m in found)

    def gradients(self, points: Tensors) -> Tensors:
        """Of the score, `(B, ...)` for each of the points."""
        sums = Sum(self.view.size)

        def fold(part: Any) -> None:
            if len(part.scores) != 1:
                raise TargetError(f"the view has {len(part.scores)} scores for each example, and an attack raises one; choose one target")
            for i, gradient in enumerate(part.gradients):
                sums.add(i, part.examples, gradient[:, 0])

        self.run.gradients(self.view, 1, lambda examples, _: tuple(p[None, examples] for p in points), fold, "attack")
        return tuple(g[0] for g in sums.values())

    def _clear(self, gradient: Tensor) -> Tensor:
        """The gradient, zero where it is no larger than the threshold, or not known."""
        if not math.isfinite(float(gradient.sum())) and bool(gradient.isnan().any()):
            rows = int(gradient.isnan().reshape(len(gradient), -1).any(1).sum())
            warn("finite", f"the gradient of {rows} examples has NaN, as of log(0): those values stay; let the loss start from logits")
        return torch.where(gradient.abs() > self.threshold, gradient, 0)

    def start(self, ball: Ball, radius: float, seed: int) -> Tensors:
        """A random place in the ball."""
        source = generator(seed, 0)
        found = zip(self.view.features, self.masks, strict=True)
        return self.kept(tuple(f + radius * _masked(partial(ball.draw, f, source), torch.ones_like(f), m) for f, m in found))

    def kept(self, points: Tensors) -> Tensors:
        """The points within the bounds, but for masked values, which stay whatever they are."""
        both = zip(points, self.view.features, self.masks, strict=True)
        return tuple(self.bound(p) if m is None else torch.where(m > 0, self.bound(p), f) for p, f, m in both)


def _look(gradients: Tensors) -> None:
    """An attack that cannot begin says nothing about how robust a model is."""
    flat = torch.stack([(g == 0).reshape(len(g), -1).all(1) for g in gradients]).all(0)
    if bool(flat.any()):
        warn(
            "zero",
            f"the gradient of {int(flat.sum())} of {len(flat)} examples is zero, so that the attack leaves them: a probability that was "
            "rounded to 1, or a loss that does not follow from the inputs; let the loss start from logits, or use a random start",
        )


def _masked(change: Callable[[Tensor], Tensor], values: Tensor, mask: Tensor | None) -> Tensor:
    """A change made from the values that are free, scaled by the mask."""
    return change(values) if mask is None else change(values * (mask > 0)) * mask


def _attack(view: View, targeted: bool, mask: Mask, bounds: Bounds, threshold: float, run: Run | None) -> _Attack:
    if not isinstance(view, View):
        raise InputError(f"an attack is on a view, not on {type(view).__name__}; give at_loss(model, inputs, labels, loss)")
    features, run = differentiable(view.features), run or Run()
    attack = _Attack(run.ready(view, 1), -1 if targeted else 1, _masks(features, mask), between(bounds), threshold, run)
    beyond = sum(int((kept != f).sum()) for kept, f in zip(attack.kept(features), features, strict=True))
    if beyond:
        warn("bounds", f"{beyond} values of the inputs are themselves beyond the bounds, and are moved there, however far that is")
    if layers := in_train_mode(view.roots):
        warn("mode", f"the model is in train mode ({', '.join(layers[:4])}): what fools it now may not later; call model.eval()")
    return attack


def _masks(features: Tensors, mask: Mask) -> Masks:
    """One for each of the features, of as many dimensions; a dimension of one stands for all."""
    if mask is None:
        return (None,) * len(features)
    given = (mask,) if isinstance(mask, Tensor) else tuple(mask)
    if len(given) != len(features):
        raise InputError(f"{len(given)} masks for {len(features)} inputs; give one for each")
    return tuple(_fitting(f, m) for f, m in zip(features, given, strict=True))


def _fitting(feature: Tensor, mask: Any) -> Tensor:
    if not isinstance(mask, Tensor):
        raise InputError(f"a mask is {type(mask).__name__}; give a tensor of zeros and ones for each input")
    if mask.dim() != feature.dim() or any(m not in (1, f) for m, f in zip(mask.shape, feature.shape, strict=True)):
        raise InputError(f"a mask has shape {tuple(mask.shape)}, and its input {tuple(feature.shape)}; give it the input's shape")
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise InputError("a mask has values that are not between 0 and 1; it must say with ones what may change, with zeros what not")
    return mask.detach().to(feature)
