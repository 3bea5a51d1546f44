"""Health checks: each looks at one way in which an answer can be wrong, and says how that came out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..errors import IncompleteAttribution, UntrustedResult
from ..explanation import Check, Explanation, Found
from ..inputs import accurate, joined
from ..model import in_train_mode
from ..view import View

__all__ = ["GAP", "SPREAD", "concerns", "health_of", "refuse", "relative_gap"]

# A gap of 5 % of what is explained is where a reader would begin to draw other conclusions; a law that holds up to rounding
# is broken much earlier.
GAP = 0.05
MORE = "more steps or samples, or another baseline, are needed"
ESCAPED = "something escaped the rules: an autograd.Function, compiled code, threads, randomness, or numbers out of the graph"
# For each law: the gap that is too large, and what then helps.
LAWS = {"completeness": (GAP, MORE), "completeness in expectation": (GAP, MORE), "summation to delta": (1e-3, ESCAPED)}
SPREAD = 0.2


def health_of(view: View, found: Found) -> Iterator[Check]:
    """What can be checked about a result without another pass."""
    for check in CHECKS:
        result = check(view, found)
        if result is not None:
            yield result
    yield from found.checks


def concerns(view: View, found: Found) -> Iterator[Check]:
    """The checks that failed among those that make a result wrong, not only weak."""
    for check in (_finite, _mode, _completeness):
        result = check(view, found)
        if result is not None and not result.passed:
            yield result
    yield from (check for check in found.checks if not check.passed)


def _finite(view: View, found: Found) -> Check:
    bad, lost = sum(map(_not_finite, found.values)), _not_finite(found.scores)
    if bad or lost:
        return Check("finite", False, f"{bad} attributions and {lost} scores are NaN or infinite", float(bad + lost))
    return Check("finite", True, "all attributions and scores are finite")


def _not_finite(values: Tensor) -> int:
    # Nothing is NaN or infinite where the sum is neither.
    return 0 if math.isfinite(float(values.sum())) else int((~torch.isfinite(values)).sum())


def _signal(view: View, found: Found) -> Check:
    """An attribution that is zero, or the same everywhere, tells nothing apart."""
    flat = joined(found.values, 2)
    zero = (flat == 0).all(2)
    constant = (flat == flat[:, :, :1]).all(2) & ~zero if flat.shape[2] > 1 else torch.zeros_like(zero)
    if zero.any() or constant.any():
        words = f"{int(zero.sum())} of {zero.numel()} examples have attribution zero everywhere, {int(constant.sum())} one value everywhere"
        return Check("signal", False, words + ": the score does not depend on the features in a way that this method sees")
    return Check("signal", True, "attributions differ between features")


def _mode(view: View, found: Found) -> Check:
    layers = in_train_mode(view.roots)
    if not layers:
        return Check(
            "mode", True, "no dropout or batch normalisation is in train mode" if view.roots else "the model's modules are not known"
        )
    shown = ", ".join(layers[:4]) + (", ..." if len(layers) > 4 else "")
    return Check(
        "mode",
        False,
        f"the model is in train mode ({shown}): scores are random or depend on the batch; call model.eval()",
        float(len(layers)),
    )


def relative_gap(found: Found) -> Tensor | None:
    """`(T, B)`: the gap in parts of the change of the score, or of a tenth of all attributions where they cancel."""
    if found.gap is None or found.baseline_scores is None:
        return None
    change = (found.scores - found.baseline_scores).abs().to(found.gap)
    mass = joined(found.values, 2).abs().sum(2)
    return found.gap.abs() / torch.maximum(change, 0.1 * mass).clamp_min(torch.finfo(change.dtype).tiny)


def _completeness(view: View, found: Found) -> Check | None:
    relative = relative_gap(found)
    if relative is None or found.gap is None:
        return None
    worst = float(relative.max()) if torch.isfinite(relative).all() else float("nan")
    words = f"attributions add up to the change of the score within {worst:.2g} of it (worst gap {float(found.gap.abs().max()):.3g})"
    most, remedy = LAWS[found.law]
    if found.scores.dtype in (torch.float16, torch.bfloat16):
        most = GAP
    return Check("completeness", worst <= most, words if worst <= most else f"{words}: {remedy}", worst)


def _conservation(view: View, found: Found) -> Check | None:
    if found.law != "conservation":
        return None
    kept = float((joined(found.values, 2).sum() / found.scores.to(accurate(found.scores.dtype)).sum()).nan_to_num(0.0))
    words = f"the relevances add up to {kept:.3g} of the score; biases, stabilisers and softmax took (or gave) the rest"
    return Check("conservation", True, words, kept)


def _spread(view: View, found: Found) -> Check | None:
    if found.spread is None:
        said = "one sample does not tell how far another seed would move the attributions: more samples are needed"
        return None if found.seed is None else Check("spread", False, said)
    worst = float(found.spread.max())
    words = f"another seed would move the attributions by about {worst:.2g} of their size"
    return Check("spread", worst <= SPREAD, words if worst <= SPREAD else words + ": more samples are needed", worst)


def _tolerance(view: View, found: Found) -> Check | None:
    if "error" not in found.notes:
        return None
    error, tolerance = found.notes["error"], float(found.notes["tolerance"].max())
    worst, late = float(error.max()), int((error > tolerance).sum())
    words = f"the last refinement moved the attributions by {worst:.2g} of their size, in {int(found.notes['steps'].max())} steps at most"
    return Check("tolerance", late == 0, words if late == 0 else f"{words}: {late} examples did not reach {tolerance:g}", worst)


CHECKS: tuple[Callable[[View, Found], Check | None], ...] = (_finite, _signal, _mode, _completeness, _conservation, _spread, _tolerance)


def refuse(explanation: Explanation) -> None:
    """For `strict`: no explanation that failed a check, or whose target was guessed.

    Raises:
        UntrustedResult: it did; IncompleteAttribution if its numbers do not add up.
    """
    doubts = [check for check in explanation.health if not check.passed or check.guessed]
    if doubts:
        kind = IncompleteAttribution if any(check.name == "completeness" for check in doubts) else UntrustedResult
        raise kind(f"{explanation.method} with strict=True: " + "; ".join(f"{check.name}: {check.message}" for check in doubts))
