"""A linear model of how likely statements are in the presence of sources: how it is fitted, and how well it predicts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..metrics.agreement import pearson, ranks
from ..perturb.surrogate import weighted_lasso

__all__ = ["Linear", "crossed", "datamodeling_score", "log_odds", "sparse_linear"]

CERTAIN = 1e-7  # how near to 1 a probability that was computed in single precision is known
FOLDS = 8
ROUNDING = 1e-9


def log_odds(logs: Tensor) -> Tensor:
    """`log(p / (1 - p))` of log-probabilities, float64; of probabilities above 1 - 1e-7 as of that.

    >>> log_odds(torch.tensor([0.2, 0.9]).log()).round(decimals=3).tolist()
    [-1.386, 2.197]
    """
    known = logs.double().clamp(max=-CERTAIN)
    return known - torch.log(-torch.expm1(known))


class Linear(NamedTuple):
    """Weights `(sources, targets)` and intercepts `(targets,)`."""

    weights: Tensor
    intercepts: Tensor

    def of(self, kept: Tensor) -> Tensor:
        """What it says of ablations `(m, sources)`, `(m, targets)`."""
        found: Tensor = kept.double() @ self.weights + self.intercepts
        return found


def sparse_linear(kept: Tensor, scores: Tensor, alpha: float = 0.01, sizes: Tensor | None = None) -> Linear:
    """A LASSO of scores on which sources were kept: `min |y - Xw - b|^2 / 2m + alpha |w|_1`, X standardised, y per token.

    Weights are given for sources that are there or not, and for whole scores. Sources that were always (or never) kept get 0.
    Source: Cohen-Wang, Shah, Georgiev, Madry 2024, section 3 (ContextCite); standardisation and alpha are those of the authors' package.

    Args:
        kept: `(m, sources)` bool; scores: `(m, targets)`; sizes: `(targets,)`, tokens of each, by which scores are divided for the fit.

    Raises:
        InputError: fewer than two ablations, or shapes that do not fit.

    >>> kept = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]]).bool()
    >>> sparse_linear(kept, kept.double() @ torch.tensor([[3.0], [0.0]]).double(), alpha=1e-6).weights.round(decimals=3).tolist()
    [[3.0], [0.0]]
    """
    if kept.dim() != 2 or scores.dim() != 2 or len(kept) != len(scores) or len(kept) < 2:
        raise InputError(
            f"ablations {tuple(kept.shape)} and scores {tuple(scores.shape)}; give (m, sources) and (m, targets), m at least 2"
        )
    rows = kept.double()
    means, widths = rows.mean(0), rows.std(0, correction=0)
    widths = torch.where(widths > 0, widths, 1.0)
    tokens = torch.ones(scores.shape[1]) if sizes is None else sizes
    tokens = tokens.double()
    even = torch.ones(len(rows), 1, dtype=torch.float64)
    found = weighted_lasso((rows - means) / widths, scores.double() / tokens, even, alpha) * tokens / widths[:, None]
    return Linear(found, scores.double().mean(0) - means @ found)


def crossed(kept: Tensor, scores: Tensor, alpha: float = 0.01, sizes: Tensor | None = None, folds: int = FOLDS) -> Tensor:
    """What is said of each ablation `(m, targets)` by weights that were fitted without it.

    Intercepts are those of all ablations: one of its own for each fold would be lower where what was left out is higher.
    """
    number = torch.arange(len(kept)) % min(folds, len(kept))
    rows, found = kept.double(), torch.empty(scores.shape, dtype=torch.float64)
    for fold in number.unique():
        out = number == fold
        found[out] = (rows[out] - rows.mean(0)) @ sparse_linear(kept[~out], scores[~out], alpha, sizes).weights
    return found + scores.double().mean(0)


def datamodeling_score(predicted: Tensor, scores: Tensor) -> Tensor:
    """LDS `(targets,)`: Spearman's correlation of what a model says of ablations with their scores `(m, targets)`.

    1 where it puts them in their order, about 0 by chance; NaN where it says the same of all.
    Source: Park et al. 2023 (TRAK, of training data); Cohen-Wang et al. 2024, section 4 (of contexts).

    Raises:
        InputError: shapes that do not fit.

    >>> datamodeling_score(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.1], [0.4], [0.2]])).round(decimals=6).tolist()
    [0.5]
    """
    if predicted.shape != scores.shape or scores.dim() != 2:
        raise InputError(f"predictions {tuple(predicted.shape)} and scores {tuple(scores.shape)}; give (ablations, targets) for both")
    return pearson(ranks(_rounded(predicted)), ranks(_rounded(scores)))


def _rounded(values: Tensor) -> Tensor:
    """Rows `(targets, m)` in which what is equal but for rounding is equal."""
    rows = values.double().T
    unit = ROUNDING * rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    found: Tensor = (rows / unit).round()
    return found
