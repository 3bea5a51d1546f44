"""Shapley and Banzhaf values of feature groups: exact where all coalitions fit, from complementary pairs where not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..batch import Ends, Run
from ..errors import OptionError
from ..explanation import Found
from ..inputs import Tensors
from ..memory import bytes_per_example
from ..seeds import resolve_seed, spread_of
from ..view import View
from .estimators import banzhaf_of_all, constrained_least_squares, interactions_of_all, shapley_of_all, shapley_of_orders
from .evaluate import Design, coalition_scores
from .groups import Groups, few_enough, groups_of
from .odd_gp import odd_gp
from .sampling import every, pairs, permutations

__all__ = ["ESTIMATORS", "EXACT_GROUPS", "banzhaf", "shapley", "shapley_interactions"]

# All coalitions of more groups than these are asked for by their number only.
EXACT_GROUPS = 20
MOST_PAIRS = 1500
DEAR = 2**20  # bytes of activations: about a millisecond


def shapley(
    view: View,
    baselines: Tensors,
    groups: Groups | None = None,
    evaluations: int | None = None,
    estimator: str = "auto",
    seed: int | None = None,
    check: bool = True,
    run: Run | None = None,
) -> Found:
    """Each group's mean contribution to the score over all orders in which groups come in place of the baseline.

    All coalitions are evaluated, and the values exact, if they fit into `evaluations`; else a sample of complementary pairs.
    Laws: efficiency (they add up to `score(x) - score(baselines)`), dummy, symmetry, linearity.
    Sources: Shapley 1953; Lundberg and Lee 2017, equation 5 (KernelSHAP); Covert and Lee 2021 (pairs, efficiency solved exactly);
    Mitchell et al. 2022 (antithetic orders); `pellucid.perturb.odd_gp`.

    Args:
        baselines: what stands in for a group, of the features' shapes.
        groups: which features belong together; by default each is alone.
        evaluations: coalitions to score, besides all and none; None: all for up to 10 groups, else 2048 and two per group.
        estimator: "kernel" (weighted least squares), "odd_gp" (a Gaussian process: the most from each evaluation, at about a
            second for each example), "permutation"; "auto" is "odd_gp" where an evaluation is dear, else "kernel".
        check: estimate how far another seed would move the values (no passes).

    `notes["groups"]`, `(T, groups, B)`, are the values of the groups.

    Raises:
        OptionError: an unknown estimator, too few evaluations, or more than 10,000 groups.

    >>> import torch; from pellucid.view import at_input
    >>> layer, x = torch.nn.Linear(3, 1), torch.randn(4, 3)
    >>> found = shapley(at_input(layer, x, target=0), (torch.zeros_like(x),))
    >>> torch.allclose(found.values[0][0], x * layer.weight.detach(), atol=1e-5)
    True
    """
    if estimator not in ESTIMATORS:
        raise OptionError(f"estimator {estimator!r} is unknown; choose one of {', '.join(map(repr, ESTIMATORS))}")
    run, groups = run or Run(), groups or groups_of(view.features)
    count = groups.count
    asked = evaluations if evaluations is not None else 2**count if count <= 10 else 2048 + 2 * count
    if count <= EXACT_GROUPS and 2**count - 2 <= asked:
        return _of_all(view, baselines, groups, shapley_of_all, "completeness", run)
    few_enough(groups, "shapley")
    if asked < 2:
        raise OptionError(f"evaluations is {evaluations}; at least two are needed for {count} groups")
    return ESTIMATORS[estimator](view, baselines, groups, asked, resolve_seed(seed), check, run)


def banzhaf(view: View, baselines: Tensors, groups: Groups | None = None, run: Run | None = None) -> Found:
    """Each group's mean contribution over all coalitions alike. Source: Banzhaf 1965. At most `EXACT_GROUPS` groups.

    >>> import torch; from pellucid.view import at_input
    >>> layer, x = torch.nn.Linear(3, 1), torch.randn(4, 3)
    >>> found = banzhaf(at_input(layer, x, target=0), (torch.zeros_like(x),))
    >>> torch.allclose(found.values[0][0], x * layer.weight.detach(), atol=1e-5)
    True
    """
    return _of_all(view, baselines, groups or groups_of(view.features), banzhaf_of_all, "", run or Run())


def shapley_interactions(view: View, baselines: Tensors, groups: Groups | None = None, run: Run | None = None) -> Tensor:
    """The Shapley interaction index of every two groups, `(T, B, n, n)`; on the diagonal the Shapley values.

    Source: Grabisch and Roubens 1999. At most `EXACT_GROUPS` groups.

    >>> import torch; from pellucid.view import at_input
    >>> product = lambda x: x[:, 0] * x[:, 1] + x[:, 2]
    >>> x = torch.tensor([[2.0, 3.0, 4.0]])
    >>> shapley_interactions(at_input(product, x), (torch.zeros_like(x),))[0, 0, 0].tolist()
    [3.0, 6.0, 0.0]
    """
    groups = groups or groups_of(view.features)
    kept, ends, scores = _every(view, baselines, groups, run or Run())
    found: Tensor = interactions_of_all(kept, scores).unflatten(2, (len(ends.here), -1)).permute(2, 3, 0, 1)
    return found


def _every(view: View, baselines: Tensors, groups: Groups, run: Run) -> tuple[Tensor, Ends, Tensor]:
    """All coalitions, and their scores `(2**n, T * B)`; those of none and all come with the ends."""
    if groups.count > EXACT_GROUPS:
        raise OptionError(
            f"there are {groups.count} groups, and {EXACT_GROUPS} at most for exact values (2^n coalitions); put features together with "
            "feature_mask, or sample: method='shapley', evaluations=..."
        )
    kept = every(groups.count)
    between = kept[1:-1]
    ends, scores = coalition_scores(view, groups, baselines, Design(len(between), lambda steps: between[steps]), run, "shapley")
    return kept, ends, _columns(torch.cat([ends.there[:, None], scores, ends.here[:, None]], 1))


def _of_all(
    view: View, baselines: Tensors, groups: Groups, estimate: Callable[[Tensor, Tensor], Tensor], law: str, run: Run
) -> Found:  # fmt: skip
    kept, ends, scores = _every(view, baselines, groups, run)
    return _found(view, groups, ends, estimate(kept, scores), law, baselines)


def _kernel(view: View, baselines: Tensors, groups: Groups, evaluations: int, seed: int, check: bool, run: Run) -> Found:
    half, weights = pairs(groups.count, evaluations // 2, seed)
    kept = torch.stack([half, ~half], 1).flatten(0, 1)  # a pair together: one call sees both
    ends, scores = coalition_scores(view, groups, baselines, Design(len(kept), lambda steps: kept[steps]), run, "shapley")
    table, full, empty = _columns(scores), ends.here.flatten(), ends.there.flatten()

    def fitted(some: slice) -> Tensor:
        chosen = torch.arange(len(half))[some]
        rows = torch.stack([2 * chosen, 2 * chosen + 1], 1).flatten().to(table.device)
        return constrained_least_squares(kept.to(table.device)[rows], table[rows], weights[some].repeat_interleave(2), full, empty)

    whole, halves = fitted(slice(None)), [fitted(slice(parity, None, 2)) for parity in range(2 if check and len(half) > 1 else 0)]
    spread = _spread(halves, whole, len(ends.here)) if halves else None
    return _found(view, groups, ends, whole, "completeness", baselines, spread, seed)


def _odd_gp(view: View, baselines: Tensors, groups: Groups, evaluations: int, seed: int, check: bool, run: Run) -> Found:
    half, _ = pairs(groups.count, min(evaluations // 2, MOST_PAIRS), seed)
    kept = torch.stack([half, ~half], 1).flatten(0, 1)
    ends, scores = coalition_scores(view, groups, baselines, Design(len(kept), lambda steps: kept[steps]), run, "shapley")
    table = _columns(scores)
    fitted = odd_gp(half, (table[0::2] - table[1::2]) / 2, ends.here.flatten() - ends.there.flatten(), seed)
    size = _by_target(fitted.values, len(ends.here)).norm(dim=1)
    deviation = _by_target(fitted.variances, len(ends.here)).sum(1).sqrt()
    spread = deviation / size.clamp_min(torch.finfo(size.dtype).tiny)
    return _found(view, groups, ends, fitted.values, "completeness", baselines, spread, seed)


def _by_price(view: View, baselines: Tensors, groups: Groups, evaluations: int, seed: int, check: bool, run: Run) -> Found:
    """Where an evaluation is dear, the estimator that makes the most of each; not by a clock, so that an answer can be repeated."""
    dear = evaluations <= 2 * MOST_PAIRS and bytes_per_example(view, run.count) >= DEAR
    return (_odd_gp if dear else _kernel)(view, baselines, groups, evaluations, seed, check, run)


def _permutation(view: View, baselines: Tensors, groups: Groups, evaluations: int, seed: int, check: bool, run: Run) -> Found:
    count = groups.count
    orders = permutations(count, max(2, evaluations // max(1, count - 1)), seed)
    prefixes = (orders.argsort(1)[:, None, :] < torch.arange(1, count)[None, :, None]).flatten(0, 1)
    ends, scores = coalition_scores(view, groups, baselines, Design(len(prefixes), lambda steps: prefixes[steps]), run, "shapley")
    table = _columns(scores).unflatten(0, (len(orders), count - 1))
    start, end = (e.flatten().expand(len(orders), 1, -1) for e in (ends.there, ends.here))
    averages = shapley_of_orders(orders, torch.cat([start, table, end], 1))
    size = _by_target(averages.values, len(ends.here)).norm(dim=1)
    spread = _by_target(averages.errors, len(ends.here)).norm(dim=1) / size.clamp_min(torch.finfo(size.dtype).tiny)
    return _found(view, groups, ends, averages.values, "completeness", baselines, spread, seed)


Estimator = Callable[[View, Tensors, Groups, int, int, bool, Run], Found]
ESTIMATORS: dict[str, Estimator] = {"auto": _by_price, "kernel": _kernel, "odd_gp": _odd_gp, "permutation": _permutation}


def _columns(scores: Tensor) -> Tensor:
    """Scores `(T, m, B)` as `(m, T * B)`."""
    return scores.transpose(0, 1).flatten(1)


def _by_target(found: Tensor, targets: int) -> Tensor:
    """Numbers of groups `(n, T * B)` as `(T, n, B)`."""
    by_target: Tensor = found.unflatten(1, (targets, -1)).transpose(0, 1)
    return by_target


def _spread(halves: list[Tensor], whole: Tensor, targets: int) -> Tensor:
    one, other, both = ((_by_target(found, targets).transpose(1, 2),) for found in (*halves, whole))
    return spread_of(one, other, both)


def _found(
    view: View, groups: Groups, ends: Ends, values: Tensor, law: str, baselines: Tensors, spread: Tensor | None = None,
    seed: int | None = None
) -> Found:  # fmt: skip
    by_group = _by_target(values, len(ends.here))
    by_feature, notes = groups.spread(by_group), {"groups": by_group}
    in_dtype = tuple(v.to(x.dtype) if x.is_floating_point() else v for v, x in zip(by_feature, view.features, strict=True))
    if not groups.single:  # each feature has the number of its whole group, so features do not add up
        return Found(in_dtype, ends.here, ends.there, baselines, "", spread, seed, notes, "mean")
    return Found(in_dtype, ends.here, ends.there, baselines, law, spread, seed, notes)
