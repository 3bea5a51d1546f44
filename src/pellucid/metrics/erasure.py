"""Faithfulness by erasure: what scores do when the places that attributions call important are taken away, or random ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..batch import Run
from ..errors import OptionError
from ..inputs import Baseline, Tensors, joined
from ..seeds import generator, resolve_seed
from ..view import View
from .agreement import pearson
from .curves import Steps, curve, places_of
from .infidelity import responses

__all__ = ["SHARES", "comprehensiveness", "random_subsets", "subset_correlation", "sufficiency"]

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
Fill = Baseline | Sequence[Baseline]


def comprehensiveness(
    view: View, attribution: Tensor | Sequence[Tensor], fill: Fill = None, shares: Sequence[float] = SHARES, run: Run | None = None
) -> Tensor:
    """`(B,)`: by how much the score falls without the most important places, the mean over several shares of them.

    High where attributions are right. Source: DeYoung et al. 2020, equation 1 and the aggregate of section 4.

    Args:
        view: what is scored; DeYoung et al. take the probability of the predicted class.
        attribution: of the inputs' shapes, or maps without channels; the largest come first, signs count.
        fill: what replaces; None: zeros.
        shares: of all places, each rounded up to at least one.

    Raises:
        InputError: attributions or fill that do not fit. OptionError: shares out of range.

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x.sum(1), torch.tensor([[1.0, 2.0, 4.0, 0.0]]))
    >>> comprehensiveness(view, view.features[0], shares=(0.25, 0.5))
    tensor([5.])
    """
    scores = curve(view, _most(view, attribution, shares), fill, run=run).scores
    return scores[:, 0] - scores[:, 1:].mean(1)


def sufficiency(
    view: View, attribution: Tensor | Sequence[Tensor], fill: Fill = None, shares: Sequence[float] = SHARES, run: Run | None = None
) -> Tensor:
    """`(B,)`: by how much the score falls with the most important places only, the mean over several shares of them.

    Low where attributions are right. Source: DeYoung et al. 2020, equation 2. Arguments and errors as of `comprehensiveness`.

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x.sum(1), torch.tensor([[1.0, 2.0, 4.0, 0.0]]))
    >>> sufficiency(view, view.features[0], shares=(0.25, 0.5))
    tensor([2.])
    """
    scores = curve(view, _most(view, attribution, shares), fill, inserted=True, run=run).scores
    return scores[:, -1] - scores[:, :-1].mean(1)


def _most(view: View, attribution: Tensor | Sequence[Tensor], shares: Sequence[float]) -> Steps:
    """The most important places of each share; of equal ones the first."""
    values = places_of(view.features, attribution, "attribution")
    if not shares or not all(0 < share <= 1 for share in shares):
        raise OptionError(f"shares are {tuple(shares)}; give shares of the places, above 0 and up to 1")
    rows = joined(tuple(v.double() for v in values), 1)
    order = rows.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    counts = [max(1, -(-round(share * rows.shape[1], 9) // 1)) for share in shares]
    limits = torch.tensor(counts, device=rows.device)
    placed = _split(order, values)
    return Steps(len(counts), lambda examples, numbers: tuple(p[examples] < _wide(limits[numbers.to(limits.device)], p) for p in placed))


def _wide(limits: Tensor, like: Tensor) -> Tensor:
    return limits.view(-1, *(1,) * like.dim()).to(like.device)


def _split(rows: Tensor, like: Tensors) -> Tensors:
    """Rows over all places, as the places of each input."""
    pieces = rows.split([v[0].numel() for v in like], 1)
    return tuple(piece.reshape(len(rows), *v.shape[1:]) for piece, v in zip(pieces, like, strict=True))


def subset_correlation(
    view: View,
    attribution: Tensor | Sequence[Tensor],
    fill: Fill = None,
    size: int | float = 0.1,
    samples: int = 100,
    seed: int | None = None,
    run: Run | None = None,
) -> Tensor:
    """`(B,)` float64: the correlation of what random subsets are said to give with the fall of the score without them.

    1 for the attributions of a linear model; NaN where one of the two is the same for every subset.
    Source: sensitivity-n, Ancona et al. 2018, definition 1 (a `size` of n); faithfulness correlation, Bhatt et al. 2020, definition 3.

    Args:
        size: of the subsets: how many places (an int), or which share of them (a float).
        samples: how many subsets, the same for all examples.
        seed: of the subsets; None: from torch's random state, which is read and not moved.

    Raises:
        InputError: attributions or fill that do not fit. OptionError: a size out of range, or fewer than two samples.

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x @ torch.tensor([1.0, -2.0, 3.0]), torch.ones(1, 3))
    >>> subset_correlation(view, torch.tensor([[1.0, -2.0, 3.0]]), size=1, samples=30, seed=0).round()
    tensor([1.], dtype=torch.float64)
    """
    values = places_of(view.features, attribution, "attribution")
    found = responses(view, values, random_subsets(values, size, samples, seed), fill, run)
    return pearson(found.differences.double(), found.products)


def random_subsets(places: Tensors, size: int | float = 0.1, samples: int = 100, seed: int | None = None) -> Steps:
    """Steps of random subsets of the places of all inputs, each of the same size, the same for all examples.

    Raises:
        OptionError: a size out of range, or fewer than two samples.

    >>> steps = random_subsets((torch.zeros(1, 5),), size=2, samples=3, seed=0)
    >>> steps.chosen(slice(0, 1), torch.arange(3))[0].sum(2).flatten().tolist()
    [2, 2, 2]
    """
    total = sum(p[0].numel() for p in places)
    count = size if isinstance(size, int) else max(1, round(size * total))
    if not 1 <= count <= total or samples < 2:
        raise OptionError(
            f"size={size} of {total} places, {samples} samples; give 1 to {total} places (or a share), and at least 2 samples"
        )
    drawn = torch.rand(samples, total, generator=generator(resolve_seed(seed), 0))
    chosen = _split(drawn.argsort(1).argsort(1) < count, places)
    return Steps(samples, lambda _, numbers: tuple(c[numbers][:, None].to(p.device) for c, p in zip(chosen, places, strict=True)))
