"""LIME: a simple model fitted to the scores of random coalitions around an example."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..batch import Run
from ..errors import OptionError
from ..explanation import Found
from ..inputs import Tensors
from ..seeds import generator, resolve_seed
from ..view import View
from .estimators import Averages, fit_errors
from .evaluate import Scorer
from .groups import Groups, few_enough, groups_of, per_feature
from .rounds import Sampler, Until, sampled

__all__ = ["SURROGATES", "lime", "weighted_lasso", "weighted_ridge"]

# (coalitions (m, n), scores (m, K), weights (m, 1 or K), strength) -> coefficients (n, K)
Surrogate = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def lime(
    view: View,
    baselines: Tensors,
    groups: Groups | None = None,
    samples: int = 1000,
    width: float = 0.25,
    surrogate: str = "ridge",
    alpha: float | None = None,
    seed: int | None = None,
    run: Run | None = None,
    until: Until | None = None,
) -> Found:
    """The coefficients of a linear model of the score in the presence of groups, weighted by nearness to the example.

    Half of the groups, drawn at random, are kept in each coalition; its weight is `exp(-d^2 / width^2)`, where d is the cosine
    distance `1 - sqrt(kept / all)` between the coalition and the example.
    Law: on a model that is linear in the groups, the coefficients of "linear" are exact.
    Source: Ribeiro, Singh, Guestrin 2016, equation 2 and section 3.4.

    Args:
        baselines: what replaces a group, of the features' shapes, or several references `(R, B, ...)` whose scores are meant.
        samples: coalitions, besides the example itself.
        surrogate: "ridge" (as the authors' library), "linear", or "lasso".
        alpha: strength of its penalty; by default 1 for ridge and 0.01 of the scores' spread for lasso.
        until: sample in rounds to this end, whatever `samples`.

    `notes["groups"]`, `(T, groups, B)`, are the groups' coefficients; `errors` their standard errors (not of a lasso).

    Raises:
        OptionError: an unknown surrogate; no samples; more than 10,000 groups; a lasso in rounds.

    >>> import torch; from pellucid.view import at_input
    >>> layer, x = torch.nn.Linear(3, 1), torch.randn(4, 3)
    >>> found = lime(at_input(layer, x, target=0), (torch.zeros_like(x),), samples=50, surrogate="linear", seed=0)
    >>> torch.allclose(found.values[0][0], x * layer.weight.detach(), atol=1e-3)
    True
    """
    if surrogate not in SURROGATES:
        raise OptionError(f"surrogate {surrogate!r} is unknown; choose one of {', '.join(map(repr, SURROGATES))}")
    if samples < 1:
        raise OptionError(f"samples is {samples}; at least one is needed")
    if until is not None and surrogate == "lasso":
        raise OptionError("a lasso's coefficients have no standard error to stop by; give samples a number, or use surrogate='ridge'")
    run, groups, seed = run or Run(), groups or groups_of(view.features), resolve_seed(seed)
    few_enough(groups, "lime")
    scorer, sampler = Scorer(view, baselines, run, "lime"), _Nearby(groups.count, seed, width, surrogate, alpha)
    ends, averages, checks = sampled(scorer, groups, sampler, samples if until is None else until)
    whole, errors = (found.unflatten(1, (len(ends.here), -1)).transpose(0, 1) for found in averages)
    known, size = bool(errors.isfinite().any()), whole.norm(dim=1).clamp_min(torch.finfo(whole.dtype).tiny)
    return Found(
        per_feature(groups, whole, view.features), ends.here, spread=errors.norm(dim=1) / size if known else None,
        seed=seed, notes={"groups": whole}, pooling="sum" if groups.single else "mean", checks=checks,
        errors=per_feature(groups, errors, view.features) if known else None
    )  # fmt: skip


class _Nearby(Sampler):
    """Each group kept with even chance."""

    def __init__(self, groups: int, seed: int, width: float, surrogate: str, alpha: float | None) -> None:
        self._seed, self._width, self._surrogate, self._alpha = seed, width, surrogate, alpha
        self._kept = torch.zeros(0, groups, dtype=torch.bool)

    def more(self, total: int) -> Tensor:
        had, groups = self._kept.shape
        added = torch.rand(total - had, groups, generator=generator(self._seed, had)) < 0.5
        self._kept = torch.cat([self._kept, added])
        return added

    def estimate(self, scores: Tensor, full: Tensor, empty: Tensor) -> Averages:
        rows = torch.cat([torch.ones(1, self._kept.shape[1], dtype=torch.bool), self._kept]).to(scores.device, torch.float64)
        together = torch.cat([full[None], scores]).double()
        nearness = (1 - rows.mean(1).sqrt()).square().div(-(self._width**2)).exp()[:, None]
        alpha = _strength(self._surrogate, self._alpha, together)
        fit = SURROGATES[self._surrogate]
        if self._surrogate == "lasso" and self._alpha is None:
            fit = partial(weighted_lasso, absolute=False)
        found = fit(rows, together, nearness, alpha)
        errors = torch.full_like(found, math.inf)
        if self._surrogate != "lasso":
            mean = (nearness * rows).sum(0) / nearness.sum(0)
            others = (torch.arange(len(rows)) > 0).double()  # the example itself is not drawn
            targets = centred_by(nearness, together)
            errors = fit_errors(rows.bool(), lambda some: some - mean, nearness[:, 0], targets, found, others, alpha)
        return Averages(found.to(scores.dtype), errors.to(scores.dtype))


def centred_by(weights: Tensor, values: Tensor) -> Tensor:
    """Less the weighted mean of the rows."""
    centred: Tensor = values - (weights * values).sum(0) / weights.sum(0)
    return centred


def _strength(surrogate: str, alpha: float | None, scores: Tensor) -> float:
    """Of a lasso in parts of the spread of each column's scores, where none is given."""
    return alpha if alpha is not None else {"ridge": 1.0, "lasso": 0.01}.get(surrogate, 0.0)


def weighted_ridge(rows: Tensor, scores: Tensor, weights: Tensor, alpha: float = 0.0) -> Tensor:
    """Least squares with an intercept, `(n, K)`: minimal norm where the coalitions do not determine it.

    Weights of `(m, 1)` serve all columns at once.
    """
    if weights.shape[1] > 1:
        return torch.cat([weighted_ridge(rows, scores[:, k : k + 1], weights[:, k : k + 1], alpha) for k in range(scores.shape[1])], 1)
    centred = centred_by(weights, rows)
    gram = centred.T @ (weights * centred) + alpha * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    right = centred.T @ (weights * centred_by(weights, scores))
    found: Tensor = torch.linalg.pinv(gram, hermitian=True) @ right  # not lstsq, where a column that is not finite spoils all
    return found


def weighted_lasso(rows: Tensor, scores: Tensor, weights: Tensor, alpha: float, absolute: bool = True) -> Tensor:
    """Scikit-learn's lasso of each column, `(n, K)`; with a penalty in parts of the column's deviation if not `absolute`."""
    from sklearn.linear_model import Lasso

    shared = weights.expand(-1, scores.shape[1])
    found = torch.full((rows.shape[1], scores.shape[1]), math.nan, dtype=torch.float64)
    for k in scores.isfinite().all(0).nonzero().flatten().tolist():
        own = alpha if absolute else alpha * max(float(scores[:, k].std()), math.sqrt(torch.finfo(torch.float64).tiny))
        fitted = Lasso(alpha=own).fit(rows.cpu().numpy(), scores[:, k].cpu().numpy(), shared[:, k].cpu().numpy())
        found[:, k] = torch.as_tensor(fitted.coef_)
    return found.to(scores)


SURROGATES: dict[str, Surrogate] = {
    "ridge": weighted_ridge,
    "linear": lambda rows, scores, weights, alpha: weighted_ridge(rows, scores, weights),
    "lasso": weighted_lasso,
}
