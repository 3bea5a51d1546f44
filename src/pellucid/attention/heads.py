"""Attention heads: how much of a score passes through what each of them looks at, beside weights and norms.

A weight alone says little: what a head adds for a token is the weight times the vector that it mixes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..batch import Run
from ..errors import InputError, OptionError
from ..gradient import integrated_gradients
from ..inputs import Tensors
from ..inside import shifted
from ..model import undisturbed
from ..rules.spellings import reads, spelled
from ..view import InputView
from .watch import FUSED, Attention, attentions, over_last

__all__ = ["Heads", "heads_of"]

STARTS = ("reference", "zero")


@dataclass(frozen=True, eq=False)
class Heads:
    """What the attention of each layer and head says, for `B` examples of `N` queries that look at `M` keys.

    Attributes:
        names: of the layers.
        weights: `(layers, B, heads, N, M)`, the attention itself; the weights of a query add up to one.
        norms: of the same shape, the length of what a head adds to the query for a key.
        together: `(layers, B, N, M)`, the length of what all heads add together.
        values: `(layers, B, heads, N, M)`, the parts of the score.
        scores: `(B,)`.
        baseline_scores: `(layers, B)`, of a layer that attends as it would at the start.
    """

    names: tuple[str, ...]
    weights: Tensor
    norms: Tensor
    together: Tensor
    values: Tensor
    scores: Tensor
    baseline_scores: Tensor

    @property
    def gaps(self) -> Tensor:
        """`(layers, B)`: how far the values of a layer are from the change of the score that they explain."""
        return self.values.sum((2, 3, 4)) - (self.scores - self.baseline_scores)


def heads_of(
    view: InputView,
    baselines: Tensors | None = None,
    steps: int = 20,
    start: str = "reference",
    pattern: str | None = None,
    run: Run | None = None,
) -> Heads:
    """Integrated gradients of the score along the attention of one layer at a time, everything before it as it is.

    `(A - A') * mean of dscore/dA along A' + a (A - A')`, for each layer's attention `A`.
    Law (completeness): the values of a layer add up to `score - score with A'` in that layer.
    Sources: Hao et al. 2021 (AttAttr), equation 2, where `A'` is zero; Kobayashi et al. 2020, equations 4 and 5, for the norms
    `|weight * f(x)|` and their sum over heads before the length is taken.

    Args:
        view: of one target.
        baselines: points whose attention is `A'` (start="reference"), of the features' shapes; zeros by default.
        steps: gradients per layer and example.
        start: "reference", the attention at the baselines, or "zero".
        pattern: attentions of modules with such names only; by default all over as many tokens as the first.

    Raises:
        InputError: no attention, several targets, or attention that nothing projects. OptionError: an unknown start, no steps.

    >>> import torch; from torch import nn; from pellucid.view import at_input
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    >>> found = heads_of(at_input(nn.Sequential(layer, nn.Flatten(), nn.Linear(40, 3)), torch.randn(2, 5, 8), target=1))
    >>> found.values.shape, bool(found.gaps.abs().max() < 1e-4)
    (torch.Size([1, 2, 2, 5, 5]), True)
    """
    if start not in STARTS or steps < 1:
        raise OptionError(f"start is {start!r}, steps {steps}; give 'reference' or 'zero', and at least one step")
    run = run or Run()
    starts = tuple(torch.zeros_like(f) for f in view.features) if baselines is None else baselines
    with undisturbed(view.roots):
        chosen, numbers = _seen(view, view.features, pattern, run)
        before = _seen(view, starts, pattern, run)[0] if start == "reference" else None
    weights = [own.chances for own in chosen]
    origins = [torch.zeros_like(w) for w in weights] if before is None else [own.chances for own in before]
    found = [
        integrated_gradients(_at(view, number, weight), (origin,), steps, run=run)
        for number, weight, origin in zip(numbers, weights, origins, strict=True)
    ]
    if len(found[0].scores) != 1 or found[0].scores.shape[1] != view.size:
        raise InputError("attention heads are explained for one target with a score for each example; give one target")
    mixed = [_norms(own) for own in chosen]
    return Heads(
        tuple(own.name for own in chosen),
        torch.stack(weights),
        torch.stack([norms for norms, _ in mixed]),
        torch.stack([together for _, together in mixed]),
        torch.stack([one.values[0][0] for one in found]),
        found[0].scores[0],
        torch.stack([_there(one.baseline_scores) for one in found]),
    )


def _there(scores: Tensor | None) -> Tensor:
    assert scores is not None  # a path has two ends
    return scores[0]


def _seen(view: InputView, points: Tensors, pattern: str | None, run: Run) -> tuple[list[Attention], list[int]]:
    """The attentions of a pass that are alike, and which of its softmaxes they are."""
    run.count(points)
    with _Softmaxes() as softmaxes:
        seen = attentions(view, points, pattern)
    first = seen.found[0].chances.shape
    chosen = [own for own in seen.found if own.chances.shape == first]
    where = {id(tensor): number for number, tensor in enumerate(softmaxes.seen)}
    return chosen, [where[id(own.held)] for own in chosen]


class _Softmaxes(TorchFunctionMode):
    """Counts every softmax over the last dimension, in order, and gives something else instead of one of them."""

    def __init__(self, number: int | None = None, given: Tensor | None = None) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self._count, self._number, self._given = 0, number, given

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if reads(func):
            return func(*args, **kwargs)
        name = spelled(func).name
        if name in FUSED:
            with self:
                return FUSED[name](*args, **kwargs)
        found = func(*args, **kwargs)
        if name != "softmax" or found.dim() < 3 or not over_last(found, args, kwargs):
            return found
        self._count += 1
        if self._given is None:
            self.seen.append(found)
        return self._given.reshape(found.shape).to(found.dtype) if self._count - 1 == self._number and self._given is not None else found


@dataclass(frozen=True, eq=False)
class _Given:
    """The model as a function of one layer's attention; its inputs come after it."""

    model: Callable[..., Any]
    number: int

    def __call__(self, attention: Tensor, *args: Any, **kwargs: Any) -> Any:
        with _Softmaxes(self.number, attention):
            return self.model(*args, **kwargs)


def _at(view: InputView, number: int, weights: Tensor) -> InputView:
    arguments = (*view.features, *view.call.arguments)
    call = replace(view.call, model=_Given(view.call.model, number), arguments=arguments, per_example=shifted(view))
    return replace(view, features=(weights,), call=call, at_once=None)


def _norms(own: Attention) -> tuple[Tensor, Tensor]:
    """The lengths of what is added: of each head `(B, H, N, M)`, and of all heads together `(B, N, M)`."""
    if own.weight is None:
        raise InputError(f"the attention in {own.name!r} is projected by nothing that was seen, so its norms are not known")
    chances = own.chances
    heads, width = own.values.shape[1], own.values.shape[3]
    projection = own.weight.reshape(len(own.weight), heads, width)
    moved = torch.einsum("bhmd,chd->bhmc", own.values.to(projection), projection)  # f(x) of each head
    norms = chances * moved.norm(dim=-1)[:, :, None]
    # One query at a time: all of them would take as much memory as the model's largest layer times their number.
    each = [torch.einsum("bhm,bhmc->bmc", chances[:, :, i], moved).norm(dim=-1) for i in range(chances.shape[2])]
    return norms, torch.stack(each, 1)


def alike(names: Sequence[str]) -> tuple[str, ...]:
    """Names without what all of them have: bert.encoder.layer.0.attention.self is 0."""
    parts = [name.split(".") for name in names]
    width = min(map(len, parts), default=0)
    own = [i for i in range(width) if len({part[i] for part in parts}) > 1]
    return tuple(".".join(part[i] for i in own) or ".".join(part) for part in parts)
