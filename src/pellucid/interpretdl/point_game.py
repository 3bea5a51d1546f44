"""InterpretDL's pointing games: how well an explanation agrees with where the object is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, warn
from ..metrics import box_mask, overlap
from .evaluators import numbers_in

__all__ = ["PointGame", "PointGameSegmentation"]


class PointGame:
    """How well an explanation agrees with a box around the object: `pellucid.metrics.overlap`.

    >>> import numpy as np
    >>> found = PointGame().evaluate((0, 0, 2, 1), np.array([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    >>> found["precision"], found["recall"], found["auc_score"]
    (1.0, 1.0, 1.0)
    """

    def evaluate(self, bbox: Sequence[int], exp_array: Any, threshold: float = 0.25) -> dict[str, float]:
        """`{precision, recall, f1_score, auc_score, ap_score}`.

        Args:
            bbox: `(x1, y1, x2, y2)` in pixels; x2 and y2 are the first outside.
            exp_array: a map `(H, W)`.
            threshold: of its maximum: what is above it counts as marked.

        Raises:
            InputError: no map, or a box that is empty or reaches beyond it. OptionError: a threshold that is not within 0 and 1.
        """
        values = _plane(exp_array)
        return _agreement(values, box_mask(bbox, *values.shape), threshold)


class PointGameSegmentation:
    """How well an explanation agrees with the object's segmentation: `pellucid.metrics.overlap`.

    >>> import numpy as np
    >>> truth = np.array([[1, 1, 0], [0, 0, 0]])
    >>> PointGameSegmentation().evaluate(truth, np.array([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))["ap_score"]
    1.0
    """

    def evaluate(self, seg_gt: Any, exp_array: Any, threshold: float = 0.25) -> dict[str, float]:
        """`{precision, recall, f1_score, auc_score, ap_score}`.

        Args:
            seg_gt: `(H, W)` booleans, or zeros and ones, 1 on the object.
            exp_array: a map `(H, W)`.
            threshold: of its maximum: what is above it counts as marked.

        Raises:
            InputError: no map, a segmentation of another shape, of other values or without the object. OptionError: a threshold
                that is not within 0 and 1.
        """
        values, truth = _plane(exp_array), _plane(seg_gt, "the segmentation")
        return _agreement(values, truth, threshold)


def _plane(values: Any, what: str = "the explanation") -> Tensor:
    plane = torch.as_tensor(numbers_in(values)).squeeze()
    if plane.dim() != 2:
        raise InputError(f"{what} has shape {tuple(plane.shape)} without its dimensions of 1; give one map (H, W)")
    return plane


def _agreement(values: Tensor, truth: Tensor, threshold: float) -> dict[str, float]:
    found = overlap(values[None], truth[None], threshold)
    if bool(found.auc.isnan().any()):
        warn("auc", "the object fills the whole picture, so there is nothing outside to compare with: auc_score is NaN")
    names = {"precision": "precision", "recall": "recall", "f1": "f1_score", "auc": "auc_score", "ap": "ap_score"}
    return {shown: float(getattr(found, name)[0]) for name, shown in names.items()}
