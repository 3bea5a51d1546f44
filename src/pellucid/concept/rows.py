"""What concepts are sought in: a layer's vectors, one for each crop of a picture, or for each place of an example."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Part, Points, Run
from ..errors import InputError, OptionError
from ..gradient.cam import LAYOUTS, grid_of
from ..hooks import watch
from ..inputs import Tensors, accurate
from ..inside import Layer, Place, look
from ..model import undisturbed
from ..picks import Custom
from ..seeds import generator
from ..view import InputView, View

__all__ = ["Held", "Rows", "at_crops", "at_places", "held_by", "of_crops", "pixels", "precise", "read"]

MOST = 20_000  # places that are looked at, where there are no crops
OVERLAP = 0.2  # of neighbouring crops


class Rows(NamedTuple):
    """Vectors `(B, S, C)` of each example, and where each was found.

    Attributes:
        values: in double precision, on the CPU.
        where: `(B, S, 4)`, the top, left, height and width of crops; `(B, S, D)`, the index of places.
    """

    values: Tensor
    where: Tensor


@dataclass(frozen=True, eq=False)
class Held:
    """A layer, and how the one tensor that it holds divides into vectors.

    Attributes:
        layout: "channels_first" (vectors lie along dimension 1), "channels_last" or "tokens" (along the last).
        picture: height and width of the inputs; nothing where they are no pictures.
        places, channels: the shape of the vectors of an example, and their length.
        dtype: what their coefficients are calculated in.
    """

    place: Place
    layout: str
    picture: tuple[int, ...]
    places: tuple[int, ...]
    channels: int
    dtype: torch.dtype

    def vectors(self, held: Tensor) -> Tensor:
        """What the layer holds as `(b, ..., C)`."""
        return held.movedim(1, -1) if self.layout == "channels_first" else held

    def back(self, vectors: Tensor) -> Tensor:
        """Vectors `(..., *places, C)` as the layer would hold them."""
        return vectors.movedim(-1, -1 - len(self.places)) if self.layout == "channels_first" else vectors

    def on_picture(self, values: Tensor) -> Tensor:
        """Numbers `(b, ..., K)` of the places as `(b, K, h, w)`, without special tokens; `(b, K, 1, 1)` where there are no places."""
        if values.dim() == 2:
            return values[:, :, None, None]
        layout = "tokens" if self.layout == "tokens" else "channels_last"
        return grid_of(values.shape, self.picture, layout).map(values)


def held_by(view: InputView, layer: Layer | Place, of_input: bool = False, layout: str | None = None) -> Held:
    """Where a layer is and how its vectors lie, from a pass with two examples.

    Raises:
        OptionError: no such layer, one that does not run, an unknown layout. InputError: it holds no such tensor.
    """
    with undisturbed(view.roots):
        seen = look(view.some(range(min(2, view.size))), layer, of_input)
    if len(seen.features) != 1 or seen.place.shared or not seen.features[0].is_floating_point() or seen.features[0].dim() < 2:
        found = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in seen.held)
        raise InputError(f"{seen.place.words} holds {found}; concepts are sought in one tensor of numbers (examples, ...): choose another")
    picture = tuple(view.features[0].shape[2:]) if pictures(view) else ()
    values = seen.features[0]
    known = _layout(tuple(values.shape), picture, layout)
    held = Held(seen.place, known, picture, (), 0, accurate(values.dtype))
    lying = held.vectors(values)
    refuse_negative(values, seen.place, view.roots)
    return replace(held, places=tuple(lying.shape[1:-1]), channels=lying.shape[-1])


def pictures(view: View) -> bool:
    """Whether the (first) inputs are pictures `(B, C, H, W)`."""
    return view.features[0].dim() == 4 and view.features[0].is_floating_point()


def _layout(shape: tuple[int, ...], picture: tuple[int, ...], layout: str | None) -> str:
    if layout is not None and layout not in LAYOUTS:
        raise OptionError(f"layout {layout!r} is unknown; choose one of {', '.join(map(repr, LAYOUTS))}")
    if len(shape) == 2:
        return "channels_last"
    return grid_of(shape, picture, layout).layout if picture else layout or "tokens"


def refuse_negative(values: Tensor, place: Place, roots: tuple[nn.Module, ...]) -> None:
    """Only what is not negative has non-negative factors.

    Raises:
        InputError: a layer holds negative numbers, or some that are not finite.
    """
    low, high = (float(end) for end in values.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"{place.words} holds NaN or infinity; leave those examples out")
    if low < 0:
        near = [name for root in roots for name, layer in root.named_modules() if isinstance(layer, nn.ReLU)][-4:]
        such = f"such as {', '.join(map(repr, near))}" if near else "or what the next layer receives (of_input=True)"
        raise InputError(
            f"{place.words} holds negative numbers, down to {low:.3g}; non-negative matrix factorisation needs activations of zero or "
            f"more: choose a layer that ends with a ReLU, {such}"
        )


@dataclass(frozen=True, eq=False)
class _Reader:
    """The model as a function that returns what a place holds, examples first."""

    model: Callable[..., Any]
    place: Place

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        # To the end: a view that stops somewhere itself could take our stop for its own.
        with watch(self.place.layers, self.place.of_input) as calls:
            self.model(*args, **kwargs)
        return self.place.features(self.place.held(calls), len(args[0]))[0]


def _total(held: Tensor) -> Tensor:
    return held.flatten(1).to(accurate(held.dtype)).sum(1)


def read(view: InputView, held: Held, count: int, points: Points, take: Callable[[Tensor, slice], Tensor], run: Run, label: str) -> Tensor:
    """What is taken of the layer's tensor at `count` points of each example, `(B, count, ...)`.

    Args:
        points: see `Run.scores`.
        take: from `(rows, ...)` and the examples `(rows, ...)`.

    Raises:
        InputError: see `refuse_negative`.
    """
    model = _Reader(view.call.model, held.place)
    asked = run.ready(replace(view, call=replace(view.call, model=model), pick=Custom(_total), at_once=None), count)
    found: list[Tensor] = []

    def verb(block: View, at: Tensors, examples: slice, steps: slice) -> tuple[Tensor, Tensors]:
        assert isinstance(block, InputView)
        run.count(at)
        with torch.no_grad():
            values = block.call(tuple(p.clone() for p in at))
        refuse_negative(values, held.place, view.roots)
        return _total(values)[None], (take(values, examples)[None],)

    def keep(part: Part) -> None:
        values = part.gradients[0][0].transpose(0, 1)
        if not found:
            found.append(values.new_empty(view.size, count, *values.shape[2:]))
        found[0][part.examples, part.steps] = values

    run.each(asked, count, points, verb, keep, label)
    return found[0]


def precise(rows: Tensor) -> Tensor:
    """For factors: in double precision, on the CPU."""
    return rows.detach().cpu().double()


def of_crops(picture: tuple[int, ...], crop: float | int) -> tuple[int, int]:
    """Height and width of crops: a number of pixels, or (a float) a share of the sides.

    Raises:
        OptionError: they do not fit.

    >>> of_crops((32, 48), 0.25), of_crops((32, 48), 10)
    ((8, 12), (10, 10))
    """
    share = isinstance(crop, float)
    tall, wide = (max(1, round(crop * side)) if share else int(crop) for side in picture)
    if not (0 < crop <= 1 if share else 1 <= crop <= min(picture)):
        raise OptionError(
            f"crop={crop!r} does not fit pictures of {picture[0]} x {picture[1]}; give pixels (int) from 1 to {min(picture)}, a share of "
            "the sides (float) above 0.0 and up to 1.0, or None for no crops"
        )
    return tall, wide


def at_crops(view: InputView, held: Held, crop: tuple[int, int], each: int | None, seed: int, run: Run) -> Rows:
    """The vectors of crops, resized to the picture's size; the mean over the layer's places.

    Source: Fel et al. 2023, section 3.1 and appendix.

    Args:
        crop: their height and width.
        each: how many of each picture, at random; None: side by side, neighbours overlapping by a fifth.
    """
    corners = _regular(held.picture, crop, view.size) if each is None else _random(held.picture, crop, view.size, each, seed)

    def points(examples: slice, steps: slice) -> Tensors:
        crops = _cropped(view.features[0][examples], corners[examples, steps].transpose(0, 1).tolist(), crop)
        return (crops, *(f[examples].expand(len(crops), *f[examples].shape) for f in view.features[1:]))

    def take(values: Tensor, _: slice) -> Tensor:
        return precise(held.on_picture(held.vectors(values)).flatten(2).mean(2))

    values = read(view, held, corners.shape[1], points, take, run, "crops")
    sides = torch.tensor(crop).expand(*corners.shape[:2], 2)
    return Rows(values, torch.cat([corners, sides], 2))


def _regular(picture: tuple[int, ...], crop: tuple[int, int], size: int) -> Tensor:
    """The corners of crops from edge to edge, `(B, S, 2)`."""
    lines = []
    for whole, side in zip(picture, crop, strict=True):
        count = 1 + math.ceil((whole - side) / max(1.0, (1 - OVERLAP) * side))
        lines.append(torch.linspace(0, whole - side, count, dtype=torch.float64).round().long())
    return torch.cartesian_prod(*lines).view(1, -1, 2).expand(size, -1, 2)


def _random(picture: tuple[int, ...], crop: tuple[int, int], size: int, each: int, seed: int) -> Tensor:
    if each < 1:
        raise OptionError(f"per_image={each}; give one crop at least, or None for crops side by side")
    sources = [generator(seed, i) for i in range(size)]
    free = [whole - side + 1 for whole, side in zip(picture, crop, strict=True)]
    return torch.stack([torch.stack([torch.randint(ends, (each,), generator=source) for ends in free], 1) for source in sources])


def _cropped(images: Tensor, corners: list[list[list[int]]], crop: tuple[int, int]) -> Tensor:
    """`(s, b, C, H, W)`: of each image a crop for each step, as large as the image."""
    cut = [pixels(image, (*corner, *crop)) for step in corners for image, corner in zip(images, step, strict=True)]
    whole: Tensor = torch.stack(cut)
    if crop != images.shape[2:]:
        whole = F.interpolate(whole, tuple(images.shape[2:]), mode="bilinear", align_corners=False)
    return whole.view(len(corners), len(images), *whole.shape[1:])


def pixels(image: Tensor, box: Any) -> Tensor:
    """What lies in a box of an image `(..., H, W)`: top, left, height, width."""
    top, left, tall, wide = (int(number) for number in box)
    return image[..., top : top + tall, left : left + wide]


def at_places(view: InputView, held: Held, seed: int, run: Run) -> Rows:
    """The vectors of the examples themselves: of each place (a token, a place of a picture), or the only one where there are none.

    Of more than 20,000 places as many are taken at random, the same number of each example.
    """
    count = math.prod(held.places)
    some = max(1, min(count, MOST // view.size))
    order = [torch.arange(count) if some == count else torch.randperm(count, generator=generator(seed, i)) for i in range(view.size)]
    chosen = torch.stack([each[:some] for each in order])

    def take(values: Tensor, examples: slice) -> Tensor:
        vectors = precise(held.vectors(values)).reshape(len(values), -1, held.channels)
        return vectors.gather(1, chosen[examples][:, :, None].expand(-1, -1, held.channels))

    values = read(view, held, 1, lambda examples, _: tuple(f[None, examples] for f in view.features), take, run, "activations")
    index = torch.unravel_index(chosen, held.places) if held.places else ()
    return Rows(values[:, 0], torch.stack(index, 2) if index else chosen.new_empty(*chosen.shape, 0))
