"""Randomness that belongs to the sample, not to the moment: the same seed gives the same draws, whatever the batch."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator, Tensor

from .inputs import Tensors, joined

__all__ = ["generator", "normal", "resolve_seed", "spread_of"]


def resolve_seed(seed: int | None) -> int:
    """The seed itself, or one that follows from torch's random state, which is read and not moved.

    So `torch.manual_seed` makes an unseeded explanation repeatable, and explaining does not change what comes after.
    """
    if seed is not None:
        return int(seed)
    state = torch.get_rng_state().numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(state, digest_size=6).digest(), "little")


def generator(seed: int, sample: int) -> Generator:
    """The source of all draws of one sample."""
    mixed = hashlib.blake2b(f"{seed}/{sample}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(mixed, "little") >> 1)


def normal(like: Tensor, source: Generator) -> Tensor:
    """Standard normal noise for one example, `(1, ...)`, drawn on the CPU so that every device gets the same.

    All examples of a batch share it: explaining a batch is then the same as explaining its examples one by one.
    """
    return torch.randn((1, *like.shape[1:]), generator=source).to(like)


def spread_of(one: Tensors, other: Tensors, values: Tensors) -> Tensor:
    """`(T, B)`. Half the distance between the halves' results is the standard deviation of a mean over both, relative to it."""
    distance, size = (joined(one, 2) - joined(other, 2)).norm(dim=2), joined(values, 2).norm(dim=2)
    return torch.where(size > 0, distance / 2 / size, distance)
