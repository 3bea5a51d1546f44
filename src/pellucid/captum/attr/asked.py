"""What is asked of a language model: a prompt in units from whatever a user gives, the answer that is scored, and the scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, OptionError, TargetError
from ...language.answer import Answer
from ...language.interpretable import id_of
from ...language.made import MediaPrompt, made_prompt
from ...language.media import at_media
from ...language.prompt import Prompt, chat_prompt
from ...language.spans import text_prompt
from ...language.view import PromptView, at_prompt
from ...model import undisturbed
from .interpretable import ImageMaskInput, InterpretableInput, TextTemplateInput, TextTokenInput

__all__ = ["Local", "Question", "Subject", "Told", "answers_of", "subject_of"]

# (prompt, answer, the probabilities of the answer and of each of its tokens)
Told = Callable[[str, str, list[float]], None]


@dataclass(frozen=True, eq=False)
class Subject:
    """What attributions are of.

    Attributes:
        prompt: in units.
        names: of what is told; `spread` makes attributions of it from those of the units.
        given: as it came from the user.
        steady: whether a prompt of the same units is always the same, and nothing is drawn.
    """

    prompt: Prompt
    names: list[str]
    given: Any
    spread: Callable[[Tensor], Tensor] = lambda values: values
    steady: bool = True

    @property
    def inp(self) -> InterpretableInput | None:
        """The interpretable input, if it is one."""
        return self.given if hasattr(self.given, "to_model_input") else None


def subject_of(inp: Any, tokenizer: Any) -> Subject:
    """An interpretable input; or a text, whose words are units that can be removed; messages of a chat, each one; a prompt in units.

    Raises:
        InputError: something else.
    """
    if hasattr(inp, "to_model_input") and hasattr(inp, "n_itp_features"):
        return _interpretable(inp, tokenizer)
    prompt = inp
    if isinstance(inp, str):
        prompt = text_prompt(inp, _needed(tokenizer, "text"))
    elif isinstance(inp, Sequence) and inp and all(isinstance(message, Mapping) for message in inp):
        prompt = chat_prompt(inp, _needed(tokenizer, "a chat"))
    if not isinstance(prompt, Prompt):
        raise InputError(
            f"inp is {type(inp).__name__}; give a TextTemplateInput, TextTokenInput or ImageMaskInput, a text, messages of a chat "
            '({"role": ..., "content": ...}), or a prompt of pellucid.language'
        )
    return Subject(prompt, list(prompt.labels), inp)


def _needed(tokenizer: Any, what: str) -> Any:
    if tokenizer is None:
        raise InputError(f"inp is {what}, and there is no tokenizer; give one, or an input of token ids")
    return tokenizer


def _interpretable(inp: Any, tokenizer: Any) -> Subject:
    draws = callable(getattr(inp, "baselines", None))
    fixed = inp
    if draws and isinstance(inp, TextTemplateInput):  # all texts of a trial share one draw, so that they differ by units only
        fixed = copy(inp)
        fixed.segments = inp.segments.drawn()
    kind = inp.to_tensor().dtype

    def make(choices: Sequence[int]) -> Any:
        return fixed.to_model_input(torch.tensor([[int(not choice) for choice in choices]], dtype=kind) if any(choices) else None)

    prompt = made_prompt(make, [str(unit) for unit in range(inp.n_itp_features)], tokenizer or getattr(inp, "tokenizer", None))
    steady = type(inp) in (TextTemplateInput, TextTokenInput, ImageMaskInput) and not draws
    return Subject(prompt, list(inp.values), inp, inp.format_attr, steady)


def answers_of(target: Any, gen_args: Any, skip_tokens: Sequence[int | str] | None, tokenizer: Any) -> tuple[Any, Any]:
    """The answer, a text or token ids, and another one that it is compared with; None where there is none.

    Args:
        skip_tokens: the target is tokenised with special tokens then, and these are left out, as Captum 0.8 had it.

    Raises:
        OptionError: a target, and arguments for generating one. TargetError: a target of another kind.
    """
    if target is not None and gen_args is not None:
        raise OptionError("gen_args are for generating a target, and target is given; leave one of them out")
    if isinstance(target, tuple | list) and len(target) == 2 and all(isinstance(own, str | Tensor) for own in target):
        one, other = (_without(own, skip_tokens, tokenizer) for own in target)
        return one, other
    ids = isinstance(target, list | tuple) and all(isinstance(own, int) for own in target)
    if not (target is None or ids or isinstance(target, str | Tensor)):
        raise TargetError(f"target is {target!r}; give a text, token ids, two of these to compare, or None to have it generated")
    return _without(target, skip_tokens, tokenizer), None


def _without(target: Any, skip_tokens: Sequence[int | str] | None, tokenizer: Any) -> Any:
    if target is None or not skip_tokens:
        return target
    skipped = {id_of(_needed(tokenizer, "text"), token) for token in skip_tokens}
    ids = tokenizer.encode(target) if isinstance(target, str) else torch.as_tensor(target).flatten().tolist()
    return [int(i) for i in ids if int(i) not in skipped]


class Question(ABC):
    """Scores of answers, as a function of which units are there.

    Attributes:
        features: `(1, units)` ones.
        answers: the answer, and the one that it is compared with, if there is one.
    """

    features: Tensor
    answers: tuple[Answer, ...]

    @abstractmethod
    def __call__(self, points: Tensor) -> Tensor:
        """`(rows, targets)`: of the whole answer and of each token, or of two answers how much more the first has."""

    @abstractmethod
    def again(self, prompt: Prompt) -> Question:
        """The same of another prompt of the same units."""

    @abstractmethod
    def probabilities(self) -> Tensor | None:
        """`(T,)`, of the answer's tokens after the whole prompt; None where answers are compared."""

    @property
    @abstractmethod
    def calls(self) -> int:
        """Of the model, so far."""

    @property
    def targets(self) -> int:
        """How many scores a row has."""
        return 1 + len(self.answers[0].ids) if len(self.answers) == 1 else 1

    @property
    def tokens(self) -> tuple[str, ...]:
        """What answers say: token by token, or, where they are compared, as a whole."""
        if len(self.answers) == 1:
            return self.answers[0].labels
        return (" rather than ".join(answer.text.strip() or repr(answer.text) for answer in self.answers),)


@dataclass(frozen=True, eq=False)
class Local(Question):
    """Asked of a model in this process.

    Attributes:
        model: where a method looks for layers in train mode.
        told: hears of each new prompt.
    """

    model: Any
    view: PromptView
    told: Told | None = None
    known: set[tuple[int, ...]] = field(default_factory=set)

    @classmethod
    def of(
        cls, model: Any, prompt: Prompt, answers: tuple[Any, Any], scale: str, gen_args: Any, shared: bool, at_most: int | None,
        told: Told | None
    ) -> Local:  # fmt: skip
        """The question for what a user gives."""
        answer, against = answers
        target = "both" if against is None else "sequence"
        if isinstance(prompt, MediaPrompt):
            return cls(model, at_media(model, prompt, answer, against, target, scale, gen_args, at_most), told)
        return cls(model, at_prompt(model, prompt, answer, against, target, scale, shared, gen_args, at_most=at_most), told)

    @property
    def features(self) -> Tensor:  # type: ignore[override]
        return self.view.features[0]

    @property
    def answers(self) -> tuple[Answer, ...]:  # type: ignore[override]
        return self.view.asked.answers

    def __call__(self, points: Tensor) -> Tensor:
        """A unit is there unless it is 0: a method may try other numbers, to see whether rows can share a call."""
        ways = self.view.asked.prompt.stand_ins
        rows = [torch.where(points != 0, 1.0, -float(way)).to(self.features) for way in range(ways)]
        scores = torch.stack([self.view.score((own,)) for own in rows]).mean(0).T
        if self.told is not None:
            self._tell([choices for own in rows for choices in self.view.choices(own)], self.told)
        return scores

    def _tell(self, choices: Sequence[tuple[int, ...]], told: Told) -> None:
        asked = self.view.asked
        for own in dict.fromkeys(choices):
            if own not in self.known:
                self.known.add(own)
                for answer, (found,) in zip(asked.answers, asked.log_probabilities([own]), strict=True):
                    told(asked.prompt.text(own), answer.text, torch.cat([found.sum()[None], found]).exp().tolist())

    def again(self, prompt: Prompt) -> Local:
        return replace(self, view=replace(self.view, asked=replace(self.view.asked, prompt=prompt, remembered={})), known=set())

    @property
    def calls(self) -> int:
        return self.view.spent.calls

    def probabilities(self) -> Tensor | None:
        if len(self.answers) > 1:
            return None
        with undisturbed(self.view.roots):
            return self.view.asked.log_probabilities([(0,) * self.view.asked.prompt.size])[0][0].exp()
