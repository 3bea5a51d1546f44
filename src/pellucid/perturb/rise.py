"""RISE: the mean score of randomly masked inputs, where a feature was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Run
from ..errors import OptionError
from ..explanation import Found
from ..inputs import Tensors, accurate
from ..seeds import generator, resolve_seed, spread_of
from ..view import View
from .evaluate import Scorer, floating

__all__ = ["rise"]


@dataclass(frozen=True)
class _Masks:
    """Random masks between 0 (hidden) and 1 (seen), each its own by the seed; smooth where a feature has places."""

    cells: int
    seen: float
    seed: int

    def of(self, feature: Tensor, sample: int, index: int) -> Tensor:
        """`(1, ...)`, the same for all channels of a place."""
        source = generator(self.seed, 1000 * sample + index)
        shape = feature.shape[1:]
        if len(shape) < 2:
            return (torch.rand(1, *shape, generator=source) < self.seen).to(feature)
        places = shape[1:]
        cell = [-(-n // self.cells) for n in places]
        coarse = (torch.rand(1, 1, *([self.cells + 1] * len(places)), generator=source) < self.seen).float()
        size = [(self.cells + 1) * c for c in cell]
        wide = F.interpolate(coarse, size, mode=MODES[len(places)], align_corners=False)
        shifts = [int(torch.randint(c, (1,), generator=source)) for c in cell]
        for axis, (shift, n) in enumerate(zip(shifts, places, strict=True)):
            wide = wide.narrow(2 + axis, shift, n)
        return wide.to(feature) if feature.is_floating_point() else (wide >= 0.5).to(feature)  # whole numbers are seen or not

    def rows(self, features: Tensors, steps: Sequence[int]) -> Tensors:
        """`(steps, 1, ...)` for each feature tensor."""
        found = [[self.of(f, step, i) for i, f in enumerate(features)] for step in steps]
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))


MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def rise(
    view: View, baselines: Tensors, samples: int = 1000, cells: int = 7, seen: float = 0.5, seed: int | None = None, run: Run | None = None
) -> Found:
    """`E[(score - its mean) * mask] / E[mask]`: how much better the score is where a feature is seen.

    A mask is a coarse grid of zeros and ones, enlarged smoothly and shifted at random; features without places are seen or
    not one by one. Less the mean score, unlike the paper, so that a feature without influence has zero in expectation.
    Source: Petsiuk, Das, Saenko 2018, equation 6 and section 3.2.

    Args:
        baselines: what shows where the mask is 0.
        samples: masks; cells: of the grid, in each direction; seen: the chance of a cell to be seen.

    Raises:
        OptionError: no samples, cells below 1, or a chance that is none.

    >>> import torch; from pellucid.view import at_input
    >>> bright = lambda x: x[:, 0, :4, :4].mean((1, 2))
    >>> x = torch.ones(1, 1, 12, 12)
    >>> found = rise(at_input(bright, x), (torch.zeros_like(x),), samples=200, cells=3, seed=0).values[0][0, 0, 0]
    >>> bool(found[:4, :4].mean() > found[8:, 8:].mean())
    True
    """
    if samples < 1 or cells < 1 or not 0 < seen < 1:
        raise OptionError(f"samples is {samples}, cells {cells}, seen {seen}; at least one of each, and a chance between 0 and 1")
    run, seed = run or Run(), resolve_seed(seed)
    masks = _Masks(cells, seen, seed)

    scorer = Scorer(view, baselines, run, "rise")

    def points(examples: slice, numbers: Tensor, fill: Tensors) -> Tensors:
        parts = zip(masks.rows(view.features, numbers.tolist()), view.features, fill, strict=True)
        return tuple(torch.where(m > 0, m * x[examples] + (1 - m) * b, b) for m, x, b in parts)

    ends, scores = scorer.scores(samples, points, lambda number: f"under mask {number} of seed {seed}")
    wide = floating(scores).to(accurate(floating(scores).dtype))
    above = wide - wide.mean(1, keepdim=True)
    halves = [_weighted(masks, view.features, above, range(parity, samples, 2)) for parity in range(2)]
    totals = tuple(a + b for a, b in zip(*halves, strict=True))
    one, other = (tuple(2 * t for t in half) for half in halves)
    spread = spread_of(one, other, totals) if samples > 1 else None
    shown = [seen * samples if x.is_floating_point() else _shown(masks, view.features, samples, i) for i, x in enumerate(view.features)]
    values = tuple((t / s).to(x.dtype if x.is_floating_point() else t.dtype) for t, s, x in zip(totals, shown, view.features, strict=True))
    return Found(values, ends.here, ends.there, scorer.baselines, spread=spread, seed=seed, pooling="mean", checks=scorer.checks)


def _shown(masks: _Masks, features: Tensors, samples: int, which: int) -> Tensor:
    """How often each whole number was seen, `(1, ...)`."""
    total = sum((masks.of(features[which], step, which).float() for step in range(samples)), torch.zeros(()))
    return total.clamp_min(1.0)


def _weighted(masks: _Masks, features: Tensors, scores: Tensor, chosen: range) -> Tensors:
    """The sum of masks times scores `(T, samples, B)`, `(T, B, ...)` for each feature tensor."""
    totals = [torch.zeros(len(scores), scores.shape[2], *f.shape[1:], dtype=scores.dtype, device=scores.device) for f in features]
    for step in chosen:
        for total, mask in zip(totals, masks.rows(features, [step]), strict=True):
            total += scores[:, step].view(len(scores), -1, *(1,) * (mask.dim() - 2)) * mask[0].to(scores.dtype)
    return tuple(totals)
