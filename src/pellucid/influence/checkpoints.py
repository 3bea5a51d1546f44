"""Checkpoints of a model's training, each loaded once, and the model's own weights put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import FileError, OptionError

__all__ = ["Checkpoints", "load_weights"]

# (model, checkpoint) -> the learning rate of its step; the model then has its weights
Load = Callable[[nn.Module, Any], Any]


def load_weights(model: nn.Module, path: Any) -> float:
    """Load a state dict, saved from the model itself or from its `DataParallel`; the learning rate that it holds, else 1."""
    held = torch.load(path, map_location="cpu")
    if not isinstance(held, dict):
        raise ValueError(f"it holds {type(held).__name__}, not a state dict; give load=, which puts it into the model")
    rate = held.pop("learning_rate", 1.0)
    inner = model.module if isinstance(model, nn.DataParallel) else model
    known = inner.state_dict().keys()
    inner.load_state_dict({name if name in known else name.removeprefix("module."): value for name, value in held.items()})
    return float(rate)


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints of a model's training, and how one is loaded into it."""

    model: nn.Module
    each: Sequence[Any]
    load: Load = load_weights

    @classmethod
    def given(cls, model: nn.Module, each: Any, load: Load | None) -> Checkpoints:
        """A list of files, a folder of files in the order of their names, or None: the model as it is.

        Raises:
            FileError: there is no such folder.
        """
        if each is None:
            return cls(model, ["the model as it is"], lambda model, checkpoint: 1.0)
        if not isinstance(each, str | Path | Iterable):
            raise OptionError(f"checkpoints is {each!r}; give a folder, a list of files, or a list of what load= takes")
        if not isinstance(each, str | Path):
            return cls(model, list(each), load or load_weights)
        if not Path(each).is_dir():
            raise FileError(f"checkpoints is {str(each)!r}, which is no folder; give one, or a list of files")
        return cls(model, sorted(str(path) for path in Path(each).iterdir() if path.is_file()), load or load_weights)

    @contextmanager
    def loaded(self) -> Iterator[Iterator[float]]:
        """The learning rate of each, the model having its weights; afterwards it has its own again.

        Raises:
            OptionError: there are none. FileError: one that cannot be loaded, or does not fit the model.
        """
        if not self.each:
            raise OptionError("there are no checkpoints; give at least one")
        held: list[tuple[dict[str, Any], dict[str, Any]]]
        held = [(values, dict(values)) for m in self.model.modules() for values in (m._parameters, m._buffers)]
        copies = [(tensor, tensor.detach().clone()) for _, named in held for tensor in named.values() if tensor is not None]
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            yield map(self._rate, self.each)
        finally:
            for values, named in held:  # the same objects: an optimizer may hold them
                values.clear()
                values.update(named)
            with torch.inference_mode(any(tensor.is_inference() for tensor, _ in copies)), torch.no_grad():
                for tensor, copy in copies:
                    tensor.copy_(copy)
            for module, mode in modes:
                module.training = mode

    def _rate(self, checkpoint: Any) -> float:
        try:
            rate = self.load(self.model, checkpoint)
        except Exception as error:  # whatever a file, or the user's function, may raise
            raise FileError(f"the checkpoint {_brief(checkpoint)} cannot be loaded into the model: {error}") from error
        return float(rate) if isinstance(rate, int | float) or (isinstance(rate, torch.Tensor) and rate.numel() == 1) else 1.0


def _brief(checkpoint: Any) -> str:
    return repr(checkpoint) if isinstance(checkpoint, str | Path) else type(checkpoint).__name__
