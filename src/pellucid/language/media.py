"""How likely answers are after more than token ids: images, sounds, whatever a processor makes of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, OptionError
from ..memory import bytes_of, is_out, release
from .answer import answer_of, generated_after
from .made import MediaPrompt
from .prefix import Spent
from .reader import Reader, logits_of
from .view import Asked, PromptView, check_length

__all__ = ["MediaLikelihood", "at_media"]

Given = Mapping[str, Any]
Request = tuple[Given, Sequence[int]]  # what a processor gives, an answer
PER_PIXEL = 16  # bytes at a call's peak for each byte of what is no token


@dataclass(eq=False)
class MediaLikelihood:
    """A model that is asked about prompts with media, each teacher-forced in one pass.

    Prompts share a call where each of their tensors is of one row, they have the same shapes, and the first two are found to be
    together what they are alone.

    Attributes:
        at_most: prompts per call; None: by memory.
        spent: what it has cost so far.
        together: by shapes, whether prompts may share a call, as far as that was tried.
    """

    reader: Reader
    at_most: int | None = None
    spent: Spent = field(default_factory=Spent)
    together: dict[Any, bool] = field(default_factory=dict)

    def __call__(self, requests: Sequence[Request]) -> Tensor:
        """The log-probabilities `(requests, T)`; 0 behind the end of a shorter answer.

        Raises:
            InputError: a model with encoder and decoder, or more tokens than it reads. OutputError: it does not return logits.
        """
        if self.reader.start is not None:
            raise InputError("the model has an encoder and a decoder, and the prompt has media; only causal models can be asked that way")
        for given, answer in requests:
            check_length(self.reader, given["input_ids"][0].tolist(), len(answer))
        table = torch.zeros(len(requests), max(len(answer) for _, answer in requests), dtype=self.reader.dtype, device=self.reader.device)
        for numbers in _alike(requests):
            found = self._group([requests[i] for i in numbers])
            table[numbers, : found.shape[1]] = found
        return table

    def _group(self, group: list[Request]) -> Tensor:
        """Requests of the same shapes."""
        key = _shapes(group[0])
        if len(group) > 1 and key not in self.together:
            self.together[key] = _can_share(group[0][0]) and self._same(self._read(group[:2])[:1], self._read(group[:1]))
        most = self._most(group[0]) if self.together.get(key) else 1
        return torch.cat([self._within(group[start : start + most]) for start in range(0, len(group), most)])

    def _same(self, one: Tensor, other: Tensor) -> bool:
        return torch.allclose(one, other, rtol=self.reader.rounding, atol=self.reader.rounding)

    def _most(self, request: Request) -> int:
        given, answer = request
        tokens, media = given["input_ids"].shape[1], tuple(v for n, v in given.items() if isinstance(v, Tensor) and n != "input_ids")
        each = self.reader.bytes_of(tokens + len(answer), len(answer)) + PER_PIXEL * bytes_of(media)
        return max(1, self.reader.room // each if self.at_most is None else self.at_most)

    def _within(self, batch: list[Request]) -> Tensor:
        """In one call, or in two if it does not fit into memory."""
        try:
            return self._read(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out(error) or len(batch) == 1:
                raise
        release()
        half = len(batch) // 2
        return torch.cat([self._within(batch[:half]), self._within(batch[half:])])

    def _read(self, batch: list[Request]) -> Tensor:
        """`(requests, T)`."""
        rows = [forced(given, answer, self.reader) for given, answer in batch]
        inputs = {name: torch.cat([row[name] for row in rows]) if len(rows) > 1 else value for name, value in rows[0].items()}
        asked = torch.tensor([list(answer) for _, answer in batch], device=self.reader.device)
        settings = {"use_cache": False, "logits_to_keep": asked.shape[1]}
        self.spent.count(inputs["input_ids"])
        with torch.no_grad():
            output = self.reader.model(**inputs, **{name: value for name, value in settings.items() if name in self.reader.takes})
        logits = logits_of(output, len(batch), asked.shape[1]).to(self.reader.dtype)
        return logits.log_softmax(2).gather(2, asked[:, :, None])[:, :, 0]


def _alike(requests: Sequence[Request]) -> list[list[int]]:
    """The numbers of requests by their shapes."""
    groups: dict[Any, list[int]] = {}
    for number, request in enumerate(requests):
        groups.setdefault(_shapes(request), []).append(number)
    return list(groups.values())


def _shapes(request: Request) -> Any:
    given, answer = request
    return len(answer), tuple((n, (tuple(v.shape), v.dtype) if isinstance(v, Tensor) else type(v)) for n, v in sorted(given.items()))


def _can_share(given: Given) -> bool:
    return all(isinstance(value, Tensor) and value.dim() > 0 and len(value) == 1 for value in given.values())


def forced(given: Given, answer: Sequence[int], reader: Reader) -> dict[str, Any]:
    """What the model is given to tell of an answer: on its device, in its precision, and the answer but for its last token behind it.

    What belongs to tokens goes on behind the prompt: a mask with ones, positions with further ones, kinds with the last kind.
    """
    tokens = given["input_ids"].shape
    found = {name: reader.placed(value) for name, value in given.items()}
    for name, value in found.items():
        if isinstance(value, Tensor) and value.shape == tokens and not value.is_floating_point():
            found[name] = torch.cat([value, _further(name, value, answer[:-1])], 1)
    return found


def _further(name: str, value: Tensor, answer: Sequence[int]) -> Tensor:
    if name == "input_ids":
        return torch.tensor([list(answer)], dtype=value.dtype, device=value.device)
    steps = torch.arange(1, len(answer) + 1, device=value.device)[None]
    if name == "position_ids":
        return (value[:, -1:] + steps).to(value.dtype)
    return torch.ones_like(steps, dtype=value.dtype) if name == "attention_mask" else value[:, -1:].expand(1, len(answer))


def at_media(
    model: Callable[..., Any],
    prompt: MediaPrompt,
    answer: str | Tensor | Sequence[int] | None = None,
    against: str | Tensor | Sequence[int] | None = None,
    target: str = "tokens",
    scale: str = "log_prob",
    options: Mapping[str, Any] | None = None,
    at_most: int | None = None,
) -> PromptView:
    """The view of how likely an answer is, as a function of the units of a prompt with media; arguments as in `at_prompt`.

    Raises:
        OptionError: two answers token by token. InputError: see `MediaLikelihood`, `generated_after`.
    """
    if against is not None and target != "sequence":
        raise OptionError(f"target is {target!r} and there are two answers, whose tokens have no partners; choose 'sequence'")
    reader = Reader.of(model)
    (given,) = prompt.rows([(0,) * prompt.size])
    own = generated_after(model, given, prompt.tokenizer, options) if answer is None else answer_of(answer, prompt.tokenizer)
    answers = (own,) if against is None else (own, answer_of(against, prompt.tokenizer))
    likelihood: Any = MediaLikelihood(reader, at_most)
    features = torch.ones(1, prompt.size, dtype=reader.dtype, device=reader.device)
    return PromptView((features,), Asked(prompt, answers, likelihood), target, scale, None, reader.roots)
