"""A text as a model gets it, and an interpreter that reads it, finds its embedding and draws its tokens."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, OptionError, warn
from ..explanation import Display, Explanation
from ..inputs import Tensors, as_tensors
from ..model import Foreign
from ..view import InputView
from .base import Interpreter, paths_of, report, show

__all__ = ["WORDS", "Text", "TextInterpreter"]

WORDS = "word_embeddings"


@dataclass(frozen=True, eq=False)
class Text:
    """A text as the model gets it: tensors by position, others by name, and its tokens as people read them."""

    tensors: Tensors
    keywords: Mapping[str, Tensor] = field(default_factory=dict)
    words: Callable[[Tensor], tuple[str, ...]] = lambda ids: tuple(map(str, ids.tolist()))

    @property
    def ids(self) -> Tensor:
        """`(B, tokens)`."""
        return self.tensors[0]


class TextInterpreter(Interpreter):
    """Reads a text and finds the embedding; nothing is kept from one call to the next."""

    def _read(self, raw_text: Any, tokenizer: Any, text_to_input_fn: Any, max_seq_len: int) -> Text:
        if isinstance(raw_text, str) and not raw_text.strip():
            raise InputError("the text is empty; give at least one word")
        if (tokenizer is None) == (text_to_input_fn is None):
            raise OptionError("give tokenizer or text_to_input_fn, one of the two: it makes the model's inputs from the text")
        found = text_to_input_fn(raw_text) if text_to_input_fn is not None else _tokenized(tokenizer, raw_text, max_seq_len)
        named = dict(found) if isinstance(found, Mapping) or hasattr(found, "keys") else None
        several = isinstance(found, tuple | list) and not isinstance(found[0] if found else 0, int | np.integer)
        values = list(named.values()) if named is not None else list(found) if several else [found]
        tensors = tuple(self._row(value) for value in values)
        keywords: dict[str, Tensor] = {}
        if named is not None and len(tensors) > 1 and (taken := _taken(self.model, list(named))):
            keywords = {name: tensor for name, tensor in zip(named, tensors, strict=True) if name in taken}
            tensors = tensors[:1]
        if tensors[0].shape[-1] == 0:
            raise InputError(f"the text {str(raw_text)[:40]!r} has no tokens; give at least one word")
        return Text(tensors, keywords, _words_by(tokenizer))

    def _row(self, value: Any) -> Tensor:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
        return (tensor if tensor.dim() > 1 else tensor[None]).to(self.place)

    def _view(self, text: Text, label: Any, of: str) -> InputView:
        """The view of the ids, which the other inputs go along with."""
        as_tensors(text.tensors[:1])
        ids, others = text.tensors[0], text.tensors[1:]
        return self.view((ids,), label, of, {**text.keywords}) if not others else self._with_others(ids, others, text, label, of)

    def _with_others(self, ids: Tensor, others: Tensors, text: Text, label: Any, of: str) -> InputView:
        known = self.model
        self.model = _Followed(known, others, dict(text.keywords))
        try:
            return self.view((ids,), label, of)
        finally:
            self.model = known

    def _embedding(self, name: str) -> list[nn.Module]:
        modules = dict(self.model.named_modules()) if isinstance(self.model, nn.Module) else {}
        if isinstance(self.model, Foreign):
            raise OptionError(
                f"the embedding runs in {self.model.framework} and cannot be watched; use LIMENLPInterpreter, which needs no layer"
            )
        found = [module for known, module in modules.items() if known and re.search(name, known)]
        if not found and name == WORDS:
            found = [module for module in modules.values() if isinstance(module, nn.Embedding)][:1]
        if not found:
            raise OptionError(f"no layer's name holds {name!r}, which should be the embedding; the layers are {', '.join(modules)[:300]}")
        return found

    def _shown(self, values: Tensor, view: InputView, text: Text, visual: bool, save_path: Any, method: str, pooling: Any = "sum") -> None:
        """The tokens on their colours."""
        report(values)
        if not visual and save_path is None:
            return
        paths = paths_of(save_path, len(values))
        own = zip(
            values, self.labels or [], np.asarray(self.predicted_label), np.asarray(self.predicted_proba), text.ids, paths, strict=True
        )
        for row, label, predicted, chance, ids, path in own:
            explained = Explanation(
                attributions=(row.reshape(1, len(row), -1).detach().cpu(),),
                features=(torch.zeros(1, len(row), 1),),
                scores=torch.tensor([float("nan")]),
                method=method,
                target=f"output {label}",
                predictions=torch.as_tensor([predicted]),
                confidences=torch.as_tensor([chance]),
                display=Display("text", names=text.words(ids), classes=self.classes, pooling=pooling),
            )
            show(explained, path, visual)


class _Followed(nn.Module):
    """The model with further inputs behind the first."""

    def __init__(self, model: Callable[..., Any], others: Tensors, keywords: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.model, self.others, self.keywords = model, others, keywords

    def forward(self, ids: Tensor) -> Any:
        """Rows of all inputs alike."""
        grown = [o.expand(len(ids), *o.shape[1:]) for o in self.others]
        return self.model(ids, *grown, **{name: o.expand(len(ids), *o.shape[1:]) for name, o in self.keywords.items()})


def _taken(model: Callable[..., Any], names: Sequence[str]) -> list[str]:
    """Which inputs behind the first the model takes by name; none where it knows none of the names."""
    inner = model.module if isinstance(model, nn.DataParallel) else model
    parameters = inspect.signature(inner.forward if isinstance(inner, nn.Module) else inner).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return list(names[1:])
    found = [name for name in names[1:] if name in parameters]
    if found and len(found) < len(names) - 1:
        warn(
            "inputs",
            f"the model takes no {', '.join(n for n in names[1:] if n not in found)}, which the tokenizer gives; they are left out",
        )
    return found


def _tokenized(tokenizer: Any, text: Any, longest: int) -> Any:
    """Hugging Face's tokenizers and Paddle's have other names for the longest text."""
    takes = inspect.signature(tokenizer if inspect.isroutine(tokenizer) else type(tokenizer).__call__).parameters
    if "max_seq_len" in takes:
        return tokenizer(text=text, max_seq_len=longest)
    return tokenizer(text, max_length=longest, truncation=True) if "max_length" in takes else tokenizer(text)


def _words_by(tokenizer: Any) -> Callable[[Tensor], tuple[str, ...]]:
    convert = getattr(tokenizer, "convert_ids_to_tokens", None)
    return lambda ids: tuple(map(str, ids.tolist() if convert is None else convert(ids.tolist())))
