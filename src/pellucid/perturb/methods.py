"""Perturbation methods, each a choice of groups, fill, design and estimator."""

from __future__ import annotations

from ..batch import Run
from ..explanation import Found
from ..inputs import Tensors
from ..view import View
from .evaluate import coalition_scores, leave_one_out
from .groups import Groups, groups_of

__all__ = ["feature_ablation"]


def feature_ablation(view: View, baselines: Tensors, groups: Groups | None = None, run: Run | None = None) -> Found:
    """How much the score falls when a group of features is replaced by its baseline: `score(x) - score(x without it)`.

    Needs no gradients, so integer features are welcome. Every feature gets the number of its whole group.
    Source: Zeiler and Fergus 2014, section 4.2 (as occlusion); Kokhlikyan et al. 2020 for groups.

    Args:
        baselines: what replaces a feature, of the features' shapes.
        groups: which features are replaced together; by default each is alone.

    A model with one score for the whole batch gives attributions for the batch, `(T, 1, ...)`.

    >>> import torch; from pellucid.view import at_input
    >>> layer, x = torch.nn.Linear(3, 1), torch.randn(4, 3)
    >>> found = feature_ablation(at_input(layer, x, target=0), (torch.zeros_like(x),))
    >>> torch.allclose(found.values[0][0], x * layer.weight.detach(), atol=1e-6)
    True
    """
    run, groups = run or Run(), groups or groups_of(view.features)
    ends, without = coalition_scores(view, groups, baselines, leave_one_out(groups.count), run, "feature ablation")
    falls = groups.spread(ends.here[:, None] - without)
    values = tuple(f.to(x.dtype) if x.is_floating_point() else f for f, x in zip(falls, view.features, strict=True))
    return Found(values, ends.here, ends.there, baselines, pooling="sum" if groups.single else "mean")
