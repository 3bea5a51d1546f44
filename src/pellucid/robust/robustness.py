"""How well a model bears corruptions: its accuracy under each, at each severity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..batch import Run
from ..errors import InputError, OptionError, OutputError, TargetError
from ..inputs import Tensors
from ..picks import Pick
from ..seeds import resolve_seed
from ..target import tensor_of
from ..view import at_input
from .corruptions import CORRUPTIONS, SEVERITIES, Corruption

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Robustness", "robustness"]

Corrupt = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Robustness:
    """Whether a model was right about each of B images, as they are and under K corruptions at S severities.

    Attributes:
        corruptions: the names of the K.
        severities: the S.
        clean: bool `(B,)`, of the images as they are.
        right: bool `(K, S, B)`.
    """

    corruptions: tuple[str, ...]
    severities: tuple[float, ...]
    clean: Tensor
    right: Tensor

    @property
    def accuracy(self) -> Tensor:
        """`(K, S)`: the share of the images that the model is right about."""
        return self.right.double().mean(2)

    @property
    def clean_accuracy(self) -> float:
        """The share of the images that the model is right about as they are."""
        return float(self.clean.double().mean())

    def corruption_error(self, reference: Robustness | None = None, relative: bool = False) -> Tensor:
        """`(K,)`: how often the model errs under each corruption, over all severities.

        Source: Hendrycks and Dietterich 2019, section 4.1: `CE = sum_s E_s / sum_s E_s of the reference`, and relative
        `CE = sum_s (E_s - E_clean) / sum_s (E_s - E_clean) of the reference`, where theirs is AlexNet; without a reference the mean of
        `E_s`, and of `E_s - E_clean`. The mean of the result is their mCE.

        Args:
            reference: another model, of the same corruptions and severities.
            relative: count only the errors that corruption brings.

        Raises:
            InputError: a reference of other corruptions, or one that makes no errors to compare with.
        """
        own = self._errors(relative)
        if reference is None:
            return own
        if (reference.corruptions, reference.severities) != (self.corruptions, self.severities):
            raise InputError("the reference was tried with other corruptions or severities; give it the same, in the same order")
        other = reference._errors(relative)
        if not bool((other > 0).all()):
            name = self.corruptions[int((other <= 0).nonzero()[0])]
            raise InputError(
                f"under {name} the reference does not err (more), and nothing can be measured by it; leave that corruption out"
            )
        return own / other

    def _errors(self, relative: bool) -> Tensor:
        return 1 - self.accuracy.mean(1) - ((1 - self.clean_accuracy) if relative else 0.0)

    def draw(self, width: float = 7.0) -> Figure:
        """The accuracies as a heat map, a row for each corruption.

        Raises:
            OptionError: too little room.
        """
        from .pictures import draw_robustness

        return draw_robustness(self, width)

    def __repr__(self) -> str:
        from ..show.numbers import count, percent

        error, more = float(self.corruption_error().mean()), float(self.corruption_error(relative=True).mean())
        return (
            f"Robustness({count(len(self.clean), 'image')}, {count(len(self.corruptions), 'corruption')}: right about "
            f"{percent(self.clean_accuracy)} as they are; mean corruption error {percent(error)}, {percent(more)} more than as they are)"
        )

    def __rich__(self) -> Any:
        from .printed import robustness

        return robustness(self)


def robustness(
    model: Callable[..., Any],
    images: Tensor,
    labels: Any = None,
    corruptions: Sequence[str] | Mapping[str, Corrupt] | None = None,
    severities: Sequence[float] = SEVERITIES,
    *,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    bounds: Any = None,
    at_most: int | None = None,
    progress: bool | None = None,
) -> Robustness:
    """How often a model is right about corrupted images.

    Source: Hendrycks and Dietterich 2019, whose kinds of corruptions these are, in amounts of Pellucid's own (`corrupted`).

    Args:
        model: of images, a row of scores `(B, C)` for each.
        images: `(B, C, H, W)`.
        labels: the class of each; None: the class that the model says of it uncorrupted, so that being right is to stay with it.
        corruptions: names in `CORRUPTIONS`, or functions of images and a severity by their names; None: all of `CORRUPTIONS`.
        severities: from 0 to 5.
        args: what the model gets after the images; kwargs: what it gets by keyword.
        seed: of the corruptions; None: follows from torch's random state, which is not moved.
        bounds: see `corrupted`.
        at_most: images per call of the model; None finds the number.
        progress: a progress bar; None shows one when the work takes longer than two seconds.

    Raises:
        OptionError: an unknown corruption, no severities or such as there are not. InputError: what is no image, or a function that
            returns another shape. TargetError: labels that do not fit. OutputError: an output without a row of scores for each.

    >>> images = torch.rand(6, 1, 8, 8)
    >>> found = robustness(lambda x: torch.stack([x.mean((1, 2, 3)), 0.5 + 0 * x[:, 0, 0, 0]], 1), images, corruptions=["brightness"])
    >>> found.accuracy.shape, found.clean_accuracy
    (torch.Size([1, 5]), 1.0)
    """
    severities = tuple(severities)
    tried = _functions(corruptions, resolve_seed(seed), bounds)
    if not severities:
        raise OptionError("severities is empty; give some of 1 to 5")
    if not isinstance(images, Tensor) or images.dim() != 4:
        shape = f" of shape {tuple(images.shape)}" if isinstance(images, Tensor) else ""
        raise InputError(f"images are {type(images).__name__}{shape}; give one tensor (B, C, H, W)")
    run = Run(at_most, progress)
    view = replace(at_input(model, images, None, args, kwargs), pick=_Classes())
    ready = run.ready(view, len(severities))
    scores = run.scores(ready, 1, lambda examples, _: (images[None, examples],), "clean")
    truth = _predicted(scores)[0].clamp_min(0) if labels is None else _labels(labels, scores)
    found = [_predicted(run.scores(ready, len(severities), _points(images, own, severities), name)) for name, own in tried.items()]
    return Robustness(
        tuple(tried), severities, (_predicted(scores)[0] == truth).cpu(), torch.stack([each == truth for each in found]).cpu()
    )


def _functions(given: Sequence[str] | Mapping[str, Corrupt] | None, seed: int, bounds: Any) -> dict[str, Corrupt]:
    """Functions of images and a severity."""
    names = CORRUPTIONS if given is None else [given] if isinstance(given, str) else given
    named = dict(given) if isinstance(given, Mapping) else _named(names)
    if not named:
        raise OptionError("corruptions is empty; None tries all")
    return {name: partial(own, seed=seed, bounds=bounds) if isinstance(own, Corruption) else own for name, own in named.items()}


def _named(names: Iterable[str]) -> dict[str, Corrupt]:
    for name in names:
        if name not in CORRUPTIONS:
            raise OptionError(f"there is no corruption {name!r}; choose of {', '.join(map(repr, CORRUPTIONS))}, or give functions by name")
    return {name: CORRUPTIONS[name] for name in names}


def _points(images: Tensor, function: Corrupt, severities: Sequence[float]) -> Callable[[slice, slice], Tensors]:
    """Made when the model gets to them."""

    def points(examples: slice, steps: slice) -> Tensors:
        some = images[examples]
        return (torch.stack([_same(function(some.clone(), severity), some) for severity in severities[steps]]),)

    return points


def _same(found: Any, images: Tensor) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != images.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"a corruption returned {got} for images {tuple(images.shape)}; it must keep their shape")
    return found.to(images)


@dataclass(frozen=True)
class _Classes(Pick):
    """The scores of all classes."""

    def scores(self, output: Any, rows: int) -> Tensor:
        found = tensor_of(output)
        if found.dim() != 2 or found.shape[1] < 2 or len(found) != rows:
            raise OutputError(
                f"the model returned {tuple(found.shape)} for {rows} images; a row of scores for each is needed: ({rows}, classes). Of a "
                "model with one score give a function that returns two: lambda x: torch.cat([-model(x), model(x)], 1)"
            )
        return found.T

    def __str__(self) -> str:
        return "all classes"


def _predicted(scores: Tensor) -> Tensor:
    """The class with the highest of scores `(C, S, B)`; of NaN none, which is no label."""
    return torch.where(scores.isnan().any(0), -1, scores.argmax(0))


def _labels(given: Any, scores: Tensor) -> Tensor:
    """One for each image, of scores `(C, 1, B)`."""
    labels, (classes, _, size) = torch.as_tensor(given, device=scores.device), scores.shape
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != (size,):
        raise TargetError(f"labels are {labels.dtype} of shape {tuple(labels.shape)}; give the number of each image's class: ({size},)")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise TargetError(f"labels go from {int(labels.min())} to {int(labels.max())}, and the model has {classes} classes, from 0 on")
    return labels
