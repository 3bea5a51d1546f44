"""Trials: what a model says of one input, changed in many ways, several of them in one call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import InputError, OptionError, OutputError
from ..inputs import tile
from ..model import modules_of, undisturbed

__all__ = ["Trials", "copied", "grouped"]

X = TypeVar("X")


@dataclass(frozen=True, eq=False)
class Trials:
    """A model and an input of any kind: tensors, or what `preprocess` makes tensors of.

    Perturbations, `preprocess` and the model get copies of tensors, because they may work in place. Calls of the model
    leave it and torch's random state as they were; a perturbation may draw from that state, so that each is another.

    Args:
        model: gets what `preprocess` returned as its first argument, a tuple too.
        inputs: of one example, or a batch.
        preprocess: None: the inputs are what the model takes.
        args: what the model gets after the inputs.
    """

    model: Callable[..., Any]
    inputs: Any
    preprocess: Callable[[Any], Any] | None = None
    args: tuple[Any, ...] = ()

    @cached_property
    def ready(self) -> Any:
        """The input as the model takes it."""
        return self._prepared(self.inputs)

    def perturbed(self, perturbation: Callable[..., Any], before: bool, options: Mapping[str, Any]) -> tuple[Any, Any]:
        """What the model gets, and what the perturbation made, of the input before or after it is prepared."""
        made = perturbation(copied(self.inputs if before else self.ready), **options)
        return self._prepared(made) if before else made, made

    def outputs(self, given: Sequence[Any]) -> list[Any]:
        """What the model says of each, found in one call.

        Raises:
            InputError: more than one, and not of tensors; no examples. OutputError: an output without a row for each example.
        """
        sizes = [_size(value) for value in given]
        if not all(sizes):
            raise InputError("there are no examples among the inputs: of none a model is right about all; give one at least")
        together = copied(given[0]) if len(given) == 1 else _joined(given)
        args = copied(self.args) if len(given) == 1 else tuple(_repeated(a, sizes[0], len(given)) for a in self.args)
        with undisturbed(modules_of(self.model)), torch.no_grad():
            output = self.model(together, *args)
        return [output] if len(given) == 1 else _parted(output, sizes)

    def _prepared(self, value: Any) -> Any:
        return value if self.preprocess is None else self.preprocess(copied(value))


def copied(value: Any) -> Any:
    """The same, with a copy of every tensor in it."""
    return pytree.tree_map(lambda leaf: _copy(leaf) if isinstance(leaf, Tensor) else leaf, value)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_() if tensor.requires_grad else tensor.detach().clone()


def grouped(values: Iterable[X], size: int) -> Iterator[list[X]]:
    """The values in groups, as they come.

    Raises:
        OptionError: groups of none.
    """
    if size < 1:
        raise OptionError(f"{size} perturbations are to share a call of the model; at least one is needed")
    rest = iter(values)
    while group := list(itertools.islice(rest, size)):
        yield group


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat([value.detach().to(first.device) for value in values])
    if isinstance(first, tuple | list):
        return tuple(_joined(parts) for parts in zip(*values, strict=True))
    raise InputError(
        f"several perturbations share a call, and the model takes {type(first).__name__}; that needs tensors: let each have its own"
    )


def _size(value: Any) -> int:
    leaf = value[0] if isinstance(value, tuple | list) and value else value
    return len(leaf) if isinstance(leaf, Tensor) and leaf.dim() else 1


def _repeated(argument: Any, size: int, times: int) -> Any:
    """A tensor with a row for each example, once more for each perturbation."""
    return tile(argument, times).clone() if isinstance(argument, Tensor) and argument.dim() and len(argument) == size else copied(argument)


def _parted(output: Any, sizes: Sequence[int]) -> list[Any]:
    if not isinstance(output, Tensor) or output.dim() == 0 or len(output) != sum(sizes):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise OutputError(
            f"the model returned {got} for {len(sizes)} perturbations of {sizes[0]} examples in one call; it must return a tensor with "
            f"{sum(sizes)} rows, or each perturbation needs a call of its own"
        )
    return list(output.split(list(sizes)))
