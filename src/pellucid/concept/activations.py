"""What layers hold for the examples of a concept, one row for each example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, OptionError, warn
from ..inputs import Tensors, as_tensors
from ..inside import ANYTHING, Place, look
from ..loaders import passed
from ..model import in_train_mode, modules_of, undisturbed
from ..view import at_input

__all__ = ["Named", "activations", "batches", "blocks", "flat", "listed", "word"]

Named = str | tuple[str, int]
"""The name of a layer, or that and the number of one of its calls."""

SIZE = 64  # examples in a call, where they come in one tensor


def activations(
    model: Callable[..., Any], examples: Any, layers: Named | Sequence[Named], of_input: bool = False, what: str = "the concept"
) -> dict[str, Tensor]:
    """What layers hold for examples, `{layer: (n, F)}` on the CPU: all layers in one pass, the model as it was.

    Args:
        model: a module or any callable of tensors.
        examples: a tensor `(n, ...)`, a tuple of such where the model takes several, or batches of either (a list, a loader).
        layers: a name, or a list of names; `(name, number)` for a layer that runs more than once.
        of_input: what the layers receive instead of what they return.
        what: the name of the examples in messages.

    Raises:
        OptionError: no such layer, or one that does not run.
        InputError: no examples, or examples for which a layer holds tensors of different sizes.

    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    >>> {name: tuple(rows.shape) for name, rows in activations(net, torch.randn(5, 1, 4, 4), ["0", "1"]).items()}
    {'0': (5, 8), '1': (5, 8)}
    """
    found = blocks(model, examples, layers, of_input, what)
    return {word(layer): joined_rows(parts, what) for layer, parts in zip(listed(layers), zip(*found, strict=True), strict=True)}


def blocks(
    model: Callable[..., Any], examples: Any, layers: Named | Sequence[Named], of_input: bool = False, what: str = "the concept"
) -> list[Tensors]:
    """As `activations`, batch by batch: for each batch `(b, F)` of each layer."""
    roots, asked = modules_of(model), listed(layers)
    if modes := in_train_mode(roots):
        warn("mode", f"the model is in train mode ({', '.join(modes[:4])}): a concept may lie elsewhere later; call model.eval()")
    device = next((p.device for root in roots for p in root.parameters()), torch.device("cpu"))
    found: list[Tensors] = []
    place: Place | None = None
    with undisturbed(roots):
        for batch in batches(examples, what):
            view = replace(at_input(model, tuple(t.to(device) for t in batch)), pick=ANYTHING)
            seen = look(view, asked if place is None else place, of_input)
            place = seen.place
            found.append(tuple(rows.cpu() for rows in flat(seen.features, place.counts)))
    if not found:
        raise InputError(f"{what} has no examples (an iterator can be gone through once only); give at least one, as a list or a loader")
    return found


def batches(examples: Any, what: str = "the concept") -> Iterator[Tensors]:
    """Batches of tensors: slices of what is whole, others as they come.

    Raises:
        InputError: examples in another form.
    """
    whole = isinstance(examples, Tensor) or (isinstance(examples, tuple) and all(isinstance(part, Tensor) for part in examples))
    if whole and len(examples):
        tensors = as_tensors(examples, what)
        yield from zip(*(tensor.split(SIZE) for tensor in tensors), strict=True)
    elif not whole:
        if not isinstance(examples, Iterable) or isinstance(examples, str):
            raise InputError(f"{what} is {type(examples).__name__}; give its examples as a tensor, a tuple of tensors, a list or a loader")
        for batch in passed(examples):
            yield as_tensors(batch, what)


def joined_rows(parts: Sequence[Tensor], what: str) -> Tensor:
    """Rows under one another.

    Raises:
        InputError: some are longer than others.
    """
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        raise InputError(f"a layer holds {' and '.join(map(str, widths))} numbers for {what}; give all examples the same shape")
    return torch.cat(list(parts))


def flat(features: Tensors, counts: Sequence[int]) -> Tensors:
    """`(b, F)` for each layer, where it has so many of the tensors."""
    rest = [tensor.reshape(len(tensor), -1) for tensor in features]
    return tuple(torch.cat([rest.pop(0) for _ in range(count)], 1) for count in counts)


def listed(layers: Named | Sequence[Named]) -> list[Named]:
    """A list of layers, each once.

    Raises:
        OptionError: none.
    """
    found: list[Named] = [layers] if isinstance(layers, str | tuple) else list(dict.fromkeys(layers))
    if not found:
        raise OptionError("the list of layers is empty; give at least one")
    return found


def word(layer: Named) -> str:
    """A layer in results: its name, and which call if that was said."""
    return layer if isinstance(layer, str) else f"{layer[0]} (call {layer[1]})"
