"""Localisation: how well maps of relevance agree with where the object is, a box or a segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, OptionError

__all__ = ["Overlap", "box_mask", "overlap"]


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


def overlap(maps: Tensor, truth: Tensor, threshold: float = 0.25) -> Overlap:
    """Compare maps with where the object is.

    Marked are the places above `threshold` times the map's maximum: none, if the maximum is not positive. The last two
    numbers look at the order of all values only. InterpretDL calls them the pointing game; that of Zhang et al. 2016
    asks only whether the maximum is inside.

    Args:
        maps: `(B, H, W)`, or any places behind the batch.
        truth: `(B or 1, H, W)` booleans or zeros and ones, 1 inside.
        threshold: the share of the maximum, 0 to 1.

    Raises:
        InputError: other shapes, values that are not finite, a truth of other numbers, or with nothing inside.
        OptionError: a threshold out of range.

    >>> found = overlap(torch.tensor([[[4.0, 3.0], [0.0, 1.0]]]), torch.tensor([[[1, 0], [0, 0]]]))
    >>> found.precision.item(), found.recall.item(), found.auc.item()
    (0.5, 1.0, 1.0)
    """
    if not 0 <= threshold <= 1:
        raise OptionError(f"threshold is {threshold}; it is a share of the map's maximum: give 0 to 1")
    values, inside = _checked(maps, truth)
    marked = values > threshold * values.amax(1, keepdim=True)
    right = (marked & inside).sum(1).double()
    precision, recall = right / marked.sum(1).clamp(min=1), right / inside.sum(1)
    auc, ap = (torch.tensor([_ranked(name, i, v) for i, v in zip(inside, values, strict=True)], dtype=torch.float64) for name in RANKED)
    # InterpretDL's guard against 0 / 0; it lowers the number by less than a millionth.
    return Overlap(precision, recall, 2 * precision * recall / (precision + recall + 1e-6), auc, ap)


# scikit-learn's functions, and whether they need places outside.
RANKED = {"roc_auc_score": True, "average_precision_score": False}


def _ranked(name: str, inside: Tensor, values: Tensor) -> float:
    from sklearn import metrics

    if RANKED[name] and bool(inside.all()):
        return float("nan")
    score: Callable[[Any, Any], float] = getattr(metrics, name)
    return float(score(inside.cpu().numpy(), values.cpu().numpy()))


def _checked(maps: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both as `(B, places)`: float64, boolean."""
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
