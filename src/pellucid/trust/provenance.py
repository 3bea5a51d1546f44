"""Provenance: hashes of the weights and the inputs, versions, seed and time, so that an answer can be made again."""

from __future__ import annotations

import datetime
import hashlib
import platform
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..explanation import Provenance
from ..inputs import Tensors

__all__ = ["hash_of", "hash_of_weights", "provenance_of"]


def provenance_of(model: Any, roots: tuple[nn.Module, ...], features: Tensors, seed: int | None) -> Provenance:
    """Where an answer about this model and these features comes from."""
    from .. import __version__

    return Provenance(
        weights=hash_of_weights(roots),
        inputs=hash_of((str(i), f) for i, f in enumerate(features)),
        model=type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__qualname__", type(model).__name__),
        seed=seed,
        versions={"pellucid": __version__, "torch": torch.__version__, "python": platform.python_version()},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def hash_of(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


_hashed: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()


def hash_of_weights(roots: tuple[nn.Module, ...]) -> str:
    """The hash of all parameters and buffers; empty where no module is known."""
    return " ".join(_hash_of_module(root) for root in roots)


def _norms(tensors: list[Tensor]) -> list[float]:
    """What tells that values changed behind the back of autograd's versions (`weight.data.mul_(2)`), at little cost."""
    real = [t.detach() for t in tensors if t.is_floating_point() and t.numel()]
    return [float(norm) for norm in torch._foreach_norm(real)] if real else []


def _hash_of_module(root: nn.Module) -> str:
    tensors = [*root.named_parameters(), *root.named_buffers()]
    state = [(name, t.data_ptr(), None if t.is_inference() else t._version) for name, t in tensors], _norms([t for _, t in tensors])
    known = _hashed.get(root)
    if known is None or known[0] != state:
        known = (state, hash_of(tensors))
        _hashed[root] = known
    return known[1]
