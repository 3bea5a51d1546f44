"""Noisy linear imputation: removed pixels become what their neighbours say, so that a hole has no edge of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from ..inputs import Tensors
from ..seeds import generator, normal
from .removal import Imputation

__all__ = ["NoisyLinear"]

Array = NDArray[np.float64]

# How a pixel is made of its eight neighbours: those beside it count twice as much as those at its corners.
NEIGHBOURS = {(dy, dx): 1 / 6 if 0 in (dy, dx) else 1 / 12 for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)}


@dataclass(frozen=True)
class NoisyLinear(Imputation):
    """Every removed pixel is the weighted mean of its neighbours, removed ones included, plus a little noise.

    That is one sparse linear system for each set of removed pixels. At the border the weights of the neighbours that there
    are count in parts of their sum. Of a picture that is removed as a whole nothing is known: it becomes its mean colour.

    Source: Rong, Leemann, Borisov, Kasneci, Kasneci 2022, section 4.2 and appendix C.

    Args:
        noise: standard deviation, in the units of the pixels.
        seed: of the noise, which is the same for every set of pixels and every example.

    >>> picture = torch.tensor([[[[0.0, 0.0, 0.0], [2.0, 9.0, 2.0], [4.0, 4.0, 4.0]]]])
    >>> hole = torch.zeros(1, 1, 1, 3, 3, dtype=torch.bool).index_fill(3, torch.tensor([1]), True) & torch.tensor([False, True, False])
    >>> NoisyLinear(noise=0.0)((picture,), (hole,))[0][0, 0, 0, 1]
    tensor([2., 2., 2.])
    """

    noise: float = 0.01
    seed: int = 0

    def check(self, features: Tensors) -> None:
        """Pictures only: other places have no neighbours that could tell what was there."""
        shapes = [tuple(f.shape) for f in features]
        if len(shapes) != 1 or len(shapes[0]) != 4 or not features[0].is_floating_point():
            raise InputError(
                f"inputs of shapes {shapes} have no neighbouring pixels; give one batch of pictures (B, C, H, W), or another fill"
            )

    def __call__(self, features: Tensors, removed: Tensors) -> Tensors:
        (images,), (holes,) = features, removed
        shape = (len(holes), len(images), *images.shape[1:])
        channels = 1 if holes.shape[2] == 1 else shape[2]
        flat = holes.expand(*shape[:2], channels, *shape[3:]).cpu().numpy()
        values = images.detach().double().cpu().numpy()
        found = np.stack([[_filled(values[i], flat[n, i]) for i in range(shape[1])] for n in range(shape[0])])
        grain = self.noise * normal(images, generator(self.seed, 0)) if self.noise else images.new_zeros(())
        return (torch.where(holes, torch.from_numpy(found).to(images) + grain, images),)


def _filled(image: Array, holes: NDArray[np.bool_]) -> Array:
    """A picture `(C, H, W)` without the pixels `(C or 1, H, W)`."""
    if len(holes) == 1 or bool((holes == holes[0]).all()):
        return _solved(image, holes[0])
    return np.concatenate([_solved(channel[None], hole) for channel, hole in zip(image, holes, strict=True)])


def _solved(image: Array, hole: NDArray[np.bool_]) -> Array:
    """All channels of a picture with the same pixels missing."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import splu

    if not hole.any():
        return image
    if hole.all():
        return np.broadcast_to(image.mean((1, 2), keepdims=True), image.shape).copy()
    number = np.where(hole, np.cumsum(hole).reshape(hole.shape) - 1, -1)
    ys, xs = hole.nonzero()
    own, known = np.zeros(len(ys)), np.zeros((len(ys), len(image)))
    rows, columns, weights = [np.arange(len(ys))], [np.arange(len(ys))], [own]
    for (dy, dx), weight in NEIGHBOURS.items():
        y, x = ys + dy, xs + dx
        inside = ((y >= 0) & (y < hole.shape[0]) & (x >= 0) & (x < hole.shape[1])).nonzero()[0]
        own[inside] += weight
        y, x = y[inside], x[inside]
        missing = hole[y, x]
        rows.append(inside[missing])
        columns.append(number[y[missing], x[missing]])
        weights.append(np.full(int(missing.sum()), -weight))
        known[inside[~missing]] += weight * image[:, y[~missing], x[~missing]].T
    system = coo_matrix((np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))).tocsc()
    filled = image.copy()
    filled[:, ys, xs] = splu(system).solve(known).T
    return filled
