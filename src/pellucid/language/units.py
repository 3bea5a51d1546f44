"""What a prompt is made of: texts, conversations, templates and token ids as a `Prompt`, and where its units stand among its tokens."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import InputError, OptionError
from .interpretable import Parts
from .prompt import Prompt, TextPrompt, TokenPrompt, chat_prompt, template_prompt, token_prompt
from .spans import SPLITS, Span, Split, text_prompt

__all__ = ["LEVELS", "groupings", "joined", "marks_of", "owners", "parts_of", "prompt_of"]

# What one calls pieces of a text, from coarse to fine.
LEVELS = ("document", "message", "passage", "paragraph", "sentence", "word", "token")
OTHERS = {"paragraph": "passage"}
# Signs that no text has, with which the places of texts in a template are found: where one begins, and where it ends.
BEGINS, ENDS, MOST = 0xF0000, 0x100000, 0xFFFD
SIGNS = re.compile("([\U000f0000-\U0010ffff])")


def prompt_of(prompt: Any, tokenizer: Any, units: Any = None, stand_in: Any = None, roles: Sequence[str] | None = None) -> Prompt:
    """What is explained, in units.

    Args:
        prompt: a text; several texts, one behind the other (passages and a question); messages with `role` and `content`; a template
            (a string for `str.format` or a function); token ids; or a `Prompt`.
        units: "token", "word", "sentence", "passage" or "paragraph"; "document" for several texts, "message" for a conversation; characters
            `(start, stop)` of each unit, or a function of the text that gives these; of a template, its values (a list of texts, or a
            dictionary). None: words of a text, each of several texts, messages, tokens of ids, the units of a `Prompt`.
        stand_in: what stands in for a unit: see `text_prompt`, `template_prompt` and `chat_prompt`; None: it is removed.
        roles: of a conversation, whose messages are explained; None: everyone's.

    Raises:
        InputError: there is nothing to explain. OptionError: units that such a prompt does not have.

    >>> prompt_of([5, 6, 7], None).labels
    ('5', '6', '7')
    """
    if roles is not None and not _is_chat(prompt):
        raise OptionError(f"roles is {roles!r}, and the prompt is no conversation; give messages: dictionaries with role and content")
    if isinstance(prompt, Prompt):
        if units is not None or stand_in is not None:
            raise OptionError("the prompt has units and stand-ins already; leave units and stand_in out, or give a text")
        return prompt
    if _has_values(units):
        return template_prompt(prompt, units, tokenizer, stand_in)
    if isinstance(prompt, str):
        return text_prompt(prompt, tokenizer, _split("word" if units is None else units), stand_in)
    if _is_chat(prompt):
        return _chat(prompt, tokenizer, "message" if units is None else units, stand_in, roles)
    if isinstance(prompt, Tensor) or (isinstance(prompt, Sequence) and len(prompt) and all(isinstance(i, int) for i in prompt)):
        return _tokens(prompt, tokenizer, units, stand_in)
    if isinstance(prompt, Sequence) and len(prompt) and all(isinstance(part, str) for part in prompt):
        return text_prompt("".join(prompt), tokenizer, _split("document" if units is None else units, prompt), stand_in)
    raise InputError(
        f"the prompt is {prompt!r:.80}; give a text, a list of texts, messages with role and content, token ids, a Prompt, or a template "
        "with units=[...], its values"
    )


def _has_values(units: Any) -> bool:
    """Whether units are the values of a template."""
    several = isinstance(units, Sequence) and not isinstance(units, str) and len(units) > 0
    return isinstance(units, Mapping) or (several and all(isinstance(value, str) for value in units))


def _is_chat(prompt: Any) -> bool:
    several = isinstance(prompt, Sequence) and not isinstance(prompt, str) and len(prompt) > 0
    return several and all(isinstance(message, Mapping) for message in prompt)


def _tokens(ids: Any, tokenizer: Any, units: Any, stand_in: Any) -> TokenPrompt:
    if units not in (None, "token"):
        raise OptionError(f"units is {units!r}, and token ids have no other units than 'token'; group them: token_prompt(ids, units=[...])")
    given = ids.flatten().tolist() if isinstance(ids, Tensor) else list(ids)
    return token_prompt(given, tokenizer, stand_in, sorted(marks_of(tokenizer) & set(given)))


def marks_of(tokenizer: Any) -> set[int]:
    """Tokens that are no part of a text; an unknown word is one, unless the same token ends texts."""
    ends = {getattr(tokenizer, f"{kind}_token_id", None) for kind in ("bos", "eos", "pad")}
    return set(getattr(tokenizer, "all_special_ids", ())) - ({getattr(tokenizer, "unk_token_id", None)} - ends)


def _split(units: Any, texts: Sequence[str] = ()) -> Any:
    """How `text_prompt` is asked."""
    if not isinstance(units, str):
        return units
    if units == "message" or (units == "document" and not texts):
        needed = "messages" if units == "message" else "a list of texts"
        raise OptionError(f"units is {units!r}, and the prompt is {'several texts' if texts else 'one text'}; give {needed}")
    return _documents(texts) if units == "document" else OTHERS.get(units, units)


def _documents(texts: Sequence[str]) -> Split:
    """Where each of several texts stands in all of them."""
    ends = list(itertools.accumulate(map(len, texts)))
    return lambda _: list(zip([0, *ends], ends, strict=False))


# --- conversations


def _chat(messages: Sequence[Mapping[str, Any]], tokenizer: Any, units: Any, stand_in: Any, roles: Sequence[str] | None) -> TextPrompt:
    if units not in ("message", *OTHERS, *SPLITS):
        known = ", ".join(map(repr, ("message", *SPLITS)))
        raise OptionError(f"units is {units!r}, and those of a conversation are {known}: its template is written anew each time")
    if not (stand_in is None or isinstance(stand_in, str | tuple)):
        raise OptionError(f"stand_in is {stand_in!r}, and what stands in for a part of a message is a text, or several in a tuple")
    cut = [{**message, "content": [text for _, text in pieces(message.get("content"), units)]} for message in messages]
    return chat_prompt(cut, tokenizer, "" if stand_in is None else stand_in, roles)


def pieces(content: Any, level: str) -> list[tuple[int, str]]:
    """A message in pieces, each with the place where it begins; together they are the message."""
    texts = [content] if isinstance(content, str) else list(content or ())
    whole = "".join(text for text in texts if isinstance(text, str))
    if level == "message" or not all(isinstance(text, str) for text in texts):
        starts = [0, *itertools.accumulate(len(text) if isinstance(text, str) else 0 for text in texts)][:-1]
        return list(zip(starts, texts, strict=True))
    spans = SPLITS[OTHERS.get(level, level)](whole)
    found = [0, *(stop - len(whole[start:stop].lstrip()) for start, stop in spans[1:])]
    return [(start, whole[start:stop]) for start, stop in itertools.pairwise([*found, len(whole)])]


# --- levels


def groupings(
    prompt: Any, tokenizer: Any, levels: Sequence[str], stand_in: Any, roles: Sequence[str] | None
) -> tuple[Prompt, list[list[int]]]:
    """The prompt in units of the last level, and for each level before it which of its pieces each unit lies in.

    Raises:
        OptionError: levels that are unknown or out of order.
    """
    order = [LEVELS.index(level) for level in levels if level in LEVELS]
    if len(order) < len(levels) or order != sorted(set(order)) or not order:
        raise OptionError(f"levels are {tuple(levels)}; name some of {', '.join(map(repr, LEVELS))}, the coarse ones first")
    fine = prompt_of(prompt, tokenizer, levels[-1], stand_in, roles)
    if _is_chat(prompt):
        return fine, [_of_messages(prompt, levels[-1], level, roles) for level in levels[:-1]]
    own = owners(fine)[1]
    first = [own.index(unit) for unit in range(fine.size)]
    found = []
    for level in levels[:-1]:
        outer = owners(prompt_of(prompt, tokenizer, level))[1]
        found.append([-1 - token if outer[token] is None else int(outer[token] or 0) for token in first])
    return fine, found


def _of_messages(messages: Sequence[Mapping[str, Any]], fine: str, level: str, roles: Sequence[str] | None) -> list[int]:
    found: list[int] = []
    for number, message in enumerate(messages):
        starts = [0] if level == "message" else [start for start, _ in pieces(message.get("content"), level)]
        own = [sum(start <= at for start in starts) for at, _ in pieces(message.get("content"), fine)]
        if roles is None or message["role"] in roles:
            found += [number * 2**24 + outer for outer in own]
    return found


# --- places


def owners(prompt: Prompt) -> tuple[tuple[int, ...], list[int | None]]:
    """The token ids of a prompt as given, and the unit of each token; None of those that always stay.

    Raises:
        InputError: a template whose values cannot be found in its text, or a tokenizer that does not say where tokens stand.
    """
    (ids,) = prompt.rows([(0,) * prompt.size])
    if isinstance(prompt, TokenPrompt):
        return ids, [slot.unit for slot in prompt.slots for _ in slot.forms[0]]
    if not isinstance(prompt, TextPrompt) or not getattr(prompt.tokenizer, "is_fast", False):
        raise InputError("the tokenizer does not say where tokens stand, so they cannot be told apart by units; use a fast one")
    places = list(_places(prompt))
    encoded = prompt.tokenizer(prompt.text(), add_special_tokens=prompt.special, return_offsets_mapping=True)
    return ids, [_owner(prompt.text(), span, places) for span in encoded["offset_mapping"]]


def _owner(text: str, span: Span, places: Sequence[tuple[Span, int | None]]) -> int | None:
    """The unit in which the first visible sign of a token stands."""
    said = text[slice(*span)]
    at = span[0] + len(said) - len(said.lstrip()) if said.strip() else span[0]
    return next((unit for (start, stop), unit in places if start <= at < stop), None) if span[1] > span[0] else None


def _places(prompt: TextPrompt) -> Iterator[tuple[Span, int | None]]:
    """Where each slot's text stands."""
    held = [str(slot.forms[0]) for slot in prompt.slots]
    marked = prompt.compose([_marked(text, number) for number, text in enumerate(held)])
    if SIGNS.sub("", marked) != prompt.text() or any(not 0 <= begin <= end for begin, end in _ends(marked)):
        raise InputError(
            "the template changes what it is given, so its values cannot be found in the text; use a method that takes values away, such "
            "as feature_ablation, or give the text itself"
        )
    at, begun = 0, dict[int, int]()
    for part in SIGNS.split(marked):
        number = ord(part) if len(part) == 1 else 0
        if number >= ENDS:
            yield (begun[number - ENDS], at), prompt.slots[number - ENDS].unit
        elif number >= BEGINS:
            begun[number - BEGINS] = at
        else:
            at += len(part)


def _ends(marked: str) -> Iterator[tuple[int, int]]:
    """Where in a marked text each place ends, and where it began; nowhere, -1."""
    for end in re.finditer("[\U00100000-\U0010ffff]", marked):
        yield marked.find(chr(ord(end.group()) - ENDS + BEGINS)), end.start()


def _marked(text: str, number: int) -> str:
    """With signs around what is not space, which templates may take away at both ends."""
    if number > MOST:
        raise InputError(f"a template of more than {MOST} values; put some of them together")
    core = text.strip()
    before, _, after = text.partition(core) if core else (text, "", "")
    return f"{before}{chr(BEGINS + number)}{core}{chr(ENDS + number)}{after}"


def parts_of(prompt: Prompt) -> Parts:
    """The prompt in its own words, piece by piece, with the unit of each; none where they cannot be told apart."""
    try:
        found = tuple(_pieces(prompt))
    except InputError:
        return ()
    return found if "".join(text for text, _ in found) == prompt.text() else ()


def _pieces(prompt: Prompt) -> Iterator[tuple[str, int | None]]:
    if isinstance(prompt, TokenPrompt):
        decode: Callable[[Any], str] | None = getattr(prompt.tokenizer, "decode", None)
        yield from ((decode(list(slot.forms[0])), slot.unit) for slot in prompt.slots) if decode is not None else ()
    elif isinstance(prompt, TextPrompt):
        text, at = prompt.text(), 0
        for (start, stop), unit in _places(prompt):
            yield from ((part, own) for part, own in ((text[at:start], None), (text[start:stop], unit)) if part)
            at = stop
        yield text[at:], None


def joined(labels: Sequence[str]) -> str:
    """Labels as one text, with spaces between them where they have none of their own."""
    spaced = any(label[:1].isspace() or label[-1:].isspace() for label in labels)
    return ("" if spaced or len(labels) == 1 else " ").join(labels)
