"""Data loaders, gone through without moving any random state; those that shuffle refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from .errors import InputError

__all__ = ["passed", "refuse_shuffled"]

RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def refuse_shuffled(data: Any, what: str) -> None:
    """For data whose order must stay.

    Raises:
        InputError: a loader that says that it draws examples at random.
    """
    for sampler in (getattr(data, "sampler", None), getattr(getattr(data, "batch_sampler", None), "sampler", None)):
        if isinstance(sampler, RANDOM):
            raise InputError(f"{what} shuffles ({type(sampler).__name__}), so a score would belong to no example; give shuffle=False")


def passed(data: Iterable[Any]) -> Iterator[Any]:
    """The batches. A loader draws a number for every pass, also where nothing is random; it is put back."""
    if _sliceable(data):
        return _slices(cast("DataLoader[Any]", data))
    own = getattr(data, "generator", None)
    state, other = torch.get_rng_state(), None if own is None else own.get_state()
    batches = iter(data)
    torch.set_rng_state(state)
    if own is not None and other is not None:
        own.set_state(other)
    return batches


def _sliceable(data: Any) -> bool:
    """Whether a loader does nothing but put rows of tensors together, which slices do faster."""
    plain = type(data) is DataLoader and type(data.dataset) is TensorDataset and type(data.sampler) is SequentialSampler
    return plain and data.batch_size is not None and data.collate_fn is default_collate and type(data.batch_sampler) is BatchSampler


def _slices(loader: DataLoader[Any]) -> Iterator[Sequence[Any]]:
    tensors, size = cast(TensorDataset, loader.dataset).tensors, cast(int, loader.batch_size)
    for start in range(0, len(tensors[0]), size):
        if start + size <= len(tensors[0]) or not loader.drop_last:
            yield [tensor[start : start + size] for tensor in tensors]
