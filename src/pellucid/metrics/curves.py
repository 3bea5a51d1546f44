"""Perturbation curves: the scores while more and more places of the features are taken away, or given back, in an order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Run
from ..explanation import Check
from ..perturb.evaluate import floating
from ..view import View
from .imputation import NoisyLinear
from .removal import Fill, removal_of
from .steps import Order, Steps, counted, ranked, spaced

__all__ = ["Curve", "area_between", "curve", "deletion", "insertion", "road"]

ORDERS: tuple[Order, Order] = ("least", "most")
TENTHS = tuple(k / 10 for k in range(1, 11))
ROAD_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)


@dataclass(frozen=True, eq=False)
class Curve:
    """The scores along a curve, and what was noticed on the way.

    Attributes:
        scores: `(B, steps + 1)`: of a deletion the features themselves first, of an insertion last.
        checks: what a reader must know.
    """

    scores: Tensor
    checks: tuple[Check, ...] = ()

    @property
    def mean(self) -> Tensor:
        """`(B,)`: the mean score, InterpretDL's area under the curve."""
        return self.scores.mean(1)


def deletion(
    view: View,
    importance: Tensor | Sequence[Tensor],
    fill: Fill,
    steps: int = 20,
    order: Order = "most",
    run: Run | None = None,
) -> Curve:
    """The scores while the most (or least) important places are replaced, more with each step.

    Step k of n replaces the places beyond the k-th of n equally spaced percentiles, those at the percentile itself not:
    of the most important first, percentiles 100 (n - 1) / n down to 0, so that the last step leaves the places of the lowest
    importance; of the least important first, upwards from 0, so that the first step leaves everything. The original comes
    first. A faithful importance gives a low mean with the most important first, and a high one with the least important.

    Source: Samek et al. 2015, section III (MoRF and LeRF); Petsiuk, Das, Saenko 2018, section 3.3 (deletion).

    Args:
        view: what is scored.
        importance: for each input a tensor of its shape, or a map without its channels; `places_of` says which shapes fit.
        fill: what replaces, in every form of `pellucid.inputs.references`, or an imputation (`NoisyLinear`).
        steps: how many.
        order: which places go first, the "most" or the "least" important.
        run: the limits of memory, and what it costs.

    Raises:
        InputError: importance of another shape, or not finite. OptionError: no steps, or an unknown order.

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x.sum(1), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    >>> deletion(view, view.features[0], 0.0, steps=2).scores
    tensor([[10.,  3.,  1.]])
    """
    return curve(view, spaced(view.features, importance, steps, order), fill, run=run)


def insertion(
    view: View,
    importance: Tensor | Sequence[Tensor],
    fill: Fill,
    steps: int = 20,
    order: Order = "most",
    run: Run | None = None,
) -> Curve:
    """The scores while the most (or least) important places are put into the fill, more with each step.

    The places that `deletion` replaces are those shown here, and the others are replaced; the original comes last.
    A faithful importance gives a high mean.

    Source: Petsiuk, Das, Saenko 2018, section 3.3. Arguments and errors are those of `deletion`.

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x.sum(1), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    >>> insertion(view, view.features[0], 0.0, steps=2).scores
    tensor([[ 7.,  9., 10.]])
    """
    return curve(view, spaced(view.features, importance, steps, order), fill, inserted=True, run=run)


def curve(view: View, steps: Steps, fill: Fill, inserted: bool = False, run: Run | None = None) -> Curve:
    """The scores with the chosen places of every step replaced, or all but those (`inserted`).

    Args:
        view: what is scored.
        steps: the places; `thresholded` and `in_order` make them.
        fill: what replaces.
        inserted: show only what is chosen, instead of replacing it.
        run: the limits of memory, and what it costs.

    Raises:
        InputError: a fill that does not fit, or a model with one score for a batch of several.
        TargetError: a view of several targets.

    >>> from pellucid import at_input
    >>> from pellucid.metrics import in_order
    >>> view = at_input(lambda x: x.sum(1), torch.tensor([[1.0, 2.0, 4.0]]))
    >>> curve(view, in_order(view.features, torch.tensor([[0, 0, 1]]), [1, 0]), 0.0).scores
    tensor([[7., 3., 0.]])
    """
    removal = removal_of(view, fill, run, "curve")
    here, found = removal.scores(steps, inserted)
    return Curve(floating(torch.cat([found, here] if inserted else [here, found], 1)), removal.checks)


def area_between(
    view: View, importance: Tensor | Sequence[Tensor], fill: Fill = None, shares: Sequence[float] = TENTHS, run: Run | None = None
) -> Tensor:
    """`(B,)`: the mean score without the least important places less that without the most important, over shares of them.

    High where importance is right; 0 for a constant one, which orders nothing.
    Source: MoRF and LeRF, Samek et al. 2015, section III; the area between them, Schulz et al. 2020, section 4.3.

    Args:
        shares: of the places, which are removed: the most important, and apart from that the least important ones.

    Raises:
        InputError: importance or fill that do not fit. OptionError: shares out of range.

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x.sum(1), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    >>> area_between(view, view.features[0], 0.0, shares=(0.25, 0.5))  # 9 and 7 against 6 and 3
    tensor([3.5000])
    """
    counts = counted(view.features, importance, shares)
    least, most = (curve(view, ranked(view.features, importance, counts, order), fill, run=run) for order in ORDERS)
    return least.scores[:, 1:].mean(1) - most.scores[:, 1:].mean(1)


def road(
    view: View,
    importance: Tensor | Sequence[Tensor],
    shares: Sequence[float] = ROAD_SHARES,
    noise: float = 0.01,
    seed: int = 0,
    run: Run | None = None,
) -> Tensor:
    """`(B,)`: `area_between` where removed pixels become what their neighbours say, so that a hole's outline tells nothing.

    Rong et al. report how many predictions survive in either order; this is the difference of the scores, for each example.
    Source: Rong et al. 2022, sections 4.2 and 5.

    Raises:
        InputError: no pictures, or importance that does not fit. OptionError: shares out of range.

    >>> from pellucid import at_input
    >>> picture = torch.zeros(1, 1, 5, 5).index_fill(3, torch.tensor([2]), 1.0)
    >>> view = at_input(lambda x: x[:, 0, 2, 2], picture)
    >>> bool(road(view, picture, shares=(0.2,), noise=0.0) > 0.2)
    True
    """
    return area_between(view, importance, NoisyLinear(noise, seed), shares, run)
