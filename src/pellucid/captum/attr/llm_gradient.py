"""Captum's attribution of language models by gradients at a layer."""

from __future__ import annotations

import time
import warnings
from copy import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import InputError, OptionError
from ...explanation import Found
from ...language.forced import Forced, by_unit
from ...language.in_place import in_place
from ...language.made import MadePrompt
from ...language.prompt import Prompt
from ...language.reader import Reader
from ...picks import Same, Several
from .asked import Local, Subject, answers_of, subject_of
from .base import Attribution, GradientAttribution, PerturbationAttribution, report
from .gradient import GradientShap, InputXGradient, IntegratedGradients
from .interpretable import TextTemplateInput, TextTokenInput
from .layer import LayerGradientShap, LayerGradientXActivation, LayerIntegratedGradients
from .llm import BaseLLMAttribution, Methods, refuse

__all__ = ["LLMGradientAttribution"]


class LLMGradientAttribution(BaseLLMAttribution):
    """Attributions of each token of an answer by gradients at a layer, the sums over what it holds of a prompt's token.

    All of an answer's tokens are scored in one pass (`pellucid.language.forced.forced_view`).

    Args:
        attr_method: one of SUPPORTED_METHODS; or IntegratedGradients, InputXGradient, GradientShap: at the input embeddings.
        tokenizer: of the model.
    """

    SUPPORTED_METHODS = (LayerGradientShap, LayerGradientXActivation, LayerIntegratedGradients)
    SUPPORTED_INPUTS = (TextTokenInput, TextTemplateInput)
    AT_EMBEDDINGS: ClassVar[dict[type[Attribution], Any]] = {
        IntegratedGradients: LayerIntegratedGradients,
        InputXGradient: LayerGradientXActivation,
        GradientShap: LayerGradientShap,
    }

    def __init__(self, attr_method: GradientAttribution, tokenizer: Any) -> None:
        super().__init__(attr_method, tokenizer)
        kinds = [kind for own, kind in self.AT_EMBEDDINGS.items() if isinstance(attr_method, own)]
        for kind in kinds:
            self.attr_method = kind(self.model, self._embedding(), multiply_by_inputs=attr_method.multiplies_by_inputs)

    @classmethod
    def _takes(cls) -> Methods:
        return (*cls.SUPPORTED_METHODS, *cls.AT_EMBEDDINGS)

    def _instead(self, attr_method: Any) -> str:
        return "; for methods that perturb there is LLMAttribution" if isinstance(attr_method, PerturbationAttribution) else ""

    def _embedding(self) -> Any:
        """The layer that makes vectors of the prompt's tokens; its first call, where an encoder shares it with a decoder."""
        reading = self.model if Reader.of(self.model).start is None else self.model.get_encoder()
        layer = _embedding_of(reading)
        if layer is None:
            name = type(self.model).__name__
            raise OptionError(
                f"{name} does not say which layer embeds its tokens; name it: LayerIntegratedGradients(model, model.embedding)"
            )
        return (layer, 0) if reading is not self.model and layer is _embedding_of(self.model.get_decoder()) else layer

    def attribute(
        self,
        inp: Any,
        target: Any = None,
        gen_args: dict[str, Any] | None = None,
        skip_tokens: list[int] | list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The attributions of the answer's tokens to the features of `inp`; those of the whole are their sum.

        Args:
            inp: as for `LLMAttribution`, but no image; the path of a method with baselines leads from the input's, which must have as
                many tokens as what they stand in for, or from neutral tokens.
            target, gen_args, skip_tokens: as for `LLMAttribution`.
            kwargs: of the method, such as `n_steps`; with `return_convergence_delta=True` the gaps of the tokens `(T,)` come along.

        Raises:
            OptionError, TargetError, InputError: as for `LLMAttribution`; baselines of another length.
        """
        refuse(1, {name: value for name, value in kwargs.items() if name != "baselines"})
        began, subject = time.perf_counter(), _in_place(subject_of(inp, self.tokenizer), self.tokenizer)
        answers = answers_of(target, gen_args, skip_tokens, self.tokenizer)
        question = Local.of(self.model, subject.prompt, answers, "log_prob", gen_args, False, None, None)
        found = [self._tokens(subject.prompt, answer.ids, kwargs) for answer in question.answers]
        each, gaps = found[0]
        if len(found) > 1:
            other, others = found[1]
            each, gaps = (each.sum(0) - other.sum(0))[None], (gaps.sum() - others.sum())[None]
        table = subject.spread(torch.cat([each.sum(0)[None], each]))
        result = self._result(subject, question, table, began, dict(kwargs))
        return (result, gaps) if kwargs.get("return_convergence_delta") else result

    def _tokens(self, prompt: Prompt, answer: tuple[int, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """`(T, units)`, and how far each token is from the method's law, `(T,)`."""
        forced = Forced(self.model, Reader.of(self.model), in_place(prompt), answer)
        caught: list[Found] = []

        def catch(view: Any, place: Any, found: Found) -> None:
            report(view, found)
            caught.append(found)

        method = copy(self.attr_method)
        # The answer that the class would give has room for one target.
        vars(method).update(forward_func=forced, _answer=catch)
        options = {"baselines": 0, **kwargs} if isinstance(method, LayerGradientShap) else kwargs
        there = torch.ones(1, prompt.size, dtype=forced.reader.dtype, device=self.device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")  # attention's backward has no batched form
            for start in range(0, len(answer), forced.together):
                part = range(start, min(start + forced.together, len(answer)))
                method.attribute(there, target=Several(tuple(Same((k,)) for k in part)), **options)
        if any(len(found.values) > 1 for found in caught):
            raise InputError("the layer returns several tensors; choose one that returns a single one, such as the embedding or a block")
        values = torch.cat([found.values[0] for found in caught])
        return by_unit(values, forced.units, prompt.size), torch.cat([found.difference[:, 0] for found in caught])


def _embedding_of(model: Any) -> Any:
    found = getattr(model, "get_input_embeddings", None)
    return found() if callable(found) else None


def _in_place(subject: Subject, tokenizer: Any) -> Subject:
    """The same with a prompt of tokens in their places.

    Raises:
        InputError: an image, or an input whose tokens are not known.
    """
    inp, prompt = subject.given, subject.prompt
    if isinstance(inp, TextTokenInput):
        prompt = inp.tokens.prompt(tokenizer)
    elif isinstance(inp, TextTemplateInput):
        prompt = inp.segments.prompt(tokenizer)
    elif isinstance(prompt, MadePrompt) or subject.inp is not None:
        raise InputError(
            f"{type(inp).__name__} has no tokens that a gradient could be of; give a TextTokenInput, a TextTemplateInput or a text"
        )
    return Subject(in_place(prompt), subject.names, inp, subject.spread)
