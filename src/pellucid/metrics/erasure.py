"""Faithfulness by erasure: what scores do when the places that attributions call important are taken away, or random ones."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from ..batch import Run
from ..errors import OptionError
from ..inputs import Tensors
from ..seeds import generator, resolve_seed
from ..view import View
from .agreement import pearson
from .curves import curve
from .infidelity import responses
from .removal import Fill
from .steps import Steps, counted, places_of, ranked, split

__all__ = ["SHARES", "comprehensiveness", "faithfulness_correlation", "random_subsets", "sensitivity_n", "sufficiency"]

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
SIZES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


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
    return ranked(view.features, attribution, counted(view.features, attribution, shares))


def faithfulness_correlation(
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
    Source: Bhatt et al. 2020, definition 3.

    Args:
        size: of the subsets: how many places (an int), or which share of them (a float).
        samples: how many subsets, the same for all examples.
        seed: of the subsets; None: from torch's random state, which is read and not moved.

    Raises:
        InputError: attributions or fill that do not fit. OptionError: a size out of range, or fewer than two samples.

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x @ torch.tensor([1.0, -2.0, 3.0]), torch.ones(1, 3))
    >>> faithfulness_correlation(view, torch.tensor([[1.0, -2.0, 3.0]]), size=1, samples=30, seed=0).round()
    tensor([1.], dtype=torch.float64)
    """
    values = places_of(view.features, attribution, "attribution")
    found = responses(view, values, random_subsets(values, size, samples, seed), fill, run, once=True)
    return pearson(found.differences.double(), found.products)


def sensitivity_n(
    view: View,
    attribution: Tensor | Sequence[Tensor],
    fill: Fill = None,
    sizes: Sequence[int | float] = SIZES,
    samples: int = 100,
    seed: int | None = None,
    run: Run | None = None,
) -> Tensor:
    """`(B, sizes)` float64: `faithfulness_correlation` for subsets of each of several sizes n.

    All are 1 where the score is linear and the attributions are its terms.
    Source: sensitivity-n, Ancona et al. 2018, section 4 (definition 1 asks for equality; figure 2 shows the correlations).

    >>> from pellucid import at_input
    >>> view = at_input(lambda x: x @ torch.tensor([1.0, -2.0, 3.0]), torch.ones(1, 3))
    >>> sensitivity_n(view, torch.tensor([[1.0, -2.0, 3.0]]), sizes=(1, 2), samples=30, seed=0).round()
    tensor([[1., 1.]], dtype=torch.float64)
    """
    if not sizes:
        raise OptionError("sizes is empty; give at least one size of the subsets")
    seed = resolve_seed(seed)
    found = [faithfulness_correlation(view, attribution, fill, size, samples, seed + i, run) for i, size in enumerate(sizes)]
    return torch.stack(found, 1)


def random_subsets(places: Tensors, size: int | float = 0.1, samples: int = 100, seed: int | None = None) -> Steps:
    """Steps of random subsets of the places of all inputs, each of the same size, the same for all examples.

    Raises:
        OptionError: a size out of range, or fewer than two samples.

    >>> steps = random_subsets((torch.zeros(1, 5),), size=2, samples=3, seed=0)
    >>> steps.chosen(slice(0, 1), torch.arange(3))[0].sum(2).flatten().tolist()
    [2, 2, 2]
    """
    total = sum(p[0].numel() for p in places)
    count = int(size) if isinstance(size, Integral) else max(1, round(size * total)) if size > 0 else 0
    if not 1 <= count <= total or samples < 2:
        raise OptionError(
            f"size={size} of {total} places, {samples} samples; give 1 to {total} places (or a share), and at least 2 samples"
        )
    drawn = torch.rand(samples, total, generator=generator(resolve_seed(seed), 0))
    chosen = split(drawn.argsort(1).argsort(1) < count, places)
    return Steps(samples, lambda _, numbers: tuple(c[numbers][:, None].to(p.device) for c, p in zip(chosen, places, strict=True)))
