"""The two hooks of the library: `watch` sees what layers return or receive, `put` gives them something else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .inputs import Tensors

__all__ = ["put", "watch"]


@contextmanager
def watch(layers: Sequence[nn.Module], of_input: bool = False) -> Iterator[list[list[Tensors]]]:
    """Per layer, the tensors of each of its calls while the block runs.

    The tensors themselves are kept and copies passed on: the next operation may work in place.
    """
    seen: list[list[Tensors]] = [[] for _ in layers]

    def keep(index: int, value: Any) -> Any:
        seen[index].append(tuple(leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)))
        return pytree.tree_map_only(Tensor, Tensor.clone, value)

    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            stack.callback(_hook(layer, of_input, lambda value, index=index: keep(index, value)).remove)
        yield seen


@contextmanager
def put(layers: Sequence[nn.Module], values: Tensors, of_input: bool = False) -> Iterator[None]:
    """While the block runs, the layers return (or receive) copies of these tensors, in order, instead of their own."""
    rest = list(values)

    def fill(value: Any) -> Any:
        return pytree.tree_map_only(Tensor, lambda _: rest.pop(0).clone(), value)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(_hook(layer, of_input, fill).remove)
        yield


def _hook(layer: nn.Module, of_input: bool, change: Any) -> Any:
    """`change` maps what passes: `(arguments, keywords)` on the way in, the output on the way out."""
    if of_input:
        return layer.register_forward_pre_hook(lambda _, args, kwargs: change((args, kwargs)), with_kwargs=True)
    return layer.register_forward_hook(lambda _, args, output: change(output))
