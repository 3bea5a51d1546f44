"""Captum's attribution of language models behind an endpoint: RemoteLLMAttribution and its providers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, TargetError
from ...language.answer import GENERATION, Answer
from ...language.made import MadePrompt, MediaPrompt
from ...language.prompt import Prompt, TextPrompt
from ...language.remote import RemoteLLMProvider, RemoteView, VLLMProvider, remote_view
from .asked import Question, Subject, Told
from .base import PerturbationAttribution
from .llm import LLMAttribution

__all__ = ["RemoteLLMAttribution", "RemoteLLMProvider", "VLLMProvider"]


class _PlaceholderModel:
    """Where a method wants a model: the endpoint is asked instead."""

    device = torch.device("cpu")

    def __call__(self, *args: Any, **kwargs: Any) -> int:
        return 0


class RemoteLLMAttribution(LLMAttribution):
    """How parts of a prompt move the probability of a target, by an endpoint that gives log-probabilities.

    As `LLMAttribution`; each prompt is asked about once. If the endpoint fails, a `RemoteError` carries what was answered, and the
    same call again goes on from there. `use_cached_outputs` and `forward_in_tokens` are how a model in this process is read.

    Args:
        attr_method: one of SUPPORTED_METHODS, made with `RemoteLLMAttribution.placeholder_model`.
        tokenizer: of the endpoint's model.
        provider: where it is asked.
        attr_target: "log_prob" or "prob", of the whole target and of each of its tokens.
    """

    placeholder_model = _PlaceholderModel()

    def __init__(
        self, attr_method: PerturbationAttribution, tokenizer: Any, provider: RemoteLLMProvider, attr_target: str = "log_prob"
    ) -> None:
        super().__init__(attr_method, tokenizer, attr_target)
        self.provider = provider

    def _question(
        self, subject: Subject, answers: tuple[Any, Any], gen_args: Any, shared: bool, told: Told | None, kwargs: dict[str, Any]
    ) -> Question:
        prompt, tokenizer = subject.prompt, self.tokenizer
        if tokenizer is None:
            raise InputError("there is no tokenizer; give that of the endpoint's model, by which the tokens of a target are named")
        if answers[0] is None:
            answers = (self._generated(prompt, gen_args), None)
        texts = [own if isinstance(own, str) else str(tokenizer.decode(_ids(own, tokenizer))) for own in answers if own is not None]
        provider = self.provider if told is None else _Inspected(self.provider, told)
        reads, progress = "both" if len(texts) == 1 else "sequence", bool(kwargs.get("show_progress", False))
        asked = [remote_view(provider, _Text(prompt, tokenizer), own, prompt.size, tokenizer, reads, self.attr_target) for own in texts]
        views = tuple(replace(view, progress=progress) for view in asked)
        return _Remote(views, tuple(Answer.of(_ids(own, tokenizer), tokenizer) for own in answers if own is not None))

    def _generated(self, prompt: Prompt, gen_args: dict[str, Any] | None) -> str:
        text = self.provider.generate(_Text(prompt, self.tokenizer)(torch.ones(prompt.size)), **(gen_args or GENERATION))
        if not text:
            raise TargetError("the endpoint generates nothing after this prompt; give a target")
        return text

    def _table(self, question: Question, kwargs: dict[str, Any]) -> Tensor:
        """In Captum's precision; the bar is that of the questions."""
        return super()._table(question, {name: value for name, value in kwargs.items() if name != "show_progress"}).float()


def _ids(target: Any, tokenizer: Any) -> list[int]:
    if isinstance(target, str):
        return [int(i) for i in tokenizer.encode(target, add_special_tokens=False)]
    return [int(i) for i in (target.flatten().tolist() if isinstance(target, Tensor) else target)]


@dataclass(frozen=True, eq=False)
class _Text:
    """The text of a prompt, for a row of ones and zeros; of one in ids without the token that begins texts, which the endpoint adds."""

    prompt: Prompt
    tokenizer: Any

    def __call__(self, row: Tensor) -> str:
        choices = [int(there == 0) for there in row.tolist()]
        if isinstance(self.prompt, MediaPrompt):
            raise InputError("the prompt has media, and an endpoint takes text: use TextTemplateInput, a text, or messages of a chat")
        if isinstance(self.prompt, TextPrompt):
            text = self.prompt.text(choices)
            return text if self.prompt.special else text.removeprefix(getattr(self.tokenizer, "bos_token", None) or "")
        given = self.prompt.make(choices) if isinstance(self.prompt, MadePrompt) else None
        ids = self.prompt.rows([choices])[0] if given is None else given
        return given if isinstance(given, str) else self._decoded(ids)

    def _decoded(self, given: Any) -> str:
        ids: Sequence[int] = given.flatten().tolist() if isinstance(given, Tensor) else list(given)
        begins = ids and ids[0] == getattr(self.tokenizer, "bos_token_id", None)
        return str(self.tokenizer.decode(ids[1:] if begins else ids))


@dataclass(frozen=True, eq=False)
class _Remote(Question):
    """Asked of an endpoint; one view for each answer."""

    views: tuple[RemoteView, ...]
    answers: tuple[Answer, ...]

    @property
    def features(self) -> Tensor:  # type: ignore[override]
        return self.views[0].features[0]

    @property
    def calls(self) -> int:
        return sum(len(view.answers) for view in self.views)

    def __call__(self, points: Tensor) -> Tensor:
        """A part is there unless it is 0: a method may try other numbers, to see whether rows can share a call."""
        there = ((points != 0).double(),)
        found = [view.score(there).T for view in self.views]
        return found[0] if len(found) == 1 else found[0] - found[1]

    def again(self, prompt: Prompt) -> Question:
        return replace(self, views=tuple(replace(view, text_of=_Text(prompt, view.tokenizer)) for view in self.views))

    def probabilities(self) -> Tensor | None:
        if len(self.views) > 1:
            return None
        return replace(self.views[0], reads="tokens", scale="prob").score((self.features,))[:, 0].float()


class _Inspected(RemoteLLMProvider):
    """A provider that is listened to: `told` hears each prompt, the target, and its probability and those of its tokens."""

    def __init__(self, provider: RemoteLLMProvider, told: Told) -> None:
        self._provider, self._told = provider, told
        self.concurrent, self._alone = getattr(provider, "concurrent", 1), threading.Lock()

    def generate(self, prompt: str, **gen_args: Any) -> str:
        return self._provider.generate(prompt, **gen_args)

    def get_logprobs(self, input_prompt: str, target_str: str, tokenizer: Any = None) -> list[float]:
        found = self._provider.get_logprobs(input_prompt, target_str, tokenizer)
        probabilities = torch.tensor([sum(found), *found], dtype=torch.float64).exp().tolist()
        with self._alone:
            self._told(input_prompt, target_str, probabilities)
        return found
