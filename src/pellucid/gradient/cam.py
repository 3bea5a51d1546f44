"""Class activation maps: where on a picture a layer's activations speak for the score.

A layer holds channels at places: of a convolution `(B, C, h, w)` (or one, or three dimensions of places), of a
transformer tokens `(B, N, C)`, of some `(B, h, w, C)`. All become channels first; special tokens are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Run
from ..errors import InputError, OptionError
from ..explanation import Found
from ..inputs import Tensors
from ..inside import Layer, Place, placed
from ..model import undisturbed
from ..perturb import feature_ablation, groups_of
from ..rules import guided_backprop
from ..view import InputView

__all__ = ["CAMS", "LAYOUTS", "Grid", "channel_averaged", "class_activation_map", "grid_of", "guided_grad_cam"]

LAYOUTS = ("channels_first", "channels_last", "tokens")
RESIZE = {1: "linear", 2: "bilinear", 3: "trilinear"}
MOST_SPECIAL = 16
ALIKE = 1e-6  # of logarithms: proportions that cannot be told apart


def channel_averaged(gradient: Tensor, activation: Tensor) -> Tensor:
    """The activation, each channel weighted by the mean of its gradient: Grad-CAM before its sum over channels.

    Source: Selvaraju et al. 2017, equations 1 and 2.
    """
    places = tuple(range(3, gradient.dim()))
    weights: Tensor = gradient.mean(places, keepdim=True) if places else gradient
    return weights * activation


def _plus_plus(gradient: Tensor, activation: Tensor) -> Tensor:
    """Grad-CAM++: Chattopadhay et al. 2018, equations 9, 10 and 19 (of an exponential of the score)."""
    places = tuple(range(3, gradient.dim()))
    total = activation.sum(places_of(activation), keepdim=True)
    alpha = gradient**2 / _not_zero(2 * gradient**2 + total * gradient**3)
    weights: Tensor = (alpha * gradient.relu()).sum(places, keepdim=True)
    return weights * activation


def _axiomatic(gradient: Tensor, activation: Tensor) -> Tensor:
    """XGrad-CAM: Fu et al. 2020, equation 8: weights that add up to the gradient times the activation."""
    total = activation.sum(places_of(activation), keepdim=True)
    weights: Tensor = (gradient * activation).sum(tuple(range(3, gradient.dim())), keepdim=True) / _not_zero(total)
    return weights * activation


def _not_zero(x: Tensor) -> Tensor:
    return torch.where(x.abs() < torch.finfo(x.dtype).tiny, torch.ones_like(x), x)


def places_of(activation: Tensor) -> tuple[int, ...]:
    """The dimensions of places of `(B, C, ...)`."""
    return tuple(range(2, activation.dim()))


# What is made of gradients (T, B, C, ...) and activations (B, C, ...), before the sum over channels.
WEIGHTED: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": channel_averaged,
    "grad_cam_plus_plus": _plus_plus,
    "hires_cam": torch.mul,  # Draelos and Carin 2020, equation 4
    "layer_cam": lambda gradient, activation: gradient.relu() * activation,  # Jiang et al. 2021, equation 7
    "xgrad_cam": _axiomatic,
}


@dataclass(frozen=True)
class Grid:
    """How a layer's tensor lies on the picture.

    Attributes:
        layout: one of `LAYOUTS`.
        shape: of the places, `(h, w)`.
        special: tokens before the first of the picture (class, distillation, registers).
    """

    layout: str
    shape: tuple[int, ...]
    special: int = 0

    def map(self, tensor: Tensor, lead: int = 1) -> Tensor:
        """The tensor, behind `lead` dimensions, as channels and places."""
        if self.layout == "channels_first":
            return tensor
        if self.layout == "channels_last":
            return tensor.movedim(-1, lead)
        tokens = tensor.narrow(lead, self.special, math.prod(self.shape))
        on_grid: Tensor = tokens.movedim(-1, lead).unflatten(-1, self.shape)
        return on_grid

    @property
    def channels(self) -> int:
        """The dimension of the channels of one example."""
        return 0 if self.layout == "channels_first" else -1


def grid_of(shape: Sequence[int], picture: Sequence[int], layout: str | None = None, special: int | None = None) -> Grid:
    """How a layer's tensor of this shape `(B, ...)` lies on a picture with these places `(H, W)`.

    Raises:
        OptionError: an unknown layout. InputError: the shape fits none, or several.
    """
    if layout is not None and layout not in LAYOUTS:
        raise OptionError(f"layout {layout!r} is unknown; choose one of {', '.join(map(repr, LAYOUTS))}")
    found = layout or _layout(tuple(shape), tuple(picture))
    if found == "tokens":
        if len(shape) != 3:
            raise InputError(f"a layer's tensor of shape {tuple(shape)} holds no tokens; those are (examples, tokens, channels)")
        return _tokens(shape[1], tuple(picture), special)
    return Grid(found, tuple(shape[2:] if found == "channels_first" else shape[1:-1]))


def _layout(shape: tuple[int, ...], picture: tuple[int, ...]) -> str:
    places = len(picture)
    if len(shape) == places + 2:
        first, last = (_distortion(part, picture) for part in (shape[2:], shape[1:-1]))
        if places > 1 and shape[1] != shape[-1] and abs(first - last) < ALIKE:
            raise InputError(f"a layer's tensor of shape {shape} may have its channels first or last; say which: layout='channels_first'")
        return "channels_last" if last < first else "channels_first"
    if len(shape) == 3 and places == 2:
        return "tokens"
    raise InputError(
        f"a layer's tensor of shape {shape} does not lie on a picture with {places} dimensions of places; choose a layer with "
        "(examples, channels, height, width) or (examples, tokens, channels)"
    )


def _distortion(places: tuple[int, ...], picture: tuple[int, ...]) -> float:
    """How far the proportions of places are from the picture's."""
    scales = [math.log(n / m) for n, m in zip(places, picture, strict=True)]
    return max(scales) - min(scales)


def _tokens(count: int, picture: tuple[int, ...], special: int | None) -> Grid:
    """The grid of so many tokens: of the picture's proportions, with as few special tokens before it as possible."""
    tall, wide = picture if len(picture) == 2 else (1, 1)
    for extra in range(min(count, MOST_SPECIAL)) if special is None else [special]:
        across = math.isqrt(round((count - extra) * wide / tall))
        if across and (count - extra) % across == 0 and across * tall == (count - extra) // across * wide:
            return Grid("tokens", ((count - extra) // across, across), extra)
    raise InputError(f"{count} tokens are no grid on a picture of {tall} x {wide}; say how many come before the grid: special=1")


def class_activation_map(
    view: InputView,
    layer: Layer | Place,
    kind: str = "grad_cam",
    of_input: bool = False,
    layout: str | None = None,
    special: int | None = None,
    resize: bool = True,
    run: Run | None = None,
) -> Found:
    """A map `(T, B, 1, h, w)` of where a layer's activations speak for the score; in the picture's size if `resize`.

    Args:
        view: of a picture `(B, C, H, W)` (or a signal, or a volume).
        layer, of_input: as for `pellucid.inside.at_layer`.
        kind: one of `CAMS`.
        layout: how the layer's tensor lies: one of `LAYOUTS`; found from its shape if not said.
        special: how many tokens come before those of the picture; found from their number if not said.

    Sources: beside each kind, in this file.

    >>> import torch; from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 2))
    >>> class_activation_map(at_input(net, torch.rand(2, 1, 8, 8), target=1), net[1]).values[0].shape
    torch.Size([1, 2, 1, 8, 8])
    """
    if kind not in CAMS:
        raise OptionError(f"unknown map {kind!r}; the maps are {', '.join(CAMS)}")
    picture = view.features[0].shape[2:]
    if not 1 <= len(picture) <= 3:
        raise InputError(f"inputs of shape {tuple(view.features[0].shape)} are no pictures (B, C, H, W), signals or volumes")
    values, scores = CAMS[kind](_Asked(view, layer, of_input, layout, special, run or Run()))
    if resize and values.shape[3:] != picture:
        values = resized(values.flatten(0, 1), picture).unflatten(0, values.shape[:2])
    return Found((values.detach(),), scores)


def resized(maps: Tensor, places: Sequence[int]) -> Tensor:
    """`(B, C, ...)` with other places, linearly interpolated."""
    return F.interpolate(maps, tuple(places), mode=RESIZE[len(places)], align_corners=False)


@dataclass(frozen=True, eq=False)
class _Asked:
    view: InputView
    layer: Layer | Place
    of_input: bool
    layout: str | None
    special: int | None
    run: Run

    def grid(self, activation: Tensor) -> Grid:
        """How the layer's tensor lies on the picture."""
        return grid_of(activation.shape, self.view.features[0].shape[2:], self.layout, self.special)

    def held(self) -> tuple[Tensor, Tensor]:
        """The activations `(B, C, ...)` and the scores."""
        seen = self.run.place(self.view, self.layer, self.of_input)
        return self.grid(seen.features[0]).map(seen.features[0]), seen.scores


def _summed(weighted: Tensor) -> Tensor:
    """What speaks for the score: the positive part of the sum over channels, `(T, B, 1, ...)`."""
    total: Tensor = weighted.sum(2, keepdim=True)
    return total.relu()


def _by_gradient(kind: str) -> Callable[[_Asked], tuple[Tensor, Tensor]]:
    def found(asked: _Asked) -> tuple[Tensor, Tensor]:
        with undisturbed(asked.view.roots):
            seen = asked.run.inside(asked.view, asked.layer, asked.of_input)
        grid = asked.grid(seen.activations[0])
        return _summed(WEIGHTED[kind](grid.map(seen.gradients[0], 2), grid.map(seen.activations[0]))), seen.scores

    return found


def _eigen(asked: _Asked) -> tuple[Tensor, Tensor]:
    """Eigen-CAM: the activations along their first principal direction, without any gradient or target.

    Source: Muhammad and Yeasin 2020, equation 3; the sign is that of a positive sum.
    """
    held, scores = asked.held()
    flat = held.flatten(2).to(torch.float64)
    direction = torch.linalg.svd(flat, full_matrices=False).U[:, :, :1]
    along = (direction * flat).sum(1)
    along = along * torch.where(along.sum(1, keepdim=True) < 0, -1, 1)
    values = along.to(held.dtype).view(len(held), 1, *held.shape[2:]).relu()
    return values.expand(len(scores), *values.shape), scores


def _ablation(asked: _Asked) -> tuple[Tensor, Tensor]:
    """Ablation-CAM: channels weighted by the part of the score that falls without them.

    Source: Desai and Ramaswamy 2020, equation 4.
    """
    seen = asked.run.place(asked.view, asked.layer, asked.of_input)
    place, features, activation, grid = seen.place, seen.features, seen.features[0], asked.grid(seen.features[0])
    inner = placed(asked.view, place, features)
    width = activation.shape[1:][grid.channels]
    shape = [1] * activation.dim()
    shape[1 if grid.channels == 0 else -1] = width
    mask = torch.arange(width, device=activation.device).view(shape)
    masks = (mask, *(torch.full_like(f[:1], width, dtype=torch.long) for f in inner.features[1:]))
    found = feature_ablation(inner, tuple(torch.zeros_like(f) for f in inner.features), groups_of(inner.features, masks), asked.run)
    falls = grid.map(found.values[0], 2)
    scores = found.scores.view(*found.scores.shape, *(1,) * (falls.dim() - 2))
    return _summed(falls / _not_zero(scores) * grid.map(activation)), found.scores


def _masked_scores(asked: _Asked) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Activations `(B, C, ...)`, the same in the picture's size, and the scores `(T, C, B)` of the picture seen through each."""
    (held, _), features = asked.held(), asked.view.features
    large = resized(held, features[0].shape[2:])
    low, high = (getattr(large.flatten(2), name)(2).view(*large.shape[:2], *(1,) * (large.dim() - 2)) for name in ("amin", "amax"))
    seen = torch.where(high > low, (large - low) / _not_zero(high - low), large)

    def points(examples: slice, steps: slice) -> Tensors:
        masks = seen[examples, steps].movedim(1, 0).unsqueeze(2)
        others = (f[examples].expand(len(masks), *f[examples].shape) for f in features[1:])
        return (features[0][examples] * masks, *others)

    blank = (torch.zeros_like(features[0]), *features[1:])
    ends, scores = asked.run.contrast(asked.view, blank, held.shape[1], points, "score-cam")
    return held, large, scores, ends.here, ends.there


def _score(asked: _Asked) -> tuple[Tensor, Tensor]:
    """Score-CAM: channels weighted by the softmax of how the score rises when the picture is seen through them.

    Source: Wang et al. 2020, equations 5 to 7 and algorithm 1; the rise is over a picture of zeros.
    """
    held, _, scores, here, there = _masked_scores(asked)
    weights = (scores - there[:, None]).softmax(1).transpose(1, 2)
    return _summed(weights.view(*weights.shape, *(1,) * (held.dim() - 2)) * held), here


def _score_as_in_interpretdl(asked: _Asked) -> tuple[Tensor, Tensor]:
    """The sum over channels of the score times the resized activation: no baseline, no softmax, no positive part."""
    _, large, scores, here, _ = _masked_scores(asked)
    weights = scores.transpose(1, 2)
    return (weights.view(*weights.shape, *(1,) * (large.dim() - 2)) * large).sum(2, keepdim=True), here


CAMS: Mapping[str, Callable[[_Asked], tuple[Tensor, Tensor]]] = {
    **{kind: _by_gradient(kind) for kind in WEIGHTED},
    "eigen_cam": _eigen,
    "ablation_cam": _ablation,
    "score_cam": _score,
    "score_cam_interpretdl": _score_as_in_interpretdl,
}


def guided_grad_cam(
    view: InputView,
    layer: Layer | Place,
    of_input: bool = False,
    layout: str | None = None,
    special: int | None = None,
    run: Run | None = None,
) -> Found:
    """Guided backpropagation times the Grad-CAM of a layer, resized to each input.

    Source: Selvaraju et al. 2017, section 3.2. `layer`, `of_input`, `layout`, `special`: as for `class_activation_map`.

    >>> import torch; from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 2))
    >>> guided_grad_cam(at_input(net, torch.rand(2, 1, 8, 8), target=1), net[1]).values[0].shape
    torch.Size([1, 2, 1, 8, 8])
    """
    run = run or Run()
    small = class_activation_map(view, layer, "grad_cam", of_input, layout, special, False, run).values[0]
    found = guided_backprop(view, run=run)
    values = tuple(g * _over(small, g) for g in found.values)
    return replace(found, values=values)


def _over(small: Tensor, wide: Tensor) -> Tensor:
    """A map `(T, B, 1, h, w)` in the places of `(T, B, C, H, W)`."""
    if wide.dim() != small.dim():
        raise InputError(
            f"an input of shape {tuple(wide.shape[1:])} has other dimensions than the map of the layer, {tuple(small.shape[1:])}"
        )
    found: Tensor = resized(small.flatten(0, 1), wide.shape[3:]).unflatten(0, small.shape[:2])
    return found
