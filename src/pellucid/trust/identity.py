"""What tells one run from another: losses, layers and checkpoints by what they are, not by how they are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .provenance import hash_of

__all__ = ["checkpoint_of", "identity", "layer_of"]


def identity(value: Any) -> str:
    """Of a loss or another function: its name, code, and what it holds."""
    if isinstance(value, nn.Module):
        return f"{value!r} {hash_of(sorted(value.state_dict().items()))[:16]} {sorted(_plain(vars(value)))}"
    function = getattr(value, "__func__", getattr(value, "func", value))
    code = getattr(function, "__code__", None)
    if code is None:
        return repr(value) if isinstance(value, str | int | float | bool | None) else f"{type(value).__qualname__} {function!r}"
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    held = [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *getattr(value, "args", ())]
    parts = [code.co_code.hex(), repr([c for c in code.co_consts if not hasattr(c, "co_code")]), repr(code.co_names), *map(_held, held)]
    return f"{function.__qualname__} {hashlib.blake2b(' '.join(parts).encode(), digest_size=12).hexdigest()}"


def _held(value: Any) -> str:
    if isinstance(value, Tensor):
        return hash_of([("", value)])
    return identity(value) if callable(value) and not isinstance(value, type) else repr(value)


def _plain(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, str | int | float | bool) and name != "training":
            yield f"{name}={value}"


def layer_of(model: nn.Module, layer: Any) -> str:
    """The name of a layer in the model; of anything else, what it says of itself."""
    if not isinstance(layer, nn.Module):
        return repr(layer)
    return next((name or "the model" for name, module in model.named_modules() if module is layer), repr(layer))


def checkpoint_of(checkpoint: Any) -> str:
    """What a checkpoint holds: of a file its bytes, of tensors their values."""
    if isinstance(checkpoint, Mapping) and all(isinstance(value, Tensor) for value in checkpoint.values()):
        return hash_of(sorted(checkpoint.items()))
    if isinstance(checkpoint, str | Path) and Path(checkpoint).is_file():
        with open(checkpoint, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return repr(checkpoint)
