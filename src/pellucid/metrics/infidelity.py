"""Infidelity: how far attributions are from saying by how much the score falls when places are replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Run
from ..errors import InputError, OptionError
from ..explanation import Check
from ..inputs import Tensors
from ..seeds import generator, resolve_seed
from ..view import View
from .removal import Fill, removal_of
from .steps import Steps, places_of

__all__ = ["Responses", "infidelity", "masks", "ngrams", "random_masks", "responses", "windows"]


@dataclass(frozen=True, eq=False)
class Responses:
    """By how much the score falls when places are replaced, and what the attributions say about it.

    Attributes:
        differences: `(B, steps)`: the score of the features less that of the perturbed ones.
        products: `(B, steps)`: the sum of the attributions of all numbers that changed, in float64.
        checks: what a reader must know.
    """

    differences: Tensor
    products: Tensor
    checks: tuple[Check, ...] = ()

    def infidelity(self, scaled: bool = True) -> Tensor:
        """`(B,)`: the mean square of differences less products; `scaled`: of products times the number that makes it least."""
        changes, sums = self.differences.double(), self.products
        if scaled:
            square = (sums * sums).mean(1, keepdim=True)
            # Attributions that say nothing have no best scale; with zero their error is that of saying nothing.
            sums = sums * torch.where(square > 0, (changes * sums).mean(1, keepdim=True) / square, 0.0)
        return (changes - sums).square().mean(1).to(self.differences.dtype)


def infidelity(
    view: View,
    attribution: Tensor | Sequence[Tensor],
    steps: Steps,
    fill: Fill,
    scaled: bool = True,
    run: Run | None = None,
    once: bool = False,
) -> Tensor:
    """`(B,)`: the mean over the steps of (f(x) - f(x') - b * s)^2.

    x' has the chosen places of a step replaced, s is the sum of the attributions of the numbers that this changed (a map
    without channels counts once for each channel), and b = E[(f(x) - f(x')) s] / E[s^2], so that neither the sign nor the
    scale of attributions matters; `scaled=False` has b = 1. It is 0 for the attributions of a linear model.

    Source: Yeh et al. 2019, definition 2.1; the scale is that of their implementation and of InterpretDL.

    Args:
        view: what is scored.
        attribution: for each input a tensor of its shape, or a map without its channels.
        steps: which places are replaced: `windows`, or `masks` of a list of your own, of `ngrams` or `random_masks`.
        fill: what replaces; one reference.
        scaled: times the best b.
        run: the limits of memory, and what it costs.
        once: a map without channels counts once for each place that changed.

    Raises:
        InputError: attributions or fill that do not fit, or several references.

    >>> from pellucid import at_input
    >>> weights = torch.tensor([1.0, -2.0, 3.0])
    >>> view = at_input(lambda x: x @ weights, torch.ones(1, 3))
    >>> infidelity(view, weights[None], masks(view.features, torch.eye(3).bool()), 0.0)
    tensor([0.])
    """
    return responses(view, attribution, steps, fill, run, once).infidelity(scaled)


def responses(
    view: View, attribution: Tensor | Sequence[Tensor], steps: Steps, fill: Fill, run: Run | None = None, once: bool = False
) -> Responses:
    """What `infidelity` is calculated from; arguments and errors are the same."""
    values = places_of(view.features, attribution, "attribution")
    removal = removal_of(view, fill, run, "infidelity")
    base = removal.scorer.baselines
    if removal.imputation is not None or base is None:
        raise InputError(
            f"the fill has {removal.scorer.several} references or depends on what is removed; what changes is not the same: give one"
        )
    changed = (_at_places(x != b, e) if once else x != b for x, b, e in zip(view.features, base, values, strict=True))
    weights = tuple(torch.where(c, e.double(), 0.0) for c, e in zip(changed, values, strict=True))
    here, found = removal.scores(steps)
    pooled = _pooled(steps, weights)
    products = torch.stack([_product(steps, number, pooled) for number in range(steps.count)], 1)
    return Responses(here - found, products.to(here.device), removal.checks)


def _at_places(changed: Tensor, like: Tensor) -> Tensor:
    """Whether anything of a place changed."""
    shared = [dim for dim, (n, m) in enumerate(zip(like.shape, changed.shape, strict=True)) if n < m]
    return changed.amax(shared, keepdim=True) if shared else changed


def _product(steps: Steps, number: int, weights: Tensors) -> Tensor:
    """`(B,)`: one step at a time, because its masks times the weights may be as large as the features."""
    chosen = steps.chosen(slice(0, len(weights[0])), torch.tensor([number]))
    return torch.stack([(c[0].flatten(1).double() * w.flatten(1)).sum(1) for c, w in zip(chosen, weights, strict=True)]).sum(0)


def _pooled(steps: Steps, weights: Tensors) -> Tensors:
    """Summed where the masks do not tell places apart, as in the channels of windows."""
    chosen = steps.chosen(slice(0, len(weights[0])), torch.tensor([0]))
    return tuple(w.sum_to_size(len(w), *c.shape[2:]) for c, w in zip(chosen, weights, strict=True))


def masks(features: Tensors, rows: Tensor) -> Steps:
    """Steps of one input, the same for all examples.

    Args:
        features: the view's.
        rows: `(steps, ...)` booleans, True where a place is replaced, of the shapes that `places_of` takes.

    Raises:
        InputError: several inputs, no booleans or no rows, or another shape.

    >>> masks((torch.zeros(2, 4),), torch.eye(4).bool()).count
    4
    """
    if len(features) != 1:
        raise InputError(f"masks are for one input, and there are {len(features)}; give Steps of your own")
    if rows.dtype != torch.bool or not rows.dim() or not len(rows):
        raise InputError(f"masks are {rows.dtype} {tuple(rows.shape)}; give at least one row of booleans, True where a place is replaced")
    (placed,) = places_of((features[0][:1].expand(len(rows), *features[0].shape[1:]),), rows, "masks")
    return Steps(len(rows), lambda _, numbers: (placed[numbers.to(placed.device), None],))


def windows(features: Tensors, sizes: Sequence[int] = (32, 64, 128), stride: int = 8) -> Steps:
    """Square windows of pictures `(B, C, H, W)`: of each size, all that lie inside, row by row.

    Raises:
        InputError: no pictures, or no window that fits into them. OptionError: sizes or a stride below 1.

    >>> windows((torch.zeros(1, 3, 64, 64),)).count  # 25 of 32 x 32 and one of 64 x 64
    26
    """
    if len(features) != 1 or features[0].dim() != 4:
        raise InputError(f"inputs of shapes {[tuple(f.shape) for f in features]} have no windows; give one batch of pictures (B, C, H, W)")
    if stride < 1 or any(size < 1 for size in sizes):
        raise OptionError(f"windows of sizes {tuple(sizes)} in steps of {stride}; both must be at least 1 pixel")
    height, width = features[0].shape[2:]
    places = [(y, x, k) for k in sizes for y in range(0, height - k + 1, stride) for x in range(0, width - k + 1, stride)]
    if not places:
        raise InputError(
            f"no window of {tuple(sizes)} pixels fits into a picture of {height} x {width}; give a larger one, or smaller sizes"
        )
    top, left, size = torch.tensor(places, device=features[0].device).T[:, :, None]

    def inside(start: Tensor, numbers: Tensor, length: int) -> Tensor:
        at = torch.arange(length, device=start.device)
        return (at >= start[numbers]).logical_and(at < start[numbers] + size[numbers])

    def chosen(_: slice, numbers: Tensor) -> Tensors:
        which = numbers.to(size.device)
        rows, columns = inside(top, which, height), inside(left, which, width)
        return (rows[:, None, None, :, None] & columns[:, None, None, None, :],)

    return Steps(len(places), chosen)


def ngrams(length: int, sizes: Sequence[int] = (1, 2, 3, 4, 5), edge: int = 1) -> Tensor:
    """`(rows, length)` booleans: all runs of neighbours of each size, without the first and the last `edge` places.

    Raises:
        InputError: nothing between the edges.

    >>> ngrams(5, sizes=(2,)).int().tolist()
    [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]
    """
    _check_inside(length, edge)
    at = torch.arange(length)
    return torch.stack([(at >= i) & (at < i + k) for k in sizes for i in range(edge, length - edge - k + 1)])


def random_masks(
    length: int, shares: Sequence[float] = (0.01, 0.02, 0.03, 0.04, 0.05), repeats: int = 40, seed: int | None = None, edge: int = 1
) -> Tensor:
    """`(shares * repeats, length)` booleans: that share of all places, rounded down, at random between the edges.

    Raises:
        InputError: nothing between the edges, or so few places that every share rounds down to none. OptionError: shares
            or repeats out of range.

    >>> random_masks(100, repeats=2, seed=0).sum(1).tolist()
    [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    """
    _check_inside(length, edge)
    if repeats < 1 or not all(0 < share <= 1 for share in shares):
        raise OptionError(f"shares are {tuple(shares)}, {repeats} times each; give shares above 0 and up to 1, at least once")
    # A share like 0.29 is a little less than 29 hundredths: without the rounding 100 places would give 28.
    counts = [min(int(round(length * share, 9)), length - 2 * edge) for share in shares]
    if not any(counts):
        raise InputError(f"shares {tuple(shares)} of {length} places are none at all; take larger shares, or the n-grams of a short text")
    drawn = torch.rand(len(counts) * repeats, length - 2 * edge, generator=generator(resolve_seed(seed), 0))
    few = drawn.argsort(1).argsort(1) < torch.tensor(counts).repeat_interleave(repeats)[:, None]
    return torch.nn.functional.pad(few, (edge, edge))


def _check_inside(length: int, edge: int) -> None:
    if length <= 2 * edge:
        raise InputError(f"a text of {length} tokens has none between its first and last {edge}; give one with words in it")
