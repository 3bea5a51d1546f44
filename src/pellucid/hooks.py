"""The hooks of the library: `watch` sees what layers return or receive, `put` gives them something else, `around` and `between` do both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .inputs import Tensors

__all__ = ["Reached", "around", "between", "put", "watch"]


class Reached(BaseException):
    """The watched call is over, and nothing after it is wanted. Not an `Exception`: a model may catch those."""


@contextmanager
def watch(
    layers: Sequence[nn.Module], of_input: bool = False, graph: bool = False, stop: int | None = None
) -> Iterator[list[list[Tensors]]]:
    """Per layer, the tensors of each of its calls while the block runs.

    The tensors themselves are kept and copies passed on: the next operation may work in place.

    Args:
        of_input: what the layers receive, instead of what they return.
        graph: what is kept starts a graph of its own where it is in none, so that a gradient goes back to it and not further.
        stop: end the block with `Reached` after this call (from 0) of the (first) layer.
    """
    seen: list[list[Tensors]] = [[] for _ in layers]

    def keep(index: int, value: Any) -> Any:
        if graph:
            value = pytree.tree_map_only(Tensor, _start, value)
        seen[index].append(tuple(leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)))
        if stop is not None and len(seen[0]) > stop:
            raise Reached
        return pytree.tree_map_only(Tensor, Tensor.clone, value)

    with _hooked(layers, of_input, keep):
        yield seen


def _start(tensor: Tensor) -> Tensor:
    """A tensor of its own, also where a layer gets the same one twice, each place with its own gradient."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.clone() if tensor.requires_grad else tensor.detach().requires_grad_()


@contextmanager
def between(layers: Sequence[nn.Module]) -> Iterator[list[list[tuple[Tensor, Tensor]]]]:
    """Per layer, for each call while the block runs, the only tensor that it received and the only one that it returned.

    What is returned starts a graph of its own where it is in none. A call with other arguments counts as two.
    """
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layers]

    def keep(index: int, args: Any, kwargs: Any, output: Any) -> Any:
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(output, Tensor):
            seen[index] += [(torch.zeros(()), torch.zeros(()))] * 2
            return output
        # The next operation may work in place, on either.
        held = _start(output)
        seen[index].append((args[0].detach().clone(), held))
        return held.clone()

    with _eager() as stack:
        for index, layer in enumerate(layers):
            handle = layer.register_forward_hook(lambda _, args, kw, output, i=index: keep(i, args, kw, output), with_kwargs=True)
            stack.callback(handle.remove)
        yield seen


@contextmanager
def put(layers: Sequence[nn.Module], values: Tensors, of_input: bool = False, calls: Sequence[int] = ()) -> Iterator[None]:
    """While the block runs, the layers return (or receive) copies of these tensors, in order, instead of their own.

    Args:
        calls: for each layer, the only one of its calls (from 0) that gets them; by default every call takes some more.
    """
    rest, done = list(values), [0] * len(layers)

    def fill(index: int, value: Any) -> Any:
        done[index] += 1
        if calls and done[index] - 1 != calls[index]:
            return value
        return pytree.tree_map_only(Tensor, lambda _: rest.pop(0).clone(), value)

    with _hooked(layers, of_input, fill):
        yield


@contextmanager
def around(layers: Sequence[nn.Module], before: Callable[[nn.Module, Any], Any], after: Callable[[nn.Module, Any], Any]) -> Iterator[None]:
    """While the block runs, `before` maps the layers' `(arguments, keywords)`, and `after` what they return."""
    with (
        _hooked(layers, True, lambda i, given: before(layers[i], given)),
        _hooked(layers, False, lambda i, output: after(layers[i], output)),
    ):
        yield


@contextmanager
def _hooked(layers: Sequence[nn.Module], of_input: bool, change: Callable[[int, Any], Any]) -> Iterator[None]:
    """`change` maps what passes each layer: `(arguments, keywords)` on the way in, the output on the way out."""
    with _eager() as stack:
        for index, layer in enumerate(layers):
            stack.callback(_hook(layer, of_input, partial(change, index)).remove)
        yield


def _eager() -> ExitStack:
    """For callbacks; until it is left, compiled code runs as it was written."""
    stack = ExitStack()
    if "torch._dynamo" in sys.modules:  # a graph that was compiled before knows nothing of hooks
        stack.enter_context(torch.compiler.set_stance("force_eager"))
    return stack


def _hook(layer: nn.Module, of_input: bool, change: Callable[[Any], Any]) -> Any:
    if of_input:
        return layer.register_forward_pre_hook(lambda _, args, kwargs: change((args, kwargs)), with_kwargs=True)
    return layer.register_forward_hook(lambda _, args, output: change(output))
