"""Whether an answer depends on what the model has learned: how like itself it stays while layers are drawn anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import OptionError
from ..inputs import Tensors
from ..metrics.randomisation import cascade
from .jobs import Ticket
from .questions import Answer, Question, References, aimed_at, ask
from .subject import Ready, Subject
from .told import finite_or_none

__all__ = ["dependence"]


def dependence(subject: Subject, ready: Ready, answer: Answer, ticket: Ticket, references: References) -> dict[str, Any]:
    """The rank correlation of the answer with those of the model, more and more of which is random (Adebayo et al. 2018).

    From the output on, stage by stage; `layers` names them, `similarities` has one more in front, of the model as it is.

    Raises:
        OptionError: the model is no module. InputError: it has no parameters.
    """
    if not isinstance(subject.model, nn.Module):
        raise OptionError(f"{subject.name} is a function; only a torch module's parameters can be drawn anew: give the module")
    question = _fixed(subject, ready, answer, ticket)

    def explained(net: nn.Module) -> Tensors:
        ticket.used = 0.0  # each explanation has the time of a request
        return ask(replace(subject, model=net), ready, question, ticket, references).explanation.attributions

    found = cascade(subject.model, explained, seed=question.seed, layers=_stages(subject.model))
    return {"layers": list(found.layers), "similarities": [finite_or_none(v) for v in found.similarities[:, 0].tolist()]}


def _fixed(subject: Subject, ready: Ready, answer: Answer, ticket: Ticket) -> Question:
    """The same question about the class that was explained: a random model predicts another."""
    question, single = aimed_at(subject, ready, answer.question, ticket)
    predictions = answer.explanation.predictions
    if single or question.target is not None or predictions is None:
        return question
    return replace(question, target=int(predictions[0]))


def _stages(model: nn.Module) -> list[str] | None:
    """The largest parts that follow each other; None: every layer."""
    name, children = "", [*model.named_children()]
    while len(children) == 1:
        name = f"{name}{children[0][0]}."
        children = [*children[0][1].named_children()]
    stages = [name + own for own, child in children if any(True for _ in child.parameters())]
    return stages if len(stages) > 1 else None
