"""Prompts that a function makes of the units that are there: text or token ids, or all that a processor gives to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import InputError
from .prompt import Prompt, Slot

__all__ = ["MadePrompt", "MediaPrompt", "made_prompt"]

Make = Callable[[Sequence[int]], Any]
TEXTUAL = {"input_ids", "attention_mask"}


@dataclass(frozen=True, eq=False)
class MadePrompt(Prompt):
    """Text, which is tokenised with the tokenizer's special tokens, or token ids.

    Attributes:
        make: what is read where each unit has the form of this number: 0 as given, 1 its stand-in.
    """

    make: Make = field(kw_only=True)

    def rows(self, choices: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        return [_ids(self.make(own), self.tokenizer) for own in choices]

    def text(self, choices: Sequence[int] = ()) -> str:
        (ids,) = self.rows([choices or (0,) * self.size])
        return " ".join(map(str, ids)) if self.tokenizer is None else str(self.tokenizer.decode(list(ids)))


@dataclass(frozen=True, eq=False)
class MediaPrompt(Prompt):
    """More than token ids: a mapping with them and whatever else a model takes by name (pixels, sizes, masks).

    Attributes:
        make: as in `MadePrompt`.
    """

    make: Make = field(kw_only=True)

    def rows(self, choices: Sequence[Sequence[int]]) -> list[Any]:
        """A mapping for each choice.

        Raises:
            InputError: what is made is none, or has no `input_ids` of one row.
        """
        return [_mapping(self.make(own)) for own in choices]

    def text(self, choices: Sequence[int] = ()) -> str:
        (made,) = self.rows([choices or (0,) * self.size])
        ids = made["input_ids"][0].tolist()
        return " ".join(map(str, ids)) if self.tokenizer is None else str(self.tokenizer.decode(ids))


def made_prompt(make: Make, labels: Sequence[str], tokenizer: Any = None) -> MadePrompt | MediaPrompt:
    """A prompt of so many units as there are labels, of the kind that `make` gives.

    Raises:
        InputError: there are no units, or it gives something else than text, token ids or a mapping with `input_ids`.

    >>> import torch
    >>> prompt = made_prompt(lambda choices: torch.tensor([[7, 0 if choices[0] else 8]]), ["word"])
    >>> prompt.rows([(0,), (1,)])
    [(7, 8), (7, 0)]
    """
    if not labels:
        raise InputError("the prompt has no units; there must be one at least that can be taken away")
    slots: tuple[Slot[Any], ...] = tuple(Slot((label, ""), unit) for unit, label in enumerate(labels))
    given = make((0,) * len(labels))
    kind = MadePrompt if isinstance(given, str | Tensor) or (isinstance(given, Mapping) and _textual(given)) else MediaPrompt
    prompt = kind(slots, tuple(labels), tokenizer, make=make)
    prompt.rows([(0,) * len(labels)])
    return prompt


def _textual(given: Mapping[str, Any]) -> bool:
    """Whether a mapping holds nothing but token ids of one row, without padding."""
    mask = given.get("attention_mask")
    return set(given) <= TEXTUAL and "input_ids" in given and (mask is None or bool(mask.all()))


def _ids(given: Any, tokenizer: Any) -> tuple[int, ...]:
    if isinstance(given, str):
        if tokenizer is None:
            raise InputError(f"the prompt {given[:40]!r} is text, and there is no tokenizer; give one, or an input of token ids")
        return tuple(int(i) for i in tokenizer.encode(given))
    ids = given["input_ids"] if isinstance(given, Mapping) else given
    if not isinstance(ids, Tensor) or ids.dim() not in (1, 2) or (ids.dim() == 2 and len(ids) != 1):
        shape = f" of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else ""
        raise InputError(f"the prompt is a {type(ids).__name__}{shape}; one prompt is a text, or token ids of shape (1, tokens)")
    return tuple(ids.flatten().tolist())


def _mapping(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise InputError(f"a model input is a {type(given).__name__}; it must be text, token ids (1, tokens), or a mapping with input_ids")
    ids = given.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or len(ids) != 1:
        shape = f"shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
        raise InputError(f"a model input has input_ids of {shape}; it must hold token ids of one row, (1, tokens), as processors give them")
    return dict(given)
