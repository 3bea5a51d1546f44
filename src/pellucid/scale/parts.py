"""Explanations of batches, taken apart and put together again: what is true of a batch, and what of one example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..explanation import Check, Cost, Display, Explanation, Found
from ..inputs import joined as in_a_row
from ..target import resolve
from ..trust.health import GAP, relative_gap

__all__ = ["LIMITED", "gaps", "joined", "limit_of", "no_signal", "of_these"]

LIMITED = ("finite", "signal", "completeness")  # checks that can be told for one example of several

GROUPS = ("attributions", "features", "baselines", "errors")
SINGLES = ("scores", "baseline_scores", "predictions", "confidences")
LISTS = ("cells", "tokens", "answers")  # of a display, what is one for each example


def of_these(found: Explanation, start: int, stop: int, size: int) -> Explanation:
    """What was read of some examples of a block of `size`: their tensors, and words about all of them, which become words about these."""
    if stop - start == size:
        return found
    share, cost = (stop - start) / size, found.cost
    cost = replace(cost, forwards=round(cost.forwards * share), backwards=round(cost.backwards * share), seconds=cost.seconds * share)
    found = replace(found, cost=cost, display=_cut_display(found.display, start, stop, size))
    return replace(found, health=tuple(_of_these(check, found) for check in found.health), target=_target(found))


def _cut_display(display: Display, start: int, stop: int, size: int) -> Display:
    lists = {name: own[start:stop] for name in LISTS if len(own := getattr(display, name)) == size}
    parts = tuple(_cut_display(part, start, stop, size) for part in display.parts)
    return replace(display, **lists, parts=parts, picture=display.picture if start == 0 else None)


def _of_these(check: Check, found: Explanation) -> Check:
    """What is known of each example is looked at again; the rest was said of all that were explained together."""
    if check.name == "finite":
        bad = sum(int((~torch.isfinite(a)).sum()) for a in (*found.attributions, found.scores))
        words = "all attributions and scores are finite" if not bad else f"{bad} attributions and scores are NaN or infinite"
        return Check("finite", not bad, words, float(bad) if bad else None)
    if check.name == "signal" and not check.passed:
        dull = int(no_signal(found).sum())
        return check if dull else Check("signal", True, "attributions differ between features")
    if check.name == "completeness" and (own := gaps(found)) is not None:
        worst, limit = float(own.max()), limit_of(found)
        words = f"attributions add up to the change of the score within {worst:.2g} of it"
        return replace(check, passed=worst <= limit, value=worst, message=words)
    return check


def no_signal(explanation: Explanation) -> Tensor:
    """`(B,)`: where an attribution is zero, or the same everywhere."""
    flat = in_a_row(explanation.attributions, 1)
    same = (flat == flat[:, :1]).all(1)
    return same if flat.shape[1] > 1 else (flat == 0).all(1)


def gaps(explanation: Explanation) -> Tensor | None:
    """`(B,)`: of each example, how far attributions are from adding up, in parts of what they explain; None without that law."""
    if explanation.check("completeness") is None or explanation.baseline_scores is None:
        return None
    if len(explanation.scores) != len(explanation):
        return None
    found = Found(
        tuple(a[None] for a in explanation.attributions), explanation.scores[None], explanation.baseline_scores[None], law="completeness"
    )
    relative = relative_gap(found)
    return None if relative is None else relative[0].double()


def limit_of(explanation: Explanation) -> float:
    """The gap that is too large."""
    half = explanation.scores.dtype in (torch.float16, torch.bfloat16)
    return 1e-3 if explanation.method in ("deeplift", "deeplift_shap") and not half else GAP


def _target(found: Explanation) -> str:
    """Of one example with a class of its own, that class."""
    check = found.check("target")
    if len(found) == 1 and check is not None and check.guessed and found.predictions is not None:
        return str(resolve(int(found.predictions[0]), 1, found.display.classes))
    return found.target


def joined(parts: Sequence[Explanation]) -> Explanation:
    """Explanations of one question about other examples, as one; shorter texts are filled with zeros."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    groups = {name: _groups([getattr(part, name) for part in parts]) for name in GROUPS}
    singles = {name: _singles([getattr(part, name) for part in parts]) for name in SINGLES}
    costs = [part.cost for part in parts]
    total = Cost(
        sum(cost.forwards for cost in costs),
        sum(cost.backwards for cost in costs),
        sum(cost.calls for cost in costs),
        sum(cost.seconds for cost in costs),
        max(cost.peak_memory for cost in costs),
        first.cost.tuned,
    )
    lists = {name: tuple(x for part in parts for x in getattr(part.display, name)) for name in LISTS}
    targets = list(dict.fromkeys(part.target for part in parts))
    target = targets[0] if len(targets) == 1 else f"{targets[0]}; ..."
    return replace(first, **groups, **singles, cost=total, display=replace(first.display, **lists), health=_worst(parts), target=target)  # type: ignore[arg-type]


def _worst(parts: Sequence[Explanation]) -> tuple[Check, ...]:
    found: dict[str, Check] = {}
    for check in (check for part in parts for check in part.health):
        known = found.get(check.name)
        worse = known is not None and known.passed == check.passed and (check.value or 0) > (known.value or 0)
        if known is None or (known.passed and not check.passed) or worse:
            found[check.name] = check
    return tuple(found.values())


def _groups(each: Sequence[tuple[Tensor, ...] | None]) -> tuple[Tensor, ...] | None:
    known = [own for own in each if own is not None]
    return tuple(_cat(list(own)) for own in zip(*known, strict=True)) if len(known) == len(each) else None


def _singles(each: Sequence[Tensor | None]) -> Tensor | None:
    known = [own for own in each if own is not None]
    return _cat(known) if len(known) == len(each) else None


def _cat(tensors: list[Tensor]) -> Tensor:
    shapes = {tuple(t.shape[1:]) for t in tensors}
    if len(shapes) > 1:
        largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        tensors = [
            F.pad(t, [x for size, own in zip(reversed(largest), reversed(t.shape[1:]), strict=True) for x in (0, size - own)])
            for t in tensors
        ]
    return torch.cat(tensors)
