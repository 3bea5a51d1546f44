"""The influence methods by name: from a study to a score for every query and training example."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from ..errors import FileError, OptionError
from ..explanation import Check
from ..hooks import watch
from ..model import said, undisturbed
from ..progress import Bar
from .curvature import CHUNK
from .ek_fac import ek_fac
from .examples import Batch, size_of
from .inverse import ConjugateGradient, Inverse, Lissa, arnoldi, dense
from .layout import Weights
from .neighbours import LIKENESSES
from .representer import features_of, representer
from .study import Scored, Study, worst
from .tracin import tracin
from .trak import trak

__all__ = ["INFLUENCES"]


Method = Callable[..., Scored]


def _tracin(study: Study) -> Scored:
    """Inner products of gradients at checkpoints, times learning rates (Pruthi et al. 2020)."""
    return _stepped(study, study.layers)


def _tracin_last(study: Study, layer: nn.Module | str | None = None) -> Scored:
    """The same with the gradients of one layer, by default the last linear one."""
    return _stepped(study, [study.layer(layer)])


def _stepped(study: Study, layers: Sequence[nn.Module] | None) -> Scored:
    values = tracin(
        study.checkpoints, study.train, study.queries, study.loss, study.query_loss, layers,
        progress=study.progress, store=study.store, memory=study.memory,
    )  # fmt: skip
    return Scored(values, (), "loss taken away by a step on the example")


def _exact(study: Study, damping: float = 0.0, curvature: str = "hessian", tolerance: float = 0.0) -> Scored:
    """By the whole Hessian of the training loss, for a few thousand parameters (Koh and Liang 2017)."""
    size = study.curvature(curvature).layout.size
    if size**2 * 8 > 4 * study.memory:
        raise OptionError(
            f"the Hessian of {size:,} parameters takes {size**2 * 8 / 2**30:.1f} GiB; choose layers=, or another method: "
            "'conjugate_gradient', 'arnoldi', 'ek_fac'"
        )
    return _curved(study, -(-size // CHUNK), lambda bar: dense(study.curvature(curvature), _all(study, damping), tolerance, None, bar))


def _conjugate_gradient(
    study: Study, damping: float = 0.01, curvature: str = "gauss_newton", tolerance: float = 1e-3, steps: int = 100
) -> Scored:
    """By solving with products of the Hessian or Gauss-Newton matrix (Martens 2010)."""
    return _curved(
        study, steps * _times(study), lambda bar: ConjugateGradient(study.curvature(curvature), _all(study, damping), tolerance, steps, bar)
    )


def _lissa(study: Study, damping: float = 0.01, curvature: str = "gauss_newton", depth: int = 1000, scale: float | None = None) -> Scored:
    """By a series of products with the matrix of one batch each (Agarwal et al. 2017)."""
    passes = (depth * study.train.largest / max(1, len(study.train)) + 1) * _times(study)
    return _curved(study, passes, lambda bar: Lissa(study.curvature(curvature), _all(study, damping), depth, scale, study.seed, bar))


def _arnoldi(
    study: Study,
    damping: float = 0.0,
    curvature: str = "hessian",
    steps: int = 200,
    dimensions: int | None = 50,
    start_tolerance: float = 1e-3,
    tolerance: float = 1e-4,
) -> Scored:
    """By the largest eigenvalues, found in a Krylov space (Schioppa et al. 2022)."""
    return _curved(
        study,
        steps,
        lambda bar: arnoldi(
            study.curvature(curvature), _all(study, damping), steps, dimensions, start_tolerance, tolerance, study.seed, True, bar
        ),
    )


def _ek_fac(study: Study, damping: float | None = None, draws: int | None = None) -> Scored:
    """By the Fisher matrix of each layer, in Kronecker-factored eigenvectors (George et al. 2018, Grosse et al. 2023)."""
    own = None if damping is None else _all(study, damping)
    return _curved(study, 2, lambda bar: ek_fac(study.curvature("gauss_newton"), own, draws, study.seed, bar))


def _all(study: Study, damping: float) -> float:
    """Of the summed loss, from that of the mean loss."""
    if damping < 0:
        raise OptionError(f"damping is {damping}; it must not be negative")
    return damping * sum(map(size_of, study.train))


def _times(study: Study) -> int:
    """How often systems are solved: once for each batch of queries."""
    return sum(1 for _ in study.queries)


def _curved(study: Study, passes: float, make: Callable[[Bar], Inverse]) -> Scored:
    """What leaving out an example would add to the loss of a query, to first order; the mean over checkpoints."""
    found: list[Check] = []
    with study.bar("influence", passes + 1) as bar:

        def of_one(number: int) -> Tensor:
            solved, told = study.store.tensor(f"solved-{number}", lambda: _solved(study, make(bar)))
            values, words = _along(study, solved, f"scores-{number}", bar), json.loads(told)
            if words["examples"] != study.train.digest:
                raise FileError("the store holds vectors that were solved with other training examples; give the same, or another folder")
            found.extend(Check(**check) for check in words["checks"])
            return values

        values = study.mean(of_one)
    return Scored(values, worst(found), "loss that leaving the example out would add")


def _solved(study: Study, inverse: Inverse) -> tuple[Tensor, str]:
    """`(C, parameters)`: the gradients of the queries, times the inverse; and what was noticed, and of which examples, as JSON."""
    layout, found, of_batch = study.curvature("hessian").layout, [], study.gradients(study.query_loss)
    checks: list[Check] = []
    for batch in study.queries.on(study.model):
        solved, noticed = inverse.times(of_batch(batch).flat(layout))
        found.append(solved)
        checks.extend(noticed)
    words = {"checks": [asdict(check) for check in worst(checks)], "examples": study.train.digest}
    return torch.cat(found), json.dumps(words)


def _along(study: Study, solved: Tensor, name: str, bar: Bar) -> Tensor:
    """`(C, N)`: as many queries at a time as memory allows, each time with a pass over the training examples."""
    layout, found = study.curvature("hessian").layout, []
    together = max(1, study.memory // (2 * solved[0].nbytes))
    for first in range(0, len(solved), together):
        vectors = solved[first : first + together].to(next(study.model.parameters()).device)
        found.append(study.rows(f"{name}-{first}-{first + len(vectors)}", _against(study, Weights(vectors, layout)), bar).joined().T)
    return torch.cat(found)


def _against(study: Study, weights: Weights) -> Callable[[Batch], Tensor]:
    of_batch = study.gradients()
    return lambda batch: of_batch(batch).times(weights)


def _representer(study: Study, layer: nn.Module | str | None = None, penalty: float = 1e-3, steps: int = 1000) -> Scored:
    """The parts of a query's logit that training examples give, at the last layer fitted with a penalty (Yeh et al. 2018)."""
    last = study.layer(layer)
    if not isinstance(last, nn.Linear):
        raise OptionError(f"layer is {type(last).__name__}; representer points need the last nn.Linear")
    checks: list[Check] = []

    def of_one(_: int) -> Tensor:
        found = representer(study.model, last, study.train, study.loss, penalty, steps)
        checks.extend(found.checks)
        asked = [(features_of(study.model, last, batch[:-1])[0].double(), batch[-1]) for batch in study.queries.on(study.model)]
        return torch.cat([found.scores(points, labels) for points, labels in asked])

    return Scored(study.mean(of_one), worst(checks), "part of the logit", "the logit of {}")


def _similarity(study: Study, layer: nn.Module | str | None = None, likeness: str = "cosine") -> Scored:
    """How like the activations at a layer are; by default what the last linear layer receives."""
    if likeness not in LIKENESSES:
        raise OptionError(f"likeness is {likeness!r}; choose one of {', '.join(map(repr, LIKENESSES))}")
    compare = LIKENESSES[likeness]
    with study.bar("similarity") as bar:

        def of_one(number: int) -> Tensor:
            asked = torch.cat([_activations(study, layer, batch) for batch in study.queries.on(study.model)])
            return study.rows(f"scores-{number}", lambda batch: compare(_activations(study, layer, batch), asked), bar).joined().T

        values = study.mean(of_one)
    return Scored(values, (), f"{likeness.replace('_', ' ')} of activations", "what the layer holds", ("most like it",))


def _activations(study: Study, layer: nn.Module | str | None, batch: Batch) -> Tensor:
    chosen = study.layer(layer)
    if layer is None:
        return features_of(study.model, chosen, batch[:-1])[0].flatten(1)
    with undisturbed((study.model,)), torch.no_grad(), watch([chosen]) as seen:
        said(study.model, batch[:-1])
    if not seen[0] or not seen[0][0]:
        raise OptionError(f"layer {layer!r} does not run, or returns no tensor; choose another")
    return seen[0][0][0].flatten(1)


INFLUENCES: Mapping[str, Method] = {
    "tracin": _tracin,
    "tracin_last": _tracin_last,
    "exact": _exact,
    "conjugate_gradient": _conjugate_gradient,
    "lissa": _lissa,
    "arnoldi": _arnoldi,
    "ek_fac": _ek_fac,
    "trak": trak,
    "representer": _representer,
    "similarity": _similarity,
}
