"""LIME: a simple model fitted to the scores of random coalitions around an example."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..batch import Run
from ..errors import OptionError
from ..explanation import Found
from ..inputs import Tensors
from ..seeds import generator, resolve_seed, spread_of
from ..view import View
from .evaluate import Design, coalition_scores
from .groups import Groups, few_enough, groups_of

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
) -> Found:
    """The coefficients of a linear model of the score in the presence of groups, weighted by nearness to the example.

    Half of the groups, drawn at random, are kept in each coalition; its weight is `exp(-d^2 / width^2)`, where d is the cosine
    distance `1 - sqrt(kept / all)` between the coalition and the example.
    Law: on a model that is linear in the groups, the coefficients of "linear" are exact.
    Source: Ribeiro, Singh, Guestrin 2016, equation 2 and section 3.4.

    Args:
        baselines: what replaces a group, of the features' shapes.
        samples: coalitions, besides the example itself.
        surrogate: "ridge" (as the authors' library), "linear", or "lasso".
        alpha: strength of its penalty; by default 1 for ridge and 0.01 of the scores' spread for lasso.

    Raises:
        OptionError: an unknown surrogate; no samples; more than 10,000 groups.

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
    run, groups, seed = run or Run(), groups or groups_of(view.features), resolve_seed(seed)
    few_enough(groups, "lime")
    kept = torch.rand(samples, groups.count, generator=generator(seed, 0)) < 0.5
    ends, scores = coalition_scores(view, groups, baselines, Design(samples, lambda steps: kept[steps]), run, "lime")
    rows = torch.cat([torch.ones(1, groups.count, dtype=torch.bool), kept]).to(scores.device, torch.float64)
    together = torch.cat([ends.here[:, None], scores], 1).double()

    def fitted(part: slice) -> Tensor:
        """Coefficients `(T, n, B)` from the example and every so many coalitions."""
        some = torch.cat([rows[:1], rows[1:][part]])
        flat = torch.cat([together[:, :1], together[:, 1:][:, part]], 1).transpose(0, 1).flatten(1)
        nearness = (1 - some.mean(1).sqrt()).square().div(-(width**2)).exp()[:, None]
        found = SURROGATES[surrogate](some, flat, nearness, _strength(surrogate, alpha, flat))
        by_target: Tensor = found.unflatten(1, (len(ends.here), -1)).transpose(0, 1)
        return by_target

    whole, halves = fitted(slice(None)), [fitted(slice(parity, None, 2)) for parity in range(2 if samples > 1 else 0)]
    spread = spread_of((halves[0].transpose(1, 2),), (halves[1].transpose(1, 2),), (whole.transpose(1, 2),)) if halves else None
    by_feature = groups.spread(whole.to(ends.here.dtype))
    values = tuple(v.to(x.dtype) if x.is_floating_point() else v for v, x in zip(by_feature, view.features, strict=True))
    return Found(values, ends.here, spread=spread, seed=seed, pooling="sum" if groups.single else "mean")


def _strength(surrogate: str, alpha: float | None, scores: Tensor) -> float:
    if alpha is not None:
        return alpha
    return {"ridge": 1.0, "lasso": 0.01 * float(scores.std())}.get(surrogate, 0.0)


def weighted_ridge(rows: Tensor, scores: Tensor, weights: Tensor, alpha: float = 0.0) -> Tensor:
    """Least squares with an intercept, `(n, K)`: minimal norm where the coalitions do not determine it.

    Weights of `(m, 1)` serve all columns at once.
    """
    if weights.shape[1] > 1:
        return torch.cat([weighted_ridge(rows, scores[:, k : k + 1], weights[:, k : k + 1], alpha) for k in range(scores.shape[1])], 1)
    total = weights.sum()
    centred = rows - (weights * rows).sum(0) / total
    gram = centred.T @ (weights * centred) + alpha * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    right = centred.T @ (weights * (scores - (weights * scores).sum(0) / total))
    found: Tensor = torch.linalg.lstsq(gram, right, driver="gelsd" if gram.device.type == "cpu" else None).solution
    return found


def weighted_lasso(rows: Tensor, scores: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Scikit-learn's lasso of each column, `(n, K)`."""
    from sklearn.linear_model import Lasso

    shared = weights.expand(-1, scores.shape[1])
    found = [
        Lasso(alpha=alpha).fit(rows.cpu().numpy(), scores[:, k].cpu().numpy(), shared[:, k].cpu().numpy()).coef_
        for k in range(scores.shape[1])
    ]
    return torch.stack([torch.as_tensor(coefficients) for coefficients in found], 1).to(scores)


SURROGATES: dict[str, Surrogate] = {
    "ridge": weighted_ridge,
    "linear": lambda rows, scores, weights, alpha: weighted_ridge(rows, scores, weights),
    "lasso": weighted_lasso,
}
