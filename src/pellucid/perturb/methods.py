"""Perturbation methods, each a choice of groups, fill, design and estimator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..batch import Ends, Run
from ..explanation import Check, Found
from ..inputs import Tensors, accurate
from ..model import undisturbed
from ..seeds import resolve_seed
from ..view import InputView, View
from .evaluate import Scorer, coalitions, leave_one_out
from .first import LEAST, one_at_a_time
from .groups import Groups, groups_of, per_feature
from .incremental import pays, window_scores
from .windows import Window

__all__ = ["feature_ablation", "feature_permutation", "occlusion", "shuffled"]

# (one input of the whole batch, a mask of the features to permute) -> the input with these permuted between examples
Permute = Callable[[Tensor, Tensor], Tensor]


def feature_ablation(view: View, baselines: Tensors, groups: Groups | None = None, run: Run | None = None) -> Found:
    """How much the score falls when a group of features is replaced by its baseline: `score(x) - score(x without it)`.

    Needs no gradients, so integer features are welcome. Every feature gets the number of its whole group.
    Source: Zeiler and Fergus 2014, section 4.2 (as occlusion); Kokhlikyan et al. 2020 for groups.

    Args:
        baselines: what replaces a feature, of the features' shapes; or several references `(R, B, ...)`, over which scores are meant.
        groups: which features are replaced together; by default each is alone.

    A model with one score for the whole batch gives attributions for the batch, `(T, 1, ...)`.

    >>> import torch; from pellucid.view import at_input
    >>> layer, x = torch.nn.Linear(3, 1), torch.randn(4, 3)
    >>> found = feature_ablation(at_input(layer, x, target=0), (torch.zeros_like(x),))
    >>> torch.allclose(found.values[0][0], x * layer.weight.detach(), atol=1e-6)
    True
    """
    groups = groups or groups_of(view.features)
    run = run or Run()
    scorer = Scorer(view, baselines, run, "feature ablation")
    ends, without = _by_columns(scorer, groups) or coalitions(scorer, groups, leave_one_out(groups.count))
    values = per_feature(groups, ends.here[:, None] - without, view.features)
    return Found(values, ends.here, ends.there, scorer.baselines, pooling="sum" if groups.single else "mean", checks=scorer.checks)


def _by_columns(scorer: Scorer, groups: Groups) -> tuple[Ends, Tensor] | None:
    """The ends and scores of features by themselves, where the model begins with a linear layer that is large enough to care."""
    if not groups.single or scorer.baselines is None or groups.count < LEAST:
        return None
    ends = scorer.run.settle(scorer.view, scorer.baselines)
    scores = one_at_a_time(ends.view, scorer.baselines, scorer.run, scorer.label)
    scorer.ends = ends
    return None if scores is None else (ends, scores)


def shuffled(values: Tensor, mask: Tensor) -> Tensor:
    """The masked features in a random other order of the examples."""
    usual = torch.arange(len(values))
    order = torch.randperm(len(values))
    while len(values) > 1 and torch.equal(order, usual):
        order = torch.randperm(len(values))
    return torch.where(mask, values[order.to(values.device)], values)


def feature_permutation(
    view: View, groups: Groups | None = None, permute: Permute = shuffled, seed: int | None = None, run: Run | None = None
) -> Found:
    """How much the score falls when a group of features is permuted between the examples of the batch.

    Source: Breiman 2001, section 10; Fisher, Rudin, Dominici 2019, with scores instead of a loss. Needs several examples: one
    cannot be permuted, and gets zeros.

    Args:
        permute: what makes the permuted input from an input of the whole batch and a mask; a random order by default, which
            follows from `seed`, another for each group.

    >>> import torch; from pellucid.view import at_input
    >>> layer, x = torch.nn.Linear(3, 1), torch.randn(4, 3)
    >>> feature_permutation(at_input(layer, x, target=0), seed=0).values[0].shape
    torch.Size([1, 4, 3])
    """
    run, groups, seed = run or Run(), groups or groups_of(view.features), resolve_seed(seed)

    def permuted(step: int) -> Tensors:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + step)
            masks = [i == step for i in groups.ids]
            return tuple(permute(x, mask) if mask.any() else x for x, mask in zip(view.features, masks, strict=True))

    def points(examples: slice, steps: slice) -> Tensors:
        found = [permuted(step) for step in range(steps.start, steps.stop)]
        return tuple(torch.stack([x[examples] for x in parts]) for parts in zip(*found, strict=True))

    blank = tuple(x.flip(0) for x in view.features)
    ends, scores = run.contrast(view, blank, groups.count, points, "feature permutation")
    values = per_feature(groups, ends.here[:, None] - scores, view.features)
    return Found(values, ends.here, seed=None if permute is not shuffled else seed, pooling="sum" if groups.single else "mean")


def occlusion(view: View, baselines: Tensors, windows: Sequence[Window], run: Run | None = None) -> Found:
    """How much the score falls when a window is hidden, averaged over the windows that cover a feature.

    Source: Zeiler and Fergus 2014, section 4.2.

    Args:
        baselines: what a window shows instead, of the features' shapes or several `(R, B, ...)`.
        windows: see `pellucid.perturb.windows_of`.

    >>> import torch; from pellucid.view import at_input; from pellucid.perturb import windows_of
    >>> layer, x = torch.nn.Linear(4, 1), torch.randn(2, 4)
    >>> found = occlusion(at_input(layer, x, target=0), (torch.zeros_like(x),), windows_of((x,), (2,), 1))
    >>> found.values[0].shape
    torch.Size([1, 2, 4])
    """
    run = run or Run()
    scorer = Scorer(view, baselines, run, "occlusion")

    def points(examples: slice, numbers: Tensor, fill: Tensors) -> Tensors:
        found = tuple(x[examples].expand(len(numbers), *x[examples].shape).clone() for x in view.features)
        for row, number in enumerate(numbers.tolist()):
            window = windows[number]
            box = (slice(None), *window.box)
            found[window.input][row][box] = fill[window.input][row if scorer.several > 1 else 0][box]
        return found

    parts = None if scorer.baselines is None else _by_parts(view, scorer.baselines, windows, run)
    if parts is None:
        ends, scores = scorer.scores(len(windows), points, lambda number: f"with {windows[number].words} hidden")
    else:
        ends, scores = run.settle(view, baselines), parts
    falls = ends.here[:, None] - scores
    falls = falls.to(accurate(falls.dtype)) if falls.is_floating_point() else falls
    totals = [falls.new_zeros(len(falls), falls.shape[2], *x.shape[1:]) for x in view.features]
    covered = [torch.zeros(x.shape[1:], dtype=torch.float32, device=falls.device) for x in view.features]
    for k, window in enumerate(windows):
        box = totals[window.input][(slice(None), slice(None), *window.box)]
        box += falls[:, k].view(*falls[:, k].shape, *(1,) * len(window.box))
        covered[window.input][window.box] += 1
    values = tuple(
        (t / c).to(x.dtype if x.is_floating_point() else t.dtype) for t, c, x in zip(totals, covered, view.features, strict=True)
    )
    single = all(b.stop - b.start == 1 for window in windows for b in window.box)
    checks = scorer.checks if parts is None else (PARTS,)
    return Found(values, ends.here, ends.there, scorer.baselines, pooling="sum" if single else "mean", checks=checks)


PARTS = Check("incremental", True, "windows were computed only where they change a feature map, and one of them in full, to compare")
LEAST_PLACES, LEAST_WINDOWS = 64 * 64, 16


def _by_parts(view: View, baselines: Tensors, windows: Sequence[Window], run: Run) -> Tensor | None:
    """The scores `(T, windows, B)` by incremental inference, where that is possible and pays."""
    image = view.features[0]
    whole = slice(0, image.shape[1])
    if not isinstance(view, InputView) or run.at_most is not None or image.dim() != 4 or len(windows) < LEAST_WINDOWS:
        return None
    if image[0, 0].numel() < LEAST_PLACES or any(window.input or window.box[0] != whole for window in windows):
        return None
    starts = torch.tensor([[b.start for b in window.box[1:]] for window in windows])
    size = tuple(max(b.stop - b.start for b in boxes) for boxes in zip(*(window.box[1:] for window in windows), strict=True))
    with undisturbed(view.roots):
        if not pays(view.some([0]), starts, (size[0], size[1])):
            return None
        found = []
        for i in range(view.size):
            scores = window_scores(view.some([i]), baselines[0][i : i + 1], starts, (size[0], size[1]))
            if scores is None:
                return None
            found.append(scores)
    run.forwards += len(windows) * view.size  # in parts
    return torch.stack(found, 2)
