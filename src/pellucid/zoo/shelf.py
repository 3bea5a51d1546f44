"""What is stored of each trained model: its weights, and the facts beside them."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from ..errors import FileError, OptionError
from .models import MODELS

__all__ = ["check", "facts", "trained"]


def check(name: str) -> None:
    """Refuse a name that is not in the zoo."""
    if name not in MODELS:
        raise OptionError(f"there is no {name!r} in the zoo; there are {', '.join(MODELS)}")


@cache
def facts(name: str) -> dict[str, Any]:
    """What training wrote down: accuracy, sizes, versions, classes, and what preparation needs."""
    check(name)
    found: dict[str, Any] = json.loads(_stored(f"{name}.json"))
    return found


def trained(name: str) -> nn.Module:
    """The trained model in eval mode, on the CPU."""
    # Built without storage: fresh weights would cost time and draw from the user's random numbers.
    with torch.device("meta"):
        model = MODELS[name](facts(name))
    model.load_state_dict(load(_stored(f"{name}.safetensors")), assign=True)
    return model.eval()


def _stored(file: str) -> bytes:
    try:
        return (files(__package__) / "weights" / file).read_bytes()
    except OSError as error:
        raise FileError(
            f"{file} is missing from the weights of {__package__}; reinstall, or train: python -m {__package__}.train"
        ) from error
