"""A prompt in units: parts that are explained, each as given or replaced by a stand-in, and what stands between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from ..errors import InputError

__all__ = ["Prompt", "Slot", "TextPrompt", "TokenPrompt", "chat_prompt", "template_prompt", "token_prompt"]

Form = TypeVar("Form", str, tuple[int, ...])
StandIn = int | str | None
Named = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Slot(Generic[Form]):
    """A place in a prompt.

    Attributes:
        forms: what it holds: as given, then whatever may stand in for it; a form of nothing is a removal.
        unit: the number of the unit that it belongs to; None: it is always as given.
    """

    forms: tuple[Form, ...]
    unit: int | None = None

    def form(self, choices: Sequence[int]) -> Form:
        """What it holds where each unit has the form of this number; the last one of a slot with fewer."""
        return self.forms[0 if self.unit is None else min(choices[self.unit], len(self.forms) - 1)]


@dataclass(frozen=True, eq=False)
class Prompt(ABC):
    """Slots in order, the labels of their units, and how what they hold becomes token ids.

    Choices are one number for each unit: 0 as given, 1 (or more) its stand-ins.
    """

    slots: tuple[Slot[Any], ...]
    labels: tuple[str, ...]
    tokenizer: Any = None

    @abstractmethod
    def rows(self, choices: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """The token ids for each of several choices."""

    @abstractmethod
    def text(self, choices: Sequence[int] = ()) -> str:
        """What the model reads, for a person; as given where nothing is chosen."""

    @property
    def size(self) -> int:
        """The number of units."""
        return len(self.labels)

    @property
    def stand_ins(self) -> int:
        """How many stand-ins the unit with the most of them has."""
        return max(len(slot.forms) for slot in self.slots if slot.unit is not None) - 1

    def grouped(self, units: Sequence[int], labels: Sequence[str] = ()) -> Prompt:
        """The same prompt with units put together: those with the same id, which count by their first appearance.

        Args:
            units: an id for each unit.
            labels: of the new units; by default those of their parts, one behind the other.

        Raises:
            InputError: another number of ids than units, or of labels than new units.

        >>> token_prompt([5, 6, 7]).grouped([0, 1, 1]).labels
        ('5', '6 7')
        """
        if len(units) != self.size:
            raise InputError(f"{len(units)} ids for {self.size} units; give one for each")
        numbers = {own: i for i, own in enumerate(dict.fromkeys(units))}
        parts = [" ".join(label for label, own in zip(self.labels, units, strict=True) if own == group) for group in numbers]
        if labels and len(labels) != len(parts):
            raise InputError(f"{len(labels)} labels for {len(parts)} units; give one for each")
        slots = tuple(slot if slot.unit is None else replace(slot, unit=numbers[units[slot.unit]]) for slot in self.slots)
        return replace(self, slots=slots, labels=tuple(labels or parts))

    def _held(self, choices: Sequence[int]) -> list[Any]:
        own = choices or (0,) * self.size
        return [slot.form(own) for slot in self.slots]


@dataclass(frozen=True, eq=False)
class TokenPrompt(Prompt):
    """Slots that hold token ids: replacing one changes no other, as it may where a whole text is tokenised again."""

    def rows(self, choices: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        return [tuple(token for form in self._held(own) for token in form) for own in choices]

    def text(self, choices: Sequence[int] = ()) -> str:
        (ids,) = self.rows([choices])
        return " ".join(map(str, ids)) if self.tokenizer is None else str(self.tokenizer.decode(list(ids)))


@dataclass(frozen=True, eq=False)
class TextPrompt(Prompt):
    """Slots that hold text; the whole text is tokenised, so that words at the borders become the tokens that a user would send.

    Attributes:
        compose: makes the text of what the slots hold.
        special: whether the tokenizer adds its special tokens.
    """

    compose: Callable[[Sequence[str]], str] = "".join
    special: bool = True

    def rows(self, choices: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        texts = [self.text(own) for own in choices]
        return [tuple(ids) for ids in self.tokenizer(texts, add_special_tokens=self.special)["input_ids"]]

    def text(self, choices: Sequence[int] = ()) -> str:
        return self.compose(self._held(choices))


def token_prompt(
    ids: Sequence[int],
    tokenizer: Any = None,
    stand_in: StandIn | tuple[StandIn, ...] = None,
    fixed: Sequence[int] = (),
    units: Sequence[int | None] | None = None,
    labels: Sequence[str] = (),
) -> TokenPrompt:
    """A prompt of token ids, each a unit by itself unless said otherwise.

    Args:
        ids: the tokens (a tensor of one dimension will do).
        tokenizer: for labels, and for a stand-in that is text; None: labels are numbers.
        stand_in: None removes a unit; an id stands in for each of its tokens; a text stands in, once, for all that lie side by
            side. Several in a tuple: scores are the mean over them.
        fixed: ids that are always as given.
        units: for each token the number of its unit, from 0; None: always as given.
        labels: of the units.

    Raises:
        InputError: no token that could be replaced, ids that do not fit each other, a text without a tokenizer.

    >>> prompt = token_prompt([7, 8, 9], stand_in=0, fixed=[7])
    >>> prompt.rows([(0, 0), (1, 0), (1, 1)])
    [(7, 8, 9), (7, 0, 9), (7, 0, 0)]
    """
    given = [int(i) for i in ids]
    if units is None:
        free = iter(range(len(given)))
        units = [None if i in set(fixed) else next(free) for i in given]
    if len(units) != len(given):
        raise InputError(f"{len(units)} units for {len(given)} tokens; give a number, or None, for each")
    known = sorted({own for own in units if own is not None})
    if not known or known != list(range(len(known))):
        raise InputError(f"units are {known}; number them from 0 without gaps, and leave at least one token that is not fixed")
    runs = [(list(run), own) for run, own in _runs(given, units)]
    ways = stand_in if isinstance(stand_in, tuple) else (stand_in,)
    slots = tuple(Slot((tuple(run), *(() if own is None else (_stood_in(run, way, tokenizer) for way in ways))), own) for run, own in runs)
    parts = [[i for i, own in zip(given, units, strict=True) if own == unit] for unit in known]
    return TokenPrompt(slots, tuple(labels) or tuple(label_of(part, tokenizer) for part in parts), tokenizer)


def _runs(ids: Sequence[int], units: Sequence[int | None]) -> list[tuple[list[int], int | None]]:
    """Tokens that lie side by side in one unit."""
    found: list[tuple[list[int], int | None]] = []
    for token, unit in zip(ids, units, strict=True):
        if found and found[-1][1] == unit:
            found[-1][0].append(token)
        else:
            found.append(([token], unit))
    return found


def _stood_in(run: Sequence[int], way: StandIn, tokenizer: Any) -> tuple[int, ...]:
    if isinstance(way, str):
        if tokenizer is None:
            raise InputError(f"the stand-in {way!r} is text, and there is no tokenizer; give a token id, or a tokenizer")
        return tuple(tokenizer.encode(way, add_special_tokens=False))
    return () if way is None else (int(way),) * len(run)


def label_of(ids: Sequence[int], tokenizer: Any) -> str:
    """What tokens say, for a picture: their text, or the tokens as they are called where they are only a part of a character."""
    if tokenizer is None:
        return " ".join(map(str, ids))
    said = str(tokenizer.decode(list(ids)))
    return said if said and "\ufffd" not in said else " ".join(map(str, tokenizer.convert_ids_to_tokens(list(ids))))


def template_prompt(
    template: str | Callable[..., str],
    values: Named,
    tokenizer: Any,
    stand_ins: Named | None = None,
    mask: Named | None = None,
) -> TextPrompt:
    """A prompt with values in a template, each a unit.

    Args:
        template: a string for `str.format`, or a function that returns the text.
        values: in order, or by name.
        stand_ins: in the same form; each a text, or a tuple of several over which scores are meant. None: values are removed.
        mask: in the same form: an id for each value; those with the same id are one unit.

    Raises:
        InputError: values, stand-ins and mask of different forms, or a template that does not take them.

    >>> prompt = template_prompt("{} feels {}", ["He", "sad"], None, ["It", "fine"])
    >>> prompt.text((1, 0))
    'It feels sad'
    """
    names = tuple(values) if isinstance(values, Mapping) else None
    if not values or isinstance(values, str):
        raise InputError(f"values are {values!r}; give at least one text, in a list or a dict")
    given, others = _in_form(values, values, "values"), _in_form(values, stand_ins, "stand-ins")
    ways = [(other,) if isinstance(other, str) else tuple(other or ("",)) for other in others]
    slots = tuple(Slot((str(value), *own), i) for i, (value, own) in enumerate(zip(given, ways, strict=True)))
    make = template.format if isinstance(template, str) else template

    def compose(held: Sequence[str]) -> str:
        return make(*held) if names is None else make(**dict(zip(names, held, strict=True)))

    prompt = TextPrompt(slots, tuple(map(str, given)), tokenizer, compose)
    try:
        prompt.text()
    except (IndexError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"the template does not take the values {list(names or given)} ({type(error).__name__}: {error})") from error
    return prompt if mask is None else _grouped(prompt, _in_form(values, mask, "mask"))


def _grouped(prompt: TextPrompt, units: Sequence[Any]) -> TextPrompt:
    found = prompt.grouped(units)
    return replace(prompt, slots=found.slots, labels=found.labels)


def _in_form(values: Named, given: Any, what: str) -> list[Any]:
    """What is given for the values, in their order; None for each where nothing is."""
    if given is None:
        return [None] * len(values)
    if isinstance(values, Mapping):
        if isinstance(given, Mapping) and set(given) == set(values):
            return [given[name] for name in values]
    elif not isinstance(given, Mapping | str) and len(given) == len(values):
        return list(given)
    raise InputError(f"{what} are {given!r}; give them in the form of the values, one for each of {list(values)}")


def chat_prompt(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    stand_in: str | tuple[str, ...] = "",
    roles: Sequence[str] | None = None,
    **options: Any,
) -> TextPrompt:
    """A conversation whose contents are units; the tokens around them are those of the tokenizer's chat template, and stay.

    Args:
        messages: dicts with `role` and `content`: a text, or a list of texts, each a unit (the passages and the question).
        stand_in: what stands in for a content; several in a tuple.
        roles: whose contents are units; None: everyone's.
        options: further arguments of `tokenizer.apply_chat_template`, such as `tools`; `add_generation_prompt` is True.

    Raises:
        InputError: no message with a content of text, or a tokenizer without a chat template.
    """
    if not getattr(tokenizer, "chat_template", None) and "chat_template" not in options:
        raise InputError("the tokenizer has no chat template; pass chat_template=..., or use template_prompt")
    ways = stand_in if isinstance(stand_in, tuple) else (stand_in,)
    parts = [(i, text) for i, message in enumerate(messages) for text in _texts(message)]
    free = iter(range(len(parts)))
    owners = [next(free) if roles is None or messages[i]["role"] in roles else None for i, _ in parts]
    if all(own is None for own in owners):
        raise InputError(f"no message of {[m['role'] for m in messages]} has a content to explain; name some of these as roles")
    slots = tuple(Slot((text, *(ways if own is not None else ())), own) for (_, text), own in zip(parts, owners, strict=True))
    settings = {"add_generation_prompt": True, **options, "tokenize": False}

    def compose(held: Sequence[str]) -> str:
        said = ["".join(text for (own, _), text in zip(parts, held, strict=True) if own == i) for i in range(len(messages))]
        filled = [{**message, "content": content} for message, content in zip(messages, said, strict=True)]
        return str(tokenizer.apply_chat_template(filled, **settings))

    labels = tuple(text for (_, text), own in zip(parts, owners, strict=True) if own is not None)
    return TextPrompt(slots, labels, tokenizer, compose, special=False)


def _texts(message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    found = [content] if isinstance(content, str) else list(content or ())
    found = [part.get("text") if isinstance(part, Mapping) else part for part in found]
    if not all(isinstance(part, str) for part in found):
        raise InputError(f"a content is {content!r}; texts can be explained: give a string, or a list of strings")
    return found
