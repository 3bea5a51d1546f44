"""Localisation: how well maps of relevance agree with where the object is, a box or a segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, OptionError

__all__ = ["Overlap", "Truth", "auc", "box_mask", "iou", "overlap", "pointing_game", "relevance_mass", "relevance_rank"]

# Where the object is: a mask `(B or 1, H, W)`, 1 inside, or boxes (x1, y1, x2, y2), one for each map or one for all.
Truth = Tensor | Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Overlap:
    """Agreement of maps with the truth, `(B,)` float64 each, 1 at best.

    Attributes:
        precision: the share of the marked places that are inside; 0 where nothing is marked.
        recall: the share of the places inside that are marked.
        f1: their harmonic mean.
        auc: the area under the ROC curve: how often a place inside has a higher value than one outside, with ties for
            half; 0.5 of a constant map, which orders nothing; NaN where there is no place outside.
        ap: the average precision; of a constant map the share of places that are inside.
    """

    precision: Tensor
    recall: Tensor
    f1: Tensor
    auc: Tensor
    ap: Tensor


def overlap(maps: Tensor, truth: Truth, threshold: float = 0.25) -> Overlap:
    """Compare maps with where the object is.

    Marked are the places above `threshold` times the map's maximum: none, if the maximum is not positive. The last two
    numbers look at the order of all values only. InterpretDL calls them the pointing game; that of Zhang et al. 2016
    (`pointing_game`) asks only whether the maximum is inside.

    Args:
        maps: `(B, H, W)`, or any places behind the batch.
        truth: `(B or 1, H, W)` booleans or zeros and ones, 1 inside; or boxes `(x1, y1, x2, y2)`, one for each map or one for all.
        threshold: the share of the maximum, 0 to 1.

    Raises:
        InputError: other shapes, values that are not finite, a truth of other numbers, or with nothing inside.
        OptionError: a threshold out of range.

    >>> found = overlap(torch.tensor([[[4.0, 3.0], [0.0, 1.0]]]), torch.tensor([[[1, 0], [0, 0]]]))
    >>> found.precision.item(), found.recall.item(), found.auc.item()
    (0.5, 1.0, 1.0)
    """
    values, inside = _checked(maps, truth)
    marked = _marked(values, threshold)
    right = (marked & inside).sum(1).double()
    precision, recall = right / marked.sum(1).clamp(min=1), right / inside.sum(1)
    # InterpretDL's guard against 0 / 0; it lowers the number by less than a millionth.
    f1 = 2 * precision * recall / (precision + recall + 1e-6)
    return Overlap(precision, recall, f1, *_ranked(values, inside))


def _marked(values: Tensor, threshold: float) -> Tensor:
    """The places above this share of the maximum.

    Raises:
        OptionError: a threshold out of range.
    """
    if not 0 <= threshold <= 1:
        raise OptionError(f"threshold is {threshold}; it is a share of the map's maximum: give 0 to 1")
    return values > threshold * values.amax(1, keepdim=True)


def auc(maps: Tensor, truth: Truth) -> Tensor:
    """`(B,)` float64: the area under the ROC curve of a map's values as a test for being inside.

    How often a place inside has a higher value than one outside, with ties for half: 1 at best, 0.5 by chance and of a
    constant map; NaN where no place is outside. Source: Hanley and McNeil 1982 (the Mann-Whitney statistic).

    Args and errors as of `pointing_game`.

    >>> auc(torch.tensor([[[4.0, 3.0], [3.0, 1.0]]]), torch.tensor([[[1, 1], [0, 0]]]))
    tensor([0.8750], dtype=torch.float64)
    """
    return _ranked(*_checked(maps, truth))[0]


def _ranked(values: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The area under the ROC curve and the average precision, from where the value falls: equal places count together."""
    order = values.argsort(1, descending=True)
    found, levels = inside.gather(1, order).cumsum(1), values.gather(1, order)
    ends = F.pad(levels[:, 1:] != levels[:, :-1], (0, 1), value=True)
    row, place = ends.nonzero(as_tuple=True)
    right, count = found[row, place].double(), place + 1.0
    first = F.pad(row[1:] != row[:-1], (1, 0), value=True)
    before, earlier = (torch.where(first, 0.0, part.roll(1)) for part in (right, count))
    gained = right - before
    within, outside = inside.sum(1).double(), (~inside).sum(1).double()
    area, precision = (
        values.new_zeros(len(values)).index_add(0, row, terms)
        for terms in ((count - earlier - gained) * (right + before) / 2, gained * right / count)
    )
    return torch.where(outside > 0, area / (within * outside.clamp(min=1)), torch.nan), precision / within


def pointing_game(maps: Tensor, truth: Truth, tolerance: float = 0) -> Tensor:
    """`(B,)` float64: 1 where the map's maximum is inside, or no farther from it than the tolerance; else 0.

    Where several places tie for the maximum it is the share of them that hit, what a choice at random has on average: of a
    constant map, which points nowhere, the share of all places that would hit.

    Source: Zhang et al. 2016 (the pointing game; of photographs, with 15 pixels of tolerance).

    Args:
        maps: `(B, H, W)`, or places of one to three dimensions behind the batch.
        truth: `(B or 1, H, W)` booleans or zeros and ones, 1 inside; or boxes `(x1, y1, x2, y2)`, one for each map or one for all.
        tolerance: in places (pixels), as the distance of their centres.

    Raises:
        InputError: other shapes, values that are not finite, a truth of other numbers, or with nothing inside.
        OptionError: a tolerance below 0.

    >>> maps = torch.tensor([[0.0, 1.0, 2.0, 9.0], [3.0, 1.0, 2.0, 3.0]])
    >>> truth = torch.tensor([[1, 1, 0, 0]])
    >>> pointing_game(maps, truth).tolist(), pointing_game(maps, truth, tolerance=2).tolist()
    ([0.0, 0.5], [1.0, 1.0])
    """
    values, inside = _checked(maps, truth)
    if not tolerance >= 0:
        raise OptionError(f"tolerance is {tolerance}; it is a distance in places: give 0 or more")
    near = inside if tolerance < 1 else _widened(inside.view(maps.shape), tolerance).flatten(1)
    highest = values == values.amax(1, keepdim=True)
    return (highest & near).sum(1).double() / highest.sum(1)


# Convolutions over so many dimensions of places.
CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _widened(inside: Tensor, distance: float) -> Tensor:
    """The places that are no farther than this from one inside."""
    sizes = inside.shape[1:]
    if len(sizes) not in CONVOLUTIONS:
        raise InputError(f"maps have {len(sizes)} dimensions of places; a tolerance is a distance in one to three")
    reach = [min(int(distance), size - 1) for size in sizes]
    offsets = torch.meshgrid(*(torch.arange(-r, r + 1, device=inside.device) for r in reach), indexing="ij")
    ball = torch.stack(offsets).double().square().sum(0) <= distance**2
    return CONVOLUTIONS[len(sizes)](inside[:, None].float(), ball[None, None].float(), padding=reach)[:, 0] > 0.5


def relevance_mass(maps: Tensor, truth: Truth) -> Tensor:
    """`(B,)` float64: the share of the positive relevance that is inside, 1 at best.

    A map without any positive relevance has the share of places that are inside, as one with the same everywhere: it
    singles nothing out. Source: Arras, Osman, Samek 2022 (CLEVR-XAI; relevance mass accuracy).

    Args and errors as of `pointing_game`.

    >>> relevance_mass(torch.tensor([[[3.0, 1.0], [-9.0, 0.0]]]), torch.tensor([[[1, 0], [1, 0]]]))
    tensor([0.7500], dtype=torch.float64)
    """
    values, inside = _checked(maps, truth)
    positive = values.clamp(min=0)
    positive = torch.where(positive.sum(1, keepdim=True) > 0, positive, 1.0)
    return (positive * inside).sum(1) / positive.sum(1)


def relevance_rank(maps: Tensor, truth: Truth) -> Tensor:
    """`(B,)` float64: of the K highest places, where K are inside, the share that is inside, 1 at best.

    Where places tie for the last of the K ranks they share them equally, so that a constant map has the share of places
    that are inside. Source: Arras, Osman, Samek 2022 (CLEVR-XAI; relevance rank accuracy).

    Args and errors as of `pointing_game`.

    >>> relevance_rank(torch.tensor([[[4.0, 3.0], [2.0, 1.0]]]), torch.tensor([[[1, 0], [1, 0]]]))
    tensor([0.5000], dtype=torch.float64)
    """
    values, inside = _checked(maps, truth)
    return _highest_inside(values, inside) / inside.sum(1)


def _highest_inside(values: Tensor, inside: Tensor) -> Tensor:
    """`(B,)`: how many of the K highest places are inside, as the mean over the ways to choose among equal ones."""
    size = inside.sum(1, keepdim=True)
    last = values.sort(1, descending=True).values.gather(1, size - 1)
    above, tied = values > last, values == last
    left = size[:, 0] - above.sum(1)
    return (above & inside).sum(1) + left * (tied & inside).sum(1).double() / tied.sum(1)


def iou(maps: Tensor, truth: Truth, threshold: float | None = None) -> Tensor:
    """`(B,)` float64: the intersection of the marked places with the truth, in parts of their union (Jaccard index), 1 at best.

    Marked are as many of the highest places as there are inside; those that tie for the last rank are each marked in part,
    by equal shares. With a threshold it is the places above this share of the map's maximum: none, and the number 0, if the
    maximum is not positive. Source: Jaccard 1912.

    Args:
        maps, truth: as of `pointing_game`.
        threshold: the share of the maximum, 0 to 1; None: the highest places.

    Raises:
        InputError: as of `pointing_game`. OptionError: a threshold out of range.

    >>> maps, truth = torch.tensor([[[4.0, 3.0], [2.0, 0.0]]]), torch.tensor([[[1, 0], [1, 0]]])
    >>> iou(maps, truth).item(), iou(maps, truth, 0.25).item()
    (0.3333333333333333, 0.6666666666666666)
    """
    values, inside = _checked(maps, truth)
    size = inside.sum(1).double()
    if threshold is None:
        common = _highest_inside(values, inside)
        return common / (2 * size - common)
    marked = _marked(values, threshold)
    common = (marked & inside).sum(1).double()
    return common / (marked.sum(1) + size - common)


def _checked(maps: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
    """Both as `(B, places)`: float64, boolean."""
    truth = truth if isinstance(truth, Tensor) else _boxed(maps, truth)
    if maps.dim() < 2 or not maps.numel() or maps.shape[1:] != truth.shape[1:] or len(truth) not in (1, len(maps)):
        raise InputError(
            f"maps have shape {tuple(maps.shape)} and the truth {tuple(truth.shape)}; give (B, H, W) and the same, or one for all"
        )
    if not bool(maps.isfinite().all()):
        raise InputError(f"maps of shape {tuple(maps.shape)} have values that are NaN or infinite; they have no place in an order")
    if not bool(((truth == 0) | (truth == 1)).all()):
        raise InputError(f"the truth has values like {truth.flatten().max().item()}; give booleans, or 0 and 1: segmentation == the class")
    inside = truth.bool().flatten(1).to(maps.device)
    if not bool(inside.any(1).all()):
        raise InputError("the truth has nothing inside; give a box or a segmentation with at least one place in it")
    return maps.detach().double().flatten(1), inside.expand(len(maps), -1)


def _boxed(maps: Tensor, boxes: Sequence[Sequence[int]]) -> Tensor:
    if maps.dim() != 3 or len(boxes) not in (1, len(maps)):
        raise InputError(
            f"{len(boxes)} boxes for maps of shape {tuple(maps.shape)}; boxes are for (B, H, W), one for each map or one for all"
        )
    return torch.stack([box_mask(box, *maps.shape[1:]) for box in boxes])


def box_mask(box: Sequence[int], height: int, width: int) -> Tensor:
    """`(height, width)` booleans: inside the box `(x1, y1, x2, y2)`, whose right and lower end are the first places outside.

    Raises:
        InputError: no four whole numbers, or a box that is empty or reaches beyond the picture.

    >>> box_mask((1, 0, 3, 1), 2, 4).int().tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    if len(box) != 4 or any(int(side) != side for side in box):
        raise InputError(f"the box is {tuple(box)}; give four whole numbers (x1, y1, x2, y2)")
    x1, y1, x2, y2 = (int(side) for side in box)
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise InputError(
            f"the box (x1, y1, x2, y2) = {(x1, y1, x2, y2)} is empty or reaches beyond the picture, {width} wide and {height} high; "
            f"give 0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height}"
        )
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[y1:y2, x1:x2] = True
    return inside
