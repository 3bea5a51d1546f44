"""Inputs, normalised once at the door: tuples of tensors, baselines of their shapes, arguments that go along."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .errors import InputError

__all__ = ["Baseline", "Call", "Tensors", "accurate", "as_tensors", "differentiable", "draws", "expanded", "joined", "references", "tile"]

Tensors = tuple[Tensor, ...]
Baseline = Tensor | float | int | Callable[[Tensor], Tensor] | None


def as_tensors(inputs: Tensor | Sequence[Tensor], what: str = "inputs") -> Tensors:
    """A tensor or a sequence of tensors as a tuple of detached tensors that share one batch dimension.

    Raises:
        InputError: no tensors, no batch dimension, different batch sizes, or NaN among the values.
    """
    tensors = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs) if isinstance(inputs, tuple | list) else ()
    if not tensors or not all(isinstance(t, Tensor) for t in tensors):
        found = type(inputs).__name__ if not tensors else ", ".join(type(t).__name__ for t in tensors)
        raise InputError(f"{what} must be a tensor or a tuple of tensors, not {found}; wrap arrays with torch.as_tensor")
    _check_batch(tensors, what)
    for i, tensor in enumerate(tensors):
        _check_values(tensor, what if len(tensors) == 1 else f"{what}[{i}]")
    return tuple(t.detach() for t in tensors)


def _check_batch(tensors: Tensors, what: str) -> None:
    if any(t.dim() == 0 for t in tensors):
        raise InputError(f"{what} has a tensor without dimensions; the first dimension is the batch: use unsqueeze(0)")
    sizes = [len(t) for t in tensors]
    if len(set(sizes)) > 1 or sizes[0] == 0:
        raise InputError(
            f"{what} have batch sizes {sizes}; dimension 0 of every input must be the same number of examples, at least "
            "one (what is the same for all examples belongs into the additional arguments)"
        )


def _check_values(tensor: Tensor, what: str) -> None:
    # A sum is finite unless something in it is not: one cheap reduction settles the usual case.
    if tensor.is_floating_point() and not math.isfinite(float(tensor.detach().sum())):
        bad = torch.isnan(tensor).nonzero()
        if len(bad):
            raise InputError(
                f"{what} of shape {tuple(tensor.shape)} has {len(bad)} NaN (the first at index {tuple(bad[0].tolist())}); "
                "an explanation of NaN means nothing: fill or drop those values"
            )


def differentiable(features: Tensors) -> Tensors:
    """The features themselves, if gradients with respect to them exist.

    Raises:
        InputError: integer, boolean or complex features.
    """
    for i, tensor in enumerate(features):
        if not tensor.is_floating_point():
            raise InputError(
                f"inputs[{i}] is {tensor.dtype}, and a gradient needs floating point; convert it with .float(), or, for "
                "token ids, explain the embedding's output, or use feature_ablation, which needs no gradient"
            )
    return features


def expanded(features: Tensors, baselines: Baseline | Sequence[Baseline], what: str = "baselines") -> Tensors:
    """One baseline per input, of its shape: zeros for None; numbers and single examples are spread over the batch.

    A function of the input (`pellucid.perturb.fills`) is asked for its baseline.

    Raises:
        InputError: another number of baselines than inputs, or a shape that is not that of an input, of one example of
            it, or a number's.
    """
    given = _one_each(features, baselines, what)
    return tuple(_expand(x, b, f"{what}[{i}]" if len(given) > 1 else what) for i, (x, b) in enumerate(zip(features, given, strict=True)))


def references(features: Tensors, baselines: Baseline | Sequence[Baseline], what: str = "baselines") -> Tensors:
    """As `expanded`, where baselines are of the features' shapes; `(R, B, ...)` each where there are several for an example.

    Raises:
        InputError: as `expanded`, or different numbers of references.
    """
    given = _one_each(features, baselines, what)
    asked = tuple(b(x) if callable(b) else b for x, b in zip(features, given, strict=True))
    if not any(isinstance(b, Tensor) and b.dim() > x.dim() for x, b in zip(features, asked, strict=True)):
        return expanded(features, asked, what)
    found = tuple(_several(x, b, f"{what}[{i}]" if len(given) > 1 else what) for i, (x, b) in enumerate(zip(features, asked, strict=True)))
    most = max(len(b) for b in found)
    if any(len(b) not in (1, most) for b in found):
        raise InputError(f"{what} have {[len(b) for b in found]} references for the inputs; give as many for each, or one")
    return tuple(b.expand(most, *b.shape[1:]) for b in found)


def _several(feature: Tensor, baseline: Any, what: str) -> Tensor:
    if not isinstance(baseline, Tensor) or baseline.dim() <= feature.dim():
        return _expand(feature, baseline, what)[None]
    fits = baseline.dim() == feature.dim() + 1 and baseline.shape[2:] == feature.shape[1:] and baseline.shape[1] in (1, len(feature))
    if not fits or not len(baseline):
        raise InputError(
            f"{what} has shape {tuple(baseline.shape)}; several references for the input {tuple(feature.shape)} are "
            f"(references, {len(feature)} or 1, ...)"
        )
    _check_values(baseline, what)
    value = baseline.detach().to(feature)
    if not feature.is_floating_point() and not torch.equal(value.double(), baseline.to(feature.device).double()):
        raise InputError(f"{what} has values that the input's type {feature.dtype} cannot hold; give whole numbers, or inputs.float()")
    return value.expand(len(baseline), *feature.shape)


def _one_each(features: Tensors, values: Any, what: str) -> tuple[Any, ...]:
    if values is None or callable(values):
        return (values,) * len(features)
    given = tuple(values) if isinstance(values, tuple | list) else (values,)
    if len(given) != len(features):
        raise InputError(f"{len(given)} {what} for {len(features)} inputs; give one for each, or None for zeros")
    return given


def _expand(feature: Tensor, baseline: Any, what: str) -> Tensor:
    if baseline is None:
        return torch.zeros_like(feature)
    if callable(baseline):
        baseline = baseline(feature)
    if not isinstance(baseline, Tensor | int | float):
        raise InputError(f"{what} is {type(baseline).__name__}; it must be a tensor, a number, a function of the input or None")
    value = torch.as_tensor(baseline, dtype=feature.dtype, device=feature.device).detach()
    if not feature.is_floating_point() and not torch.equal(value.double(), torch.as_tensor(baseline, device=feature.device).double()):
        raise InputError(f"{what} has values that the input's type {feature.dtype} cannot hold; give whole numbers, or inputs.float()")
    _check_values(value, what)
    whole, single = feature.shape, feature.shape[1:]
    fits = value.shape == single or (value.dim() == len(whole) and all(n in (1, m) for n, m in zip(value.shape, whole, strict=True)))
    if value.dim() and not fits:
        raise InputError(
            f"{what} has shape {tuple(value.shape)}; it must be that of the input {tuple(whole)} (or 1 in some places), of one "
            f"example {tuple(single)}, or a number"
            + ("; a sample of rows is for perturbation methods: pellucid.perturb.marginal(rows)" if value.shape[1:] == single else "")
        )
    return value.expand(whole)


def draws(features: Tensors, baselines: Any) -> Tensors:
    """A distribution of baselines: `(N, ...)` per input, N the same for all; a callable is asked for it.

    Raises:
        InputError: another number of distributions than inputs, examples of another shape, or different N.
    """
    if callable(baselines):
        baselines = _ask(baselines, features)
    given = _one_each(features, 0 if baselines is None and len(features) == 1 else baselines, "baselines")
    found = tuple(_distribution(x, b, i) for i, (x, b) in enumerate(zip(features, given, strict=True)))
    sizes = {len(b) for b in found} - {1}
    if len(sizes) > 1:
        raise InputError(f"baselines have {[len(b) for b in found]} rows; a row is one reference across all inputs: give as many for each")
    return tuple(b.expand(max(sizes, default=1), *b.shape[1:]) for b in found)


def _ask(baselines: Callable[..., Any], features: Tensors) -> Any:
    """Captum calls a function of baselines with the inputs if it takes an argument, else with none."""
    import inspect

    takes = len(inspect.signature(baselines).parameters)
    return baselines(features if len(features) > 1 else features[0]) if takes else baselines()


def _distribution(feature: Tensor, baseline: Any, index: int) -> Tensor:
    if callable(baseline):
        baseline = baseline(feature)
    if isinstance(baseline, Tensor) and baseline.dim() == feature.dim() + 1 and baseline.shape[1] == 1:
        baseline = baseline[:, 0]  # rows as `marginal` gives them
    if not isinstance(baseline, Tensor) or baseline.dim() == 0:
        return _expand(feature[:1], baseline, f"baselines[{index}]")
    if baseline.shape[1:] != feature.shape[1:] or not len(baseline):
        raise InputError(
            f"baselines[{index}] has shape {tuple(baseline.shape)}; a distribution of baselines is (N, ...) with examples "
            f"of shape {tuple(feature.shape[1:])}"
        )
    _check_values(baseline, f"baselines[{index}]")
    return baseline.detach().to(feature)


def accurate(dtype: torch.dtype) -> torch.dtype:
    """The dtype to add up numbers of this dtype in."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def joined(tensors: Tensors, lead: int) -> Tensor:
    """All features of an example in one row, `(..., N)` behind `lead` leading dimensions, in the dtype for sums."""
    return torch.cat([t.to(accurate(t.dtype)).reshape(*t.shape[:lead], -1) for t in tensors], lead)


def tile(value: Tensor, times: int) -> Tensor:
    """The tensor stacked `times` times along dimension 0, without a copy where one row can stand for all."""
    if times == 1:
        return value
    if len(value) == 1:
        return value.expand(times, *value.shape[1:])
    return value.repeat(times, *(1,) * (value.dim() - 1))


@dataclass(frozen=True, eq=False)
class Call:
    """The model with the arguments that go along: positional ones after the inputs, and keywords.

    An argument tensor is *per example* (it grows and shrinks with the batch) or *shared* (it stays as it is). Its size
    cannot tell: a `(2, E)` edge list and two examples look alike. `readings` lists the possibilities, the likeliest
    first; whoever stacks examples tries them on the model (`batch.settle`) and keeps the one that changes no score.
    """

    model: Callable[..., Any]
    size: int
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    per_example: frozenset[int] | None = None

    def __call__(self, points: Tensors) -> Any:
        arguments, keywords = self._grown(points[0].shape[0] // self.size)
        try:
            return self.model(*points, *arguments, **keywords)
        except Exception as error:
            _annotate(error, points, arguments, keywords)
            raise

    def at(self, rows: Sequence[int]) -> Call:
        """The same call for these examples, in this order; an example may come more than once."""
        chosen = slice(rows.start, rows.stop) if isinstance(rows, range) else list(rows)
        arguments, keywords = self._mapped(lambda leaf: leaf[chosen])
        return replace(self, size=len(rows), arguments=arguments, keywords=keywords, per_example=self._per_example())

    def readings(self) -> Iterator[Call]:
        """The call under each way of reading its arguments: all per example, none, all but one."""
        likely = self._per_example()
        options = [likely, frozenset[int](), *(likely - {leaf} for leaf in sorted(likely))]
        for option in dict.fromkeys(options):
            yield replace(self, per_example=option)

    def _per_example(self) -> frozenset[int]:
        if self.per_example is not None:
            return self.per_example
        leaves = pytree.tree_leaves((self.arguments, dict(self.keywords))) if self.arguments or self.keywords else ()
        return frozenset(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == self.size)

    def _grown(self, times: int) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        return (self.arguments, self.keywords) if times == 1 else self._mapped(lambda leaf: tile(leaf, times))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        chosen = self._per_example()
        if not chosen:
            return self.arguments, self.keywords
        leaves, spec = pytree.tree_flatten((self.arguments, dict(self.keywords)))
        changed = [change(leaf) if i in chosen else leaf for i, leaf in enumerate(leaves)]
        arguments, keywords = pytree.tree_unflatten(changed, spec)
        return arguments, keywords


def _annotate(error: Exception, points: Tensors, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
    """The error stays the model's own; a note says what it was called with."""
    note = f"pellucid called the model with inputs {[f'{tuple(p.shape)} {p.dtype} on {p.device}' for p in points]}"
    extra = [*arguments, *keywords.values()]
    if extra:
        note += f" and {len(extra)} additional argument(s) {[_brief(e) for e in extra]}"
    error.add_note(note)


def _brief(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
