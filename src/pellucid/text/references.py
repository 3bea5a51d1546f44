"""References: what words are compared with, as ids or as vectors, in all the forms in which people say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, OptionError
from .sites import Site
from .tokens import Text
from .vocabulary import KINDS, Vocabulary

__all__ = ["HIDDEN", "Stand", "ids_for", "per_part", "stand_for"]

HIDDEN = -1
WAY_OUT = "give 'pad', 'mask' or another special token, a token's id (int), a word, a text, ids as a tensor, or a float for vectors"


@dataclass(frozen=True, eq=False)
class Stand:
    """What stands in for an entry's words.

    Attributes:
        value: ids, or vectors, or a number of these; several rows are a distribution.
        said: in words.
        keeps: whether special tokens are to stay what they are, where the value does not keep them itself.
    """

    value: Any
    said: str
    keeps: bool = False


def per_part(given: Any, names: Sequence[str], words: Sequence[str]) -> list[Any]:
    """One reference for each of the parts named so: a mapping by name, a tuple in order, one for all words, or None for the usual.

    Raises:
        InputError: another number than parts. OptionError: a name of none of them.
    """
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise OptionError(f"baselines name {unknown[0]!r}, which is not attributed; these are: {', '.join(names)}")
        return [given.get(name) for name in names]
    if isinstance(given, tuple):
        if len(given) != len(names):
            raise InputError(
                f"{len(given)} baselines for {len(names)} inputs ({', '.join(names)}); give one for each, or a mapping by name"
            )
        return list(given)
    everywhere = len(names) == 1 or not words or callable(given)
    return [given if everywhere or name in words else None for name in names]


def ids_for(given: Any, text: Text, vocabulary: Vocabulary, spread: bool = False) -> Stand:
    """The ids that stand in for a text's.

    Args:
        given: None (padding, or whatever stands for no word), a kind of special token, a word or a text, an id, a tensor of ids, a
            function of ids; "removed": hidden by the mask, and padding in its place.
        spread: a distribution is wanted, for all examples.

    Raises:
        OptionError, InputError, TargetError: something else.
    """
    if isinstance(given, str) and given == "removed":
        return Stand(text.replaced(HIDDEN), "every word hidden by the mask")
    if callable(given):
        return Stand(given, f"what {getattr(given, '__name__', 'a function')} makes of the tokens")
    if isinstance(given, Tensor) and given.dim():
        return Stand(_checked(given, text), "the ids that were given")
    if isinstance(given, list) and given and all(isinstance(one, str) for one in given):
        _check_count(len(given), len(text.ids), spread)
        return Stand(torch.cat([_row(vocabulary.numbers(one, True), text, vocabulary) for one in given]), f"{len(given)} texts", True)
    number = _number(given, vocabulary)
    _check_known(number, vocabulary)
    if isinstance(number, list):
        whole = _row(vocabulary.numbers(given, True), text, vocabulary) if spread else _among(number, text, vocabulary)
        return Stand(whole, f"the text {given!r}", spread)
    said = f"{vocabulary.token(number)!r} in place of every word"
    return Stand(torch.full_like(text.ids[:1], number), said, True) if spread else Stand(text.replaced(number), said)


def _check_count(count: int, examples: int, spread: bool) -> None:
    if not spread and count not in (1, examples):
        raise OptionError(
            f"baselines are {count} texts for {examples} examples; several are a distribution, for gradient_shap and deeplift_shap"
        )


def _check_known(number: int | list[int], vocabulary: Vocabulary) -> None:
    size = getattr(vocabulary.config, "vocab_size", None)
    if isinstance(number, int) and (number < 0 or (isinstance(size, int) and number >= size)):
        raise OptionError(
            f"baselines is {number}, and the model knows the ids 0 to {size - 1 if isinstance(size, int) else '...'}; {WAY_OUT}"
        )


def _number(given: Any, vocabulary: Vocabulary) -> int | list[int]:
    """The id that a word, a kind or a number means, or the ids of a text of several."""
    if given is None:
        if vocabulary.blank is None:
            raise OptionError(f"neither a tokenizer nor the model's configuration names a token that stands for no word; {WAY_OUT}")
        return vocabulary.blank[0]
    if isinstance(given, str):
        if given in KINDS:
            found = vocabulary.special(given)
            if found is None:
                raise OptionError(f"baselines is {given!r}, and the vocabulary has no such token; {WAY_OUT}")
            return found
        pieces = vocabulary.numbers(given)
        return vocabulary.number(given) if len(given.split()) == 1 else pieces
    if isinstance(given, bool | float) or (isinstance(given, Tensor) and given.is_floating_point()):
        raise OptionError(f"baselines is {given!r}, and token ids are replaced by ids; {WAY_OUT}")
    try:
        return int(given)
    except (TypeError, ValueError) as error:
        raise OptionError(f"baselines is {type(given).__name__}; {WAY_OUT}") from error


def _row(numbers: list[int], text: Text, vocabulary: Vocabulary) -> Tensor:
    """A text's ids in one row `(1, L)`, filled up with what stands for no word."""
    row = _filled(numbers, text.ids.shape[1], vocabulary)
    return torch.tensor([row], dtype=text.ids.dtype, device=text.ids.device)


def _among(numbers: list[int], text: Text, vocabulary: Vocabulary) -> Tensor:
    """A text's ids where each example has words."""
    found = text.ids.clone()
    for row, kept in zip(found, text.kept, strict=True):
        own = _filled(numbers, int((~kept).sum()), vocabulary)
        row[~kept] = torch.tensor(own, dtype=row.dtype, device=row.device)
    return found


def _filled(numbers: list[int], length: int, vocabulary: Vocabulary) -> list[int]:
    if len(numbers) > length:
        raise InputError(f"the reference has {len(numbers)} tokens, and the text {length}; give one that is not longer")
    return [*numbers, *[vocabulary.blank[0] if vocabulary.blank else 0] * (length - len(numbers))]


def _checked(given: Tensor, text: Text) -> Tensor:
    if given.is_floating_point() or given.dtype == torch.bool:
        raise OptionError(f"baselines are {given.dtype}, and token ids are replaced by ids; {WAY_OUT}")
    rows = given if given.dim() >= text.ids.dim() else given[None]
    if rows.shape[-1] != text.ids.shape[-1]:
        raise InputError(f"baselines have shape {tuple(given.shape)} for ids of shape {tuple(text.ids.shape)}; give one id for each token")
    return rows.to(text.ids)


def stand_for(given: Any, site: Site, text: Text | None, vocabulary: Vocabulary, spread: bool = False) -> Stand:
    """The vectors that stand in for what a site returns: those of ids, or zeros, or vectors and numbers themselves.

    Embeddings of places and of kinds of tokens are compared with that of number 0, unless another is given.
    """
    if isinstance(given, str) and given == "zeros":
        return Stand(0.0, "zeros")
    if isinstance(given, float) or (isinstance(given, Tensor) and given.is_floating_point()):
        return Stand(given, "the vectors that were given" if isinstance(given, Tensor) else f"{given:g} everywhere")
    if site.kind != "word" or text is None:
        number = 0 if given is None else given
        if not isinstance(number, int | Tensor):
            raise OptionError(f"baselines for {site.name} are {type(given).__name__}; give a number, a tensor, 'zeros' or a float")
        ids = number.to(site.ids).expand_as(site.ids) if isinstance(number, Tensor) else torch.full_like(site.ids, number)
        return Stand(site.spread(site.embedded(ids)), f"number {number} of {site.name}")
    if given is None and vocabulary.blank is None:
        return Stand(0.0, "zeros: no token is known that stands for no word")
    if isinstance(given, str) and given == "removed":
        raise OptionError("baselines='removed' hides tokens, which only methods that replace them can do (feature_ablation, shapley, ...)")
    found = ids_for(given, text, vocabulary, spread)
    ids = found.value(text.ids) if callable(found.value) else found.value
    if spread or ids.dim() > text.ids.dim() or len(ids) not in (1, len(text.ids)):
        return Stand(site.embedded(ids), found.said, found.keeps)
    return Stand(site.spread(site.embedded(ids.expand_as(text.ids).reshape(site.ids.shape))), found.said)
