"""How faithful an answer is: what becomes of the score while the important parts are taken away, or are all that is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..batch import Run
from ..metrics import curve, ranked
from ..view import at_input
from .jobs import Ticket
from .questions import Answer, Watched, aimed_at, target_of
from .subject import Ready, Subject
from .told import finite_or_none

__all__ = ["STEPS", "curves"]

STEPS = 10


def curves(subject: Subject, ready: Ready, answer: Answer, ticket: Ticket) -> dict[str, Any]:
    """How the score falls when what was called important is taken away, and rises when it is shown (Petsiuk et al. 2018).

    From the whole example to nothing of it, and back; `shares` of its places, and the means under the curves.
    """
    question, sample = answer.question, ready.sample
    question, single = aimed_at(subject, ready, question, ticket)
    classes = (single or answer.explanation.predictions is not None) and question.versus is None
    if classes and question.target is None:
        question = replace(question, target=int(answer.explanation.predictions[0]))  # type: ignore[index]
    question = replace(question, probability=question.probability or classes)
    aim = target_of(subject, question, single or question.probability)
    view = at_input(Watched(subject.model, ticket), sample.inputs, aim, kwargs=sample.keywords)
    places = tuple(_by_place(a, part.kind) for a, part in zip(answer.explanation.attributions, ready.parts, strict=True))
    fill = sample.baselines if sample.baselines is not None else tuple(torch.zeros_like(x) for x in sample.inputs)
    size = sum(p[0].numel() for p in places)
    counts = sorted({round(size * step / STEPS) for step in range(STEPS + 1)})
    shares = torch.tensor(counts, dtype=torch.float64) / size
    found = {
        name: curve(view, ranked(view.features, places, steps), fill, name == "insertion", Run(progress=False)).scores[0].double().cpu()
        for name, steps in (("deletion", counts[1:]), ("insertion", counts[:-1]))
    }
    told: dict[str, Any] = {name: [finite_or_none(v) for v in scores.tolist()] for name, scores in found.items()}
    means = {name: finite_or_none(float(torch.trapezoid(scores, shares))) for name, scores in found.items()}
    return told | {"shares": shares.tolist(), "probability": classes, "means": means}


def _by_place(attribution: Tensor, kind: str) -> Tensor:
    """A pixel with all its colours, a token with its embedding, as one."""
    axis = {"image": 1, "text": 2}.get(kind)
    return attribution.sum(axis, keepdim=True) if axis is not None and attribution.dim() > 2 else attribution
