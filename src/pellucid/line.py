"""A straight path through a model: the first affine layers run at its two ends only, forwards and backwards."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .inputs import Tensors

__all__ = ["Line", "NotLean", "tensors_in"]


class NotLean(Exception):
    """What was to be left out turns out to be needed: the pass must be run as it stands."""


def tensors_in(values: Sequence[Any]) -> Iterator[Tensor]:
    """The tensors among an operation's arguments."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from tensors_in(value)


# What takes a value, a gradient or memory out of the operations that can be seen.
ESCAPES = {
    "item", "tolist", "numpy", "__array__", "__float__", "__int__", "__bool__", "__index__", "__complex__", "data_ptr",
    "register_hook", "register_post_accumulate_grad_hook", "retain_grad", "requires_grad_", "set_", "untyped_storage", "storage",
    "__dlpack__", "is_nonzero",
}  # fmt: skip
DATA = Tensor.data.__get__  # type: ignore[attr-defined]
# Differentiating inside the model goes back to the points, which what is hoisted does not depend on.
DIFFERENTIATING = {torch.autograd.grad, torch.autograd.backward, Tensor.backward}

# What keeps a line straight: a point's place in the batch stays, and its values change by an affine function of them.
STRAIGHT = {Tensor.clone, Tensor.contiguous, Tensor.flatten, torch.flatten, Tensor.view, Tensor.reshape, torch.reshape, Tensor.unsqueeze}
ARITHMETIC = {
    getattr(place, name)
    for place, names in (
        (torch, ("add", "sub", "mul", "div")),
        (Tensor, ("add", "sub", "mul", "div", "__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__")),
    )
    for name in names
}


@dataclass(frozen=True, eq=False)
class _Alias:
    """A tensor that runs along the line: the feature tensor it came from, and what was done to it."""

    tensor: Tensor
    index: int
    version: int
    steps: tuple[Callable[[Tensor], Tensor], ...] = ()

    def replay(self, tensor: Tensor) -> Tensor:
        for step in self.steps:
            tensor = step(tensor)
        return tensor


@dataclass(frozen=True, eq=False)
class _Once:
    """An affine operation at both ends of the line, and where the gradients at its result are gathered."""

    alias: _Alias
    operation: Callable[[Tensor], Tensor]
    key: Any
    start: Tensor
    change: Tensor
    gathered: Tensor


class Line:
    """A straight path `start + node * delta`: its first affine operations run at both ends only, forwards and backwards.

    An affine operation of a point on the line is the same mixture of its values at the ends. And the weighted sum of the
    gradients of the points is one backward pass of the weighted sum of the gradients at the operation's results.
    """

    def __init__(self, starts: Tensors, deltas: Tensors) -> None:
        self.starts, self.deltas = starts, deltas
        self._done: list[_Once] = []
        self._aliases: dict[int, _Alias] = {}
        self._derived: dict[int, weakref.ref[Tensor]] = {}
        self._closed = False
        self._used: list[tuple[int, Tensor]] = []
        self._nodes = self._weights = torch.empty(0)

    def at(self, points: Tensors, nodes: Tensor, weights: Tensor) -> None:
        """The next pass is at these points."""
        self._aliases = {id(p): _Alias(p, i, p._version) for i, p in enumerate(points)}
        self._derived, self._closed = {}, False
        self._used, self._nodes, self._weights = [], nodes, weights

    def follow(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Any operation but the affine layers: what it does to the line."""
        if func in DIFFERENTIATING and not self._closed:
            raise NotLean
        given = list(tensors_in((*args, *kwargs.values())))
        mine = [self._aliases[id(t)] for t in given if id(t) in self._aliases]
        if not mine and not any(self._is_derived(t) for t in given):
            return func(*args, **kwargs)
        if mine and func is Tensor.clone:
            return args[0]  # nothing may work on it in place, see below
        name = getattr(func, "__name__", "")
        if (name.endswith("_") and not name.endswith("__")) or name == "__setitem__" or "out" in kwargs or name in ESCAPES or func is DATA:
            raise NotLean
        found = func(*args, **kwargs)
        if (
            len(mine) == 1
            and id(args[0]) in self._aliases
            and (func in STRAIGHT or (func in ARITHMETIC and self._constant(mine[0].tensor, args[1:], kwargs)))
        ):
            step = _step(func, args[1:], kwargs, len(mine[0].tensor))
            self._aliases[id(found)] = _Alias(found, mine[0].index, found._version, (*mine[0].steps, step))
        else:
            for tensor in tensors_in([found]):
                if not tensor.requires_grad:  # a number made of the points that does not look like it
                    self._derived[id(tensor)] = weakref.ref(tensor)
        return found

    def _is_derived(self, tensor: Tensor) -> bool:
        known = self._derived.get(id(tensor))
        return known is not None and known() is tensor

    def _constant(self, point: Tensor, others: Any, options: Any) -> bool:
        """Whether the other operands are the same for every point."""
        return not options and all(
            isinstance(o, int | float)
            or (isinstance(o, Tensor) and not o.requires_grad and not self._is_derived(o) and (o.dim() < point.dim() or len(o) == 1))
            for o in others
        )

    def once(self, operation: Callable[[Tensor], Tensor], key: Any, input: Tensor) -> Tensor | None:
        """The operation's result at the points, from its results at the ends; None if its input is not on the line."""
        alias = self._aliases.get(id(input))
        if alias is None:
            return None
        if self._closed or input._version != alias.version:  # computed again for the gradient, or changed in place
            raise NotLean
        position = len(self._used)
        if position == len(self._done):
            self._done.append(self._ends(alias, operation, key))
        done = self._done[position]
        if done.key != key:
            raise NotLean
        anchor = torch.zeros_like(done.start).requires_grad_()
        self._used.append((position, anchor))
        nodes, weights = (w.to(done.start).view(-1, *(1,) * done.start.dim()) for w in (self._nodes, self._weights))
        found: Tensor = _OnLine.apply(anchor, done.start, done.change, nodes, weights)  # type: ignore[no-untyped-call]
        return found

    def _ends(self, alias: _Alias, operation: Callable[[Tensor], Tensor], key: Any) -> _Once:
        start, delta = self.starts[alias.index], self.deltas[alias.index]
        with torch.no_grad():
            first = alias.replay(start)
            if first.shape != (len(start), *alias.tensor.shape[1:]):
                raise NotLean
            here = operation(first)
            change = operation(alias.replay(start + delta)) - here
        return _Once(alias, operation, key, here, change, torch.zeros_like(here))

    def differentiated(self, scores: Tensor, leaves: Tensors) -> tuple[Tensor | None, ...]:
        """Gradients of this pass: at the results of what is hoisted, and after them at the leaves."""
        self._closed = True
        if not scores.requires_grad:  # a constant score
            return (None,) * (len(self._used) + len(leaves))
        return torch.autograd.grad(scores.sum(), (*(anchor for _, anchor in self._used), *leaves), allow_unused=True)

    def gather(self, found: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """Keep the gradients at what is hoisted; the rest are those at the leaves. Once the pass is known to have gone well."""
        for (position, _), gradient in zip(self._used, found, strict=False):
            if gradient is not None:
                self._done[position].gathered.add_(gradient)
        return found[len(self._used) :]

    def back(self) -> list[tuple[int, Tensor]]:
        """What was gathered, taken back through the hoisted operations: `(feature index, gradient (b, ...))`."""
        found = []
        for done in self._done:
            with torch.enable_grad():
                start = self.starts[done.alias.index].detach().requires_grad_()
                result = done.operation(done.alias.replay(start))
            found.append((done.alias.index, torch.autograd.grad(result, start, done.gathered)[0]))
        return found


class _OnLine(torch.autograd.Function):
    """`start + node * change` at all nodes; its gradient gathers the weighted sum over the nodes."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, start: Tensor, change: Tensor, nodes: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        # A tensor of its own, not a view: the next operation may work in place.
        found = torch.empty_like(start[:1].expand(len(nodes) * len(start), *start.shape[1:]), memory_format=_layout(start))
        torch.addcmul(start, nodes, change, out=found.unflatten(0, (len(nodes), -1)))
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weights,) = ctx.saved_tensors
        by_node = grads[0].unflatten(0, (len(weights), -1))
        return torch.tensordot(weights.flatten(), by_node, 1), None, None, None, None


def _layout(tensor: Tensor) -> torch.memory_format:
    pictures = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if pictures else torch.contiguous_format


def _step(func: Any, others: tuple[Any, ...], options: Any, rows: int) -> Callable[[Tensor], Tensor]:
    """The operation, to be done again to another number of points."""

    def again(tensor: Tensor) -> Tensor:
        resized = others
        if func in (Tensor.view, Tensor.reshape, torch.reshape) and others:
            sizes = list(others[0]) if len(others) == 1 and isinstance(others[0], tuple | list) else list(others)
            resized = ([len(tensor) if i == 0 and size == rows else size for i, size in enumerate(sizes)],)
        found: Tensor = func(tensor, *resized, **options)
        return found

    return again
