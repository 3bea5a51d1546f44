"""Tokens and segments as people write them, and what a generated token rests on in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .numbers import number
from .text import SPECIAL, pieces_of

if TYPE_CHECKING:
    from ..language.result import Generated

__all__ = ["Label", "labels", "rests_on"]


@dataclass(frozen=True)
class Label:
    """A token or a segment as people write it; whether a space stands before it; whether it is a token outside of the text."""

    text: str
    spaced: bool = True
    special: bool = False


def labels(tokens: Sequence[str]) -> tuple[Label, ...]:
    """What the marks of tokenizers stand for: spaces, pieces that go on with a word, bytes; or texts with spaces of their own.

    >>> [(label.text, label.spaced) for label in labels(["The", "\u0120caf", "\u00c3\u00a9", "\u010a"])]
    [('The', False), ('caf', True), ('é', False), ('↵', False)]
    >>> [(label.text, label.spaced) for label in labels(["The", " sun", "ny"])]
    [('The', False), ('sun', True), ('ny', False)]
    """
    special = [bool(SPECIAL.fullmatch(token)) for token in tokens]
    if any(token.strip(" ") not in ("", token) for token in tokens):
        ends = ["", *(token[-1:] for token in tokens)]
        rows = zip(tokens, ends, special, strict=False)
        return tuple(Label(_seen(token.strip(" "), token), token[:1] == " " or end == " ", own) for token, end, own in rows)
    pieces = pieces_of(tokens, special)
    marked = any(piece.starts for piece in pieces)
    return tuple(
        Label(_seen(piece.text, " " if piece.text or piece.starts else token), piece.starts or own or not (marked or piece.goes_on), own)
        for token, piece, own in zip(tokens, pieces, special, strict=True)
    )


def _seen(text: str, token: str) -> str:
    """With a sign for line breaks, and for spaces alone; what shows nothing, as half of a letter, as the tokenizer writes it."""
    return text.replace("\n", "↵") if text.strip(" ") else token.strip(" ") or "␣"


def rests_on(told: Generated, token: int | None, most: int = 5) -> str:
    """The strongest units of a token in words, without those that have less than a twentieth of the strongest.

    >>> import torch; from pellucid.language.result import Generated
    >>> rests_on(Generated(("a", "b", "c"), ("d",), torch.tensor([0.5, 0.001, -0.25])), None).replace("\N{MINUS SIGN}", "-")
    '“a” +0.500, “c” -0.250'
    """
    names, found = labels(told.units), told.strongest(token, most)
    kept = [(unit, value) for unit, value in found if abs(value) >= abs(found[0][1]) / 20]
    return ", ".join(f"“{names[unit].text}” {number(value, signed=True)}" for unit, value in kept) or "nothing"
