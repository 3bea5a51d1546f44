"""How a language model is called: which arguments it takes, how much it reads at most, and which of its logits are asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError, OutputError
from ..hooks import around
from ..memory import budget
from ..model import layers_of, modules_of
from ..text.entries import context_of

__all__ = ["Reader", "Told", "last_states", "logits_of"]

# Bytes that a call holds at its peak for each number of a token's hidden state, and for each logit.
PER_HIDDEN, PER_LOGIT = 64, 12
STRETCHING = ("dynamic", "longrope")
USUAL = 2**16  # words of a vocabulary, where the model does not say


class Told(NamedTuple):
    """What a call gave: logits `(rows, positions, vocabulary)` of the last positions at least, and its cache if there is one."""

    logits: Tensor
    cache: Any


@dataclass(frozen=True, eq=False)
class Reader:
    """A model that gives the logits of the next token: a causal one, or an encoder with a decoder, or any callable like one.

    Attributes:
        takes: the names of the arguments that it has.
        start: what a decoder reads first; None: the model is causal.
        longest: how many tokens a causal model reads at most; None: nothing is known.
    """

    model: Callable[..., Any] = field(repr=False)
    roots: tuple[nn.Module, ...] = field(repr=False)
    takes: frozenset[str]
    start: int | None = None
    longest: int | None = None

    @classmethod
    def of(cls, model: Callable[..., Any]) -> Reader:
        """Read off what can be known without a pass.

        Raises:
            InputError: a decoder for which no first token is known.
        """
        config = getattr(model, "config", None)
        takes = _arguments(model)
        if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
            return cls(model, modules_of(model), takes, _first_token(model, config))
        text = getattr(config, "get_text_config", None)
        own = text() if callable(text) else config
        return cls(model, modules_of(model), takes, None, context_of(own))

    @cached_property
    def device(self) -> torch.device:
        """Where token ids are expected."""
        placed = (p.device for root in self.roots for p in root.parameters() if not p.is_meta)
        return next(placed, torch.device("cpu"))

    @cached_property
    def weights(self) -> torch.dtype:
        """The type of the model's weights."""
        return next((p.dtype for root in self.roots for p in root.parameters() if p.is_floating_point()), torch.float32)

    def placed(self, value: Any) -> Any:
        """What is given to the model: tensors on its device, real ones in the type of its weights."""
        if not isinstance(value, Tensor):
            return value
        return value.to(self.device, self.weights if value.is_floating_point() else None)

    @property
    def dtype(self) -> torch.dtype:
        """What log-probabilities are computed in: float32, or float64 for a model in it."""
        return torch.float64 if self.weights == torch.float64 else torch.float32

    @property
    def rounding(self) -> float:
        """How far log-probabilities may be apart that differ by their way through the model only."""
        return float(torch.finfo(self.weights).eps ** 0.5)

    @cached_property
    def head(self) -> nn.Module | None:
        """The layer that makes logits, where the model says which it is."""
        named = getattr(self.model, "get_output_embeddings", None)
        found = named() if callable(named) else None
        return found if isinstance(found, nn.Module) else None

    @property
    def room(self) -> int:
        """Bytes that one call may hold; beside a large model on a CPU, a part of its own."""
        own = sum(p.numel() * p.element_size() for root in self.roots for p in root.parameters())
        return max(budget(self.device), own // 4 if self.device.type != "cuda" else 0)

    def bytes_of(self, length: int, asked: int) -> int:
        """What the activations and the logits of one row take, roughly."""
        config = getattr(self.model, "config", None)
        vocabulary = int(getattr(config, "vocab_size", None) or USUAL)
        hidden = int(getattr(config, "hidden_size", None) or USUAL // PER_HIDDEN)
        return length * hidden * PER_HIDDEN + (asked if self.keeps else length) * vocabulary * PER_LOGIT

    @property
    def keeps(self) -> bool:
        """Whether logits of some positions only can be asked for."""
        return "logits_to_keep" in self.takes or self.head is not None

    @property
    def configured(self) -> bool:
        """Whether it is a model of transformers, of which some that give logits of tokens read them from both sides."""
        return hasattr(getattr(self.model, "config", None), "to_dict")

    @cached_property
    def stretches(self) -> bool:
        """Whether places of tokens are encoded otherwise in longer texts, padding counted, so that rows of two lengths share nothing."""
        config = getattr(self.model, "config", None)
        text = getattr(config, "get_text_config", None)
        own = getattr(text() if callable(text) else config, "rope_parameters", None)
        each = own.values() if isinstance(own, Mapping) and all(isinstance(one, Mapping) for one in own.values()) else (own,)
        return any(isinstance(one, Mapping) and one.get("rope_type") in STRETCHING for one in each)

    def state(self) -> tuple[Any, ...]:
        """What changes where weights are changed in place or replaced, hooks come or go, or the mode is another: not what `.data` hides."""
        layers = layers_of(self.roots)
        modes = [(layer.training, len(layer._forward_hooks), len(layer._forward_pre_hooks)) for layer in layers]
        tensors = [t for layer in layers for t in (*layer._parameters.values(), *layer._buffers.values()) if t is not None]
        return modes, [(t.data_ptr(), None if t.is_inference() else t._version) for t in tensors]

    def read(self, ids: Tensor, mask: Tensor, keep: int, past: Any = None, cache: bool = False) -> Told:
        """The logits of the last `keep` positions of ids `(rows, L)`; of a causal model.

        Args:
            mask: `(rows, past + L)`, False on padding, which lies on the right.
            past: a cache of what stands before `ids`, which it will contain afterwards.
            cache: whether a cache of it all is wanted.
        """
        given = {"attention_mask": mask.long(), "use_cache": cache or past is not None}
        return self._call(ids, given if past is None else {**given, "past_key_values": past}, keep)

    def answer(self, ids: Tensor, mask: Tensor, decoded: Tensor) -> Tensor:
        """The logits `(rows, T, vocabulary)` of a decoder that read `decoded` `(rows, T)`, after an encoder that read `ids`."""
        given = {"attention_mask": mask.long(), "decoder_input_ids": decoded, "use_cache": False}
        return self._call(ids, given, decoded.shape[1]).logits

    def _call(self, ids: Tensor, given: dict[str, Any], keep: int) -> Told:
        given = {name: value for name, value in given.items() if name in self.takes}
        context: Any = nullcontext()
        if "logits_to_keep" in self.takes and self.start is None:  # an index, because of a slice the output layer would work row by row
            given["logits_to_keep"] = torch.arange(ids.shape[1] - keep, ids.shape[1], device=ids.device)
        elif self.head is not None and self.start is None:
            context = around([self.head], lambda _, call: last_states(call, ids.shape[1], keep), lambda _, output: output)
        with torch.no_grad(), context:
            output = self.model(input_ids=ids, **given) if "input_ids" in self.takes else self.model(ids, **given)
        return Told(logits_of(output, len(ids), keep), getattr(output, "past_key_values", None))


def _arguments(model: Callable[..., Any]) -> frozenset[str]:
    """The names of what can be given, also where a wrapper passes on whatever it gets to a base model."""
    called = model.forward if isinstance(model, nn.Module) else model
    try:
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):  # a callable written in C, or one that hides what it takes
        return frozenset()
    inner = getattr(model, "get_base_model", None)
    if callable(inner) and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return frozenset(parameters) | _arguments(inner())
    return frozenset(parameters)


def _first_token(model: Any, config: Any) -> int:
    for source in (getattr(model, "generation_config", None), config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            found = getattr(source, name, None)
            if isinstance(found, int):
                return found
    raise InputError(
        "the model has a decoder, and its config names no token to begin with; set model.config.decoder_start_token_id (T5: the padding's)"
    )


def last_states(call: tuple[tuple[Any, ...], dict[str, Any]], length: int, keep: int) -> Any:
    """The call of the output layer, with hidden states `(rows, L, hidden)` of the last positions only."""
    args, kwargs = call
    fits = len(args) == 1 and isinstance(args[0], Tensor) and args[0].dim() == 3 and args[0].shape[1] == length
    return ((args[0][:, length - keep :].contiguous(), *args[1:]), kwargs) if fits else call


def logits_of(output: Any, rows: int, keep: int) -> Tensor:
    """What the model says of the last positions.

    Raises:
        OutputError: it returns something else than logits.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif isinstance(output, tuple | list):
        found = next((part for part in output if isinstance(part, Tensor)), None)
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
    if isinstance(found, Tensor) and found.dim() == 4 and found.shape[1] == 1:  # one head of several that guess ahead
        found = found[:, 0]
    if not isinstance(found, Tensor) or found.dim() != 3 or len(found) != rows or found.shape[1] < keep:
        shape = f" {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise OutputError(
            f"the model returned {type(output).__name__}{shape} for {rows} rows of token ids; a language model returns logits "
            f"(rows, positions, vocabulary), as a tensor, first in a tuple, or as .logits"
        )
    return found[:, found.shape[1] - keep :]
