"""Explanations of batches, taken apart and put together again: what is true of a batch, and what of one example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..explanation import Check, Cost, Display, Explanation, Found, Provenance
from ..inputs import joined as in_a_row
from ..trust.health import GAP, relative_gap
from ..trust.provenance import hash_of

__all__ = ["LIMITED", "gaps", "in_order", "joined", "limit_of", "no_signal", "of_these"]

TOGETHER = ("conservation", "spread", "tolerance")  # numbers about all of them
LIMITED = ("finite", "signal", "completeness")  # checks that can be told for one example of several

GROUPS = ("attributions", "features", "baselines", "errors")
SINGLES = ("scores", "baseline_scores", "predictions", "confidences")
LISTS = ("cells", "tokens", "answers")  # of a display, what is one for each example


def of_these(found: Explanation, start: int, stop: int, size: int, targets: Sequence[str] = (), texts: bool = False) -> Explanation:
    """What was read of some examples of a block of `size`: their tensors, and words about all of them, which become words about these.

    Of texts, what only longer ones in the block needed goes.
    """
    if stop - start == size > 1:
        return found
    share, cost = (stop - start) / size, found.cost
    cost = replace(cost, forwards=round(cost.forwards * share), backwards=round(cost.backwards * share), seconds=cost.seconds * share)
    before, target = found.target, _target(list(targets[start:stop])) or found.target
    found = replace(found, cost=cost, display=_cut_display(found.display, start, stop, size), target=target)
    found = _unpadded(found) if texts else found
    found = replace(found, provenance=_source(found))
    return replace(found, health=tuple(_of_these(check, found, before, size) for check in found.health))


def _source(found: Explanation) -> Provenance:
    """Where it comes from: of the block's inputs, these."""
    return replace(found.provenance, inputs=hash_of((str(i), f) for i, f in enumerate(found.features)))


def _target(targets: list[str]) -> str:
    distinct = list(dict.fromkeys(targets))
    return distinct[0] if len(distinct) == 1 else "; ".join(targets[:8]) + ("; ..." if len(targets) > 8 else "")


def _unpadded(found: Explanation) -> Explanation:
    """Without the places at the end that all these texts leave empty."""
    displays = found.display.parts or (found.display,)
    lengths = [_length(display) for display in displays]
    if not any(used < all_of_them for used, all_of_them in lengths):
        return found
    groups: dict[str, Any] = {}
    for name in GROUPS:
        tensors = getattr(found, name)
        each = (*lengths, *[(0, 0)] * (len(tensors or ()) - len(lengths)))
        groups[name] = None if tensors is None else tuple(_first(t, *own) for t, own in zip(tensors, each, strict=False))
    shown = tuple(_shorter(display, used) for display, (used, _) in zip(displays, lengths, strict=True))
    return replace(found, **groups, display=replace(found.display, parts=shown) if found.display.parts else shown[0])


def _length(display: Display) -> tuple[int, int]:
    """Up to which place there is a token in any text, and how many places there are."""
    if display.kind != "text" or not display.tokens:
        return 0, 0
    used = max((place + 1 for tokens in display.tokens for place, token in enumerate(tokens) if token is not None), default=0)
    return used, len(display.tokens[0])


def _first(tensor: Tensor, used: int, length: int) -> Tensor:
    return tensor[:, :used].clone() if used < length and tensor.dim() > 1 and tensor.shape[1] == length else tensor


def _shorter(display: Display, used: int) -> Display:
    if display.kind != "text" or not display.tokens:
        return display
    tokens = tuple(own[:used] for own in display.tokens)
    special = tuple(word for word in display.special if any(word in own for own in tokens))
    return replace(display, tokens=tokens, names=display.names[:used], special=special)


def _cut_display(display: Display, start: int, stop: int, size: int) -> Display:
    lists = {name: own[start:stop] for name in LISTS if len(own := getattr(display, name)) == size}
    if start and display.names and len(lists.get("tokens", ())) > 0:  # they are the first text's
        lists["names"] = tuple(token or "" for token in lists["tokens"][0])
    parts = tuple(_cut_display(part, start, stop, size) for part in display.parts)
    return replace(display, **lists, parts=parts, picture=display.picture if start == 0 else None)


def _of_these(check: Check, found: Explanation, before: str, size: int) -> Check:
    """What is known of each example is looked at again; the rest was said of all that were explained together."""
    if check.name == "target" and before:
        return replace(check, message=check.message.replace(before, found.target))
    if check.name == "finite":
        bad = sum(int((~torch.isfinite(a)).sum()) for a in (*found.attributions, found.scores))
        words = "all attributions and scores are finite" if not bad else f"{bad} attributions and scores are NaN or infinite"
        return Check("finite", not bad, words, float(bad) if bad else None)
    if check.name == "signal" and not check.passed:
        zero = int((in_a_row(found.attributions, 1) == 0).all(1).sum())
        dull, size, rest = int(no_signal(found).sum()), len(found), check.message.partition(": ")[2]
        words = f"{zero} of {size} examples have attribution zero everywhere, {dull - zero} one value everywhere: {rest}"
        return replace(check, message=words) if dull else Check("signal", True, "attributions differ between features")
    if check.name == "completeness" and (own := gaps(found)) is not None:
        worst, limit = float(own.max()), limit_of(found)
        words = f"attributions add up to the change of the score within {worst:.2g} of it"
        return replace(check, passed=worst <= limit, value=worst, message=words)
    together = check.name in TOGETHER and size > len(found)
    return replace(check, message=f"{check.message} (of {size} examples that were explained together)") if together else check


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
    target, display = _target([part.target for part in parts]), _shown([part.display for part in parts])
    found = replace(first, **groups, **singles, cost=total, display=display, health=_worst(parts, target), target=target)  # type: ignore[arg-type]
    return replace(found, provenance=_source(found))


def in_order(found: Explanation, order: Sequence[int]) -> Explanation:
    """The examples in another order."""
    if list(order) == list(range(len(order))):
        return found
    rows, size = torch.tensor(order), len(order)

    def own(tensor: Tensor | None) -> Tensor | None:
        return tensor[rows.to(tensor.device)] if tensor is not None and len(tensor) == size else tensor

    groups = {name: None if (g := getattr(found, name)) is None else tuple(map(own, g)) for name in GROUPS}
    singles = {name: own(getattr(found, name)) for name in SINGLES}
    found = replace(found, **groups, **singles, display=_sorted(found.display, order))  # type: ignore[arg-type]
    return replace(found, provenance=_source(found))


def _sorted(display: Display, order: Sequence[int]) -> Display:
    lists: dict[str, Any] = {name: tuple(own[i] for i in order) for name in LISTS if len(own := getattr(display, name)) == len(order)}
    if display.names and lists.get("tokens"):
        lists["names"] = tuple(token or "" for token in lists["tokens"][0])
    return replace(display, **lists, parts=tuple(_sorted(part, order) for part in display.parts))


def _shown(displays: Sequence[Display]) -> Display:
    first = displays[0]
    lists: dict[str, Any] = {name: tuple(x for display in displays for x in getattr(display, name)) for name in LISTS}
    longest = max(map(len, lists["tokens"]), default=0)
    lists["tokens"] = tuple((*tokens, *[None] * (longest - len(tokens))) for tokens in lists["tokens"])
    if lists["tokens"] and first.names:
        lists["names"] = tuple(token or "" for token in lists["tokens"][0])
    return replace(first, **lists, parts=tuple(_shown(own) for own in zip(*(display.parts for display in displays), strict=False)))


def _worst(parts: Sequence[Explanation], target: str) -> tuple[Check, ...]:
    found: dict[str, Check] = {}
    for own, check in ((part.target, check) for part in parts for check in part.health):
        if check.name == "target" and own:
            check = replace(check, message=check.message.replace(own, target))
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
