"""Captum's interpretable inputs: what is attributed to, apart from what the model is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import InputError
from ...language.interpretable import Template, Tokens, presence
from ...perturb.regions import Regions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["ImageMaskInput", "InterpretableInput", "TextTemplateInput", "TextTokenInput"]


class InterpretableInput(ABC):
    """Stands between a method and a model: features that a method can switch off, and the input that the model takes then.

    Attributes:
        n_itp_features: how many features can be switched off.
        values: a name for each feature of `format_attr`.
    """

    n_itp_features: int
    values: list[str]

    @abstractmethod
    def to_tensor(self) -> Tensor:
        """`(1, n_itp_features)` ones: all features are there."""

    @abstractmethod
    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Any:
        """What the model is given where features are 1, and their baselines where they are 0; None: the input as it is."""

    def format_attr(self, itp_attr: Tensor) -> Tensor:
        """Attributions `(..., n_itp_features)`, one for each of `values`."""
        return itp_attr


def _row(perturbed: Tensor, units: int) -> list[bool]:
    """Which features are there, from one row."""
    rows = presence(perturbed, units)
    if len(rows) != 1:
        raise InputError(f"perturbed_tensor has {len(rows)} rows; one text or image is made at a time: call to_model_input for each row")
    found: list[bool] = rows[0].tolist()
    return found


class TextTemplateInput(InterpretableInput):
    """A text whose segments are features; `pellucid.language.interpretable.Template`.

    >>> text = TextTemplateInput("{} feels {} right now", ["He", "depressed"], baselines=["It", "neutral"])
    >>> text.to_model_input(torch.tensor([[0, 1]]))
    'It feels depressed right now'
    """

    def __init__(
        self,
        template: str | Callable[..., str],
        values: list[str] | dict[str, str],
        baselines: list[str] | dict[str, str] | Callable[[], list[str] | dict[str, str]] | None = None,
        mask: list[int] | dict[str, int] | None = None,
    ) -> None:
        self.segments = Template.of(template, values, baselines, mask)
        self.template = template
        self.format_fn: Callable[..., str] = template.format if isinstance(template, str) else template
        self.values, self.dict_keys = list(self.segments.values), list(self.segments.names)
        self.n_features, self.n_itp_features = len(self.values), self.segments.units
        self.baselines = baselines if callable(baselines) else list(self.segments.fills)  # type: ignore[arg-type]
        self.mask = [mask[name] for name in self.dict_keys] if isinstance(mask, dict) else mask
        self.formatted_mask = list(self.segments.unit_of)

    def to_tensor(self) -> Tensor:
        """`(1, n_itp_features)` ones."""
        return torch.ones(1, self.n_itp_features)

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> str:
        """The text; `baselines` that are a function are drawn anew for every perturbed text."""
        return self.segments.text(None if perturbed_tensor is None else _row(perturbed_tensor, self.n_itp_features))

    def format_attr(self, itp_attr: Tensor) -> Tensor:
        """`(..., n_itp_features)` as `(..., n_features)`: each segment has the attribution of its group."""
        return itp_attr if self.mask is None else itp_attr[..., self.formatted_mask]


class TextTokenInput(InterpretableInput):
    """A text whose tokens are features; `pellucid.language.interpretable.Tokens`."""

    def __init__(
        self,
        text: str,
        tokenizer: Any,
        baselines: int | str = 0,
        skip_tokens: list[int] | list[str] | None = None,
    ) -> None:
        skipped: Sequence[int | str] = () if skip_tokens is None else list(skip_tokens)
        self.tokens = Tokens.of(text, tokenizer, baselines, skipped)
        self.tokenizer, self.baselines = tokenizer, self.tokens.fill
        self.skip_tokens = None if skip_tokens is None else list(self.tokens.kept)
        self.inp_tensor = self.tokens.ids
        self.itp_tensor = self.inp_tensor[:, self.tokens.free]
        self.itp_mask = self.tokens.free[None] if skipped else None
        self.values = tokenizer.convert_ids_to_tokens(self.itp_tensor[0].tolist())
        self.n_itp_features = len(self.values)

    def to_tensor(self) -> Tensor:
        """`(1, n_itp_features)` ones."""
        return torch.ones_like(self.itp_tensor)

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Tensor:
        """Token ids `(rows, T)`, on the device of `perturbed_tensor`."""
        return self.inp_tensor if perturbed_tensor is None else self.tokens.given(perturbed_tensor)


def _as_it_is(image: Image) -> Any:
    return image


class ImageMaskInput(InterpretableInput):
    """An image whose regions are features; `pellucid.perturb.regions.Regions`."""

    def __init__(
        self,
        image: Image,
        mask: Tensor | None = None,
        mask_list: list[Tensor] | None = None,
        baseline: tuple[int, int, int] = (255, 255, 255),
        processor_fn: Callable[[Image], Any] = _as_it_is,
    ) -> None:
        self.regions = Regions.of(image, mask, mask_list, baseline)
        self.image, self.baseline, self.processor_fn = self.regions.picture, baseline, processor_fn
        one = torch.zeros(self.image.height, self.image.width, dtype=torch.int32) if mask is None else torch.as_tensor(mask)
        self.mask = one if mask_list is None else torch.empty(0)
        self.mask_list = list(self.regions.masks)
        self.n_itp_features = self.regions.units
        self.mask_id_to_idx = {name: unit for unit, name in enumerate(self.regions.names)}
        self.values = [f"image_feature_{name}" for name in self.regions.names]
        self.original_model_inputs = processor_fn(self.image)

    def to_tensor(self) -> Tensor:
        """`(1, n_itp_features)` ones."""
        return torch.ones(1, self.n_itp_features)

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Any:
        """What `processor_fn` makes of the image, painted over in the baseline's colour where a region is absent."""
        if perturbed_tensor is None:
            return self.original_model_inputs
        return self.processor_fn(self.regions.image(_row(perturbed_tensor, self.n_itp_features)))

    def get_mask_list(self) -> list[Tensor]:
        """A mask `(H, W)` for each feature."""
        return [self.regions.region(unit) for unit in range(self.n_itp_features)]

    def format_pixel_attr(self, itp_attr: Tensor) -> Tensor:
        """`(..., n_itp_features)` as `(..., H, W)`; where regions overlap, their sum."""
        return self.regions.spread(itp_attr)

    def plot_mask_overlay(self, show: bool = False, border_width: int = 0, show_legends: bool = True) -> tuple[Figure, Axes] | None:
        """The regions in colours over the image, with their ids; `pellucid.show.regions`."""
        from ...show.canvas import canvas, present
        from ...show.regions import overlay

        figure, axes = canvas(None, True, (6.4, 4.8))
        overlay(axes, self.regions, border_width, show_legends)
        present(show)
        return None if show else (figure, axes)
