"""Monotonicity: whether places matter to the score in the order in which attributions put them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..batch import Run
from ..errors import OptionError
from ..perturb.evaluate import floating
from ..view import View
from .agreement import pearson, ranks
from .curves import curve
from .erasure import random_subsets
from .infidelity import responses
from .removal import Fill
from .steps import places_of, ranked

__all__ = ["monotonicity", "monotonicity_correlation"]


def monotonicity(view: View, attribution: Tensor | Sequence[Tensor], fill: Fill = None, steps: int = 100, run: Run | None = None) -> Tensor:
    """`(B,)`: how often the score does not fall while places are given back, those of the smallest attributions first.

    1 where attributions with their signs are the terms of an additive score and none is negative. Arya et al. ask whether that is
    so at every step, which is to be 1 here. Source: Arya et al. 2019, section 5.2 (monotonicity).

    Args:
        attribution: of the inputs' shapes, or maps without channels. By magnitude: what matters little comes first.
        fill: what all places show before; None: zeros.
        steps: in how many equal portions the places are given back, at least one place in each.

    Raises:
        InputError: attributions or fill that do not fit. OptionError: no steps.

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x.sum(1), torch.tensor([[1.0, 2.0, -3.0, 4.0]]))
    >>> monotonicity(view, view.features[0])
    tensor([0.7500])
    """
    if steps < 1:
        raise OptionError(f"steps is {steps}; places are given back in at least one")
    sizes = tuple(p.abs() for p in places_of(view.features, attribution, "attribution"))
    total = sum(s[0].numel() for s in sizes)
    counts = sorted({round(total * k / min(steps, total)) for k in range(min(steps, total))})
    scores = curve(view, ranked(view.features, sizes, counts, "least"), fill, inserted=True, run=run).scores
    scores = floating(scores)
    rounding = 16 * torch.finfo(scores.dtype).eps * scores.abs().amax(1, keepdim=True)
    return (scores[:, 1:] >= scores[:, :-1] - rounding).double().mean(1).to(scores)


def monotonicity_correlation(
    view: View,
    attribution: Tensor | Sequence[Tensor],
    fill: Fill = None,
    size: int | float = 1,
    samples: int = 100,
    seed: int | None = None,
    run: Run | None = None,
) -> Tensor:
    """`(B,)` float64: the rank correlation of the magnitudes of attributions with how much the score changes without their places.

    Of one place at a time, or of random subsets, whose magnitudes are added. 1 where the order is right; NaN where one of the two
    is the same for every subset. Source: Nguyen and Martinez 2020, section 4.2 (with one reference in the place of a mean over several).

    Args:
        size: of the subsets: how many places (an int), or which share of them (a float).
        samples: how many subsets, the same for all examples; a place may come several times.
        seed: of the subsets.

    Raises:
        InputError: attributions or fill that do not fit. OptionError: a size out of range, or fewer than two samples.

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x @ torch.tensor([1.0, -2.0, 3.0]), torch.ones(1, 3))
    >>> monotonicity_correlation(view, torch.tensor([[0.1, -0.2, 0.9]]), samples=30, seed=0).round()
    tensor([1.], dtype=torch.float64)
    """
    sizes = tuple(p.abs() for p in places_of(view.features, attribution, "attribution"))
    found = responses(view, sizes, random_subsets(sizes, size, samples, seed), fill, run, once=True)
    return pearson(ranks(found.differences.double().abs()), ranks(found.products))
