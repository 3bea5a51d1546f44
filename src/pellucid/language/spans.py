"""Prompts from a text: its tokens, words, sentences or passages as units, by where the tokenizer says that tokens stand."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import InputError, OptionError
from ..perturb.names import sentences_of, words_of
from .prompt import StandIn, TokenPrompt, token_prompt

__all__ = ["SPLITS", "by_spans", "text_prompt"]

Span = tuple[int, int]
Split = Callable[[str], Sequence[Span]]


def _found(pattern: str) -> Split:
    compiled = re.compile(pattern, re.DOTALL)
    return lambda text: [match.span() for match in compiled.finditer(text) if match.group().strip()]


# What stands between spaces; what ends with . ! ? before a space, or with a line; what stands between empty lines.
SPLITS: dict[str, Split] = {
    "word": _found(r"\S+"),
    "sentence": _found(r"[^\n]+?(?:[.!?]+[\"'\u201d\u2019)\]]*(?=\s|$)|(?=\n|$))"),
    "passage": _found(r"(?:(?!\n\s*\n).)+"),
}


def text_prompt(
    text: str,
    tokenizer: Any,
    by: str | Split | Sequence[Span] = "word",
    stand_in: StandIn | tuple[StandIn, ...] = None,
    fixed: Sequence[int | str] | None = None,
) -> TokenPrompt:
    """A text as a prompt, tokenised once: a unit is the tokens that begin in it.

    Args:
        by: "token", "word" (between spaces), "sentence", "passage" (between empty lines); characters `(start, stop)` of each
            unit; or a function of the text that gives these.
        stand_in: see `token_prompt`.
        fixed: tokens (ids, or by name) that are always as given; None: the tokenizer's special ones.

    Raises:
        OptionError: an unknown way to split. InputError: no unit, or a slow tokenizer where it must say where tokens stand.
    """
    if isinstance(by, str) and by not in (*SPLITS, "token"):
        raise OptionError(f"by is {by!r}; choose one of 'token', {', '.join(map(repr, SPLITS))}, or give characters (start, stop)")
    fast = bool(getattr(tokenizer, "is_fast", False))
    encoded = tokenizer(text, return_special_tokens_mask=True, return_offsets_mapping=fast)
    ids = list(encoded["input_ids"])
    stays = _fixed(ids, encoded["special_tokens_mask"], tokenizer, fixed)
    if by == "token":
        groups: list[int | None] = list(range(len(ids)))
    elif fast:
        groups = by_spans(text, encoded["offset_mapping"], SPLITS[by](text) if isinstance(by, str) else by(text) if callable(by) else by)
    else:
        groups = _by_names(ids, tokenizer, by)
    units = _numbered([None if stay else own for own, stay in zip(groups, stays, strict=True)])
    if not any(own is not None for own in units):
        raise InputError(f"the text {text[:40]!r} has no unit; all of its {len(ids)} tokens are fixed, or lie in none")
    return token_prompt(ids, tokenizer, stand_in, units=units)


def _fixed(ids: Sequence[int], mask: Sequence[int], tokenizer: Any, fixed: Sequence[int | str] | None) -> list[bool]:
    if fixed is not None:
        own = {tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else int(token) for token in fixed}
        return [i in own for i in ids]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}  # an unknown word is a word
    return [bool(added) or i in special for i, added in zip(ids, mask, strict=True)]


def by_spans(text: str, offsets: Sequence[Span], spans: Sequence[Span]) -> list[int | None]:
    """For each token the span that holds its first visible character; spaces alone belong to what follows."""
    starts = [start for start, _ in spans]
    if any(stop > start for (_, stop), start in zip(spans, starts[1:], strict=False)):
        raise InputError(f"the characters {list(spans)[:8]} overlap or are out of order; give (start, stop) of one unit after another")
    last = len(text.rstrip()) - 1
    found: list[int | None] = []
    for start, _ in offsets:
        at = min(len(text) - len(text[start:].lstrip()), last)
        own = bisect.bisect(starts, at) - 1
        found.append(own if own >= 0 and at < spans[own][1] else None)
    return found


def _by_names(ids: Sequence[int], tokenizer: Any, by: Any) -> list[int | None]:
    """By the marks that tokens carry, where their places in the text are not known."""
    names = {"word": words_of, "sentence": sentences_of}
    if not isinstance(by, str) or by not in names:
        raise InputError(f"by={by!r} needs to know where tokens stand, and this tokenizer is a slow one; use 'token', 'word' or 'sentence'")
    return list(names[by](tokenizer.convert_ids_to_tokens(list(ids)))[0].tolist())


def _numbered(groups: Sequence[int | None]) -> list[int | None]:
    """From 0, without gaps, in order."""
    numbers = {own: i for i, own in enumerate(dict.fromkeys(own for own in groups if own is not None))}
    return [None if own is None else numbers[own] for own in groups]
