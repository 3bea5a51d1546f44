"""Captum's attribution of language models by perturbing a prompt, and what it shares with that by gradients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor

from ...errors import OptionError
from ...explanation import Cost
from ...language.reader import Reader
from ...language.result import LOG_PROBABILITY, PROBABILITY
from ...seeds import resolve_seed
from .asked import Local, Question, Subject, Told, answers_of, subject_of
from .base import Attribution, GradientAttribution, PerturbationAttribution
from .interpretable import ImageMaskInput, InterpretableInput, TextTemplateInput, TextTokenInput
from .lime import Lime
from .llm_result import LLMAttributionResult
from .perturbation import FeatureAblation, at_once
from .shapley import KernelShap, ShapleyValues, ShapleyValueSampling

__all__ = ["BaseLLMAttribution", "LLMAttribution", "Methods", "refuse"]

OWN = ("inputs", "baselines", "target", "additional_forward_args")
MEASURES = {"log_prob": LOG_PROBABILITY, "prob": PROBABILITY}
Methods = tuple[type[Attribution], ...]


class BaseLLMAttribution(Attribution):
    """A method made with a language model, and the model's tokenizer."""

    SUPPORTED_METHODS: Methods = ()
    SUPPORTED_INPUTS: tuple[type[InterpretableInput], ...] = ()

    def __init__(self, attr_method: Any, tokenizer: Any) -> None:
        if not isinstance(attr_method, self._takes()):
            names = ", ".join(method.__name__ for method in self._takes())
            raise OptionError(
                f"{type(self).__name__} does not take {type(attr_method).__name__}; give one of {names}{self._instead(attr_method)}"
            )
        super().__init__(attr_method.forward_func)
        self.model: Any = attr_method.forward_func
        self.tokenizer, self.attr_method = tokenizer, copy(attr_method)
        self.device = Reader.of(self.model).device

    @classmethod
    def _takes(cls) -> Methods:
        return cls.SUPPORTED_METHODS

    def _instead(self, attr_method: Any) -> str:
        return ""

    def attribute_future(self) -> None:
        """Not for language models, in Captum neither."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    def _result(
        self, subject: Subject, question: Question, table: Tensor, began: float, options: dict[str, Any], scale: str = "log_prob"
    ) -> LLMAttributionResult:
        """From attributions `(1 + T, features)`, the whole answer's first; `record` has what Captum's result has no room for."""
        measure, compared = MEASURES[scale], len(question.answers) > 1
        found = LLMAttributionResult(
            input_tokens=subject.names,
            output_tokens=[label.replace("\n", "\\n").strip() for label in question.tokens],
            seq_attr=table[0],
            token_attr=None if compared else table[1:],
            output_probs=question.probabilities(),
            inp=subject.inp,
        )
        found.record = {
            "tokens": question.tokens,
            "method": self.attr_method.get_name().lower().replace(" ", "_"),
            "measure": f"difference of {measure.removesuffix('y')}ies" if compared else measure,
            "options": options,
            "cost": Cost(calls=question.calls, seconds=time.perf_counter() - began),
        }
        return found


class LLMAttribution(BaseLLMAttribution):
    """Attributions by perturbing a prompt, of an answer as a whole and of each of its tokens: `pellucid.language.at_prompt`.

    The answer's tokens are forced on the model, all in one pass, and what prompts begin with alike is read once.

    Args:
        attr_method: one of SUPPORTED_METHODS, made with the model: a causal one, one with encoder and decoder, or a function of ids.
        tokenizer: of the model.
        attr_target: "log_prob" or "prob", of the whole answer and of each token.
    """

    SUPPORTED_METHODS = (FeatureAblation, ShapleyValueSampling, ShapleyValues, Lime, KernelShap)
    SUPPORTED_PER_TOKEN_ATTR_METHODS = SUPPORTED_METHODS
    SUPPORTED_INPUTS = (TextTemplateInput, TextTokenInput, ImageMaskInput)

    def __init__(self, attr_method: PerturbationAttribution, tokenizer: Any, attr_target: str = "log_prob") -> None:
        super().__init__(attr_method, tokenizer)
        if attr_target not in MEASURES:
            raise OptionError(f"attr_target is {attr_target!r}; it must be 'log_prob' or 'prob'")
        self.attr_target, self.include_per_token_attr = attr_target, True

    def _instead(self, attr_method: Any) -> str:
        return "; for methods of gradients there is LLMGradientAttribution" if isinstance(attr_method, GradientAttribution) else ""

    def attribute(
        self,
        inp: Any,
        target: Any = None,
        num_trials: int = 1,
        gen_args: dict[str, Any] | None = None,
        use_cached_outputs: bool = True,
        _inspect_forward: Told | None = None,
        forward_in_tokens: bool = True,
        skip_tokens: list[int] | list[str] | None = None,
        **kwargs: Any,
    ) -> LLMAttributionResult:
        """The attributions of the answer to the features of `inp`, the mean over trials with draws of their own.

        Args:
            inp: an interpretable input; a text, whose words are removed; messages of a chat; a prompt of `pellucid.language`.
            target: the answer: a text, token ids, or None to have it generated; two of these: how much more likely the first is
                than the second, of the whole only.
            gen_args: of `model.generate`; by default the likeliest 25 tokens.
            use_cached_outputs: whether what prompts begin with alike is read once.
            forward_in_tokens: without effect: one pass gives what one token at a time gives.
            skip_tokens: Captum 0.8's: ids or tokens to leave out of a target that is tokenised with special tokens.
            kwargs: of the method, such as `n_samples`; `perturbations_per_eval` limits the prompts of one call.

        Raises:
            OptionError: options that contradict each other, or belong to the input. TargetError, InputError: no such answer or
                prompt, one without tokens, or with more than the model reads.
        """
        refuse(num_trials, kwargs)
        began, subject = time.perf_counter(), subject_of(inp, self.tokenizer)
        answers = answers_of(target, gen_args, skip_tokens, self.tokenizer)
        question = self._question(subject, answers, gen_args, use_cached_outputs, _inspect_forward, kwargs)
        trials = []
        for number in range(num_trials):
            if number and not subject.steady:
                question = question.again(subject_of(inp, self.tokenizer).prompt)
            with _draws_of(number):
                trials.append(self._table(question, kwargs))
        table = subject.spread(torch.stack(trials).mean(0))
        return self._result(subject, question, table, began, {"num_trials": num_trials, **kwargs}, self.attr_target)

    def _question(
        self, subject: Subject, answers: tuple[Any, Any], gen_args: Any, shared: bool, told: Told | None, kwargs: dict[str, Any]
    ) -> Question:
        at_most = at_once(kwargs.get("perturbations_per_eval", 1), 1)
        return Local.of(self.model, subject.prompt, answers, self.attr_target, gen_args, shared, at_most, told)

    def _table(self, question: Question, kwargs: dict[str, Any]) -> Tensor:
        """`(targets, units)`; a method that takes one target at a time meets the same draws for each."""
        method = copy(self.attr_method)
        method.forward_func = question
        single = [{"target": k} for k in range(question.targets)] if isinstance(method, Lime) else [{}]
        rows = []
        for target in single:
            with torch.random.fork_rng(devices=[]):
                rows.append(method.attribute(question.features, **target, **kwargs).reshape(-1, question.features.shape[1]))
        return torch.cat(rows)


def refuse(num_trials: int, kwargs: dict[str, Any]) -> None:
    """No trials, and no arguments of the method that are the input's.

    Raises:
        OptionError: there are some.
    """
    if num_trials < 1:
        raise OptionError(f"num_trials is {num_trials}; at least one is needed")
    if own := [name for name in OWN if name in kwargs]:
        raise OptionError(f"{', '.join(own)} cannot be passed on to the method: baselines belong to inp, and the target is the answer")


@contextmanager
def _draws_of(trial: int) -> Iterator[None]:
    """Draws of its own for each trial; those of the first are those of a method by itself."""
    seed = resolve_seed(None)
    with torch.random.fork_rng(devices=[]):
        if trial:
            torch.manual_seed(seed + trial)
        yield
