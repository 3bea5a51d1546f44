"""TRAK: training examples as rows of a linear regression on projected gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import OutputError
from ..explanation import Check
from ..model import said, undisturbed
from ..progress import Bar
from .examples import Batch
from .projection import Projection
from .store import Rows
from .study import Scored, Study, worst

__all__ = ["trak"]


def trak(study: Study, projection: int | None = 512, damping: float | None = None) -> Scored:
    """Projected gradients of the margin, as features of a linear model; means over checkpoints, best of independent trainings.

    Source: Park et al. 2023, equation 15 (without the soft threshold).

    Args:
        projection: dimensions; None: the gradients as they are.
        damping: of the mean of the features' products; None: next to nothing.

    Raises:
        OutputError: the model returns no logits.
    """
    doubts: list[Tensor] = []
    checks: list[Check] = []
    with study.bar("trak") as bar:

        def of_one(number: int) -> Tensor:
            kernel, doubt, check = _at_checkpoint(study, Projection(projection, study.seed + number), number, damping, bar)
            doubts.append(doubt)
            checks.append(check)
            return kernel

        mean = study.mean(of_one)
    values = mean * torch.stack(doubts).mean(0)
    return Scored(values, worst(checks), "margin that the example adds", "the margin of {}")


def _at_checkpoint(study: Study, project: Projection, number: int, damping: float | None, bar: Bar) -> tuple[Tensor, Tensor, Check]:
    features = _features(study, project)
    rows = study.rows(f"features-{number}", features, bar)
    asked = torch.cat([features(batch) for batch in study.queries.on(study.model)])[:, :-1]
    kernel, check = _regressed(rows, asked, damping)
    return kernel, torch.cat([piece[:, -1].to(kernel) for piece in rows]), check


def _features(study: Study, project: Projection) -> Callable[[Batch], Tensor]:
    """`(B, dimensions + 1)` of a batch: projected gradients of the margin, and one minus the probability of the label."""
    gradients = study.gradients(_margin)

    def of_batch(batch: Batch) -> Tensor:
        rows = project.of(gradients(batch))
        with undisturbed((study.model,)), torch.no_grad():
            doubt = (-_margin(said(study.model, batch[:-1]), batch[-1])).sigmoid()
        return torch.cat([rows, doubt[:, None].to(rows)], 1)

    return of_batch


def _margin(output: Any, labels: Tensor) -> Tensor:
    """`log(p / (1 - p))` of the label."""
    if isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] > 1 and not labels.is_floating_point():
        own = output.gather(1, labels[:, None])[:, 0]
        return own - output.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    if isinstance(output, Tensor) and output.numel() == len(output) == labels.numel():
        return output.flatten() * (2 * labels.flatten().to(output) - 1)
    raise OutputError("TRAK needs logits (B, classes) with integer labels, or one logit for each example with labels 0 and 1")


def _regressed(rows: Rows, queries: Tensor, damping: float | None) -> tuple[Tensor, Check]:
    """`(C, N)`: `queries' (F'F + damping)^-1 F'`, in double precision."""
    gram, count = torch.zeros((), dtype=torch.float64, device=queries.device), 0
    for piece in rows:
        own = piece[:, :-1].to(queries).double()
        gram, count = gram + own.T @ own, count + len(own)
    size = len(gram)
    fine = damping is not None or count > size
    damping = 1e-8 * float(gram.diagonal().mean()) if damping is None else damping * count
    held = gram + damping * torch.eye(size).to(gram)
    solved = torch.linalg.solve(held, queries.double().T)
    scores = torch.cat([piece[:, :-1].to(queries).double() @ solved for piece in rows]).T
    words = f"{count} examples for {size} dimensions" + ("" if fine else "; give fewer: projection=, or damping")
    return scores.to(queries), Check("dimensions", fine, words, size / count)
