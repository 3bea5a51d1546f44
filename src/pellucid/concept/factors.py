"""Non-negative factors of activations: the bank of concepts, coefficients in it, and how well another bank agrees with it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, OptionError, warn
from ..progress import Bar
from ..seeds import generator

__all__ = ["coefficients_of", "factorised", "followed", "matched", "norm_of", "stability"]

STARTS, RANDOM = ("nndsvda", "random"), ("random", "random")  # factors have optima that are not the best
PASSES, ROUNDS = 200, 20
ROUNDING = 1e-12  # of coefficients of a vector of length one
GROWTH = 1e-6  # of the share of the squares that is explained, from round to round


def factorised(rows: Tensor, concepts: int, seed: int, starts: Sequence[str] = STARTS) -> Tensor:
    """The bank `(K, C)` of non-negative vectors, each of length one, of which rows are best made: `A ~ U W`, `U, W >= 0`.

    Source: Lee and Seung 1999; Fel et al. 2023, section 3.1, equation 1: the least Frobenius norm of what is left.

    Args:
        rows: `(n, C)`, none negative.
        concepts: how many, K.
        starts: scikit-learn's `init`, each tried and the best kept: "nndsvda" from singular vectors, "random" from the seed.

    Raises:
        OptionError: fewer than one. InputError: rows that hold fewer than that many directions.

    >>> rows = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    >>> sorted(factorised(rows, 2, seed=0).round(decimals=3).abs().tolist())
    [[0.0, 1.0], [1.0, 0.0]]
    """
    given = rows.detach().cpu().double()
    _check_rank(given, concepts)
    scaled = (given / given.mean()).numpy()
    _, bank, settled = min((_fitted(scaled, concepts, (seed + i) % 2**32, start) for i, start in enumerate(starts)), key=itemgetter(0))
    if not settled and starts is STARTS:
        warn("convergence", f"the factors still moved after {PASSES * ROUNDS} passes: other seeds may give others; see their stability")
    return torch.nn.functional.normalize(torch.as_tensor(bank, dtype=torch.float64), dim=1)


def _fitted(rows: NDArray[np.float64], concepts: int, seed: int, start: str) -> tuple[float, NDArray[np.float64], bool]:
    """The share of the squares that is left, the bank, and whether it is settled: whether that share falls no more."""
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    left = float("inf")
    last: dict[str, NDArray[np.float64]] = {}
    for _ in range(ROUNDS):
        model = NMF(concepts, init="custom" if last else start, max_iter=PASSES, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            last = {"W": model.fit_transform(rows, **last), "H": model.components_}
        # Its own criterion, the slope beside the first one, is met late or never where a good start leaves little to do.
        before, left = left, (model.reconstruction_err_ / np.linalg.norm(rows)) ** 2
        if model.n_iter_ < PASSES or before - left < GROWTH:
            return left, last["H"], True
    return left, last["H"], False


def _check_rank(rows: Tensor, concepts: int) -> None:
    if concepts < 1:
        raise OptionError(f"concepts={concepts}; give how many to look for, at least one")
    scaled = rows / rows.abs().max().clamp(min=torch.finfo(rows.dtype).tiny)
    values = torch.linalg.eigvalsh(scaled.T @ scaled if rows.shape[0] > rows.shape[1] else scaled @ scaled.T)
    rank = int((values > values.max() * max(rows.shape) * torch.finfo(rows.dtype).eps).sum()) if bool(scaled.any()) else 0
    if concepts > rank:
        way = f"give concepts={rank} or fewer, or more (and other) images" if rank else "choose another layer, or other images"
        raise InputError(f"{rows.shape[0]} vectors of {rows.shape[1]} activations have rank {rank}, too low for {concepts} concepts; {way}")


def coefficients_of(rows: Tensor, vectors: Tensor, bar: bool | None = None) -> Tensor:
    """How much of each concept rows `(..., C)` hold, `(..., K)`: the non-negative least squares solution, exactly.

    Source: Lawson and Hanson 1974, chapter 23; Fel et al. 2023, section 3.4. Each row's depends on that row alone.

    >>> coefficients_of(torch.tensor([[2.0, 0.0], [3.0, 5.0]]), torch.eye(2))
    tensor([[2., 0.],
            [3., 5.]])
    """
    # The vectors' own coordinates are as few as they are: |W' u - a| and |R u - Q' a| are least for the same u.
    basis, small = np.linalg.qr(vectors.detach().cpu().double().numpy().T)
    flat = rows.detach().cpu().double().reshape(-1, rows.shape[-1]).numpy()
    found = _solved(flat @ basis, small, bar)
    return torch.as_tensor(found).to(rows).reshape(*rows.shape[:-1], len(vectors))


def _solved(sides: NDArray[np.float64], small: NDArray[np.float64], wanted: bool | None) -> NDArray[np.float64]:
    from scipy.optimize import nnls

    found = np.zeros((len(sides), small.shape[1]))
    lengths = np.linalg.norm(sides, axis=1)
    with Bar(len(sides), "coefficients", wanted) as bar:
        for i in np.flatnonzero(lengths):
            part = nnls(small, sides[i] / lengths[i])[0]
            found[i] = np.where(part > ROUNDING, part, 0) * lengths[i]
            bar.update(1)
    return found


def followed(rows: Tensor, vectors: Tensor) -> Tensor:
    """As `coefficients_of`, for rows `(n, C)` in a graph: gradients go through.

    Where the concepts that take part are known, the solution is that of linear equations; its derivative is the one that
    implicit differentiation of the optimum gives.
    Source: Fel et al. 2023, section 3.4, with the bank held fixed.
    """
    if not rows.requires_grad:
        return coefficients_of(rows, vectors)
    bank, wide = vectors.to(rows.device, torch.float64), rows.double()
    part = coefficients_of(wide, vectors) > 0
    gram = (bank @ bank.T) * (part[:, :, None] & part[:, None, :]) + torch.diag_embed((~part).double())
    found: Tensor = torch.linalg.solve(gram, (wide @ bank.T) * part)
    return found.to(rows.dtype)


def norm_of(rows: Tensor, coefficients: Tensor, vectors: Tensor) -> tuple[float, float]:
    """The Frobenius norm of what concepts leave of rows, and the share of the rows' squares that they explain."""
    left = float((rows - coefficients.to(rows) @ vectors.to(rows)).norm())
    whole = float(rows.norm())
    return left, 1 - (left / whole) ** 2 if whole else float("nan")


def matched(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """For each concept of a bank `(K, C)` its own partner in another, and the cosines of both, `(K,)`; the sum of those is the largest.

    Raises:
        InputError: banks of different layers, or fewer concepts in the other.

    >>> order, cosines = matched(torch.eye(3), torch.eye(3)[[2, 0, 1]])
    >>> order.tolist(), cosines.tolist()
    ([1, 2, 0], [1.0, 1.0, 1.0])
    """
    from scipy.optimize import linear_sum_assignment

    if one.shape[1] != other.shape[1] or len(one) > len(other):
        raise InputError(
            f"banks of shapes {tuple(one.shape)} and {tuple(other.shape)} cannot be matched; give as many concepts of one layer"
        )
    cosines = torch.nn.functional.normalize(one.double(), dim=1) @ torch.nn.functional.normalize(other.double(), dim=1).T
    rows, columns = (torch.as_tensor(index) for index in linear_sum_assignment(-cosines.cpu().numpy()))
    return columns, cosines[rows, columns].to(one.dtype)


def stability(rows: Tensor, vectors: Tensor, refits: int, seed: int, bar: bool | None = None) -> Tensor:
    """The mean cosine of each concept `(K,)` to its partner in banks fitted to other draws of the examples, from random starts.

    Args:
        rows: `(B, S, C)`; whole examples are drawn, as many as there are, with replacement.
        refits: how many banks; NaN for none.
    """
    found = []
    with Bar(refits, "stability", bar) as progress:
        for i in range(refits):
            source = generator(seed, i)
            drawn = rows[torch.randint(len(rows), (len(rows),), generator=source)].flatten(0, 1)
            with suppress(InputError):  # a draw that lacks a direction has no partner for it
                found.append(matched(vectors, factorised(drawn, len(vectors), source.initial_seed() >> 1, RANDOM))[1])
            progress.update(1)
    return torch.stack(found).mean(0) if found else vectors.new_full((len(vectors),), float("nan"))
