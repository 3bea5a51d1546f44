"""Attention, read at the operation: a softmax whose result mixes values, however the model spells it, fused or not.

Every softmax over the last dimension that goes into a product with values is one attention. What the product goes through next
is followed to the layer that projects it and to the tensor that the result is added to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..errors import InputError, OptionError
from ..hooks import around
from ..inputs import Tensors
from ..rules.passes import refuse_hidden
from ..rules.rewrites import attention, multi_head_attention
from ..rules.spellings import MOVES, reads, spelled
from ..view import View, leaves_at

__all__ = ["Attention", "Seen", "attentions"]

FUSED: dict[str, Callable[..., Any]] = {"scaled_dot_product_attention": attention, "multi_head_attention_forward": multi_head_attention}
KEEPS = MOVES | {"dropout", "mul", "div", "masked_fill"}


@dataclass(eq=False)
class Attention:
    """One attention of one call of the model.

    Attributes:
        name, inner: of the module that computed it, and of those in it.
        held: the softmax as the model computed it, in the graph of the scores.
        values: `(B, H, M, D)`, what is mixed.
        rows: B.
        weight: `(C, H * D)` of the layer that projects what was mixed, if one does.
        before: `(B, N, C)`, what the result is added to, if it is.
    """

    name: str
    inner: tuple[str, ...]
    held: Tensor
    values: Tensor
    rows: int
    weight: Tensor | None = None
    before: Tensor | None = None

    @property
    def chances(self) -> Tensor:
        """`(B, H, N, M)`: how much each of N queries looks at each of M keys."""
        return headed(self.held.detach(), self.rows)

    def named(self, pattern: str) -> bool:
        """Whether the module, one in it, or one around it has a name that the pattern finds."""
        parts = self.name.split(".")
        around = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        return any(re.search(pattern, name) for name in (*around, *self.inner))


@dataclass(frozen=True, eq=False)
class Seen:
    """A pass that was watched: the scores `(T, B)` in their graph, and its attentions as they ran."""

    scores: Tensor
    found: Sequence[Attention]

    def gradients(self, of: Sequence[Attention]) -> list[Tensor]:
        """`(T, B, H, N, M)` of each: the gradients of the scores; zeros of what the scores do not use."""
        if not self.scores.requires_grad:
            raise InputError(
                "the scores have no gradient: the model runs under torch.no_grad, or its output does not depend on its attention; "
                "take no_grad off its forward"
            )
        with torch.inference_mode(False), torch.enable_grad():
            _check_order(self.scores, of)
            each = [
                torch.autograd.grad(total, [a.held for a in of], retain_graph=True, allow_unused=True, materialize_grads=True)
                for total in self.scores.sum(1)
            ]
        parts = zip(zip(*each, strict=True), of, strict=True)
        return [torch.stack([headed(g, a.rows) for g in own]) for own, a in parts]


def attentions(view: View, points: Tensors | None = None, pattern: str | None = None, source: str | None = None) -> Seen:
    """Run the features, or other points, and watch the attentions; of modules whose names the pattern finds, where one is given.

    Where a `source` is given, `before` is what the layers with such names receive, as they run, instead.

    Raises:
        InputError: no attention was seen. OptionError: none of that name, or where none can be seen.
    """
    with torch.inference_mode(False), torch.enable_grad(), _names(view.roots, source) as names:
        at = view.features if points is None else points
        leaves = tuple(leaves_at((p,))[0] if p.is_floating_point() else p for p in at)
        with _Watch(len(at[0]), names) as watch:
            scores = view.score(leaves)
    if not watch.found:
        refuse_hidden(view.roots, "attention maps")
        raise InputError(
            "the model was seen to attend nowhere: attention maps need a transformer, with attention as torch operations "
            "(softmax and matmul, scaled_dot_product_attention, nn.MultiheadAttention); compiled or scripted code hides it"
        )
    if source is not None:
        if len(names.received) != len(watch.found):
            raise OptionError(
                f"{len(names.received)} layers named {source!r} ran, and {len(watch.found)} attentions; one for each is needed"
            )
        for own, received in zip(watch.found, names.received, strict=True):
            own.before = received
    for own in watch.found:
        _of_examples(own)
    chosen = [a for a in watch.found if pattern is None or a.named(pattern)]
    if not chosen:
        raise OptionError(f"no attention in a module named {pattern!r}; the attentions are in {', '.join(a.name for a in watch.found)}")
    return Seen(scores, chosen)


def _of_examples(own: Attention) -> None:
    """Refuse attention that is not of whole examples.

    Raises:
        InputError: windows, or heads in an order that cannot be told from examples.
    """
    if own.held.dim() == 4 and len(own.held) != own.rows:
        raise InputError(
            f"the attention in {own.name!r} has shape {tuple(own.held.shape)} for {own.rows} examples: it is of windows or parts of them, "
            "which attention maps do not follow; use integrated_gradients or occlusion"
        )


def _check_order(scores: Tensor, of: Sequence[Attention]) -> None:
    """Where examples and heads lie in one dimension, the first example's own rows must come first.

    Raises:
        InputError: heads come before examples.
    """
    stacked = [a for a in of if a.held.dim() == 3 and a.rows > 1]
    if not stacked:
        return
    grads = torch.autograd.grad(scores[0, 0], [a.held for a in stacked], retain_graph=True, allow_unused=True, materialize_grads=True)
    for own, gradient in zip(stacked, grads, strict=True):
        if bool(gradient[len(own.held) // own.rows :].any()):
            raise InputError(
                f"the attention in {own.name!r} has heads before examples in one dimension, {tuple(own.held.shape)}; explain the examples "
                "one by one"
            )


@dataclass(eq=False)
class _Names:
    """Where in the model a pass is."""

    inner: dict[str, tuple[str, ...]]
    stack: list[str] = field(default_factory=list)
    received: list[Tensor] = field(default_factory=list)

    @property
    def here(self) -> str:
        return self.stack[-1] if self.stack else ""


@contextmanager
def _names(roots: Sequence[nn.Module], source: str | None = None) -> Iterator[_Names]:
    """Follows which module is running, and what layers named `source` receive, by hooks that are gone afterwards."""
    modules = {module: name for root in roots for name, module in root.named_modules() if name}
    names = _Names({name: tuple(f"{name}.{child}" for child, _ in module.named_children()) for module, name in modules.items()})

    def enter(module: nn.Module, given: Any) -> Any:
        names.stack.append(modules[module])
        if source is not None and re.search(source, names.here):
            names.received += [leaf.detach() for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor)][:1]
        return given

    def leave(module: nn.Module, found: Any) -> Any:
        while names.stack.pop() != modules[module]:  # a module in it raised, and the model went on
            pass
        return found

    with around(list(modules), enter, leave):
        yield names


class _Watch(TorchFunctionMode):
    """One pass: which softmax becomes an attention, and what is done with its result."""

    def __init__(self, rows: int, names: _Names) -> None:
        super().__init__()
        self.found: list[Attention] = []
        self._rows, self._names = rows, names
        self._soft: dict[int, tuple[Tensor, Tensor]] = {}  # a tensor, and the softmax that it is
        self._mixed: dict[int, tuple[Tensor, Attention]] = {}
        self._projected: dict[int, tuple[Tensor, Attention]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if reads(func):
            return func(*args, **kwargs)
        name = spelled(func).name
        if name in FUSED:
            with self:  # its operations are seen one by one
                return FUSED[name](*args, **kwargs)
        found = func(*args, **kwargs)
        if name == "softmax" and isinstance(found, Tensor) and found.dim() >= 3 and over_last(found, args, kwargs):
            found = found if found.requires_grad else found.requires_grad_()
            self._soft[id(found)] = found, found
        else:
            self._follow(name, args, kwargs, found)
        return found

    def _follow(self, name: str, args: Any, kwargs: Any, found: Any) -> None:
        operands = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if name == "einsum":
            operands = [a for arg in args[1:] for a in (arg if isinstance(arg, tuple | list) else (arg,))]
        for place, tensor in enumerate(operands):
            key = id(tensor)
            if key in self._soft and self._soft[key][0] is tensor:
                self._of_chances(name, place, operands, self._soft[key][1], found)
            elif key in self._mixed and self._mixed[key][0] is tensor:
                self._of_mixed(name, place, operands, self._mixed[key][1], found)
            elif key in self._projected and self._projected[key][0] is tensor:
                self._of_projected(name, place, operands, self._projected[key][1], found)

    def _of_chances(self, name: str, place: int, operands: list[Tensor], chances: Tensor, found: Any) -> None:
        if name in ("matmul", "einsum", "baddbmm") and place < len(operands) - 1 and isinstance(found, Tensor):
            values = operands[place + 1]
            own = Attention(
                self._names.here, self._names.inner.get(self._names.here, ()), chances, headed(values.detach(), self._rows), self._rows
            )
            self.found.append(own)
            self._mixed[id(found)] = found, own
        elif name in KEEPS:
            for tensor in _tensors(found):
                self._soft[id(tensor)] = tensor, chances

    def _of_mixed(self, name: str, place: int, operands: list[Tensor], own: Attention, found: Any) -> None:
        if name in ("linear", "addmm", "matmul") and isinstance(found, Tensor) and place < len(operands) - 1:
            weight = operands[place + 1].detach()
            own.weight = weight if name == "linear" else weight.T
            self._projected[id(found)] = found, own
        elif name in KEEPS:
            for tensor in _tensors(found):
                self._mixed[id(tensor)] = tensor, own

    def _of_projected(self, name: str, place: int, operands: list[Tensor], own: Attention, found: Any) -> None:
        if name == "add" and len(operands) == 2 and operands[1 - place].dim() == operands[place].dim() > 1:
            own.before = _before(operands[1 - place], operands[place], found) if own.before is None else own.before
        elif name in KEEPS:
            for tensor in _tensors(found):
                self._projected[id(tensor)] = tensor, own


def headed(tensor: Tensor, rows: int) -> Tensor:
    """`(B, H, ., .)`, where examples and heads may lie in one dimension."""
    return tensor.unflatten(0, (rows, -1)) if tensor.dim() == 3 and len(tensor) % rows == 0 else tensor


def _before(other: Tensor, added: Tensor, found: Tensor) -> Tensor:
    """What something was added to, perhaps in place."""
    return (found - added if found is other else other).detach()


def over_last(found: Tensor, args: Any, kwargs: Any) -> bool:
    """Whether a softmax is over the last dimension."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return dim in (-1, found.dim() - 1)


def _tensors(found: Any) -> Iterator[Tensor]:
    for part in found if isinstance(found, tuple | list) else (found,):
        if isinstance(part, Tensor):
            yield part
