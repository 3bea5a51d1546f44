"""An answer in statements: its sentences, and which of its tokens each is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, OptionError
from .answer import Answer
from .spans import SPLITS, Span
from .units import joined, marks_of

__all__ = ["Statement", "statements_of"]


@dataclass(frozen=True)
class Statement:
    """A part of an answer.

    Attributes:
        text: what it says.
        span: where it stands in the answer's text.
        tokens: the numbers of its tokens.
    """

    text: str
    span: Span
    tokens: tuple[int, ...]


def statements_of(
    answer: Answer, tokenizer: Any, by: str | Sequence[Span] | Callable[[str], Sequence[Span]] = "sentence"
) -> tuple[str, tuple[Statement, ...]]:
    """The answer's text, and its statements; a token belongs to that in which its first visible sign stands.

    Args:
        by: "sentence", "word", "passage", "answer" (all of it), "token"; characters `(start, stop)`, or a function of the text.

    Raises:
        OptionError: an unknown way. InputError: no statement has a token.

    >>> statements_of(Answer((1, 2), ("a", "b")), None, "token")[1][1]
    Statement(text='b', span=(2, 3), tokens=(1,))
    """
    text, places = _places(answer, tokenizer)
    if isinstance(by, str) and by not in (*SPLITS, "answer", "token"):
        known = ", ".join(map(repr, ("sentence", "word", "passage", "answer", "token")))
        raise OptionError(f"statements are by {by!r}; choose one of {known}, or give characters (start, stop)")
    if by in ("answer", "token"):
        words = [_trimmed(text, place) for place in places if text[slice(*place)].strip()]
        spans: Sequence[Span] = [(0, len(text))] if by == "answer" else words
    else:
        spans = SPLITS[by](text) if isinstance(by, str) else by(text) if callable(by) else by
    found = [Statement(text[slice(*span)].strip(), span, _within(span, places, text)) for span in spans]
    found = [one for one in found if one.tokens]
    if not found:
        raise InputError(f"the answer {text!r} has no statement; none of its {len(places)} tokens lies in one")
    return text, tuple(found)


def _places(answer: Answer, tokenizer: Any) -> tuple[str, list[Span]]:
    """The text, and where each token stands; nowhere, where it is not shown."""
    if tokenizer is None:
        ends, text = [], ""
        for number in range(len(answer.labels)):
            text = joined(answer.labels[: number + 1])
            ends.append(len(text))
    else:
        special = marks_of(tokenizer)
        shown = [i for i in answer.ids if i not in special]
        text = str(tokenizer.decode(shown))
        ends, count = [], 0
        for token in answer.ids:
            count += token not in special
            ends.append(min(len(str(tokenizer.decode(shown[:count]))) if count else 0, len(text)))
    starts = [0, *ends]
    return text, [(start, max(start, end)) for start, end in zip(starts, ends, strict=False)]


def _trimmed(text: str, span: Span) -> Span:
    """Without spaces around it."""
    said = text[slice(*span)]
    return span[0] + len(said) - len(said.lstrip()), span[0] + len(said.rstrip())


def _within(span: Span, places: Sequence[Span], text: str) -> tuple[int, ...]:
    found = []
    for number, place in enumerate(places):
        start, stop = _trimmed(text, place)
        if start < stop and span[0] <= start < span[1]:
            found.append(number)
    return tuple(found)
