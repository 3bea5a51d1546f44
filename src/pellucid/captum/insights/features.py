"""Captum Insights' features: how an argument of the model is read, what it is compared with, and what a person sees of it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ...insights.subject import Part

__all__ = ["BaseFeature", "EmptyFeature", "FeatureOutput", "GeneralFeature", "ImageFeature", "TextFeature"]

Transform = Callable[..., Any]
Transforms = Transform | Sequence[Transform] | None


class FeatureOutput(NamedTuple):
    """What is shown of one argument: itself (`base`), its attribution (`modified`), and its share of all attribution."""

    name: str
    base: Any
    modified: Any
    type: str
    contribution: float


def _listed(transforms: Transforms) -> list[Transform]:
    return [] if transforms is None else [transforms] if callable(transforms) else list(transforms)


def _shares(values: Tensor, size: Tensor) -> list[Any]:
    """In percent of the size; zeros where that is zero."""
    found: list[Any] = (100 * values / size if float(size) else values * 0).tolist()
    return found


class BaseFeature:
    """One argument of the model.

    Args:
        name: shown beside it.
        baseline_transforms: from an example's argument, as the model gets it, to what it is compared with; the first one counts.
        input_transforms: from an example's argument to what the model gets, one after another.
        visualization_transform: from an example's argument to what a person sees.
    """

    def __init__(
        self, name: str, baseline_transforms: Transforms, input_transforms: Transforms, visualization_transform: Transform | None
    ) -> None:
        self.name = name
        self.baseline_transforms = _listed(baseline_transforms)
        self.input_transforms = _listed(input_transforms)
        self.visualization_transform = visualization_transform

    @staticmethod
    def visualization_type() -> str:
        """The kind of picture."""
        raise NotImplementedError

    def visualize(self, attribution: Tensor, data: Tensor, contribution_frac: float) -> FeatureOutput:
        """What is shown of an example, `(1, ...)` each."""
        raise NotImplementedError

    def seen(self, data: Tensor) -> Any:
        """What a person sees of an example's argument, `(1, ...)`."""
        return data if self.visualization_transform is None else self.visualization_transform(data)

    def part(self, data: Tensor) -> Part:
        """The same for the page; a kind of its own is drawn by its shape."""
        return Part(self.name, "table" if data.dim() == 2 else "tensor")


class ImageFeature(BaseFeature):
    """A picture, `(1, C, H, W)` with one channel or three."""

    def __init__(
        self, name: str, baseline_transforms: Transforms, input_transforms: Transforms, visualization_transform: Transform | None = None
    ) -> None:
        super().__init__(name, baseline_transforms, input_transforms, visualization_transform)

    @staticmethod
    def visualization_type() -> str:
        """The kind of picture."""
        return "image"

    def visualize(self, attribution: Tensor, data: Tensor, contribution_frac: float) -> FeatureOutput:
        """The picture and a map of the attributions' sizes, as base64 of PNG."""
        from ..attr import visualization

        shown = self.seen(data)
        pixels, found = (np.atleast_3d(np.moveaxis(x.detach().cpu().numpy().reshape(x.shape[-3:]), 0, 2)) for x in (shown, attribution))
        drawn = [
            visualization.visualize_image_attr(found, pixels, method=method, sign="absolute_value", use_pyplot=False)[0]
            for method in ("original_image", "heat_map")
        ]
        return FeatureOutput(self.name, _png(drawn[0]), _png(drawn[1]), self.visualization_type(), contribution_frac)

    def part(self, data: Tensor) -> Part:
        """The picture."""
        from ...show.example import pixels

        shown = self.seen(data).detach().cpu()
        return Part(self.name, "image", picture=pixels(shown.reshape(shown.shape[-3:]).double().numpy()))


def _png(figure: Any) -> str:
    kept = BytesIO()
    figure.savefig(kept, format="png")
    return base64.b64encode(kept.getvalue()).decode()


class TextFeature(BaseFeature):
    """A text; `visualization_transform` turns the numbers of its tokens into words."""

    def __init__(
        self, name: str, baseline_transforms: Transforms, input_transforms: Transforms, visualization_transform: Transform
    ) -> None:
        super().__init__(name, baseline_transforms, input_transforms, visualization_transform)

    @staticmethod
    def visualization_type() -> str:
        """The kind of picture."""
        return "text"

    def visualize(self, attribution: Tensor, data: Tensor, contribution_frac: float) -> FeatureOutput:
        """The words, and their attributions in percent of the largest."""
        values = attribution.detach().squeeze(0)
        values = values.flatten(1).sum(1) if values.dim() > 1 else values
        return FeatureOutput(self.name, self.seen(data), _shares(values, values.abs().max()), self.visualization_type(), contribution_frac)

    def part(self, data: Tensor) -> Part:
        """The words; a text in one piece is split where it has spaces."""
        words = self.seen(data)
        named = (
            words.split()
            if isinstance(words, str)
            else [str(word) for word in (words.flatten().tolist() if isinstance(words, Tensor) else words)]
        )
        return Part(self.name, "text", tuple(named))


class GeneralFeature(BaseFeature):
    """Numbers, `(1, C)`, with a name for each."""

    def __init__(self, name: str, categories: list[str]) -> None:
        super().__init__(name, None, None, None)
        self.categories = categories

    @staticmethod
    def visualization_type() -> str:
        """The kind of picture."""
        return "general"

    def visualize(self, attribution: Tensor, data: Tensor, contribution_frac: float) -> FeatureOutput:
        """Names with values, and attributions in percent of their Euclidean length."""
        values = attribution.detach().squeeze(0)
        base = [f"{name}: {value:.2f}" for name, value in zip(self.categories, data.squeeze(0).tolist(), strict=False)]
        return FeatureOutput(self.name, base, _shares(values, values.norm()), self.visualization_type(), contribution_frac)

    def part(self, data: Tensor) -> Part:
        """A table with one row."""
        cells = tuple(f"{value:.3g}" for value in data.detach().flatten().tolist())
        return Part(self.name, "table", tuple(map(str, self.categories)), cells)


class EmptyFeature(BaseFeature):
    """An argument that is attributed, but not shown."""

    def __init__(
        self,
        name: str = "empty",
        baseline_transforms: Transforms = None,
        input_transforms: Transforms = None,
        visualization_transform: Transform | None = None,
    ) -> None:
        super().__init__(name, baseline_transforms, input_transforms, visualization_transform)

    @staticmethod
    def visualization_type() -> str:
        """The kind of picture."""
        return "empty"

    def visualize(self, attribution: Tensor, data: Tensor, contribution_frac: float) -> FeatureOutput:
        """Its share only."""
        return FeatureOutput(self.name, None, None, self.visualization_type(), contribution_frac)

    def part(self, data: Tensor) -> Part:
        """Its name."""
        return Part(self.name, "empty")
