"""Entries: what a model is called with, each by its name; from dictionaries, dataclasses, tokenizers' output, texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, warn
from .vocabulary import joined

__all__ = ["Entries", "context_of", "encoded", "entries_of", "is_named", "places_in"]

# What tells how to read the rest, and is not read itself.
CONTEXT = re.compile(r"mask|label|position|past|cache|bias|^use_|^output_|^return_")
PLACES = re.compile(r"(position_embeddings|embed_positions|wpe)$")
STRETCHED = ("dynamic", "linear", "llama3", "longrope", "yarn")
MOST = 2**20  # tokenizers say a huge number where they know no limit


@dataclass(frozen=True, eq=False)
class Entries:
    """What a model is called with.

    Attributes:
        values: each entry by its name.
        places: names of those that go by place, in this order; the others go by name.
        sides: of a pair of texts, `(B, L)`, which one a token belongs to, 0 or 1, and -1 for neither; where that is known.
        tokens, marks: of `input_ids`, their names, and `(B, L)` which are no part of the text; where whoever made them knows.
    """

    values: Mapping[str, Any]
    places: tuple[str, ...] = ()
    sides: Tensor | None = None
    tokens: tuple[tuple[str, ...], ...] = ()
    marks: Tensor | None = None

    @property
    def ids(self) -> dict[str, Tensor]:
        """The entries of whole numbers with a place for each token."""
        tensors = self._tensors()
        return {name: t for name, t in tensors.items() if t.dim() > 1 and not t.is_floating_point() and t.dtype != torch.bool}

    @property
    def numbers(self) -> dict[str, Tensor]:
        """The entries of real numbers that say something themselves: pixels, embeddings, readings."""
        tensors = self._tensors()
        return {name: t for name, t in tensors.items() if t.dim() > 1 and t.is_floating_point() and not CONTEXT.search(name)}

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.values.items() if isinstance(value, Tensor)}

    def mask_of(self, name: str) -> tuple[str, Tensor | None]:
        """The entry that says which tokens of another are there: what it is called, and its value if it was given."""
        start, _, _ = name.rpartition("input_ids")
        called = f"{start}attention_mask" if name.endswith("input_ids") else "attention_mask"
        found = self.values.get(called)
        return called, found if isinstance(found, Tensor) and found.shape == self.values[name].shape else None


def is_named(inputs: Any, *given: Any) -> bool:
    """Whether inputs are read by their names; tensors are where a tokenizer or a choice of embeddings is given with them."""
    texts = isinstance(inputs, str) or (isinstance(inputs, list | tuple) and bool(inputs) and isinstance(inputs[0], str))
    mapping = isinstance(inputs, Mapping) or (is_dataclass(inputs) and not isinstance(inputs, type))
    return texts or mapping or inputs is None or any(value is not None for value in given)


def entries_of(inputs: Any, tokenizer: Any = None, roots: Sequence[nn.Module] = ()) -> Entries:
    """The entries in what a user gave.

    Raises:
        InputError: a text without a tokenizer, lists of numbers, nothing at all.
    """
    if isinstance(inputs, str) or (isinstance(inputs, list | tuple) and inputs and isinstance(inputs[0], str)):
        if tokenizer is None:
            raise InputError("the inputs are text, and no tokenizer is known: give tokenizer=, or what a tokenizer made of them")
        inputs = encoded(tokenizer, inputs, roots)
        device = next((p.device for root in roots for p in root.parameters()), torch.device("cpu"))
        inputs.update(_begun(roots, inputs["input_ids"]))
        for name, tensor in inputs.items():
            inputs[name] = tensor.to(device)
    if isinstance(inputs, Tensor | tuple | list):
        by_place = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        names = tuple(f"input {i}" for i in range(len(by_place)))
        return Entries(_checked(dict(zip(names, by_place, strict=True))), names)
    if is_dataclass(inputs) and not isinstance(inputs, type | Mapping):
        inputs = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    values = {str(name): value for name, value in (inputs or {}).items()}
    encodings = getattr(inputs, "encodings", None)
    return Entries(_checked(values), (), *_told(encodings)) if encodings else Entries(_checked(values))


def _begun(roots: Sequence[nn.Module], ids: Tensor) -> dict[str, Tensor]:
    """Of a model that answers a text with a text, the token that its answer begins with: what is explained is the next."""
    for root in roots:
        config = getattr(root, "config", None)
        start = getattr(config, "decoder_start_token_id", None)
        if getattr(config, "is_encoder_decoder", False) and start is not None and type(root).__name__.endswith("ForConditionalGeneration"):
            return {"decoder_input_ids": torch.full_like(ids[:, :1], int(start))}
    return {}


def _told(encodings: Sequence[Any]) -> tuple[Tensor | None, tuple[tuple[str, ...], ...], Tensor]:
    """What a fast tokenizer tells about its own output: sides, tokens, marks."""
    sides = torch.tensor([[-1 if side is None else side for side in one.sequence_ids] for one in encodings])
    marks = torch.tensor([one.special_tokens_mask for one in encodings]).bool()
    return sides if bool((sides == 1).any()) else None, tuple(joined(one.tokens, one.word_ids) for one in encodings), marks


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    if not any(isinstance(value, Tensor) for value in values.values()):
        lists = [name for name, value in values.items() if isinstance(value, list | tuple)]
        way_out = f"{lists[0]!r} is a list: a tokenizer makes tensors with return_tensors='pt'" if lists else "give what the model takes"
        raise InputError(f"the inputs {list(values)} hold no tensor; {way_out}")
    single = [name for name, value in values.items() if name == "input_ids" and isinstance(value, Tensor) and value.dim() < 2]
    if single:
        shape = tuple(values[single[0]].shape)
        raise InputError(f"{single[0]} has shape {shape}, without the dimension of the examples: use unsqueeze(0)")
    return values


def encoded(tokenizer: Any, text: str | Sequence[str], roots: Sequence[nn.Module] = ()) -> Any:
    """What the tokenizer makes of a text, of a list of texts, or of a tuple of two (a question and its context).

    A text that is longer than the model reads is cut, with a warning; of two, the second.

    Raises:
        InputError: an empty text, a tuple of another length.
    """
    if isinstance(text, tuple) and len(text) != 2:
        raise InputError(f"a tuple of {len(text)} texts; a tuple is a pair (question, context), a list has one text for each example")
    given = [text] if isinstance(text, str) else list(text)
    if not given or not all(isinstance(one, str) and one.strip() for one in given):
        raise InputError("a text is empty; give at least one word")
    arguments: tuple[Any, ...] = text if isinstance(text, tuple) else ([text] if isinstance(text, str) else list(text),)
    most = _longest(tokenizer, roots)
    found = tokenizer(*arguments)["input_ids"]
    whole = max(len(one) for one in found) if found and isinstance(found[0], list) else len(found)
    if most is not None and whole > most:
        warn("truncated", f"the text has {whole} tokens; the model reads, and the explanation is about, the first {most}")
    cut = {"truncation": "only_second" if len(arguments) == 2 else True, "max_length": most} if most is not None else {}
    if len(given) > 1 and not isinstance(text, tuple) and getattr(tokenizer, "pad_token", None) is None:
        return _padded([tokenizer(one, **cut) for one in given])
    padding = {} if isinstance(text, tuple) else {"padding": len(given) > 1, "padding_side": "right"}
    return tokenizer(*arguments, return_tensors="pt", **cut, **padding)


def _padded(each: Sequence[Mapping[str, list[int]]]) -> dict[str, Tensor]:
    """Texts of a tokenizer without a padding token, filled up on the right with what the mask hides."""
    longest = max(len(one["input_ids"]) for one in each)
    filled = {name: torch.tensor([[*one[name], *[0] * (longest - len(one[name]))] for one in each]) for name in each[0]}
    mask = torch.tensor([[1] * len(one["input_ids"]) + [0] * (longest - len(one["input_ids"])) for one in each])
    return filled | {"attention_mask": mask}


def _longest(tokenizer: Any, roots: Sequence[nn.Module]) -> int | None:
    """How many tokens a model reads: as its tokenizer says, at most as many as it has places for."""
    limit = int(getattr(tokenizer, "model_max_length", MOST))
    config = next((found for root in roots if (found := getattr(root, "config", None)) is not None), None)
    counts = (limit if limit < MOST else None, places_in(roots), context_of(config))
    return min((count for count in counts if count is not None), default=None)


def context_of(config: Any) -> int | None:
    """How many tokens a configuration says that a model reads; None where it says nothing (XLNet: -1).

    Places that rotate may be stretched (yarn, dynamic): `factor` times those that the model was trained with.
    """
    known = getattr(config, "max_position_embeddings", None)
    if not isinstance(known, int) or known <= 0:
        return None
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(rope, Mapping) or rope.get("rope_type") not in STRETCHED:
        return known
    return max(known, round((rope.get("original_max_position_embeddings") or known) * float(rope.get("factor") or 1)))


def places_in(roots: Sequence[nn.Module]) -> int | None:
    """How many places a text may have, where a model has learned an embedding of each; None where it has not."""
    for root in roots:
        for name, module in root.named_modules():
            if isinstance(module, nn.Embedding) and PLACES.search(name):
                # Models of RoBERTa's kind number their places from behind the padding token; others leave out the first two.
                first = module.padding_idx + 1 if module.padding_idx is not None else int(getattr(module, "offset", 0))
                return module.num_embeddings - first
    return None
