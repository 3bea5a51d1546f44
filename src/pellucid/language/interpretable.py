"""What can be taken away from a prompt, and what the model is given then: segments of a template, or tokens."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, OptionError, warn
from .prompt import TextPrompt, TokenPrompt, template_prompt, token_prompt

__all__ = ["Parts", "Template", "Tokens", "id_of", "presence"]

# A prompt in pieces: each with the number of its unit, or None where nothing is ever taken away.
Parts = tuple[tuple[str, int | None], ...]


def presence(rows: Tensor, units: int) -> Tensor:
    """Which units are there, `(rows, units)` bool, from one row or several of zeros and ones.

    Raises:
        InputError: another number of units, or other numbers: half a word cannot be given to a model.

    >>> presence(torch.tensor([1.0, 0.0]), 2)
    tensor([[ True, False]])
    """
    given = torch.atleast_2d(rows)
    if given.dim() != 2 or given.shape[1] != units:
        raise InputError(f"a presence of shape {tuple(rows.shape)} for {units} units; give (rows, {units}) zeros and ones")
    there: Tensor = given != 0
    if not bool((given == there).all()):
        raise InputError("a presence has other numbers than 0 and 1; a unit is there (1) or stands aside for its baseline (0)")
    return there


@dataclass(frozen=True, eq=False)
class Template:
    """A text whose segments can be taken away.

    Attributes:
        form: a format string, or a function of the segments that writes the text.
        names: of the segments, where the form takes them by name; else none.
        values: the segments.
        unit_of: the unit that each segment belongs to: segments of one unit come and go together.
        units: how many units there are.
        fills: what stands in for each segment; or a function that draws such fills, a list or a mapping by name, for every text anew.
    """

    form: str | Callable[..., str]
    names: tuple[str, ...]
    values: tuple[Any, ...]
    unit_of: tuple[int, ...]
    units: int
    fills: tuple[Any, ...] | Callable[[], Any]

    @classmethod
    def of(
        cls,
        form: str | Callable[..., str],
        values: Sequence[Any] | Mapping[str, Any],
        fills: Sequence[Any] | Mapping[str, Any] | Callable[[], Any] | None = None,
        groups: Sequence[Any] | Mapping[str, Any] | None = None,
    ) -> Template:
        """A template from lists in the order of its fields, or from mappings by their names.

        Args:
            form: `"{} feels {}"`, `"{who} feels {how}"`, or a function of as many arguments.
            values: the segments.
            fills: what stands in for them, in the same form, or a function that returns it; None: nothing, "".
            groups: an id for each segment; equal ids are one unit. Units are numbered in the order of their ids.

        Raises:
            InputError: fields without a value, a format string without fields, fills or groups that do not match the values.

        >>> prompt = Template.of("{} feels {}", ["He", "low"], ["It", "fine"])
        >>> prompt.text(), prompt.text([False, True])
        ('He feels low', 'It feels low')
        """
        if isinstance(values, Sequence | Mapping) and not len(values):
            raise InputError("values is empty; there must be one segment at least for something to be attributed to")
        names = tuple(values) if isinstance(values, Mapping) else ()
        found = _listed("values", values, names, None)
        if not isinstance(form, str) and not callable(form):
            raise InputError(f"template is a {type(form).__name__}; give a format string, or a function of the values that returns a text")
        if not callable(fills):
            fills = ("",) * len(found) if fills is None else _listed("baselines", fills, names, len(found))
        ids = tuple(range(len(found))) if groups is None else _listed("mask", groups, names, len(found))
        if isinstance(form, str):
            _check_fields(form, found, names)
        order = _ordered(ids)
        return cls(form, names, found, tuple(map(order.index, ids)), len(order), fills)

    def text(self, present: Sequence[bool] | None = None) -> str:
        """The text with only these units `(units,)` there; None: as it was given, and no fills are drawn."""
        return self._written(self.values if present is None else self._chosen(present))

    def drawn(self) -> Template:
        """The same with fills that are a function drawn once, for all texts."""
        return replace(self, fills=self._filled())

    def prompt(self, tokenizer: Any, draws: int = 1) -> TextPrompt:
        """The same for the engine: units in this order; of fills that are a function, so many draws, over which scores are meant."""
        drawn = [self._filled() for _ in range(draws if callable(self.fills) else 1)]
        stand_ins = [tuple(map(str, fills)) for fills in zip(*drawn, strict=True)]
        values, ways = (dict(zip(self.names, each, strict=True)) if self.names else list(each) for each in (self.values, stand_ins))
        found = template_prompt(self.form, values, tokenizer, ways)
        slots = tuple(replace(slot, unit=self.unit_of[i]) for i, slot in enumerate(found.slots))
        labels = tuple(" ".join(str(v) for v, own in zip(self.values, self.unit_of, strict=True) if own == u) for u in range(self.units))
        return replace(found, slots=slots, labels=labels)

    def parts(self, by_segment: bool = False) -> Parts:
        """The text in pieces with their units, or their segments; nothing where a function writes it, or fields lie within fields."""
        if not isinstance(self.form, str):
            return ()
        pieces = tuple((text, n if n is None or by_segment else self.unit_of[n]) for text, n in self._pieces(self.form) if text)
        return pieces if "".join(text for text, _ in pieces) == self.text() else ()

    def _pieces(self, form: str) -> Iterator[tuple[str, int | None]]:
        used = 0
        for words, field, spec, conversion in string.Formatter().parse(form):
            yield words, None
            if field is not None:
                root = field.replace("[", ".").split(".")[0] or str(used)
                place = self.names.index(root) if self.names else int(root)
                used += 1
                shape = "{0" + field.removeprefix(root) + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
                yield ("" if "{" in (spec or "") else shape.format(self.values[place])), place

    def _chosen(self, present: Sequence[bool]) -> tuple[Any, ...]:
        if len(present) != self.units:
            raise InputError(f"present has {len(present)} entries for {self.units} units; give one for each")
        pairs = zip(self.values, self._filled(), self.unit_of, strict=True)
        return tuple(value if present[unit] else fill for value, fill, unit in pairs)

    def _filled(self) -> tuple[Any, ...]:
        return _listed("baselines", self.fills(), self.names, len(self.values)) if callable(self.fills) else self.fills

    def _written(self, segments: Sequence[Any]) -> str:
        write = self.form.format if isinstance(self.form, str) else self.form
        return write(**dict(zip(self.names, segments, strict=True))) if self.names else write(*segments)


def _listed(what: str, given: Any, names: tuple[str, ...], size: int | None) -> tuple[Any, ...]:
    """What was given by place or by name, by place.

    Raises:
        InputError: it was given in another way than the values, or not for all of them.
    """
    if names:
        if not isinstance(given, Mapping):
            raise InputError(f"{what} is a {type(given).__name__}, but values has names; give a dictionary with all of {list(names)}")
        if odd := [name for name in names if not isinstance(name, str)]:
            raise InputError(f"values has the key {odd[0]!r}; keys are names of the template's fields, so they must be strings")
        if missing := [name for name in names if name not in given]:
            raise InputError(f"{what} has nothing for {', '.join(map(repr, missing))}; give one for each of {', '.join(map(repr, names))}")
        return tuple(given[name] for name in names)
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        rule = "values has no names; give a list" if size is not None else "give a list, or a dictionary by the names of the fields"
        raise InputError(f"{what} is a {type(given).__name__}; {rule}")
    if size is not None and len(given) != size:
        raise InputError(f"{what} has {len(given)} entries for {size} values; give one for each")
    return tuple(given)


def _ordered(ids: Sequence[Any]) -> list[Any]:
    try:
        return sorted(set(ids))
    except TypeError as error:
        raise InputError(f"mask has the ids {list(ids)!r}, which cannot be ordered ({error}); give whole numbers") from error


class _Reader(string.Formatter):
    """Notes which values a format string uses."""

    used: frozenset[Any] = frozenset()

    def check_unused_args(self, used_args: Any, args: Any, kwargs: Any) -> None:
        self.used = frozenset(used_args)


def _check_fields(form: str, values: tuple[Any, ...], names: tuple[str, ...]) -> None:
    """Refuse fields without a value and texts without fields; tell of values that no field uses."""
    reader, known = _Reader(), list(names) if names else list(range(len(values)))
    have = f"values has {', '.join(map(repr, names))}" if names else f"values is a list of {len(values)}"
    try:
        reader.vformat(form, () if names else values, dict(zip(names, values, strict=False)))
    except (KeyError, IndexError) as error:
        field = f"the field {{{error.args[0]}}}" if isinstance(error, KeyError) else "more fields by place than there are values"
        raise InputError(f"the template {form!r} has {field}; {have}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"the template {form!r} cannot be filled: {error}; braces that are meant as such are doubled: {{{{") from error
    unused = [name for name in known if name not in reader.used]
    if len(unused) == len(known):
        raise InputError(f"the template {form!r} has no fields, so nothing in it can be taken away; mark the segments by {{}} or {{name}}")
    if unused:
        warn("unused", f"no field of the template uses {', '.join(map(repr, unused))} of values; attributions to it can only be 0")


@dataclass(frozen=True, eq=False)
class Tokens:
    """A text whose tokens can be taken away, in place: the others stay where they are.

    Attributes:
        ids: `(1, T)` of the whole text.
        free: `(T,)`, which tokens are units; the others stay.
        fill: the id that stands in for a token.
        kept: the ids that always stay.
    """

    ids: Tensor
    free: Tensor
    fill: int
    kept: tuple[int, ...] = ()

    @property
    def units(self) -> int:
        """How many tokens can be taken away."""
        return int(self.free.sum())

    @classmethod
    def of(cls, text: str, tokenizer: Any, fill: int | str = 0, keep: Sequence[int | str] = ()) -> Tokens:
        """The tokens of a text.

        Args:
            tokenizer: as transformers has them: `encode(text, return_tensors="pt")`, `convert_tokens_to_ids`.
            fill: the id or the token that stands in for others: padding, a mask, or what is rare.
            keep: ids or tokens that are never taken away, as special tokens.

        Raises:
            InputError: a text without tokens that can be taken away. OptionError: a fill that is no token.
        """
        ids = tokenizer.encode(text, return_tensors="pt")
        kept = [found for token in keep if (found := id_of(tokenizer, token)) is not None]
        if lost := [token for token in keep if id_of(tokenizer, token) is None]:
            warn("unknown-token", f"the tokenizer has no {', '.join(map(repr, lost))}; nothing is skipped for it")
        free = ~torch.isin(ids[0], torch.tensor(kept, dtype=ids.dtype, device=ids.device))
        if not bool(free.any()):
            told = f"{ids.shape[1]} tokens, and skip_tokens keeps all of them" if ids.shape[1] else "no tokens"
            raise InputError(f"the text {text!r} has {told}; there must be one token at least that can be taken away")
        number = id_of(tokenizer, fill)
        if number is None or number < 0:
            raise OptionError(f"baselines is {fill!r}, which the tokenizer does not have; give one of its tokens, or an id")
        return cls(ids, free, number, tuple(kept))

    def prompt(self, tokenizer: Any = None) -> TokenPrompt:
        """The same for the engine; with a tokenizer, labels are text."""
        return token_prompt(self.ids[0].tolist(), tokenizer, self.fill, self.kept)

    def given(self, present: Tensor) -> Tensor:
        """The ids `(rows, T)` with only these units `(rows, units)` there, on their device."""
        there = presence(present, self.units)
        rows = self.ids.to(there.device).repeat(len(there), 1)
        free = self.free.to(there.device)
        rows[:, free] = torch.where(there, rows[:, free], self.fill)
        return rows


def id_of(tokenizer: Any, token: int | str) -> int | None:
    """The id of a token; none where the tokenizer only has its sign for what it does not know."""
    if not isinstance(token, str):
        return int(token)
    found = tokenizer.convert_tokens_to_ids([token])[0]
    unknown = found is None or (found == getattr(tokenizer, "unk_token_id", None) and token != getattr(tokenizer, "unk_token", None))
    return None if unknown else int(found)
