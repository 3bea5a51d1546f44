"""The answer that is explained: given as text or tokens, or generated."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..model import undisturbed
from ..seeds import resolve_seed
from .prompt import label_of
from .reader import Reader

__all__ = ["GENERATION", "Answer", "answer_of", "generated", "generated_after"]

# The likeliest token, 25 times; temperature and top_p belong to sampling.
GENERATION: Mapping[str, Any] = {"max_new_tokens": 25, "do_sample": False, "temperature": None, "top_p": None}


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer, and what they say."""

    ids: tuple[int, ...]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, ids: Sequence[int], tokenizer: Any = None) -> Answer:
        """With a label for each token."""
        return cls(tuple(ids), tuple(label_of([i], tokenizer) for i in ids))

    @property
    def text(self) -> str:
        """The tokens one behind the other."""
        return "".join(self.labels)


def answer_of(answer: str | Tensor | Sequence[int], tokenizer: Any = None) -> Answer:
    """An answer from a text, which gets no special tokens, or from token ids.

    Raises:
        InputError: a text without a tokenizer, or an answer without tokens.

    >>> answer_of([5, 7]).labels
    ('5', '7')
    """
    if isinstance(answer, str):
        if tokenizer is None:
            raise InputError(f"the answer {answer!r} is text, and there is no tokenizer; give token ids, or a tokenizer")
        ids = [int(i) for i in tokenizer.encode(answer, add_special_tokens=False)]
    else:
        ids = [int(i) for i in (answer.flatten().tolist() if isinstance(answer, Tensor) else answer)]
    if not ids:
        raise InputError(f"the answer {answer!r} has no tokens; give one with at least one, or None to have it generated")
    return Answer.of(ids, tokenizer)


def generated(
    model: Callable[..., Any],
    prompt: Sequence[int],
    tokenizer: Any = None,
    options: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Answer:
    """What the model itself answers to token ids; its `generation_config` and the random state are afterwards as they were.

    Args:
        options: arguments of `model.generate`; None: `GENERATION`.
        seed: of an answer that is sampled; None: from torch's random state, which is read and not moved.

    Raises:
        InputError: a model that cannot generate, or generates nothing.
    """
    ids = torch.tensor([list(prompt)])
    return generated_after(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, tokenizer, options, seed)


def generated_after(
    model: Callable[..., Any],
    given: Mapping[str, Any],
    tokenizer: Any = None,
    options: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Answer:
    """What the model itself answers to what a processor gives; see `generated`.

    Raises:
        InputError: a model that cannot generate, or generates nothing.
    """
    generate = getattr(model, "generate", None)
    if not callable(generate):
        raise InputError(f"{type(model).__name__} has no method generate; give the answer that is to be explained")
    reader = Reader.of(model)
    inputs, settings = {name: reader.placed(value) for name, value in given.items()}, dict(options or GENERATION)
    _pad(settings, getattr(model, "generation_config", None))
    with undisturbed(reader.roots), _configured(model), torch.no_grad():
        torch.manual_seed(resolve_seed(seed))
        found = generate(**inputs, **settings)
    whole = found if isinstance(found, Tensor) else found.sequences
    answer = whole[0, 1 if reader.start is not None else inputs["input_ids"].shape[1] :].tolist()
    if not answer:
        raise InputError("the model generates nothing after this prompt; give the answer that is to be explained")
    return Answer.of(answer, tokenizer)


def _pad(settings: dict[str, Any], config: Any) -> None:
    """One row needs no padding: naming a token for it spares the reader a notice."""
    end = settings.get("eos_token_id", getattr(config, "eos_token_id", None))
    if end is not None and getattr(config, "pad_token_id", None) is None:
        settings.setdefault("pad_token_id", end[0] if isinstance(end, list | tuple) else end)


@contextmanager
def _configured(model: Any) -> Iterator[None]:
    """The model's configuration of generation, put back."""
    before = getattr(model, "generation_config", None)
    values = copy.deepcopy(vars(before)) if before is not None else {}
    try:
        yield
    finally:
        if before is not None:
            vars(before).clear()
            vars(before).update(values)
            model.generation_config = before
