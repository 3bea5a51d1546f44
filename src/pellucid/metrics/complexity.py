"""Complexity: over how few numbers an attribution is spread. No model is asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..inputs import as_tensors, joined

__all__ = ["effective_number", "entropy", "magnitudes", "sparseness"]


def magnitudes(attribution: Tensor | Sequence[Tensor]) -> Tensor:
    """`(B, numbers)` float64: the magnitudes of all attributions of an example, of all inputs together.

    Raises:
        InputError: no attributions, or some that are NaN or infinite.
    """
    found = joined(as_tensors(attribution, "attribution"), 1).detach().double().abs()
    if not bool(found.isfinite().all()):
        raise InputError("attribution has values that are NaN or infinite, which have no share in anything")
    return found


def sparseness(attribution: Tensor | Sequence[Tensor]) -> Tensor:
    """`(B,)`: the Gini index of the magnitudes: 0 where all are the same, near 1 where one number has everything.

    Attributions that are zero everywhere have 0: they single nothing out.
    Source: Chalasani et al. 2020, section 5 (with the Gini index of Hurley and Rickard 2009, equation 12).

    >>> sparseness(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 4.0]])).tolist()
    [0.0, 0.75]
    """
    rows = magnitudes(attribution).sort(1).values
    count, total = rows.shape[1], rows.sum(1)
    weights = (count - torch.arange(count, dtype=rows.dtype, device=rows.device) - 0.5) / count
    return torch.where(total > 0, 1 - 2 * (rows @ weights) / torch.where(total > 0, total, 1.0), 0.0).clamp(min=0)  # less by rounding


def entropy(attribution: Tensor | Sequence[Tensor]) -> Tensor:
    """`(B,)`, in nats: the entropy of the magnitudes as shares of their sum; 0 where one number has everything.

    Attributions that are zero everywhere have the entropy of equal shares: they single nothing out.
    Source: Bhatt et al. 2020, definition 4 (complexity).

    >>> entropy(torch.tensor([[1.0, 1.0], [0.0, 3.0]])).tolist()
    [0.6931471805599453, 0.0]
    """
    rows = magnitudes(attribution)
    rows = torch.where(rows.sum(1, keepdim=True) > 0, rows, 1.0)
    found: Tensor = torch.special.entr(rows / rows.sum(1, keepdim=True)).sum(1)
    return found


def effective_number(attribution: Tensor | Sequence[Tensor]) -> Tensor:
    """`(B,)`: how many numbers of equal magnitude would have that entropy: `exp(entropy)`, from 1 to all.

    Source: Hill 1973, the number of order one.

    >>> effective_number(torch.tensor([[2.0, -2.0, 0.0, 0.0]])).tolist()
    [2.0]
    """
    return entropy(attribution).exp()
