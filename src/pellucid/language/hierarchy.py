"""From coarse to fine: what passages an answer rests on, which of their sentences, which of their words, within a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..batch import Run
from ..errors import InputError, OptionError
from ..trust import refuse
from .asking import Text, posed
from .growth import Growth, Scores, Without
from .orders import Orders
from .prompt import Prompt
from .result import LOG_PROBABILITY, PROBABILITY
from .tree import Hierarchy
from .units import groupings, parts_of, prompt_of

__all__ = ["explain_hierarchy"]

GROWN: dict[str, type[Growth]] = {"owen": Orders, "feature_ablation": Without}
MEASURES = {"log_prob": LOG_PROBABILITY, "prob": PROBABILITY}


def explain_hierarchy(
    model: Callable[..., Any],
    tokenizer: Any,
    prompt: Any,
    answer: Text | None = None,
    *,
    levels: Sequence[str] | Mapping[str, Sequence[int]] | None = None,
    method: str = "owen",
    evaluations: int = 256,
    orders: int | None = None,
    least: float = 0.01,
    against: Text | None = None,
    scale: str = "log_prob",
    stand_in: Any = None,
    roles: Sequence[str] | None = None,
    generation: Mapping[str, Any] | None = None,
    shared: bool = True,
    seed: int | None = None,
    strict: bool = False,
    at_most: int | None = None,
    progress: bool | None = None,
) -> Hierarchy:
    """Attribute an answer to the pieces of a prompt, and look inside those that matter most, as long as the budget lasts.

    `owen`: orders of the finest units are drawn in which the units of a piece come one after another, at every level; each order is
    followed by its reverse. A piece's value is the mean of what it adds to the score when it comes. Looking inside a piece evaluates
    the steps between, in the same company.
    Law: in every order the parts of a piece add up to the piece, so the values do, exactly, at every level, and those of the whole prompt
    to score(prompt) - score(without all units). Their means over all orders are Owen's values for one level of pieces (Owen 1977) and
    Winter's for several (Winter 1989).

    `feature_ablation`: a piece's value is the fall of the score without it. One evaluation for each piece, and no law: the parts of a
    piece need not add up to it. Search from coarse to fine: Liu et al. 2024 (AttriBoT).

    What cancels within a piece stays hidden until somebody looks inside.

    Args:
        model, tokenizer, answer, against, scale, stand_in, roles, generation, shared, seed, strict, at_most, progress: as in
            `explain_generation`.
        prompt: a text, several texts, messages; with `levels` as a mapping also token ids or a `Prompt`.
        levels: from coarse to fine, some of "document", "message", "passage", "paragraph", "sentence", "word", "token"; or a mapping of
            names to the group of each unit of the prompt. None: passages, sentences, words; of several texts or messages these first.
        method: "owen" or "feature_ablation".
        evaluations: prompts that are scored at most, those with all and with no units included.
        orders: how many orders, an even number; None: up to 8 while pieces are looked into, and then more for what is left of the budget,
            until the standard error is a twentieth of the values.
        least: pieces with less than this part of the first level's total magnitude are not looked into.

    Raises:
        OptionError: levels, a method or a budget that do not fit. InputError: a prompt or an answer that does not fit.

    >>> import torch; from pellucid.language import token_prompt
    >>> tied = torch.nn.Embedding(9, 9)
    >>> found = explain_hierarchy(tied, None, token_prompt([3, 4, 5, 6], stand_in=0), [7], levels={"half": [0, 0, 1, 1]}, seed=0)
    >>> found.gap() < 1e-5, found.levels
    (True, ('half', 'unit'))
    """
    if method not in GROWN:
        raise OptionError(f"method is {method!r}; choose one of {', '.join(map(repr, GROWN))}")
    if scale not in MEASURES:
        raise OptionError(f"scale is {scale!r}; choose one of {', '.join(map(repr, MEASURES))}")
    fine, groups, names = _leveled(prompt, tokenizer, levels, stand_in, roles)
    question = posed(model, fine, answer, against, scale, generation, shared, seed, at_most, progress)
    growth = GROWN[method](Scores(question, evaluations, Run(None, False)), groups, names, orders)
    growth.grow(least)
    options = {
        "evaluations": evaluations,
        "least": least,
        "orders": orders,
        "against": question.answers[1].text if against is not None else None,
    }
    found = Hierarchy(
        growth.node(growth.root),
        names,
        question.answers[0].labels,
        tuple(question.probabilities().tolist()),
        method,
        question.measure(MEASURES[scale]),
        growth.scores.used,
        parts_of(fine),
        {name: value for name, value in options.items() if value is not None},
    )
    checks = (question.chosen, *growth.checks(), growth.additivity(found.gap()), question.reading())
    found = replace(found, health=checks, cost=question.cost(), provenance=question.provenance(question.seed))
    if strict:
        refuse(found.flat().explanation())
    return found


def _leveled(
    prompt: Any, tokenizer: Any, levels: Sequence[str] | Mapping[str, Sequence[int]] | None, stand_in: Any, roles: Sequence[str] | None
) -> tuple[Prompt, list[list[int]], tuple[str, ...]]:
    """The prompt in its finest units, the group of each at every coarser level, and the names of all levels."""
    if isinstance(levels, Mapping):
        fine = prompt_of(prompt, tokenizer, None, stand_in, roles)
        for name, ids in levels.items():
            if len(ids) != fine.size:
                raise InputError(f"the level {name!r} has {len(ids)} ids for {fine.size} units; give one for each")
        return fine, [list(ids) for ids in levels.values()], (*levels, "unit")
    if levels is None:
        levels = (_coarsest(prompt), "sentence", "word")
    fine, groups = groupings(prompt, tokenizer, levels, stand_in, roles)
    return fine, groups, tuple(levels)


def _coarsest(prompt: Any) -> str:
    """What a prompt is made of first of all."""
    if isinstance(prompt, str):
        return "passage"
    several = isinstance(prompt, Sequence) and len(prompt) > 0
    if several and all(isinstance(part, str) for part in prompt):
        return "document"
    if several and all(isinstance(part, Mapping) for part in prompt):
        return "message"
    raise OptionError("the prompt is neither a text, nor texts, nor messages; give levels as a mapping of names to the group of each unit")
