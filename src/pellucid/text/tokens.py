"""Texts as people read them: the tokens of each example, which of them are words, and which are put in to begin, end or fill up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..explanation import Check
from .entries import Entries
from .sites import Site
from .vocabulary import GOES_ON, Vocabulary

__all__ = ["Text", "misplaced", "text_of", "unmasked"]

Tokens = tuple[str | None, ...]


@dataclass(frozen=True, eq=False)
class Text:
    """The ids of one entry.

    Attributes:
        name: of the entry.
        ids, real, kept: `(B, L)`: the ids; where a token stands, and no padding; where a reference keeps what stands there.
        tokens: of each example; None where it has none.
        special: what tokens are called that are no part of a text.
    """

    name: str
    ids: Tensor
    real: Tensor
    kept: Tensor
    tokens: tuple[Tokens, ...]
    special: tuple[str, ...]

    def places(self, example: int) -> list[int]:
        """Where the example's tokens stand."""
        found: list[int] = self.real[example].nonzero().flatten().tolist()
        return found

    def replaced(self, number: int) -> Tensor:
        """The ids with one instead of every word; what is special stays."""
        return torch.where(self.kept, self.ids, torch.full_like(self.ids, number))


def text_of(entries: Entries, name: str, vocabulary: Vocabulary, names: Sequence[Any] = ()) -> Text:
    """The tokens of one entry.

    Args:
        names: of the first example's tokens, or of each example's; where whoever asks knows better.

    Raises:
        InputError: another number of names than tokens.
    """
    ids = entries.values[name]
    _, mask = entries.mask_of(name)
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask > 0
    marks = torch.isin(ids, torch.tensor(sorted(vocabulary.marks), dtype=ids.dtype, device=ids.device))
    known = name == "input_ids"
    if known and entries.marks is not None and entries.marks.shape == ids.shape:
        marks = marks | (entries.marks.to(ids.device) & (ids != vocabulary.special("unk")))
    given = _given(names, ids)
    rows = [
        list(given[i]) if i < len(given) else _named(row, entries.tokens[i : i + 1] if known else (), vocabulary)
        for i, row in enumerate(_rows(ids))
    ]
    flat = real.reshape(len(rows), -1).tolist() if ids.dim() == 2 else []
    tokens = tuple(tuple(t if there else None for t, there in zip(row, own, strict=True)) for row, own in zip(rows, flat, strict=False))
    special = {rows[i][j] for i, j in marks.nonzero().tolist()} if ids.dim() == 2 else set()
    return Text(name, ids, real, marks | ~real, tokens, tuple(sorted(special)))


def _named(row: Sequence[int], known: Sequence[tuple[str, ...]], vocabulary: Vocabulary) -> list[str]:
    """What the tokenizer calls them; or what it said itself, where it is not given or marks no words."""
    own = vocabulary.tokens(row)
    if known and len(known[0]) == len(own) and (vocabulary.tokenizer is None or tuple(t.removeprefix(GOES_ON) for t in known[0]) == own):
        return list(known[0])
    return list(own)


def _rows(ids: Tensor) -> list[list[int]]:
    return ids.tolist() if ids.dim() == 2 else []


def _given(names: Sequence[Any], ids: Tensor) -> list[Sequence[str]]:
    several = [names] if names and isinstance(names[0], str) else list(names)
    for own in several:
        if len(own) != ids.shape[1]:
            raise InputError(f"there are {len(own)} names for {ids.shape[1]} tokens; give one for each")
    return several


def unmasked(entries: Entries, text: Text, vocabulary: Vocabulary) -> Check | None:
    """Padding that no mask hides: the model reads it as words."""
    called, mask = entries.mask_of(text.name)
    blank = vocabulary.special("pad")
    if mask is not None or blank is None or text.ids.dim() != 2:
        return None
    filled = (text.ids[:, -1] == blank) & (text.ids != blank).any(1)
    if not bool(filled.any()):
        return None
    return Check("attention_mask", False, f"{text.name} ends in padding, and no {called} was given: the model reads it; give the mask too")


def misplaced(text: Text, sites: Sequence[Site]) -> Check | None:
    """Padding before a text, of a model that counts places from the first token, padding or not: the text stands elsewhere than alone."""
    if text.ids.dim() != 2 or not bool((~text.real[:, 0] & text.real.any(1)).any()):
        return None
    counted = [s for s in sites if s.kind == "position" and not s.entry and bool((s.ids.reshape(-1, s.ids.shape[-1]) == s.ids[:1]).all())]
    if not counted:
        return None
    return Check(
        "position_ids", False, "padding stands before a text, and moves it to later places: pad on the right, or give position_ids"
    )
