"""What Captum's influence classes share: results and loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...errors import InputError, OptionError
from ...influence.neighbours import top

__all__ = ["DataInfluence", "KMostInfluentialResults", "batches_of", "loader_of", "most"]


class KMostInfluentialResults(NamedTuple):
    """Of each test example, the training examples with the largest (or smallest) influence, `(n_test, k)` each."""

    indices: Tensor
    influence_scores: Tensor


class DataInfluence(ABC):
    """What all influence methods have: `influence(inputs)`."""

    @abstractmethod
    def influence(self, inputs: Any = None, **kwargs: Any) -> Any:
        """The influence of training examples on test examples."""


def loader_of(dataset: Dataset[Any] | DataLoader[Any], batch_size: int | None) -> DataLoader[Any]:
    """A loader as it is; of a data set, one that does not shuffle.

    Raises:
        OptionError: a batch without examples.
    """
    if isinstance(dataset, DataLoader):
        return dataset
    if batch_size is None:
        raise OptionError("batch_size is None, which a Dataset cannot be gone through with; give a number, or a DataLoader")
    if batch_size < 1:
        raise OptionError(f"batch_size is {batch_size}; at least one is needed")
    return DataLoader(dataset, batch_size=batch_size, shuffle=False)


def batches_of(inputs: Any) -> Iterable[Sequence[Any]]:
    """A loader as it is; one batch (inputs, ..., labels) as a list of one."""
    if isinstance(inputs, DataLoader):
        return inputs
    if not isinstance(inputs, tuple | list) or not inputs:
        raise InputError(f"inputs is {type(inputs).__name__}; give a batch (inputs, ..., labels), or a DataLoader of such")
    return [inputs]


def most(scores: Tensor, k: int | None, proponents: bool) -> Tensor | KMostInfluentialResults:
    """All scores, or the `k` largest (smallest) of each test example."""
    return scores if k is None else KMostInfluentialResults(*top(scores, min(k, scores.shape[1]), proponents))
