"""Captum's interface to nearest neighbours, searched exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ...errors import InputError, OptionError
from ...influence.neighbours import Faiss, nearest

__all__ = ["AnnoyNearestNeighbors", "FaissNearestNeighbors", "NearestNeighbors"]


class NearestNeighbors(ABC):
    """What `TracInCPFastRandProj` asks for the nearest vectors: by the largest inner products."""

    @abstractmethod
    def get_nearest_neighbors(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Indices and inner products `(n, k)`, the largest first."""

    @abstractmethod
    def setup(self, data: Tensor) -> None:
        """The vectors to search, `(N, D)`."""


class FaissNearestNeighbors(NearestNeighbors):
    """An approximate search by `faiss`, for more than a million vectors.

    Args:
        probes: how many of the lists are searched.
    """

    def __init__(self, probes: int = 32) -> None:
        self._probes = probes
        self._index: Faiss | None = None

    def setup(self, data: Tensor) -> None:
        """The vectors to search, `(N, ...)`."""
        self._index = Faiss(data.flatten(1).split(65536), self._probes)

    def get_nearest_neighbors(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Indices and inner products `(n, k)`, the largest first."""
        if self._index is None:
            raise InputError("there is nothing to search; call setup(data) first")
        return self._index.nearest(query.flatten(1), k)


class AnnoyNearestNeighbors(NearestNeighbors):
    """An exact search in pieces; `annoy` is not needed, and `num_trees` has no effect."""

    def __init__(self, num_trees: int = 10) -> None:
        if num_trees < 1:
            raise OptionError(f"num_trees is {num_trees}; at least one is needed")
        self.num_trees = num_trees
        self._data = torch.zeros(0, 0)

    def setup(self, data: Tensor) -> None:
        """The vectors to search, `(N, ...)`."""
        self._data = data.flatten(1)

    def get_nearest_neighbors(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Indices and inner products `(n, k)`, the largest first."""
        return nearest(query.flatten(1), self._data.split(65536), k)
