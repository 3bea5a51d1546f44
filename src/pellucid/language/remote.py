"""Language models behind an HTTP endpoint: what they generate, how probable a target is after a prompt, and the view of that."""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..errors import InputError, OptionError, RemoteError, TargetError
from ..inputs import Tensors
from ..progress import Bar
from ..view import View
from .endpoint import KEY_VARIABLE, WAYS, Endpoint, Memory, Prompted, address, checked_text
from .view import SCALES, TARGETS

__all__ = ["RemoteLLMProvider", "RemoteView", "VLLMProvider", "remote_view"]


class RemoteLLMProvider(ABC):
    """Where a language model is asked. `concurrent` says how many questions it takes at a time, from threads."""

    api_url: str
    concurrent: int = 1

    @abstractmethod
    def generate(self, prompt: str, **gen_args: Any) -> str:
        """What the model writes after the prompt."""

    @abstractmethod
    def get_logprobs(self, input_prompt: str, target_str: str, tokenizer: Any = None) -> list[float]:
        """The log-probability of each token of the target, after the prompt and the target's tokens before it."""


class VLLMProvider(RemoteLLMProvider):
    """A model behind an OpenAI-compatible completions endpoint that gives log-probabilities of prompts: vLLM and others.

    What was paid for is remembered: an identical question is not sent twice, unless its answer is drawn at random.

    Args:
        api_url: up to the version: "http://localhost:8000/v1".
        model_name: as the endpoint calls it; None: the first of its models.
        api_key: None: the environment variable OPENAI_API_KEY, if there is one.
        timeout: seconds until an attempt is given up.
        retries: further attempts after status 408, 429 or 5xx, a time-out or a broken connection. The waits between them double
            from half a second to a minute at most, unless the endpoint says how long (Retry-After); a longer one is not waited for.
        max_calls: attempts to get completions, at most; the attribute may be raised to go on.
        concurrent: requests at a time, where there are several.
        send_ids: send token ids of the tokenizer, not text: the prompt's and the target's tokens then cannot merge.
        sleep: what waits.

    Raises:
        OptionError: an option out of range. RemoteError: no model name, and no endpoint that tells one.

    >>> VLLMProvider("http://localhost:8000/v1", "tiny", api_key="secret", max_calls=100)
    VLLMProvider('http://localhost:8000/v1', 'tiny', calls=0, max_calls=100)
    """

    def __init__(
        self, api_url: str, model_name: str | None = None, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 4,
        max_calls: int | None = None, concurrent: int = 8, send_ids: bool = False, sleep: Callable[[float], None] = time.sleep
    ) -> None:  # fmt: skip
        least = {"timeout": (timeout, 1e-3), "retries": (retries, 0), "max_calls": (max_calls, 0), "concurrent": (concurrent, 1)}
        for name, (value, low) in least.items():
            if value is not None and not value >= low:
                raise OptionError(f"{name} is {value}; it must be at least {low:g}")
        key = (os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key).strip()
        if not (key.isascii() and key.isprintable()):
            raise OptionError("the API key has characters that no header can have; give api_key as the endpoint's owner wrote it")
        self.api_url, self.concurrent, self.send_ids = address(api_url), concurrent, send_ids
        self._endpoint = Endpoint(self.api_url, key, timeout, retries, max_calls, sleep)
        self._alone, self._memory, self._way = threading.Lock(), Memory(), ""
        self.model_name = self._endpoint.first_model() if model_name is None else model_name

    @property
    def calls(self) -> int:
        """How many completions were asked for, attempts that failed counted."""
        return self._endpoint.calls

    @property
    def max_calls(self) -> int | None:
        """How many may be."""
        return self._endpoint.max_calls

    @max_calls.setter
    def max_calls(self, value: int | None) -> None:
        self._endpoint.max_calls = value

    def __repr__(self) -> str:
        return f"VLLMProvider({self.api_url!r}, {self.model_name!r}, calls={self.calls}, max_calls={self.max_calls})"

    def generate(self, prompt: str, **gen_args: Any) -> str:
        """What the model writes after the prompt: 25 tokens at most, unless told otherwise.

        Args:
            prompt: the text before it.
            gen_args: of the completions API; also `max_new_tokens` and `do_sample` as transformers has them (without
                sampling the temperature is 0), and None for what the endpoint shall decide.

        Raises:
            OptionError: contradictory lengths. RemoteError: the endpoint fails or refuses.
        """
        asked = {name: value for name, value in gen_args.items() if value is not None}
        most, sampling = asked.pop("max_new_tokens", None), asked.pop("do_sample", True)
        if most is not None and asked.setdefault("max_tokens", most) != most:
            raise OptionError(f"max_tokens is {asked['max_tokens']} and max_new_tokens {most}; they mean the same, give one")
        body = {"model": self.model_name, "prompt": prompt, "max_tokens": 25, **asked, **({} if sampling else {"temperature": 0.0})}

        def ask() -> str:
            return self._endpoint.ask("/completions", lambda answer: checked_text(answer["choices"][0]["text"]), body)

        return self._memory.get(body, ask) if body.get("temperature") == 0 or "seed" in body else ask()

    def get_logprobs(self, input_prompt: str, target_str: str, tokenizer: Any = None) -> list[float]:
        """The log-probability of each token of the target, after the prompt and the target's tokens before it.

        Prompt and target are sent as one text, and the target's tokens are the last ones, whose text is the target's, white
        space aside. With a tokenizer, there must be as many as it makes of the target alone.

        Raises:
            TargetError: an empty target. InputError: a token across the border, another number of tokens than the tokenizer's.
            RemoteError: the endpoint fails, refuses, or gives no log-probabilities.
        """
        if not target_str:
            raise TargetError("the target is empty; give the text whose probability is asked for")
        if self.send_ids and tokenizer is None:
            raise OptionError("send_ids=True needs the tokenizer of the endpoint's model; give it as tokenizer")
        with self._alone:  # fast tokenizers refuse two threads at a time
            own = [] if tokenizer is None else [int(i) for i in tokenizer.encode(target_str, add_special_tokens=False)]
            prompt: Any = [*map(int, tokenizer.encode(input_prompt)), *own] if self.send_ids else input_prompt + target_str
        most = len(target_str.encode()) + 1  # more tokens than the target can have
        end = self._memory.get([self.model_name, prompt, most], lambda: self._prompted(prompt).last(most))
        return end.spelling(target_str, None if tokenizer is None else len(own))

    def _prompted(self, prompt: Any) -> Prompted:
        """The tokens of the prompt, asked for in the first way that the endpoint understands."""
        body = {"model": self.model_name, "prompt": prompt, "max_tokens": 1, "temperature": 0.0}
        with nullcontext() if self._way else self._alone:
            ways, refusals = [self._way] if self._way else list(WAYS), []
            for way in ways:
                options, read = WAYS[way]
                try:
                    found = self._endpoint.ask("/completions", read, {**body, **options})
                except RemoteError as error:
                    if len(ways) == 1 or error.status not in (400, 422):
                        raise
                    refusals.append(error)
                    continue
                if found is not None:
                    self._way = way
                    return found
        if len(refusals) == len(ways):
            raise refusals[-1]
        words = f" ({refusals[-1]})" if refusals else ""
        raise RemoteError(
            f"{self.api_url} gives no log-probabilities of a prompt{words}; attribution needs an endpoint whose completions have them, by "
            "echo with logprobs or by vLLM's prompt_logprobs"
        )


def _no_gradients(_: Tensors) -> NoReturn:
    raise OptionError("an endpoint gives no gradients; use a method that perturbs: feature_ablation, shapley, lime, occlusion")


@dataclass(frozen=True, eq=False)
class RemoteView(View):
    """Which parts of a prompt are there as features, how probable a target is after it as score.

    Attributes:
        provider: what is asked; only `get_logprobs` is.
        text_of: the prompt of a row `(units,)` of ones and zeros, for what is there and what is not.
        target: the text whose tokens are scored.
        features: `(1, units)` of ones.
        tokenizer: of the provider's model, where it needs one.
        reads, scale: keys of `pellucid.language.view.TARGETS` and `SCALES`: what of the target is scored, and how.
        picked: the only one of these scores that counts; None: all.
        progress: show a progress bar; None: only when the answers take longer than two seconds.
        answers: the log-probabilities of the target's tokens by prompt, so far: each is asked for once.
    """

    provider: RemoteLLMProvider
    text_of: Callable[[Tensor], str]
    target: str
    features: Tensors
    tokenizer: Any = None
    reads: str = "tokens"
    scale: str = "log_prob"
    picked: int | None = None
    progress: bool | None = None
    answers: dict[str, tuple[float, ...]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    roots: tuple[nn.Module, ...] = ()
    at_once: bool | None = True
    own_gradient: Callable[[Tensors], Tensors] | None = _no_gradients

    def score(self, points: Tensors) -> Tensor:
        """`(targets, rows)`, after as many questions as there are new prompts among the rows.

        Raises:
            RemoteError: one of them failed; `answers` has all that were answered, and the same call again goes on from there.
        """
        rows = points[0].detach()
        texts = [self.text_of(row) for row in rows]
        new = [text for text in dict.fromkeys(texts) if text not in self.answers]
        try:
            with Bar(len(new), "prompts", self.progress) as bar:
                for _ in _in_threads(self._ask, new, getattr(self.provider, "concurrent", 1)):
                    bar.update(1)
        except Exception as error:
            known = f"{len(self.answers)} prompts were answered before ({sum(text in self.answers for text in new)} of these {len(new)})"
            message = f"{error} | {known}: see .answers of this error; they are not asked for again"
            raise RemoteError(message, self.answers, getattr(error, "status", None)) from error
        logprobs = torch.tensor([self.answers[text] for text in texts], dtype=torch.float64, device=rows.device)
        scores = SCALES[self.scale](TARGETS[self.reads](logprobs)).T.to(rows.dtype if rows.is_floating_point() else torch.float64)
        return scores if self.picked is None else scores[self.picked : self.picked + 1]

    def _ask(self, text: str) -> None:
        found = tuple(self.provider.get_logprobs(input_prompt=text, target_str=self.target, tokenizer=self.tokenizer))
        with self.lock:
            usual = next(iter(self.answers.values()), found)
            if not found or len(found) != len(usual):
                raise InputError(
                    f"the target {self.target!r} has {len(found)} tokens after {text!r}, and {len(usual)} after other prompts; let it "
                    "begin with a space, or send token ids (VLLMProvider's send_ids)"
                )
            self.answers[text] = found

    def some(self, rows: Sequence[int]) -> RemoteView:
        return replace(self, features=(self.features[0][list(rows)],))

    def moved(self, points: Tensors) -> RemoteView:
        return replace(self, features=points)

    def readings(self) -> Iterator[RemoteView]:
        yield self

    def targets(self) -> Sequence[RemoteView]:
        return (self,) if self.picked is not None else [replace(self, picked=k) for k in range(len(self.score(self.features)))]


def remote_view(
    provider: RemoteLLMProvider,
    text_of: Callable[[Tensor], str],
    target: str,
    units: int,
    tokenizer: Any = None,
    reads: str = "tokens",
    scale: str = "log_prob",
) -> RemoteView:
    """The view of how probable a target is after a prompt of so many parts, asked of a provider.

    Methods that perturb run over it, with zeros as baselines: questions of one call go out together, as many at a time as the
    provider takes. An explanation asks for the whole prompt, for the empty one and for the coalitions, each once.

    Args:
        reads: "tokens" (a score for each token of the target, given those before it), "sequence" (one, of all together), "both" (that
            one first).
        scale: "log_prob", or "prob" for probabilities.

    Raises:
        TargetError: an empty target. InputError: no parts. OptionError: unknown `reads` or `scale`.

    >>> class Short(RemoteLLMProvider):  # likes short prompts
    ...     def generate(self, prompt, **gen_args): return " yes"
    ...     def get_logprobs(self, input_prompt, target_str, tokenizer=None): return [-len(input_prompt) / 2]
    >>> words = ["one", "three"]
    >>> view = remote_view(Short(), lambda row: "".join(w for w, there in zip(words, row) if there), " yes", 2)
    >>> from pellucid.perturb import feature_ablation
    >>> feature_ablation(view, (torch.zeros(1, 2),)).values[0].tolist()
    [[[-1.5, -2.5]]]
    """
    if not target:
        raise TargetError("the target is empty; give the text whose probability is to be explained, or let the provider generate it")
    if units < 1:
        raise InputError(f"units is {units}; a prompt needs at least one part that can be taken away")
    for given, known, what in ((reads, TARGETS, "reads"), (scale, SCALES, "scale")):
        if given not in known:
            raise OptionError(f"{what} is {given!r}; choose one of {', '.join(map(repr, known))}")
    return RemoteView(provider, text_of, target, (torch.ones(1, units, dtype=torch.float64),), tokenizer, reads, scale)


def _in_threads(ask: Callable[[str], None], questions: Sequence[str], threads: int) -> Iterator[None]:
    """So many questions at a time, until one fails; those under way are waited for."""
    if threads == 1 or len(questions) < 2:  # here: a provider need not know of threads
        yield from map(ask, questions)
        return
    with ThreadPoolExecutor(min(threads, len(questions))) as pool:
        try:
            for done in as_completed([pool.submit(ask, question) for question in questions]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)
