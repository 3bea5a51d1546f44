"""Targets: which number of the model's output is explained, in all the forms in which people say it.

A target is resolved once, at the door, into one of a few picks; a pick turns the model's output into scores of shape
`(targets, examples)`. Users write an int, a tuple, a tensor, a list of these (one per example), a class name, an
expression (`target("cat") - target("dog")`), a callable, or None where the model gives one score per example.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .errors import TargetError
from .output import tensor_of
from .picks import Custom, Every, Field, Mixed, PerExample, Pick, Same, Several, Sum, Whole

__all__ = ["Every", "Expression", "Field", "PerExample", "Pick", "Same", "Several", "Whole", "resolve", "target", "tensor_of"]


@dataclass(frozen=True)
class Expression:
    """A weighted sum of outputs, as a user writes it: `target("cat") - target("dog")`, `0.5 * target(3)`."""

    terms: tuple[tuple[float, Any], ...]

    def __add__(self, other: Expression) -> Expression:
        return Expression(self.terms + other.terms)

    def __sub__(self, other: Expression) -> Expression:
        return self + -1 * other

    def __mul__(self, weight: float) -> Expression:
        return Expression(tuple((weight * w, spec) for w, spec in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> Expression:
        return -1 * self


def target(spec: Any) -> Expression:
    """An output (int, tuple or class name) to calculate with.

    >>> target("cat") - target("dog")
    Expression(terms=((1.0, 'cat'), (-1.0, 'dog')))
    """
    return Expression(((1.0, spec),))


def resolve(spec: Any, size: int, classes: Sequence[str] = ()) -> Pick:
    """The pick that a user's target means, for a batch of `size` examples.

    Args:
        spec: None, int, tuple of ints, 1-D integer tensor or array (one entry per example, or a single one), list of any
            of these forms (one per example), class name, `"a - b"` of class names or ints, `Expression`, or a callable
            `output -> (examples,)`, which gets whatever the model returned. Where that has fields, one of them by name,
            alone or before the rest: `"score"`, `("logits", 3)`.
        classes: names of the classes, in the order of the output's last dimension.

    Raises:
        TargetError: none of these forms, another number of entries than examples, or an unknown class name.
    """
    if isinstance(spec, Pick):
        return spec
    if spec is None:
        return Whole()
    if isinstance(spec, str):
        return _named(spec, size, classes)
    if isinstance(spec, Expression):
        return Sum(tuple((weight, resolve(part, size, classes)) for weight, part in spec.terms))
    if _is_int(spec) or isinstance(spec, tuple):
        return _same(spec, classes)
    if hasattr(spec, "__array__") and not callable(spec):
        return _from_tensor(torch.as_tensor(spec), size, classes)
    if isinstance(spec, list | range):
        return _listed(list(spec), size, classes)
    if callable(spec):
        return Custom(spec)
    raise TargetError(
        f"target {spec!r} ({type(spec).__name__}) is none of int, tuple, integer tensor, list of "
        "these, class name, expression, callable, None"
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _same(spec: Any, classes: Sequence[str]) -> Pick:
    index = tuple(spec) if isinstance(spec, tuple) else (spec,)
    if index and isinstance(index[0], str) and index[0] not in classes:
        return Field(index[0], _same(index[1:], classes) if index[1:] else Whole())
    index = tuple(list(classes).index(i) if isinstance(i, str) and i in classes else i for i in index)
    if not index or not all(_is_int(i) for i in index):
        raise TargetError(f"target {spec!r} must hold integers: indices into one example's output")
    index = tuple(int(i) for i in index)
    known = len(index) == 1 and 0 <= index[0] < len(classes)
    return Same(index, classes[index[0]] if known else "")


def _from_tensor(values: Tensor, size: int, classes: Sequence[str]) -> Pick:
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TargetError(f"target has dtype {values.dtype}; indices must be integers: use .long()")
    if values.numel() == 1:
        return _same(int(values), classes)
    if values.dim() != 1 or len(values) != size:
        raise TargetError(f"target has shape {tuple(values.shape)} for {size} examples; give one index per example: ({size},)")
    return PerExample(values.detach().cpu().long()[:, None].clone())


def _listed(specs: list[Any], size: int, classes: Sequence[str]) -> Pick:
    if len(specs) != size:
        raise TargetError(
            f"target is a list of {len(specs)} for {size} examples; a list has one entry per example (for several targets "
            "of every example use explain_each)"
        )
    specs = [int(s) if isinstance(s, Tensor) and s.numel() == 1 else s for s in specs]
    picks = tuple(resolve(s, 1, classes) for s in specs)
    if all(isinstance(p, Same) for p in picks) and len({len(p.index) for p in picks if isinstance(p, Same)}) == 1:
        return PerExample(tuple(p.index for p in picks if isinstance(p, Same)))
    return Mixed(picks)


def _named(name: str, size: int, classes: Sequence[str]) -> Pick:
    if name in classes:
        return _same(list(classes).index(name), classes)
    if re.fullmatch("-?[0-9]+", name):
        return _same(int(name), classes)
    parts = name.split(" - ")
    if len(parts) > 1:
        first, *rest = (target(part.strip()) for part in parts)
        for other in rest:
            first = first - other
        return resolve(first, size, classes)
    if not classes and name.isidentifier():
        return Field(name, Whole())  # the output tells whether it has one
    known = f"the classes are {', '.join(map(repr, classes[:20]))}" if classes else "no class names were given: pass classes=[...]"
    raise TargetError(f"target {name!r} is not a class; {known}")
