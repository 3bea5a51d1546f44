"""A prompt as tokens in their places: what stands in for a unit has as many tokens, so that a path of embeddings can lead there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from ..errors import InputError
from .prompt import Prompt, Slot, TextPrompt, TokenPrompt
from .spans import Span, by_spans

__all__ = ["in_place", "neutral"]

MARK = "\ue000"  # of no language: what a text has in its stead is found again
NEUTRAL = ("pad_token_id", "unk_token_id", "eos_token_id")


def neutral(tokenizer: Any) -> int:
    """A token that says little: the one for padding, for what is unknown, for the end of a text, or else number 0."""
    found = (getattr(tokenizer, name, None) for name in NEUTRAL)
    return next((i for i in found if isinstance(i, int)), 0)


def in_place(prompt: Prompt) -> TokenPrompt:
    """The same prompt with a stand-in of as many tokens for each unit; a token belongs to the unit in which its text begins.

    Where nothing stands in for a unit, `neutral` tokens do.

    Raises:
        InputError: stand-ins of another length; a text whose units cannot be found in it, or in its tokens.

    >>> from pellucid.language import token_prompt
    >>> in_place(token_prompt([7, 8, 9], units=[None, 0, 0])).rows([(1,)])
    [(7, 0, 0)]
    """
    if isinstance(prompt, TokenPrompt):
        return replace(prompt, slots=tuple(_as_long(slot, prompt.tokenizer) for slot in prompt.slots))
    if isinstance(prompt, TextPrompt):
        return _of_text(prompt)
    raise InputError(f"{type(prompt).__name__} is made by a function, and a gradient needs to know its tokens; give text or token ids")


def _as_long(slot: Slot[tuple[int, ...]], tokenizer: Any) -> Slot[tuple[int, ...]]:
    given, *others = slot.forms
    if slot.unit is None:
        return slot
    other = others[0] if others and others[0] else (neutral(tokenizer),) * len(given)
    _check_length(len(given), len(other), "a unit")
    return replace(slot, forms=(given, other))


def _check_length(given: int, other: int, what: str) -> None:
    if given != other:
        raise InputError(
            f"{what} has {given} tokens and what stands in for it {other}; a path of embeddings needs as many: leave the baselines out "
            "(neutral tokens stand in then), or perturb the prompt with LLMAttribution"
        )


def _of_text(prompt: TextPrompt) -> TokenPrompt:
    text, tokenizer = prompt.text(), prompt.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise InputError("a gradient needs to know where tokens stand in the text, and this tokenizer is a slow one; give a TextTokenInput")
    encoded = tokenizer(text, add_special_tokens=prompt.special, return_offsets_mapping=True)
    own = [(number, slot.unit) for number, slot in enumerate(prompt.slots) if slot.unit is not None]
    found = sorted((span, unit) for number, unit in own for span in spans_of(prompt, number))
    offsets = encoded["offset_mapping"]
    owners = by_spans(text, offsets, [span for span, _ in found])
    units = [None if at is None or start == stop else found[at][1] for at, (start, stop) in zip(owners, offsets, strict=True)]
    ids = list(encoded["input_ids"])
    return TokenPrompt(_slots(ids, _others(prompt, ids, units), units), prompt.labels, tokenizer)


def _slots(ids: Sequence[int], others: Sequence[int], units: Sequence[int | None]) -> tuple[Slot[tuple[int, ...]], ...]:
    """One for each token."""
    rows = zip(ids, others, units, strict=True)
    return tuple(Slot(((i,),) if unit is None else ((i,), (other,)), unit) for i, other, unit in rows)


def _others(prompt: TextPrompt, ids: Sequence[int], units: Sequence[int | None]) -> list[int]:
    """What stands in for each token.

    Raises:
        InputError: stand-ins that move the rest of the text.
    """
    if not any(form for slot in prompt.slots if slot.unit is not None for form in slot.forms[1:]):
        return [i if unit is None else neutral(prompt.tokenizer) for i, unit in zip(ids, units, strict=True)]
    (row,) = prompt.rows([(1,) * prompt.size])
    _check_length(len(ids), len(row), "the prompt")
    if moved := [i for i, other, unit in zip(ids, row, units, strict=True) if unit is None and i != other]:
        raise InputError(
            f"the baselines move {prompt.tokenizer.decode(moved)!r}, which belongs to no unit; give baselines of as many tokens as the "
            "values, or none"
        )
    return list(row)


def spans_of(prompt: TextPrompt, number: int) -> list[Span]:
    """Where in its text a prompt has what a slot holds, as often as it does.

    Raises:
        InputError: in another form, so that it cannot be told.
    """
    held = [slot.forms[0] for slot in prompt.slots]
    text, parts = prompt.text(), prompt.compose([*held[:number], MARK, *held[number + 1 :]]).split(MARK)
    for own in (held[number], held[number].strip()):
        if own.join(parts) == text:
            ends = list(accumulate(len(part) + len(own) for part in parts[:-1]))
            return [(end - len(own), end) for end in ends]
    raise InputError(f"{held[number]!r} is written in another form than given, so its tokens cannot be told; give it as it is to stand")
