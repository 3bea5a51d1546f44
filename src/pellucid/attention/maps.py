"""Attention maps: from the attentions of a pass, and their gradients, to one number for every token.

With `A` the attention of a layer, `(heads, N, N)`, and `G` the gradient of the score with respect to it, the relevance of tokens is
a row of a matrix that starts as the identity and takes up one layer after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Run
from ..errors import InputError, OptionError
from ..explanation import Check, Found
from ..gradient.cam import Grid, grid_of, resized
from ..inputs import Tensors
from ..model import undisturbed
from ..view import View
from .watch import Attention, Seen, attentions

__all__ = ["ATTENTION_MAPS", "ON_A_PATH", "attention_map", "relevance_matrices"]

Rows = str | int
PATHS = ("head", "token")


@dataclass(frozen=True, eq=False)
class _Asked:
    """A stream of attentions over the same tokens, and what a map may ask about them.

    Attributes:
        gradients: `(T, B, H, N, N)` of each layer.
        last: `(T, B, H, N, N)`, the mean gradient of the last layer along the path from the baselines.
        path: "head" or "token", of the bidirectional map.
    """

    layers: Sequence[Attention]
    gradients: Sequence[Tensor]
    last: Tensor
    path: str = "head"

    @property
    def mean(self) -> list[Tensor]:
        """`(B, N, N)` of each layer, the mean over its heads."""
        return [layer.chances.mean(1) for layer in self.layers]

    @property
    def identity(self) -> Tensor:
        """`(T, B, N, N)`."""
        like = self.gradients[0]
        one = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
        return one.expand(*like.shape[:2], -1, -1)

    @property
    def feedback(self) -> Tensor:
        """`(T, B, N, N)`: where more attention in the last layer would raise the score."""
        found: Tensor = self.last.relu().mean(2)
        return found


def _rollout(asked: _Asked) -> Tensor:
    """Products of attention plus the identity, rows adding up to one: Abnar and Zuidema 2020, section 3, equation 1."""
    total = asked.identity
    for mean in asked.mean:
        with_skip = mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        total = with_skip / with_skip.sum(-1, keepdim=True) @ total
    return total


def _generic(asked: _Asked) -> Tensor:
    """Attention times gradient, its positive part, the mean over heads: Chefer, Gur, Wolf 2021 (generic), equations 5 and 6.

    Less the identity that it starts with: a token's relevance for itself before any attention.
    """
    total = asked.identity
    for layer, gradient in zip(asked.layers, asked.gradients, strict=True):
        total = total + (layer.chances * gradient).relu().mean(2) @ total
    return total - asked.identity


def _generic_as_in_interpretdl(asked: _Asked) -> Tensor:
    """The positive part of the product of the means over heads, of attention and of gradient."""
    total = asked.identity
    for mean, gradient in zip(asked.mean, asked.gradients, strict=True):
        total = total + (mean * gradient.mean(2)).relu() @ total
    return total - asked.identity


def _transition(asked: _Asked) -> Tensor:
    """Attention as the transitions of a Markov chain, from the last layer down; times the feedback: Yuan et al. 2021 (TAM)."""
    means = asked.mean
    state = means[-1].expand(*asked.gradients[0].shape[:2], -1, -1)
    for mean in reversed(means[:-1]):
        state = state @ mean + state
    return state * asked.feedback


def _bidirectional(asked: _Asked) -> Tensor:
    """Attentional perception, by heads or by tokens, times the feedback: Chen et al. 2023, equations 8 to 14."""
    total = asked.identity
    for layer, gradient in zip(asked.layers, asked.gradients, strict=True):
        total = total + PERCEIVED[asked.path](layer, gradient) @ total
    return total * asked.feedback


def _by_heads(layer: Attention, gradient: Tensor) -> Tensor:
    """Heads weighted by the mean magnitude of `A' G`, the weights adding up to one."""
    weights = (layer.chances.transpose(-1, -2) @ gradient).abs().mean((-1, -2))
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return (weights[..., None, None] * layer.chances).sum(2)


def _by_tokens(layer: Attention, gradient: Tensor) -> Tensor:
    """The mean over heads, tokens weighted by the norm of their projected values in parts of the norm of what these are added to."""
    if layer.weight is None or layer.before is None:
        raise InputError(
            f"the attention in {layer.name!r} is projected and added to nothing that was seen; path='token' needs both, path='head' neither"
        )
    projected = layer.values.transpose(1, 2).flatten(2) @ layer.weight.T
    share = projected.norm(dim=-1) / layer.before.norm(dim=-1).clamp_min(torch.finfo(projected.dtype).tiny)
    perceived: Tensor = layer.chances.mean(1) * share[:, None]
    return perceived.expand_as(gradient[:, :, 0])


PERCEIVED: Mapping[str, Callable[[Attention, Tensor], Tensor]] = {"head": _by_heads, "token": _by_tokens}
ATTENTION_MAPS: Mapping[str, Callable[[_Asked], Tensor]] = {
    "rollout": _rollout,
    "generic_attention": _generic,
    "generic_attention_interpretdl": _generic_as_in_interpretdl,
    "transition_attention": _transition,
    "bidirectional_attention": _bidirectional,
}
ON_A_PATH = {"transition_attention", "bidirectional_attention"}


def attention_map(
    view: View,
    kind: str = "generic_attention",
    baselines: Tensors | None = None,
    start: int = 0,
    steps: int = 20,
    path: str = "head",
    rows: Rows = "auto",
    pattern: str | Sequence[str | None] | None = None,
    special: int | None = None,
    resize: bool = True,
    run: Run | None = None,
    source: str | None = None,
    feedback: View | None = None,
) -> Found:
    """How much each token, or place of a picture, speaks for the score, by the attention of a transformer.

    Attention is read where it is computed, so any model's will do; tokens of a picture become its places, in the picture's size if
    `resize`. Several inputs (picture and text) get the attentions over their own tokens.
    Sources: beside each kind, in this file.

    Args:
        kind: one of `ATTENTION_MAPS`.
        baselines: where the path begins along which the last layer's gradient is averaged (transition and bidirectional); zeros.
        start: the first layer that counts.
        steps: on that path.
        path: of bidirectional: "head" or "token".
        rows: whose attention counts: "auto", the tokens that the score reads in the last layer; "mean", all; or the number of one.
        pattern: attentions of modules with such names only, for all inputs or for each.
        special: how many tokens come before those of a picture; found from their number if not said.
        feedback: a view of another target whose gradient is averaged on the path; the view's own by default.
        source: names of layers whose inputs projected values are compared with (path="token"); by default what these are added to.

    `notes["rows"]`, `(T, B, N)`: what each of the first input's tokens counts, the rows of the relevance matrix.

    Raises:
        OptionError: an unknown kind, path, or a start beyond the layers. InputError: no attention, or none over an input's tokens.

    >>> import torch; from torch import nn; from pellucid.view import at_input
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    >>> model = nn.Sequential(layer, nn.Flatten(), nn.Linear(40, 3))
    >>> attention_map(at_input(model, torch.randn(2, 5, 8), target=1)).values[0].shape
    torch.Size([1, 2, 5, 1])
    """
    if kind not in ATTENTION_MAPS:
        raise OptionError(f"unknown map {kind!r}; the attention maps are {', '.join(ATTENTION_MAPS)}")
    if path not in PATHS:
        raise OptionError(f"path is {path!r}; choose 'head' or 'token'")
    if steps < 1:
        raise OptionError(f"steps is {steps}; at least one is needed")
    run = run or Run()
    streams, matrices, lasts, seen = _matrices(view, kind, baselines, start, steps, path, pattern, special, run, source, feedback)
    weights = [_weights(last, rows) for last in lasts]
    values = tuple(
        _placed(stream, (matrix * weight[..., None]).sum(2), feature, resize)
        for stream, matrix, weight, feature in zip(streams, matrices, weights, view.features, strict=True)
    )
    return Found(
        values,
        seen.scores.detach(),
        pooling="sum",
        notes={"rows": weights[0]},
        checks=tuple(_others(seen, [a for s in streams for a in s.layers])),
    )


def relevance_matrices(
    view: View,
    kind: str = "generic_attention",
    start: int | Sequence[int] = 0,
    pattern: str | Sequence[str | None] | None = None,
    run: Run | None = None,
) -> list[Tensor]:
    """The relevance of every token for every token, `(T, B, N, N)` for each input; arguments as in `attention_map`."""
    return _matrices(view, kind, None, start, 1, "head", pattern, None, run or Run(), None, None)[1]


def _matrices(
    view: View, kind: str, baselines: Tensors | None, start: int | Sequence[int], steps: int, path: str,
    pattern: str | Sequence[str | None] | None, special: int | None, run: Run, source: str | None, feedback: View | None
) -> tuple[list[_Stream], list[Tensor], list[Tensor], Seen]:  # fmt: skip
    """Of each input its stream of attentions, its matrix, and the gradient of its last layer."""
    count = len(view.features)
    patterns = (pattern,) * count if pattern is None or isinstance(pattern, str) else tuple(pattern)
    begins = (start,) * count if isinstance(start, int) else tuple(start)
    with undisturbed(view.roots):
        run.count(view.features)
        seen = attentions(view, source=source)
        each = zip(view.features, patterns, begins, strict=True)
        streams = [_stream(feature, seen, own, begin, special) for feature, own, begin in each]
        _apart(streams, seen)
        gradients = iter(seen.gradients([layer for stream in streams for layer in stream.layers]))
        run.backwards += view.size * len(seen.scores)
        own = [[next(gradients) for _ in stream.layers] for stream in streams]
        lasts = _averaged(feedback or view, streams, baselines, steps, run) if kind in ON_A_PATH else [parts[-1] for parts in own]
    with torch.no_grad():
        asked = [_Asked(stream.layers, parts, last, path) for stream, parts, last in zip(streams, own, lasts, strict=True)]
        return streams, [ATTENTION_MAPS[kind](each) for each in asked], [parts[-1] for parts in own], seen


@dataclass(frozen=True, eq=False)
class _Stream:
    """The attentions over one input's tokens; their grid, if the input is a picture."""

    layers: Sequence[Attention]
    grid: Grid | None
    numbers: tuple[int, ...]


def _stream(feature: Tensor, seen: Seen, pattern: str | None, start: int, special: int | None) -> _Stream:
    chosen = [(i, a) for i, a in enumerate(seen.found) if (pattern is None or a.named(pattern)) and a.held.shape[-1] == a.held.shape[-2]]
    if pattern is not None and not chosen:
        raise OptionError(f"no attention in a module named {pattern!r}; the attentions are in {', '.join(a.name for a in seen.found)}")
    fitting = [(i, a, grid) for i, a in chosen for fits, grid in [_fit(feature, a.held.shape[-1], special)] if fits]
    if not fitting:
        counts = sorted({a.held.shape[-1] for a in seen.found})
        raise InputError(
            f"the model attends over {', '.join(map(str, counts))} tokens, none of which fits an input of shape {tuple(feature.shape)}; "
            "texts have a token for each place, pictures a grid (special= says how many come before it)"
        )
    # Tokens of another input may happen to make a grid too: the picture's own need the fewest special ones.
    count = min((grid.special if grid else 0, -a.held.shape[-1]) for _, a, grid in fitting)[1] * -1
    own = [(i, a, grid) for i, a, grid in fitting if a.held.shape[-1] == count]
    if not -len(own) <= start < len(own):
        raise OptionError(f"start is {start}, and there are {len(own)} layers of attention over {count} tokens; give 0 to {len(own) - 1}")
    own = own[start:]
    return _Stream([a for _, a, _ in own], own[0][2], tuple(i for i, _, _ in own))


def _apart(streams: Sequence[_Stream], seen: Seen) -> None:
    """Refuse one attention for two inputs.

    Raises:
        InputError: the numbers of tokens do not tell which input an attention is over.
    """
    known: dict[int, int] = {}
    for index, stream in enumerate(streams):
        for number in stream.numbers:
            if known.setdefault(number, index) != index:
                raise InputError(
                    f"the attention in {seen.found[number].name!r} may be over input {known[number]} or {index}, of as many tokens; "
                    "say which attentions belong to each: pattern=('encoder', 'decoder')"
                )


def _fit(feature: Tensor, tokens: int, special: int | None) -> tuple[bool, Grid | None]:
    """Whether so many tokens are those of an input, and how they lie on it if it is a picture."""
    if feature.dim() < 4:
        return feature.dim() > 1 and feature.shape[1] == tokens, None
    try:
        return True, grid_of((1, tokens, 1), feature.shape[2:], "tokens", special)
    except InputError:
        return False, None


def _averaged(view: View, streams: Sequence[_Stream], baselines: Tensors | None, steps: int, run: Run) -> list[Tensor]:
    """The mean gradient of each stream's last layer along the straight path from the baselines, both ends counted."""
    starts = tuple(torch.zeros_like(f) for f in view.features) if baselines is None else baselines
    if not any(f.is_floating_point() for f in view.features):
        raise InputError("the inputs are token ids, which have no path from a baseline; explain the embedding's output: layer=...")
    totals: list[Tensor] = []
    for alpha in torch.linspace(0, 1, steps).tolist():
        at = tuple(b + alpha * (x - b) if x.is_floating_point() else x for x, b in zip(view.features, starts, strict=True))
        run.count(at)
        there = attentions(view, at)
        run.backwards += view.size * len(there.scores)
        found = there.gradients([there.found[stream.numbers[-1]] for stream in streams])
        totals = found if not totals else [a + b for a, b in zip(totals, found, strict=True)]
    return [total / steps for total in totals]


def _weights(last: Tensor, rows: Rows) -> Tensor:
    """`(T, B, N)`: what each row counts; all that the score reads alike, or those that were asked for."""
    count = last.shape[-1]
    if isinstance(rows, str) and rows not in ("auto", "mean"):
        raise OptionError(f"rows is {rows!r}; give 'auto', 'mean', or the number of a token")
    if isinstance(rows, int) and not -count <= rows < count:
        raise OptionError(f"rows is {rows}, and there are {count} tokens")
    counted = last.abs().sum((2, 4)) > 0
    if rows != "auto":
        counted = torch.full_like(counted, rows == "mean")
    if isinstance(rows, int):
        counted[:, :, rows] = True
    return counted.to(last.dtype) / counted.sum(2, keepdim=True).clamp_min(1)


def _placed(stream: _Stream, relevance: Tensor, feature: Tensor, resize: bool) -> Tensor:
    """In the shape of the input: `(T, B, N)` for ids, `(T, B, N, 1)` for embeddings, `(T, B, 1, h, w)` for pictures."""
    relevance = relevance.to(feature.dtype) if feature.is_floating_point() else relevance
    if stream.grid is None:
        return relevance if feature.dim() == 2 else relevance.view(*relevance.shape, *(1,) * (feature.dim() - 2))
    on_grid = stream.grid.map(relevance.flatten(0, 1)[..., None])
    if resize:
        on_grid = resized(on_grid, feature.shape[2:])
    found: Tensor = on_grid.unflatten(0, relevance.shape[:2])
    return found


def _others(seen: Seen, used: Sequence[Attention]) -> Sequence[Check]:
    left = [a.name for a in seen.found if a not in used]
    words = f"{len(used)} attentions were followed" + (f", {len(left)} were not ({', '.join(left[:3])})" if left else "")
    return (Check("attention", True, words),)
