"""Expected gradients (GradientSHAP): gradients between the input and references drawn from a distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Part, Run, elsewhere
from ..errors import OptionError
from ..explanation import Found
from ..inputs import Tensors, accurate, differentiable, joined
from ..seeds import generator, resolve_seed, spread_of
from ..view import View
from .smoothing import noisy, scales_of

__all__ = ["expected_gradients"]


@dataclass(frozen=True, eq=False)
class _Samples:
    """The random choices of a run: per sample a reference, a place on the path, and noise; the same for all examples."""

    features: Tensors
    references: Tensors
    chosen: Tensor
    places: Tensor
    scales: Tensors
    seed: int

    def starts(self, steps: slice) -> Tensors:
        """The references, `(steps, 1, ...)`."""
        return tuple(r[self.chosen[steps].to(r.device)].unsqueeze(1) for r in self.references)

    def ends(self, examples: slice, steps: slice) -> Tensors:
        """The (noisy) features, `(steps or 1, b, ...)`."""
        some = tuple(f[examples] for f in self.features)
        if not any(bool((s != 0).any()) for s in self.scales):
            return tuple(f.unsqueeze(0) for f in some)
        return noisy(some, tuple(s[examples] if s.dim() else s for s in self.scales), range(steps.start, steps.stop), self.seed)

    def deltas(self, examples: slice, steps: slice) -> Tensors:
        return tuple(e - s for e, s in zip(self.ends(examples, steps), self.starts(steps), strict=True))

    def points(self, examples: slice, steps: slice) -> Tensors:
        """Between reference and features, each sample at its place."""
        between = zip(self.starts(steps), self.deltas(examples, steps), strict=True)
        return tuple(s + self.places[steps].to(d).view(-1, *(1,) * (d.dim() - 1)) * d for s, d in between)


def _drawn(features: Tensors, references: Tensors, samples: int, scales: Tensors, seed: int) -> _Samples:
    """The even and the odd samples are drawn alike and apart, so that their difference tells the error of both together."""
    source, count = generator(seed, -1), len(references[0])
    chosen, places = torch.empty(samples, dtype=torch.long), torch.empty(samples, dtype=torch.float64)
    for parity in range(2):
        mine = len(range(parity, samples, 2))
        chosen[parity::2], places[parity::2] = _dealt(mine, count, source)
    return _Samples(features, references, chosen, places, scales, seed)


def _dealt(samples: int, count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """References and places, each uniform by itself, but evenly spread: over references, and over places for each of them."""
    decks = max(1, -(-samples // count))
    order = torch.rand(decks, count, generator=source).argsort(1)
    stratum = torch.rand(decks, count, generator=source).argsort(0).gather(1, order)
    within = (
        torch.rand(decks, count, generator=source).argsort(1) + torch.rand(decks, count, generator=source, dtype=torch.float64)
    ) / count
    return order.flatten()[:samples], ((stratum + within) / decks).flatten()[:samples]


def expected_gradients(
    view: View,
    references: Tensors,
    samples: int = 5,
    stdev: float | Sequence[float] = 0.0,
    multiply: bool = True,
    seed: int | None = None,
    check: bool = True,
    run: Run | None = None,
) -> Found:
    """The mean over references b and places a of `(x - b) * dscore/dx at b + a (x - b)`.

    Law (completeness in expectation): the attributions add up to `score(x)` less the mean score of the references, up to
    the error of sampling, which `spread` estimates.
    Sources: Erion et al. 2021, equation 3 (expected gradients); Lundberg and Lee 2017 for the Shapley reading.

    Args:
        references: `(N, ...)` per input: the distribution of baselines.
        samples: gradients per example.
        stdev: noise added to the features of each sample, in their units.
        multiply: False leaves out the factor `(x - b)`.
        seed: the same seed gives the same draws; all examples of a batch get the same draws.
        check: score the references too, so that the law can be checked (forward passes only).

    `notes["sample_gap"]`, `(T, samples, B)`, is the law's gap for each sample.

    >>> import torch; from pellucid.view import at_input
    >>> layer, x = torch.nn.Linear(3, 1), torch.randn(4, 3)
    >>> found = expected_gradients(at_input(layer, x, target=0), (torch.randn(6, 3),), samples=12, seed=0)
    >>> bool(found.gap.abs().max() < 1e-5)
    True
    """
    if samples < 1:
        raise OptionError(f"samples is {samples}; at least one is needed")
    run, seed = run or Run(), resolve_seed(seed)
    features = differentiable(view.features)
    drawn = _drawn(features, references, samples, scales_of(features, stdev, False), seed)
    ends = run.settle(view, elsewhere(features))
    halves, sums = _gathered(ends.view, drawn, samples, multiply, run)
    counts = [samples - samples // 2, samples // 2]
    means = tuple(sum(parts[1:], start=parts[0]) / samples for parts in zip(*halves, strict=True))
    values = tuple(m.to(f.dtype) for m, f in zip(means, features, strict=True))
    one, other = (tuple(t / max(n, 1) for t in half) for half, n in zip(halves, counts, strict=True))
    spread = spread_of(one, other, means) if samples > 1 else None
    if not check:
        return Found(values, ends.here, spread=spread, seed=seed)
    tops, bottoms = _ends_scored(ends.view, drawn, ends.here, samples, run)
    notes = {"sample_gap": sums - (tops - bottoms)}
    law = "completeness in expectation" if multiply else ""
    return Found(values, tops.mean(1), bottoms.mean(1), law=law, spread=spread, seed=seed, notes=notes)


def _gathered(view: View, drawn: _Samples, samples: int, multiply: bool, run: Run) -> tuple[list[list[Tensor]], Tensor]:
    """The sums `(T, B, ...)` of the even and the odd samples, and each sample's total `(T, samples, B)`."""
    halves: list[list[Tensor]] = [[], []]
    totals: list[Tensor] = []

    def fold(part: Part) -> None:
        wide = tuple(g.to(accurate(g.dtype)) for g in part.gradients)
        if multiply:
            wide = tuple(g * d.to(g) for g, d in zip(wide, drawn.deltas(part.examples, part.steps), strict=True))
        if not totals:
            totals.append(wide[0].new_zeros(len(wide[0]), samples, view.size))
            for half in halves:
                half.extend(torch.zeros(len(w), *f.shape, dtype=w.dtype, device=w.device) for w, f in zip(wide, view.features, strict=True))
        totals[0][:, part.steps, part.examples] = joined(wide, 3).sum(3)
        for parity, half in enumerate(halves):
            for total, w in zip(half, wide, strict=True):
                total[:, part.examples] += w[:, (part.steps.start + parity) % 2 :: 2].sum(1)

    run.gradients(view, samples, drawn.points, fold, "expected gradients")
    return halves, totals[0]


def _ends_scored(view: View, drawn: _Samples, here: Tensor, samples: int, run: Run) -> tuple[Tensor, Tensor]:
    """The scores `(T, samples, B)` of the (noisy) features and of the references."""

    def bottoms(examples: slice, steps: slice) -> Tensors:
        width = len(range(view.size)[examples])
        return tuple(s.expand(len(s), width, *s.shape[2:]) for s in drawn.starts(steps))

    noisy_ends = any(bool((s != 0).any()) for s in drawn.scales)
    tops = run.scores(view, samples, drawn.ends) if noisy_ends else here[:, None].expand(-1, samples, -1)
    return tops, run.scores(view, samples, bottoms)
