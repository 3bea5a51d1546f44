"""The door for generated text: which units of a prompt moved each token of an answer, by whatever method, with what was checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..batch import Run
from ..errors import OptionError
from ..explanation import Check, Found
from ..methods import METHODS, WITHOUT_GRADIENT, Asked, find
from ..show.numbers import number, percent
from ..trust import health_of, refuse
from .asking import Posed, posed
from .embedded import BY_VECTORS, OF_LOGITS, Told, by_vectors
from .prompt import Prompt
from .result import LOG_PROBABILITY, PROBABILITY, Generated
from .units import groupings, parts_of, prompt_of

__all__ = ["BY_PARTS", "MEASURES", "explain_generation"]

# Methods that take units away, and the scales of what is explained.
BY_PARTS = tuple(name for name in METHODS if name in WITHOUT_GRADIENT and name != "rise")
MEASURES = {"log_prob": LOG_PROBABILITY, "prob": PROBABILITY, "logit": "logit"}


def explain_generation(
    model: Callable[..., Any],
    tokenizer: Any,
    prompt: Any,
    answer: str | Tensor | Sequence[int] | None = None,
    *,
    units: Any = None,
    method: str = "feature_ablation",
    against: str | Tensor | Sequence[int] | None = None,
    scale: str | None = None,
    stand_in: Any = None,
    roles: Sequence[str] | None = None,
    earlier: bool = False,
    generation: Mapping[str, Any] | None = None,
    shared: bool = True,
    seed: int | None = None,
    strict: bool = False,
    at_most: int | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Generated:
    """Explain what a language model answers to a prompt: each token of the answer, and the answer as a whole, by the units of the prompt.

    Methods that take units away (`BY_PARTS`) score the answer after prompts in which some units are removed or replaced; answer and
    order stay. Methods of vectors (`BY_VECTORS`) explain the embeddings of the tokens, summed over their dimensions and over the tokens
    of a unit. Of a method that compares (integrated gradients, DeepLIFT), only the units are compared with something else; the tokens
    generated before stay, as they do where units are taken away.

    Law: log p(answer) is the sum over its tokens of log p(token | prompt, tokens before it), so the matrix's rows add up to the
    sequence, and for Shapley and Owen values, integrated gradients and DeepLIFT each row adds up to what all units together change.
    AttnLRP divides logits: its relevances, those of generated and special tokens included, add up to the token's logit, less what
    biases and softmax take.
    Sources: Miglani et al. 2023 (units of prompts); Achtibat et al. 2024, section 3 (AttnLRP); the method's own.

    Args:
        model: a causal language model or one with encoder and decoder of transformers; by parts also any callable that maps token ids
            `(rows, L)` to logits `(rows, L, vocabulary)`. Afterwards it is as it was.
        tokenizer: of transformers; None for token ids.
        prompt, units, stand_in, roles: a text, several texts, messages, a template, token ids or a `Prompt`; in which units; what stands in
            for them; whose messages: see `pellucid.language.prompt_of`. By vectors a stand-in is a token; None: padding or the like.
        answer: a text, token ids, or None: what the model generates (`generation`: arguments of `model.generate`).
        method: a name in `BY_PARTS` or `BY_VECTORS`.
        against: another answer, the one that was expected instead, say: then the score is how much more likely `answer` is, and only
            the whole is explained.
        scale: "log_prob", "prob", or, by vectors, "logit", which is also what LRP explains. A sequence's logit is the sum of its tokens'.
        earlier: by vectors, count generated tokens as units of the tokens after them. `health` says else how much lies on them.
        shared: whether what prompts begin with alike may be read once.
        seed: for random methods; None derives one from torch's random state without moving it.
        strict: raise where a health check fails, or where the answer had to be generated.
        at_most: rows per call of the model; None: by memory.
        progress: a progress bar; None shows one when the work takes longer than two seconds.
        options: the method's own (`evaluations`, `tolerance`, `top`, `seconds`, `steps`, `samples`, ...). Of owen, `unions` may be the
            name of a coarser level, "sentence" where units are words.

    Raises:
        OptionError: an unknown method, scale or option. InputError: a prompt or an answer that does not fit.
        UntrustedResult: `strict`, and a check that failed.

    >>> tied = torch.nn.Embedding(9, 9)
    >>> told = explain_generation(tied, None, [3, 4, 5], [6, 7], method="shapley", stand_in=0)
    >>> told.matrix.shape, told.measure
    (torch.Size([2, 3]), 'log-probability')
    """
    name, scale = _checked(method, scale, earlier, against)
    asked = prompt_of(prompt, tokenizer, units, stand_in, roles)
    if isinstance(options.get("unions"), str):
        levels = (options["unions"], "word" if units is None else units)
        options["unions"] = torch.tensor(groupings(prompt, tokenizer, levels, None, roles)[1])
    read = asked if name in BY_PARTS else _as_given(asked)
    question = posed(model, read, answer, against, "prob" if scale == "prob" else "log_prob", generation, shared, seed, at_most, progress)
    if name in BY_PARTS:
        told = _by_parts(question, name, options)
    else:
        settings = {"seed": question.seed, "at_most": at_most, "progress": progress, **options}
        told = by_vectors(question.counted.reader, asked, question.answers, name, scale, earlier, settings)
    probabilities = question.probabilities()
    found = Generated(
        asked.labels,
        question.answers[0].labels,
        told.sequence,
        told.matrix,
        probabilities,
        name,
        question.measure(MEASURES[scale]),
        parts_of(asked),
        _words(units, question, options),
        (question.chosen, *told.checks, *_elsewhere(told, earlier), question.reading()),
        question.cost(told.forwards, told.backwards, told.calls),
        question.provenance(told.seed),
    )
    found = _with_earlier(found, told) if earlier and told.earlier is not None else found
    if strict:
        refuse(found.explanation())
    return found


def _checked(method: str, scale: str | None, earlier: bool, against: Any) -> tuple[str, str]:
    """The method by its own name, and the scale."""
    name, _ = find(method, {})
    if name not in BY_PARTS + BY_VECTORS:
        raise OptionError(f"{name} does not explain generated text; the methods that do are {', '.join((*BY_PARTS, *BY_VECTORS))}")
    scale = scale or ("logit" if name in OF_LOGITS else "log_prob")
    if scale not in MEASURES or (scale == "logit" and name in BY_PARTS):
        raise OptionError(f"scale is {scale!r}; choose one of {', '.join(map(repr, MEASURES))} ('logit' for methods of vectors only)")
    if earlier and (name in BY_PARTS or against is not None):
        raise OptionError("earlier=True is for methods of vectors and one answer: where units are taken away, the tokens before stay")
    return name, scale


def _as_given(prompt: Prompt) -> Prompt:
    """A prompt whose units stay: nothing is taken away by methods of vectors, so it need not be possible."""
    return replace(prompt, slots=tuple(replace(slot, forms=(slot.forms[0],) * 2) for slot in prompt.slots))


def _by_parts(question: Posed, name: str, options: Mapping[str, Any]) -> Told:
    """By scores of the answer without some of the units."""
    name, method = find(name, options)
    view = question.view
    found: Found = method(Asked(view, view.baselines, question.seed, Run(None, False)), **options)
    values = found.values[0].detach()[:, 0]
    checks = (*health_of(view, found), *_together(found, name))
    return Told(values[0], values[1:] if len(values) > 1 else None, checks, seed=found.seed)


def _together(found: Found, name: str) -> tuple[Check, ...]:
    """How much of what all units change together is seen one by one."""
    if name != "feature_ablation" or found.baseline_scores is None:
        return ()
    change = float((found.scores - found.baseline_scores)[0, 0])
    one_by_one = float(found.values[0][0].sum())
    words = f"one by one the units change the answer's score by {number(one_by_one, signed=True)}, all together by "
    words += f"{number(change, signed=True)}; shapley divides the latter"
    return (Check("together", True, words, one_by_one / change if change else None),)


def _elsewhere(told: Told, earlier: bool) -> tuple[Check, ...]:
    """What methods of vectors find on tokens that are no units."""
    if told.earlier is None or told.fixed is None:
        return ()
    before, fixed = told.earlier[0], told.fixed[0]
    mass = float(told.sequence.abs().sum() + before.abs().sum() + fixed.abs())
    outside = float(fixed.abs() + (0 if earlier else before.abs().sum()))
    if not outside:
        return ()
    words = f"{percent(outside / mass)} of the attribution's size lies outside of the units: {number(float(fixed), signed=True)} on "
    words += "special and fixed tokens"
    shown = "" if earlier else f", {number(float(before.sum()), signed=True)} on tokens generated before (earlier=True shows them)"
    return (Check("elsewhere", True, words + shown, outside / mass),)


def _with_earlier(found: Generated, told: Told) -> Generated:
    """With the generated tokens but the last as further units."""
    assert told.earlier is not None
    assert found.matrix is not None
    later, labels = told.earlier[:, : len(found.tokens) - 1], found.tokens[:-1]
    parts = tuple((label, len(found.units) + i) for i, label in enumerate(labels))
    return replace(
        found,
        units=(*found.units, *labels),
        sequence=torch.cat([found.sequence, later[0]]),
        matrix=torch.cat([found.matrix, later[1:]], 1),
        parts=(*found.parts, *parts) if found.parts else (),
    )


def _words(units: Any, question: Posed, options: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked, as it can be written to a file."""
    said = {"units": units if isinstance(units, str) else None, "against": question.answers[1].text if len(question.answers) > 1 else None}
    plain = (str, int, float, bool)
    told = {name: value if isinstance(value, plain) else str(value) for name, value in options.items() if value is not None}
    return {name: value for name, value in said.items() if value is not None} | told
