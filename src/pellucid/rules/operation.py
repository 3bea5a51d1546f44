"""An operation as it ran, and what a method makes of operations: the nouns of the backward engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Grads", "Kept", "Op", "Rule", "Ruling", "Tape", "fitted", "sole"]

Grads = tuple[Tensor | None, ...]


@dataclass(eq=False, slots=True)
class Kept:
    """A value that a rule will ask for; copied before the model changes it in place."""

    tensor: Tensor


@dataclass(eq=False)
class Op:
    """One operation as it ran: `outputs = run(*inputs)`.

    Attributes:
        name: what it is called whatever its spelling.
        run: the operation as a function of its floating-point tensors, to its floating-point outputs.
        active: which of those inputs depend on what is attributed.
        args, kwargs: all of its arguments, as it was called, without the floating-point tensors.
        parents: the nodes of autograd's graph that its inputs came from.
        module: the innermost module that called it, if that was asked for.
        place: words for the module that ran the first operation of this name.
        graph: `outputs` with their graph back to `leaves`, where the rules want the operation's own gradient.
    """

    name: str
    run: Callable[..., tuple[Tensor, ...]]
    kept_inputs: tuple[Kept, ...]
    kept_outputs: tuple[Kept, ...]
    active: tuple[bool, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    parents: tuple[Any, ...] = ()
    module: nn.Module | None = None
    graph: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None = None
    place: str = ""
    reference: Op | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(kept.tensor for kept in self.kept_inputs)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(kept.tensor for kept in self.kept_outputs)

    @property
    def output(self) -> Tensor:
        return self.kept_outputs[0].tensor

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by its place or its name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    @cached_property
    def at_reference(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Inputs and outputs of the same operation at the reference, of the shapes that they have here."""
        other = self.reference
        assert other is not None
        here, there = (self.inputs, self.outputs), (other.inputs, other.outputs)
        spread = tuple(tuple(fitted(b, a.shape) for a, b in zip(x, y, strict=True)) for x, y in zip(here, there, strict=True))
        return spread[0], spread[1]

    def pull(self, *grads: Tensor) -> Grads:
        """The operation's own gradient where it ran: what the outputs' gradients are for the active inputs."""
        if self.graph is None:
            return self.pull_at(self.inputs, *grads)
        outputs, leaves = self.graph
        wanted = [leaf for leaf, active in zip(leaves, self.active, strict=True) if active]
        found = iter(torch.autograd.grad(outputs, wanted, grads, retain_graph=True, allow_unused=True))
        return tuple(next(found) if active else None for active in self.active)

    def pull_at(self, inputs: Sequence[Tensor], *grads: Tensor) -> Grads:
        """The operation's own gradient at other inputs."""
        with torch.enable_grad():
            leaves = tuple(t.detach().requires_grad_(active) for t, active in zip(inputs, self.active, strict=True))
            outputs = self.run(*leaves)
            wanted = [leaf for leaf, active in zip(leaves, self.active, strict=True) if active]
            some = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
            if not some:
                return (None,) * len(leaves)
            found = iter(torch.autograd.grad([o for o, _ in some], wanted, [g for _, g in some], allow_unused=True))
        return tuple(next(found) if active else None for active in self.active)


Rule = Callable[..., Grads]  # (op, *gradients of its outputs) -> gradients of its inputs, None where there is none
Tape = list[Op]


@dataclass(frozen=True, eq=False)
class Ruling:
    """What a method makes of operations.

    Attributes:
        rules: by name.
        rewrites: other code for an operation, whose own operations are watched in turn; `NotImplemented`: not in this case.
        native: names whose own gradient is right.
        alone: names whose own gradient is right where only one tensor is active (`mul`, `matmul`).
        masked: those of them that have a rule nevertheless where another tensor, no parameter, takes part: it may be a mask.
        default: the rule of any other name.
        by_output: names whose rules do not read the inputs, which then need no copy before work in place.
        graph: names whose rules use the operation's own gradient where it ran (`Op.pull`), which then costs no second run.
        places: whether rules want to know which module an operation belongs to.
        nodes: names of autograd's nodes that are in the graph of the scores only where an operation escaped.
        choose: the rule of an operation, before its name is looked up; None: by name.
        apart: whether rules hand things to each other, so that several targets must go back one after another.
    """

    rules: Mapping[str, Rule]
    rewrites: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    native: frozenset[str] = frozenset()
    alone: frozenset[str] = frozenset()
    masked: frozenset[str] = frozenset()
    default: Rule | None = None
    by_output: frozenset[str] = frozenset()
    graph: frozenset[str] = frozenset()
    places: bool = False
    nodes: frozenset[str] = frozenset()
    choose: Callable[[Op], Rule | None] | None = None
    apart: bool = False

    @cached_property
    def plain(self) -> frozenset[str]:
        """Names of which nothing is to be done."""
        return self.native - set(self.rules) - set(self.rewrites)

    def of(self, name: str, active: int, others: bool) -> Rule | None:
        """The rule of an operation by its name; None: autograd's own. `others`: whether other tensors may change with the inputs."""
        if active == 1 and name in self.alone and not (others and name in self.masked):
            return None
        found = self.rules.get(name)
        return found if found is not None or name in self.native else self.default


def fitted(there: Tensor, shape: torch.Size) -> Tensor:
    """Each row of the reference stands for a run of rows."""
    if there.shape == shape:
        return there
    if len(there) == 1:
        return there.expand(shape)
    return there.repeat_interleave(shape[0] // len(there), 0)


def sole(op: Op, value: Tensor) -> Grads:
    """A gradient for the only active input."""
    index = op.active.index(True)
    return tuple(value.to(t.dtype) if i == index else None for i, t in enumerate(op.inputs))
