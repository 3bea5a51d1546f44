"""From many LIME explanations to what counts for a class, and from that back to the next one: NormLIME, and LIME with a prior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, OptionError

__all__ = ["AVERAGED", "averaged", "prior_ridge", "region_features", "shared_regions"]

# What each weight of an explanation adds to its feature's importance, given all weights of that explanation.
AVERAGED: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "normlime": lambda weights: weights**2 / max(np.abs(weights).sum(), np.finfo(float).tiny),
    "avg": np.abs,
    "square": np.square,
}


def averaged(
    explanations: Iterable[Sequence[tuple[Any, float]]], kind: str = "normlime", positive: bool = False
) -> dict[Any, tuple[float, int]]:
    """The mean importance of each feature over the explanations that hold it, and how often they do.

    `I(k) = mean over w_ik of w_ik^2 / sum_j |w_ij|` for "normlime"; of `|w_ik|` for "avg", `w_ik^2` for "square".
    Source: Ahern et al. 2019, equation 4 (NormLIME).

    Args:
        explanations: of each example, its features and their weights; a feature may come more than once.
        positive: leave out what speaks against the class.

    Raises:
        OptionError: an unknown kind.

    >>> averaged([[("a", 3.0), ("b", -1.0)], [("a", 1.0)]])
    {'a': (1.625, 2), 'b': (0.25, 1)}
    """
    if kind not in AVERAGED:
        raise OptionError(f"kind is {kind!r}; choose one of {', '.join(map(repr, AVERAGED))}")
    shares: dict[Any, list[float]] = {}
    for explanation in explanations:
        given = np.array([weight for _, weight in explanation], dtype=float)
        for (feature, weight), share in zip(explanation, AVERAGED[kind](given).tolist(), strict=True):
            if weight > 0 or not positive:
                shares.setdefault(feature, []).append(share)
    return {feature: (float(np.mean(own)), len(own)) for feature, own in shares.items()}


def prior_ridge(kept: Tensor, scores: Tensor, weights: Tensor, prior: Tensor | None = None, strength: float = 1.0) -> Tensor:
    """LIME's weighted fit, drawn towards a prior: `(X'X + s I)^-1 (X'y + s w0)` with the prior `w0`, its magnitudes adding up to one.

    X are the coalitions and y the scores, less their weighted means, columns of length one, then rows times the roots of the
    weights. The coefficients are on that scale, not on that of `lime`.
    Source: Li et al. 2023 (G-LIME), in InterpretDL's form, which has no L1 penalty.

    Args:
        kept: `(m, n)`; scores: `(m,)`; weights: `(m,)`; prior: `(n,)`, zeros if not given.

    >>> kept = torch.tensor([[1.0, 1], [1, 0], [0, 1], [0, 0]])
    >>> prior_ridge(kept, kept[:, 0], torch.ones(4), torch.tensor([0.0, 1.0]), 1e-6).round(decimals=3).tolist()
    [1.0, 0.0]
    """
    rows, target, weights = (t.double() for t in (kept, scores, weights))
    share = weights / weights.sum()
    rows, target = rows - share @ rows, target - share @ target
    lengths, length = rows.norm(dim=0), target.norm()
    root = weights.sqrt()
    rows = rows / torch.where(lengths > 0, lengths, 1.0) * root[:, None]
    target = target / torch.where(length > 0, length, 1.0) * root
    start = torch.zeros(rows.shape[1], dtype=torch.float64) if prior is None else prior.double()
    total = start.abs().sum()
    start = start / torch.where(total > 0, total, 1.0)
    gram = rows.T @ rows + strength * torch.eye(rows.shape[1], dtype=torch.float64)
    found: Tensor = torch.linalg.solve(gram, rows.T @ target + strength * start)
    return found


def region_features(picture: NDArray[np.uint8], regions: NDArray[np.int64]) -> NDArray[np.float64]:
    """What a region looks like, `(regions, 9)`: the mean and deviation of its colours, of their gradients, and its place and size.

    Regions of different pictures that look alike have features that are close, so that they can be counted together.
    """
    scaled = np.asarray(picture, dtype=float) / 255
    scaled = scaled if scaled.ndim == 3 else scaled[..., None]
    scaled = np.broadcast_to(scaled, (*scaled.shape[:2], 3)) if scaled.shape[2] == 1 else scaled
    edges = np.hypot(*np.gradient(scaled.mean(2)))
    rows, columns = np.indices(regions.shape) / np.maximum(np.array(regions.shape), 1)[:, None, None]
    planes = np.concatenate([scaled, edges[..., None], rows[..., None], columns[..., None]], 2)
    count = int(regions.max()) + 1
    sizes = np.bincount(regions.ravel(), minlength=count)
    means = np.stack([np.bincount(regions.ravel(), planes[..., k].ravel(), count) for k in range(6)], 1) / np.maximum(sizes, 1)[:, None]
    squares = (
        np.stack([np.bincount(regions.ravel(), scaled[..., k].ravel() ** 2, count) for k in range(3)], 1) / np.maximum(sizes, 1)[:, None]
    )
    deviations = np.sqrt(np.maximum(squares - means[:, :3] ** 2, 0))
    return np.concatenate([means[:, :4] * [1, 1, 1, 4], deviations, 0.25 * means[:, 4:]], 1)


def shared_regions(features: Sequence[NDArray[np.float64]], clusters: int = 50, seed: int = 0) -> list[NDArray[np.int64]]:
    """The cluster of every region of every picture: k-means over all of them, so that pictures share features.

    Raises:
        InputError: no regions.
    """
    from sklearn.cluster import KMeans

    together = np.concatenate(list(features)) if len(features) else np.zeros((0, 1))
    if not len(together):
        raise InputError("there are no regions to cluster; give at least one picture")
    found = KMeans(min(clusters, len(np.unique(together, axis=0))), n_init=4, random_state=seed).fit_predict(together)
    return [part.astype(np.int64) for part in np.split(found, np.cumsum([len(f) for f in features])[:-1])]
