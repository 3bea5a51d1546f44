"""Which sources an answer rests on: it is scored without random ones of them, and a sparse linear model says which matter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..batch import Run
from ..errors import InputError, OptionError
from ..explanation import Check, Found
from ..seeds import generator
from ..show.numbers import number
from ..trust import health_of, refuse
from .asking import Text, posed
from .citations import Citations
from .datamodel import crossed, datamodeling_score, log_odds, sparse_linear
from .growth import Scores
from .prompt import Prompt, Slot, TextPrompt
from .statements import Statement, statements_of
from .units import parts_of, pieces

__all__ = ["TEMPLATE", "cite"]

TEMPLATE = "Context: {context}\n\nQuestion: {question}"
LEAST, RIVALS = 0.3, 4
STEADY = 0.1  # log-odds by which a statement may move, and still count as not moved


def cite(
    model: Callable[..., Any],
    tokenizer: Any,
    context: str | Sequence[str] | Prompt,
    question: str = "",
    answer: Text | None = None,
    *,
    units: str | None = None,
    statements: Any = "sentence",
    template: str | None = None,
    ablations: int = 64,
    keep: float = 0.5,
    alpha: float = 0.01,
    held_out: int = 0,
    drop: int = 1,
    generation: Mapping[str, Any] | None = None,
    shared: bool = True,
    seed: int | None = None,
    strict: bool = False,
    at_most: int | None = None,
    progress: bool | None = None,
) -> Citations:
    """For each statement of an answer, the sources in the context that make the model say it: ContextCite.

    The answer is scored after prompts with random sources removed. For each statement, the log-odds of its probability (given what the
    answer says before it) are fitted by a sparse linear function of which sources are there: its weights are the scores. All statements
    are told from the same passes.
    Law: where the log-odds are a sum over the sources that are there, the weights tend to its terms as alpha goes to 0.
    Source: Cohen-Wang, Shah, Georgiev, Madry 2024 (section 3; LDS and top-k drop: section 4).

    Args:
        model, tokenizer, answer, generation, shared, seed, strict, at_most, progress: as in `explain_generation`.
        context: a text, several texts, or a `Prompt` whose units are the sources (then with question, template and units left out).
        question: what is asked about it.
        units: of sources: "sentence", "passage", "paragraph" or "word"; None: sentences of a text, each of several texts.
        statements: parts of the answer: "sentence", "answer", "token", ... (`statements_of`).
        template: a text with `{context}` and `{question}`; None: `TEMPLATE`, as a message where the tokenizer has a chat template, else
            with "Answer:" behind it.
        ablations: prompts with random sources.
        keep: the probability that a source is kept.
        alpha: strength of the LASSO's penalty, on standardised presence and log-odds per token.
        held_out: further ablations to measure by how well the fit predicts; 0: by eighths of those that there are, each predicted by a
            fit to the others.
        drop: how many of a statement's strongest sources are taken away together to see it fall, beside as many random others; 0: none.

    It costs `ablations + held_out + 1` prompts at most, and with a drop one for each statement and up to 4 more.

    Raises:
        OptionError: numbers out of range, unknown units. InputError: a context without sources, a template without places for them.

    >>> from pellucid.language import token_prompt
    >>> tied = torch.nn.Embedding(9, 9)
    >>> found = cite(tied, None, token_prompt([3, 4, 5, 6], stand_in=0), answer=[7, 8], ablations=8, seed=0, statements="token")
    >>> found.scores.shape
    torch.Size([2, 4])
    """
    _check_numbers(ablations, keep, alpha, held_out, drop)
    prompt = _prompt(context, question, template, units, tokenizer)
    question_ = posed(model, prompt, answer, None, "log_prob", generation, shared, seed, at_most, progress)
    text, found = statements_of(question_.answers[0], prompt.tokenizer, statements)
    scores = Scores(question_, ablations + held_out + 1 + (len(found) + RIVALS) * bool(drop), Run(None, False))
    whole = torch.ones(1, prompt.size, dtype=torch.bool)
    drawn = torch.rand(ablations + held_out, prompt.size, generator=generator(question_.seed, 0)) < keep
    logs = _of_statements(scores.of(torch.cat([whole, drawn])), found)
    sizes = torch.tensor([len(question_.answers[0].ids), *(len(one.tokens) for one in found)])
    kept, odds = drawn[:ablations], log_odds(logs[1:])
    model_ = sparse_linear(kept, odds[:ablations], alpha, sizes)
    predicted = model_.of(drawn[ablations:]) if held_out else crossed(kept, odds, alpha, sizes)
    lds = datamodeling_score(predicted, odds[ablations:] if held_out else odds)
    drops, rivals = _dropped(scores, model_.weights[:, 1:].T, logs[0], found, drop)
    told = Citations(
        prompt.labels,
        tuple(one.text for one in found),
        model_.weights[:, 1:].T,
        model_.weights[:, 0],
        logs[0, 1:].exp(),
        lds[1:],
        drops,
        rivals,
        text,
        tuple(one.span for one in found),
        parts_of(prompt),
        {"ablations": ablations, "keep": keep, "alpha": alpha, "held_out": held_out, "drop": drop},
    )
    checks = (question_.chosen, *_usual(question_.view, told), *_predicts(told, odds[:, 1:], held_out), *_falls(told), question_.reading())
    told = replace(told, health=checks, cost=question_.cost(), provenance=question_.provenance(question_.seed))
    if strict:
        refuse(told.flat().explanation())
    return told


def _check_numbers(ablations: int, keep: float, alpha: float, held_out: int, drop: int) -> None:
    rules = (
        ("ablations", ablations, ablations >= 4, "at least 4"),
        ("keep", keep, 0 < keep < 1, "a probability between 0 and 1"),
        ("alpha", alpha, alpha > 0, "a positive number"),
        ("held_out", held_out, held_out == 0 or held_out >= 3, "0, or at least 3"),
        ("drop", drop, drop >= 0, "0 or more"),
    )
    for name, value, fits, rule in rules:
        if not fits:
            raise OptionError(f"{name} is {value!r}; give {rule}")


# --- prompts


def _prompt(context: Any, question: str, template: str | None, units: str | None, tokenizer: Any) -> Prompt:
    """The context in sources, with the question around it."""
    if isinstance(context, Prompt):
        if question or template is not None or units is not None:
            raise OptionError(
                "the context is a Prompt, which has its sources and its question already; leave question, template and units out"
            )
        return context
    sources = list(_sources(context, units))
    if not sources:
        raise InputError(f"the context {context!r:.60} has no sources; give a text, or several")
    chat = bool(getattr(tokenizer, "chat_template", None))
    form = TEMPLATE + ("" if chat else "\n\nAnswer:") if template is None else template
    before, place, after = form.partition("{context}")
    if not place or (question and "{question}" not in form):
        raise InputError(f"the template is {form!r}; it must have {{context}}{' and {question}' if question else ''} in it")
    before, after = (part.replace("{question}", question) for part in (before, after))
    middle = [Slot((source, ""), i) for i, source in enumerate(sources)]
    labels = tuple(source.strip() for source in sources)
    compose = _message(tokenizer) if chat else "".join
    return TextPrompt((Slot((before,)), *middle, Slot((after,))), labels, tokenizer, compose, not chat)


def _sources(context: str | Sequence[str], units: str | None) -> Iterator[str]:
    """Texts that make up the context; each goes with the space behind it."""
    texts = [context] if isinstance(context, str) else [text if text.endswith("\n") else f"{text}\n\n" for text in context]
    level = units or ("sentence" if isinstance(context, str) else "message")
    if level not in ("message", "sentence", "passage", "paragraph", "word"):
        raise OptionError(f"units is {units!r}; sources are 'sentence', 'passage', 'paragraph' or 'word'")
    for text in texts:
        yield from (piece for _, piece in pieces(text, level) if piece.strip())


def _message(tokenizer: Any) -> Callable[[Sequence[str]], str]:
    def compose(held: Sequence[str]) -> str:
        message = {"role": "user", "content": "".join(held)}
        return str(tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True))

    return compose


# --- scores


def _of_statements(scores: Tensor, found: Sequence[Statement]) -> Tensor:
    """Log-probabilities `(m, 1 + statements)`, of the answer and of each statement, from those of the answer and its tokens."""
    return torch.stack([scores[:, 0], *(scores[:, [1 + token for token in one.tokens]].sum(1) for one in found)], 1)


def _dropped(scores: Scores, weights: Tensor, whole: Tensor, found: Sequence[Statement], most: int) -> tuple[Tensor | None, Tensor | None]:
    """By how much the log-probability of each statement falls without its strongest sources, and without as many random others."""
    sources = weights.shape[1]
    if not most or most >= sources:
        return None, None
    drawn = torch.rand(RIVALS, sources, generator=generator(scores.question.seed, 1)).argsort(1)[:, :most]
    drops, rivals = torch.full((len(found),), math.nan, dtype=torch.float64), torch.full((len(found),), math.nan, dtype=torch.float64)
    for i, own in enumerate(weights):
        cited = [source for source in own.argsort(descending=True)[:most].tolist() if own[source] > 0]
        if cited:
            others = [row for row in drawn.tolist() if not set(row) & set(cited)]
            fallen = whole[1 + i] - _of_statements(scores.of(_without([cited, *others], sources)), found)[:, 1 + i]
            drops[i], rivals[i] = fallen[0], fallen[1:].mean() if others else math.nan
    return drops, rivals


def _without(rows: Sequence[Sequence[int]], sources: int) -> Tensor:
    kept = torch.ones(len(rows), sources, dtype=torch.bool)
    for row, gone in zip(kept, rows, strict=True):
        row[list(gone)] = False
    return kept


# --- checks


def _usual(view: Any, told: Citations) -> Iterator[Check]:
    found = Found((told.scores[:, None],), told.probabilities[:, None])
    yield from (check for check in health_of(view, found) if check.name in ("finite", "mode"))


def _predicts(told: Citations, odds: Tensor, held_out: int) -> Iterator[Check]:
    """Whether the fit predicts what it has not seen, of statements that the context moves at all."""
    size = held_out or len(odds)
    needed = max(LEAST, 2 / math.sqrt(max(1, size - 1)))
    moved = [i for i, spread in enumerate(odds.std(0).tolist()) if spread > STEADY]
    values = [float(told.lds[i].nan_to_num(0.0)) for i in moved]
    where = "on ablations that the fit has not seen"
    if not moved:
        yield Check("lds", True, "no statement depends on which sources are there")
        return
    worst, low = min(values), [i for i, value in zip(moved, values, strict=True) if value < needed]
    mean = number(sum(values) / len(values), 2)
    words = f"scores and likelihoods are in the same order {where}: rank correlation {mean} on average, {number(worst, 2)} at worst"
    remedy = (
        f"; below {number(needed, 2)}: {', '.join(f'statement {i + 1}' for i in low)}; more ablations are needed, or sources act together"
    )
    yield Check("lds", not low, words + (remedy if low else ""), worst)
    alone = [i for i in range(len(told.statements)) if i not in moved]
    if alone:
        yield Check("uncited", True, f"{', '.join(f'statement {i + 1}' for i in alone)}: as likely whatever sources are there")


def _falls(told: Citations) -> Iterator[Check]:
    """Whether a statement falls more without its sources than without others."""
    if told.drops is None or told.rivals is None or not bool(told.drops.isfinite().any()):
        return
    known = told.drops.isfinite()
    weak = [i for i in range(len(told.statements)) if known[i] and float(told.drops[i]) <= max(0.0, float(told.rivals[i].nan_to_num(0.0)))]
    words = f"without its strongest source a statement's log-probability falls by {number(float(told.drops[known].mean()), 3)} on average"
    beside = told.rivals[told.rivals.isfinite()]
    words += f", without others by {number(float(beside.mean()), 3)}" if len(beside) else ""
    lacking = f"; not so {', '.join(f'statement {i + 1}' for i in weak)}" if weak else ""
    yield Check("drop", not weak, words + lacking, float(told.drops[known].mean()))
