"""InterpretDL's LIME of pictures; its relatives over many pictures are in `normlime`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Run
from ..errors import InputError, OptionError, need
from ..perturb import groups_of
from ..perturb.evaluate import Design, Scorer, coalitions
from ..perturb.normlime import prior_ridge
from ..perturb.surrogate import weighted_ridge
from ..picks import Every
from ..pictures import Pictures
from ..seeds import generator, resolve_seed
from ..target import resolve
from ..view import InputView
from .base import Interpreter, evaluating, numpy

__all__ = ["GLOBAL", "LIMECVInterpreter", "Weights", "fitted", "of_every_class", "wanted_classes"]

WIDTH = 0.25
ROUNDING = 1e-7  # of the largest probability: weights that a picture would show as if they meant something
Weights = dict[int, list[tuple[int, float]]]
GLOBAL = Mapping[int, Mapping[int, float]]


def fitted(kept: Tensor, scores: Tensor, prior: Tensor | None = None, strength: float | None = None) -> Tensor:
    """Coefficients `(n,)` of coalitions `(m, n)`, the first all ones, weighted by nearness to it; with a prior where one has strength."""
    kept, scores = kept.double(), scores.double()
    nearness = _nearness(kept)
    if strength is not None:
        return prior_ridge(kept, scores, nearness, prior, strength)
    return weighted_ridge(kept, scores[:, None], nearness[:, None])[:, 0]


def _nearness(kept: Tensor) -> Tensor:
    distance = 1 - kept.mean(1).sqrt()
    return (-(distance**2) / WIDTH**2).exp().sqrt()


class LIMECVInterpreter(Interpreter):
    """LIME of superpixels (quickshift), those taken away in their mean colour.

    Source: Ribeiro, Singh, Guestrin 2016. Every picture gets superpixels of its own.
    """

    def __init__(self, model: Any, device: str = "gpu:0", random_seed: int | None = None, **options: Any) -> None:
        super().__init__(model, device, **options)
        self.random_seed = random_seed
        self.lime_results: dict[str, Any] = {}

    def interpret(
        self,
        data: Any,
        interpret_class: Any = None,
        top_k: int = 1,
        num_samples: int = 1000,
        batch_size: int | None = 50,
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: Any = None,
    ) -> Weights:
        """`{class: [(superpixel, weight), ...]}`, the strongest first; `lime_results` holds the segmentation and more.

        Args:
            interpret_class: a class or several; None: the `top_k` most probable.
        """
        return self._interpreted(data, interpret_class, top_k, num_samples, batch_size, resize_to, crop_to, visual, save_path, {}, None)

    def _interpreted(
        self, data: Any, classes: Any, top_k: int, samples: int, batch_size: int | None, resize_to: int | None, crop_to: int | None,
        visual: bool, save_path: Any, priors: GLOBAL, strength: float | None
    ) -> Weights:  # fmt: skip
        shown = self.pictures(data, resize_to, crop_to)
        if len(shown) != 1:
            raise InputError(f"there are {len(shown)} pictures; LIME explains one at a time")
        if samples < 2:
            raise OptionError(f"num_samples is {samples}; at least two are needed")
        segments = segmented(shown.shown[0])
        with evaluating(self.model):
            view = self.view((shown.tensor,), None, "probability")
            wanted = wanted_classes(self.numbered(classes), top_k, view)
            seed = resolve_seed(self.random_seed)
            kept, chances = _played(view, shown, segments, samples, seed, Run(batch_size))
            prior = _prior(priors, wanted[0], segments, shown.shown[0], self.clustered) if strength is not None else None
            weights, errors = {}, {}
            for label in wanted:
                own = fitted(kept, chances[:, label], prior, strength)
                own = torch.where(own.abs() > ROUNDING * chances.abs().max(), own, 0.0)
                weights[label] = sorted(enumerate(own.tolist()), key=lambda pair: -abs(pair[1]))
                errors[label] = _explained(kept, chances[:, label], own)
            self.labels = [wanted[0]]
            self.lime_results = {
                "probability": numpy(chances[0]),
                "input": shown.shown[0],
                "segmentation": segments,
                "r2_scores": errors,
                "lime_weights": weights,
            }
            self.draw([painted(segments, weights[wanted[0]])], view, shown, visual, save_path, "lime", "mean")
        return weights

    def clustered(self, picture: NDArray[np.uint8], segments: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which shared feature each superpixel is; without shared features each is its own."""
        return np.arange(int(segments.max()) + 1)


def segmented(picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Superpixels `(H, W)`, numbered from 0: scikit-image's quickshift with a deviation of 1."""
    quickshift = need("skimage.segmentation", "vision").quickshift
    seen = picture if picture.shape[-1] == 3 else np.repeat(picture.mean(2, keepdims=True).astype(np.uint8), 3, 2)
    found: NDArray[np.int64] = np.asarray(quickshift(seen, sigma=1), dtype=np.int64)
    return found


def painted(segments: NDArray[np.int64], weights: Sequence[tuple[int, float]]) -> Tensor:
    """The weights on their superpixels, `(1, H, W)`."""
    by_region = torch.zeros(int(segments.max()) + 1)
    for region, weight in weights:
        by_region[region] = weight
    return by_region[torch.from_numpy(segments)][None]


def wanted_classes(classes: Any, top_k: int, view: InputView) -> list[int]:
    """The classes that were asked for, or the most probable."""
    chances = Run().here(of_every_class(view))[:, 0]
    count, best = len(chances), chances.argsort(descending=True)
    if classes is None:
        if not 1 <= top_k <= count:
            raise OptionError(f"top_k is {top_k}, and the model has {count} classes")
        return [int(label) for label in best[:top_k]]
    found = [int(label) for label in np.asarray(classes).reshape(-1)]
    if not found or not all(0 <= label < count for label in found):
        raise OptionError(f"interpret_class is {classes}; give classes from 0 to {count - 1}")
    return found


def _played(view: InputView, shown: Pictures, segments: NDArray[np.int64], samples: int, seed: int, run: Run) -> tuple[Tensor, Tensor]:
    """Coalitions `(samples, n)`, the first of all, and their probabilities `(samples, classes)`."""
    count = int(segments.max()) + 1
    kept = torch.rand(samples, count, generator=generator(seed, 0)) < 0.5
    kept[0] = True
    picture = shown.shown[0]
    sizes = np.maximum(np.bincount(segments.ravel(), minlength=count), 1)
    colours = np.stack([np.bincount(segments.ravel(), picture[..., c].ravel(), count) / sizes for c in range(picture.shape[2])], 1)
    mean = shown.statistics.normalised(colours.astype(np.uint8)[segments][None]).to(shown.tensor)
    every = of_every_class(view)
    groups = groups_of(view.features, torch.from_numpy(segments)[None, None].to(shown.tensor.device))
    _, scores = coalitions(Scorer(every, (mean,), run, "lime"), groups, Design.of(kept))
    return kept, scores[:, :, 0].T.cpu()


def of_every_class(view: InputView) -> InputView:
    """The same view, of all classes together."""
    return replace(view, pick=resolve(Every(), view.size))


def _explained(kept: Tensor, scores: Tensor, coefficients: Tensor) -> float:
    """The part of the weighted variance that the fit explains."""
    rows, target = kept.double(), scores.double()
    nearness = _nearness(rows)
    left = _less_mean(target, nearness) - _less_mean(rows @ coefficients, nearness)
    total = float(nearness @ _less_mean(target, nearness).square())
    return 1 - float(nearness @ left.square()) / total if total > 0 else math.nan


def _less_mean(values: Tensor, weights: Tensor) -> Tensor:
    return values - (weights @ values) / weights.sum()


def _prior(priors: GLOBAL, label: int, segments: NDArray[np.int64], picture: NDArray[np.uint8], clustered: Any) -> Tensor:
    own = priors.get(label, {})
    return torch.tensor([float(own.get(int(cluster), 0.0)) for cluster in clustered(picture, segments)])
