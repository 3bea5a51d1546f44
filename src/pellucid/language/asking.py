"""A prompt and answers put to a model: the view of the answers' likelihood, and what asking has cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..explanation import Check, Cost, Provenance
from ..memory import Peak
from ..seeds import resolve_seed
from ..show.numbers import count
from ..trust import provenance_of
from .answer import Answer
from .likelihood import Likelihood, Request
from .prompt import Prompt
from .reader import Reader
from .view import PromptView, at_prompt

__all__ = ["Posed", "posed"]

Text = str | Tensor | Sequence[int]


@dataclass(eq=False)
class Counted(Likelihood):
    """A likelihood that knows how many prompts it was asked about; what is remembered is not asked again."""

    rows: int = 0

    def __call__(self, requests: Sequence[Request]) -> Tensor:
        """See `Likelihood`."""
        self.rows += len(requests)
        return super().__call__(requests)


@dataclass(frozen=True, eq=False)
class Posed:
    """What was asked.

    Attributes:
        view: of the answer as a function of the units of the prompt: the whole answer first, then each of its tokens; of two answers,
            their difference only.
        counted: the reads of it.
        chosen: the check that says where the answer is from.
        seed: of everything random.
        start, peak: when it began, and how much memory was used.
    """

    model: Callable[..., Any]
    view: PromptView
    counted: Counted
    chosen: Check
    seed: int
    start: float
    peak: Peak

    @property
    def prompt(self) -> Prompt:
        """The prompt in units."""
        return self.view.asked.prompt

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The answer, and the one that it is compared with if there is one."""
        return self.view.asked.answers

    def measure(self, name: str) -> str:
        """What attributions are of: a log-probability, say, or how far it lies beyond that of the other answer."""
        others = [_said(answer, self.prompt.tokenizer).strip() for answer in self.answers[1:]]
        return f"{name} beyond that of \u201c{others[0]}\u201d" if others else name

    def probabilities(self) -> Tensor:
        """`(T,)`, of each token of the answer after the prompt as it is."""
        return self.view.asked.log_probabilities([(0,) * self.prompt.size])[0][0].exp()

    def reading(self) -> Check:
        """How much was read, and what sharing has saved."""
        spent = self.counted.spent
        saved = 1 - spent.tokens / spent.plain if spent.plain else 0.0
        words = f"{count(self.counted.rows, 'prompt')} in {count(spent.calls, 'call')}, {count(spent.tokens, 'token')} read"
        shared = f"; row by row it would have been {spent.plain:,}" if spent.plain > spent.tokens else ""
        return Check("reading", True, words + shared, saved)

    def cost(self, forwards: int = 0, backwards: int = 0, calls: int = 0) -> Cost:
        """All of it, with passes that were made otherwise."""
        seconds = time.perf_counter() - self.start
        return Cost(forwards + self.counted.rows, backwards, calls + self.counted.spent.calls, seconds, self.peak.rise())

    def provenance(self, seed: int | None) -> Provenance:
        """Where an answer about this comes from."""
        (row,) = self.prompt.rows([(0,) * self.prompt.size])
        texts = tuple(torch.tensor(ids, dtype=torch.long) for ids in (row, *(answer.ids for answer in self.answers)))
        return provenance_of(self.model, self.view.roots, texts, seed)


def posed(
    model: Callable[..., Any],
    prompt: Prompt,
    answer: Text | None = None,
    against: Text | None = None,
    scale: str = "log_prob",
    generation: Mapping[str, Any] | None = None,
    shared: bool = True,
    seed: int | None = None,
    at_most: int | None = None,
    progress: bool | None = None,
) -> Posed:
    """Put a prompt to a model; an answer is generated if none is given.

    Raises:
        InputError, OptionError: see `at_prompt`.
    """
    start, reader, seed = time.perf_counter(), Reader.of(model), resolve_seed(seed)
    peak, target = Peak(reader.device), "both" if against is None else "sequence"
    _check_ids(model, prompt, (answer, against))
    view = at_prompt(model, prompt, answer, against, target, scale, shared, generation, seed, at_most)
    counted = Counted(reader, shared, at_most, progress=progress)
    view.asked.likelihood = counted
    said = " rather than ".join(repr(_said(own, prompt.tokenizer)) for own in view.asked.answers)
    chosen = Check("target", True, f"explained: {said}")
    if answer is None:
        chosen = Check("target", True, f"no answer was given, so what the model generates is explained: {said}", guessed=True)
    return Posed(model, view, counted, chosen, seed, start, peak)


def _check_ids(model: Any, prompt: Prompt, answers: Sequence[Text | None]) -> None:
    """Refuse ids that the model has no word for; it would say that an index is out of range."""
    config: Any = getattr(model, "config", None)
    own = config.get_text_config() if callable(getattr(config, "get_text_config", None)) else config
    known = getattr(own, "vocab_size", None)
    rows = [
        *prompt.rows([(0,) * prompt.size]),
        *(torch.as_tensor(ids).flatten().tolist() for ids in answers if not isinstance(ids, str | None)),
    ]
    largest = max((int(token) for row in rows for token in row), default=0)
    if isinstance(known, int) and largest >= known:
        raise InputError(f"there is a token id {largest}, and the model has {known} words; give ids of its own tokenizer")


def _said(answer: Answer, tokenizer: Any) -> str:
    """An answer as people read it."""
    return answer.text if tokenizer is None else str(tokenizer.decode(list(answer.ids)))
