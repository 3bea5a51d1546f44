"""The rows with the largest inner products, searched piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError, need

__all__ = ["LIKENESSES", "Faiss", "nearest", "top"]


def top(scores: Tensor, k: int, largest: bool = True) -> tuple[Tensor, Tensor]:
    """Indices and scores `(C, k)` of the largest (smallest) of `(C, N)`.

    Raises:
        OptionError: there are not so many.
    """
    if not 1 <= k <= scores.shape[1]:
        raise OptionError(f"k is {k}, and there are {scores.shape[1]} training examples; give 1 to {scores.shape[1]}")
    found = scores.topk(k, 1, largest=largest)
    return found.indices, found.values


def nearest(queries: Tensor, rows: Iterable[Tensor], k: int, largest: bool = True) -> tuple[Tensor, Tensor]:
    """Indices and inner products `(C, k)` of the rows with the largest (smallest) ones; exact, with memory for one piece at a time.

    >>> nearest(torch.eye(2), [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])], 1)[0].tolist()
    [[0], [1]]
    """
    indices, values, place = torch.zeros(len(queries), 0, dtype=torch.long), torch.zeros(len(queries), 0), 0
    for piece in rows:
        scores = queries @ piece.to(queries).T
        own = scores.topk(min(k, len(piece)), 1, largest=largest)
        indices = torch.cat([indices.to(own.indices), own.indices + place], 1)
        values = torch.cat([values.to(own.values), own.values], 1)
        best = values.topk(min(k, values.shape[1]), 1, largest=largest)
        indices, values, place = indices.gather(1, best.indices), best.values, place + len(piece)
    if indices.shape[1] < k or k < 1:
        raise OptionError(f"k is {k}, and there are {place} training examples; give 1 to {place}")
    return indices, values


class Faiss:
    """An inverted-file index of the `faiss` extra: approximate, for more than a million rows.

    Args:
        rows: in pieces; probes: how many of the lists are searched.
    """

    def __init__(self, rows: Iterable[Tensor], probes: int = 32) -> None:
        faiss = need("faiss", "faiss")
        pieces = [piece.detach().cpu().float().contiguous().numpy() for piece in rows]
        count, width = sum(map(len, pieces)), pieces[0].shape[1]
        lists = max(1, min(65536, round(4 * count**0.5)))
        self._index: Any = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
        sample = torch.cat([torch.from_numpy(piece)[:: max(1, count // (64 * lists))] for piece in pieces]).numpy()
        self._index.train(sample)
        for piece in pieces:
            self._index.add(piece)
        self._index.nprobe = min(probes, lists)

    def nearest(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Indices and inner products `(C, k)`, largest first."""
        values, indices = self._index.search(queries.detach().cpu().float().contiguous().numpy(), k)
        return torch.from_numpy(indices), torch.from_numpy(values)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


# How like two sets of vectors are, `(C, N)`; more is nearer.
LIKENESSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": _cosine,
    "inner_product": lambda a, b: a @ b.T,
    "euclidean": lambda a, b: -torch.cdist(a, b),
}
