"""Values of feature groups in the game that the score is: Shapley, Banzhaf, Owen; exact where all coalitions fit, else sampled."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..batch import Ends, Run
from ..errors import OptionError
from ..explanation import Check, Found
from ..inputs import Tensors
from ..memory import bytes_per_example
from ..model import undisturbed
from ..seeds import resolve_seed
from ..view import View
from .estimators import banzhaf_of_all, interactions_of_all, shapley_of_all
from .evaluate import Design, Scorer, coalitions, floating
from .groups import Groups, few_enough, groups_of, per_feature, unions_of
from .rounds import Until, sampled
from .samplers import MOST_PAIRS, Halves, Orders, Pairs, Sampler
from .sampling import every

__all__ = ["ESTIMATORS", "EXACT_GROUPS", "banzhaf", "owen", "shapley", "shapley_interactions"]

# All coalitions of more groups than these are asked for by their number only, or, until they are good enough, never.
EXACT_GROUPS, EXACT_UNTIL = 20, 16
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
    until: Until | None = None,
) -> Found:
    """Each group's mean contribution to the score over all orders in which groups come in place of the baseline.

    All coalitions are evaluated, and the values exact, if they fit into `evaluations`; else a sample of complementary pairs.
    Laws: efficiency (they add up to `score(x) - score(baselines)`), dummy, symmetry, linearity.
    Sources: Shapley 1953; Lundberg and Lee 2017, equation 5 (KernelSHAP); Covert and Lee 2021 (pairs, efficiency solved exactly);
    Mitchell et al. 2022 (antithetic orders); `pellucid.perturb.odd_gp`.

    Args:
        baselines: what stands in for a group, of the features' shapes, or several references `(R, B, ...)` whose scores are meant.
        groups: which features belong together; by default each is alone.
        evaluations: coalitions to score, besides all and none; None: all for up to 10 groups, else 2048 and two per group.
        estimator: "kernel" (weighted least squares), "odd_gp" (a Gaussian process: the most from each evaluation, at about a
            second for each example), "permutation"; "auto" is "odd_gp" where an evaluation is dear, else "kernel".
        check: estimate standard errors (no passes).
        until: sample in rounds to this end, whatever `evaluations`; exact for up to 16 groups.

    `notes["groups"]`, `(T, groups, B)`, are the values of the groups; `errors` their standard errors, None where they are exact.

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
    run, groups, seed = run or Run(), groups or groups_of(view.features), resolve_seed(seed)
    asked = _asked(groups.count, evaluations, 2048 + 2 * groups.count, 10)
    scorer = Scorer(view, baselines, run, "shapley")
    if _fits(groups.count, asked, until):
        return _of_all(scorer, groups, shapley_of_all, "completeness")
    few_enough(groups, "shapley")
    sampler = ESTIMATORS[estimator](view, groups, asked if until is None else None, seed, check or until is not None, run)
    return _of_some(scorer, groups, sampler, until or asked, "completeness", seed)


def banzhaf(
    view: View,
    baselines: Tensors,
    groups: Groups | None = None,
    evaluations: int | None = None,
    seed: int | None = None,
    run: Run | None = None,
    until: Until | None = None,
) -> Found:
    """Each group's mean contribution over all coalitions alike; from a sample, the best additive fit to complementary pairs.

    Sources: Banzhaf 1965; Hammer and Holzman 1992 (the fit); Wang and Jia 2023 (robust to noise). Arguments as in `shapley`.

    >>> import torch; from pellucid.view import at_input
    >>> layer, x = torch.nn.Linear(3, 1), torch.randn(4, 3)
    >>> found = banzhaf(at_input(layer, x, target=0), (torch.zeros_like(x),))
    >>> torch.allclose(found.values[0][0], x * layer.weight.detach(), atol=1e-5)
    True
    """
    run, groups, seed = run or Run(), groups or groups_of(view.features), resolve_seed(seed)
    asked = _asked(groups.count, evaluations, 2048 + 2 * groups.count, 10)
    scorer = Scorer(view, baselines, run, "banzhaf")
    if _fits(groups.count, asked, until):
        return _of_all(scorer, groups, banzhaf_of_all, "")
    few_enough(groups, "banzhaf")
    return _of_some(scorer, groups, Halves(groups.count, seed), until or asked, "", seed)


def owen(
    view: View,
    baselines: Tensors,
    unions: Groups,
    groups: Groups | None = None,
    evaluations: int | None = None,
    seed: int | None = None,
    run: Run | None = None,
    until: Until | None = None,
) -> Found:
    """Shapley values of groups that join in unions: orders in which a union's groups come one after another.

    Words in sentences, pixels in objects, columns in tables: a union's values add up to its Shapley value in the game of
    unions, and to `score(x) - score(baselines)` over all.
    Source: Owen 1977, equation 5.

    Args:
        unions: groups whose ids say which union a feature belongs to; every group lies within one.
        evaluations: coalitions to score; None: all that the exact values need, up to 4096, else 2048 and two per group.

    Other arguments as in `shapley`.

    >>> import torch; from pellucid.view import at_input
    >>> together = lambda x: x[:, 0] * x[:, 1] * x[:, 2]
    >>> x, ids = torch.ones(1, 3), torch.tensor([[0, 0, 1]])
    >>> owen(at_input(together, x), (torch.zeros_like(x),), groups_of((x,), ids)).values[0].flatten().tolist()
    [0.25, 0.25, 0.5]
    """
    run, groups, seed = run or Run(), groups or groups_of(view.features), resolve_seed(seed)
    members = unions_of(groups, unions)
    scorer = Scorer(view, baselines, run, "owen")
    needed = 2.0 ** (len(members) - 1) * sum(2.0 ** len(union) for union in members)
    asked = _asked(groups.count, evaluations, 4096 if needed <= 4096 else 2048 + 2 * groups.count, 0)
    if needed <= (asked if until is None else 2**EXACT_UNTIL):
        return _owen_of_all(scorer, groups, members)
    return _of_some(scorer, groups, Orders(groups.count, seed, members), until or asked, "completeness", seed)


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
    kept, ends, scores = _every(Scorer(view, baselines, run or Run(), "shapley"), groups)
    found: Tensor = interactions_of_all(kept, scores).unflatten(2, (len(ends.here), -1)).permute(2, 3, 0, 1)
    return found


def _asked(groups: int, evaluations: int | None, usual: int, exact: int) -> int:
    if evaluations is None:
        return 2**groups if groups <= exact else usual
    if evaluations < 2 and groups > 1:
        raise OptionError(f"evaluations is {evaluations}; at least two are needed for {groups} groups")
    return evaluations


def _fits(groups: int, asked: int, until: Until | None) -> bool:
    """Whether all coalitions are evaluated."""
    if groups < 2:
        return True
    if until is not None:
        return groups <= EXACT_UNTIL and until.seconds is None
    return groups <= EXACT_GROUPS and 2**groups - 2 <= asked


def _every(scorer: Scorer, groups: Groups) -> tuple[Tensor, Ends, Tensor]:
    """All coalitions, and their scores `(2**n, T * B)`; those of none and all come with the ends."""
    if groups.count > EXACT_GROUPS:
        raise OptionError(
            f"there are {groups.count} groups, and {EXACT_GROUPS} at most for exact values (2^n coalitions); put features together with "
            "feature_mask, or sample: method='shapley', evaluations=..."
        )
    kept = every(groups.count)
    ends, scores = coalitions(scorer, groups, Design.of(kept[1:-1]))
    table = torch.cat([ends.there[:, None], scores, ends.here[:, None]], 1)
    return kept, ends, floating(table.transpose(0, 1).flatten(1))


def _of_all(scorer: Scorer, groups: Groups, estimate: Callable[[Tensor, Tensor], Tensor], law: str) -> Found:
    kept, ends, scores = _every(scorer, groups)
    return _found(scorer, groups, ends, estimate(kept, scores), None, law, scorer.checks)


def _of_some(scorer: Scorer, groups: Groups, sampler: Sampler, until: int | Until, law: str, seed: int) -> Found:
    ends, averages, checks = sampled(scorer, groups, sampler, until)
    known = bool(averages.errors.isfinite().any())
    return _found(scorer, groups, ends, averages.values, averages.errors if known else None, law, checks, seed)


def _owen_of_all(scorer: Scorer, groups: Groups, members: list[list[int]]) -> Found:
    """Within a union, Shapley values of its game in the mean company of the other unions."""
    blocks = [_company(groups.count, members, own) for own in range(len(members))]
    kept, where = torch.unique(torch.cat(blocks), dim=0, return_inverse=True)
    ends, scores = coalitions(scorer, groups, Design.of(kept))
    scores = floating(scores)
    table = scores.transpose(0, 1).flatten(1).double()[where.to(scores.device)]
    values = table.new_zeros(groups.count, table.shape[1])
    sizes = every(len(members) - 1).sum(1).tolist()
    shares = torch.tensor([1 / (len(members) * math.comb(len(members) - 1, size)) for size in sizes]).to(table)
    for union, part in zip(members, table.split([len(block) for block in blocks]), strict=True):
        game = torch.einsum("q,qtk->tk", shares, part.unflatten(0, (len(shares), -1)))
        values[union] = shapley_of_all(every(len(union)), game)
    return _found(scorer, groups, ends, values.to(scores.dtype), None, "completeness", scorer.checks)


def _company(groups: int, members: list[list[int]], own: int) -> Tensor:
    """Every coalition of the other unions with every coalition of the own one's groups."""
    others = [union for number, union in enumerate(members) if number != own]
    whole = torch.zeros(2 ** len(others), groups, dtype=torch.bool)
    for column, union in zip(every(len(others)).T, others, strict=True):
        whole[:, union] = column[:, None]
    parts = torch.zeros(2 ** len(members[own]), groups, dtype=torch.bool)
    parts[:, members[own]] = every(len(members[own]))
    return (whole[:, None] | parts).flatten(0, 1)


def _by_price(view: View, groups: Groups, evaluations: int | None, seed: int, check: bool, run: Run) -> Sampler:
    """Where an evaluation is dear, the estimator that makes the most of each; not by a clock, so that an answer can be repeated."""
    few = evaluations is None or evaluations <= 2 * MOST_PAIRS
    with undisturbed(view.roots):
        return Pairs(groups.count, seed, few and bytes_per_example(view, run.count) >= DEAR, check)


# (view, groups, coalitions if they are known, seed, whether errors are wanted, run) -> what samples
Estimator = Callable[[View, Groups, int | None, int, bool, Run], Sampler]
ESTIMATORS: dict[str, Estimator] = {
    "auto": _by_price,
    "kernel": lambda view, groups, evaluations, seed, check, run: Pairs(groups.count, seed, False, check),
    "odd_gp": lambda view, groups, evaluations, seed, check, run: Pairs(groups.count, seed, True, check),
    "permutation": lambda view, groups, evaluations, seed, check, run: Orders(groups.count, seed),
}


def _found(
    scorer: Scorer, groups: Groups, ends: Ends, values: Tensor, errors: Tensor | None, law: str, checks: tuple[Check, ...],
    seed: int | None = None
) -> Found:  # fmt: skip
    by_group = _by_target(values, ends)
    wrong = None if errors is None else _by_target(errors, ends)
    # Each feature has the number of its whole group: features of a group together do not add up.
    return Found(
        per_feature(groups, by_group, scorer.view.features),
        ends.here,
        ends.there,
        scorer.baselines,
        law if groups.single else "",
        None if wrong is None else _relative(wrong.norm(dim=1), by_group.norm(dim=1)),
        seed,
        {"groups": by_group},
        "sum" if groups.single else "mean",
        checks,
        None if wrong is None else per_feature(groups, wrong, scorer.view.features),
    )


def _by_target(found: Tensor, ends: Ends) -> Tensor:
    """Numbers of groups `(n, T * B)` as `(T, n, B)`."""
    by_target: Tensor = found.unflatten(1, (len(ends.here), -1)).transpose(0, 1)
    return by_target


def _relative(error: Tensor, size: Tensor) -> Tensor:
    return torch.where(error > 0, error / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0)
