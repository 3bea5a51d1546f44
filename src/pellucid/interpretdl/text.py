"""InterpretDL's interpreters of texts: a sentence in, a number for every token out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..attention import attention_map
from ..batch import Run
from ..errors import InputError, OptionError, warn
from ..explanation import Display, Explanation
from ..gradient import expected_gradients, gradient, integrated_gradients, noise_tunnel
from ..inputs import Tensors, as_tensors
from ..inside import at_layer
from ..model import Foreign
from ..perturb import groups_of
from ..perturb.evaluate import Design, Scorer, coalitions
from ..perturb.normlime import averaged
from ..seeds import generator, resolve_seed
from ..view import InputView
from .base import Interpreter, evaluating, numpy, paths_of, report, show
from .lime import fitted, of_every_class, wanted_classes
from .normlime import saved_weights

__all__ = [
    "BTNLPInterpreter",
    "GANLPInterpreter",
    "GradShapNLPInterpreter",
    "IntGradNLPInterpreter",
    "LIMENLPInterpreter",
    "NormLIMENLPInterpreter",
    "SmoothGradNLPInterpreter",
]

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


class _OfText(Interpreter):
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


class IntGradNLPInterpreter(_OfText):
    """Integrated gradients of the embedding, from zeros; both ends of the path at full weight. Source: Sundararajan et al. 2017."""

    def interpret(
        self,
        raw_text: Any,
        tokenizer: Any = None,
        text_to_input_fn: Callable[..., Any] | None = None,
        label: Any = None,
        steps: int = 50,
        gradient_of: str = "logit",
        embedding_name: str = WORDS,
        max_seq_len: int = 128,
        visual: bool = False,
        save_path: Any = None,
    ) -> NDArray[np.float32]:
        """`(1, tokens, dimensions)`."""
        text = self._read(raw_text, tokenizer, text_to_input_fn, max_seq_len)
        with evaluating(self.model):
            view = self._view(text, label, gradient_of)
            inner = at_layer(view, self._embedding(embedding_name))
            values = integrated_gradients(inner, tuple(torch.zeros_like(f) for f in inner.features), steps, "inclusive").values[0][0]
            self._shown(values, view, text, visual, save_path, "integrated_gradients")
        return numpy(values)


class SmoothGradNLPInterpreter(_OfText):
    """The mean gradient of noisy embeddings; the noise's deviation is `noise_amount` of the embedding's mean magnitude.

    Source: Smilkov et al. 2017. InterpretDL takes the mean with its sign, which is near zero: its noise had no size of its own.
    """

    def interpret(
        self,
        raw_text: Any,
        tokenizer: Any = None,
        text_to_input_fn: Callable[..., Any] | None = None,
        label: Any = None,
        noise_amount: float = 0.1,
        n_samples: int = 50,
        gradient_of: str = "probability",
        embedding_name: str = WORDS,
        max_seq_len: int = 128,
        visual: bool = False,
        save_path: Any = None,
    ) -> NDArray[np.float32]:
        """`(1, tokens, dimensions)`."""
        text = self._read(raw_text, tokenizer, text_to_input_fn, max_seq_len)
        with evaluating(self.model):
            view = self._view(text, label, gradient_of)
            inner = at_layer(view, self._embedding(embedding_name)[:1])
            deviation = noise_amount * float(inner.features[0].abs().mean())
            values = noise_tunnel(inner, gradient, n_samples, deviation).values[0][0]
            self._shown(values, view, text, visual, save_path, "smoothgrad", "norm")
        return numpy(values)


class GradShapNLPInterpreter(_OfText):
    """GradientSHAP of the embedding, summed over its dimensions. Source: Lundberg and Lee 2017. (InterpretDL's own does not run.)"""

    def interpret(
        self,
        data: Any,
        labels: Any = None,
        n_samples: int = 5,
        noise_amount: float = 0.1,
        embedding_name: str = WORDS,
        return_pred: bool = True,
        gradient_of: str = "probability",
    ) -> Any:
        """`(labels, probabilities, (B, tokens))`, or the attributions only.

        Args:
            data: what the model gets: ids `(B, tokens)`, or a tuple that starts with them.
        """
        parts = data if isinstance(data, tuple | list) else (data,)
        text = Text(tuple(self._row(part) for part in parts))
        with evaluating(self.model):
            view = self._view(text, labels, gradient_of)
            inner = at_layer(view, self._embedding(embedding_name)[:1])
            blank = tuple(torch.zeros_like(f[:1]) for f in inner.features)
            deviation = noise_amount * float(inner.features[0].abs().mean())
            found = numpy(expected_gradients(inner, blank, n_samples, deviation, check=False).values[0][0].sum(-1))
        return (self.labels, self.predicted_proba, found) if return_pred else found


class GANLPInterpreter(_OfText):
    """Generic attention, heads averaged before the product, of the tokens that the score reads (in most the first).

    Source: Chefer et al. 2021.
    """

    def interpret(
        self,
        raw_text: Any,
        tokenizer: Any = None,
        text_to_input_fn: Callable[..., Any] | None = None,
        label: Any = None,
        start_layer: int = 11,
        attn_map_name: str | None = None,
        gradient_of: str = "logit",
        max_seq_len: int = 128,
        visual: bool = False,
        save_path: Any = None,
    ) -> NDArray[np.float32]:
        """`(1, tokens)`."""
        text = self._read(raw_text, tokenizer, text_to_input_fn, max_seq_len)
        with evaluating(self.model):
            view = self._view(text, label, gradient_of)
            found = attention_map(view, "generic_attention_interpretdl", start=start_layer, pattern=attn_map_name)
            self._shown(found.values[0][0], view, text, visual, save_path, "generic_attention")
        return numpy(found.values[0][0] + found.notes["rows"][0])  # InterpretDL's matrix starts as the identity


class BTNLPInterpreter(_OfText):
    """The bidirectional interpreter of a text; its path runs from zero embeddings. Source: Chen et al. 2023."""

    def interpret(
        self,
        raw_text: Any,
        tokenizer: Any = None,
        text_to_input_fn: Callable[..., Any] | None = None,
        label: Any = None,
        ap_mode: str = "head",
        start_layer: int = 11,
        steps: int = 20,
        embedding_name: str = "^[a-z]*.embeddings$",
        attn_map_name: str | None = None,
        attn_v_name: str | None = None,
        attn_proj_name: str | None = None,
        gradient_of: str = "logit",
        max_seq_len: int = 128,
        visual: bool = False,
        save_path: Any = None,
    ) -> NDArray[np.float32]:
        """`(1, tokens)`; `embedding_name` finds the layer whose output is scaled, words with places."""
        if ap_mode not in ("head", "token"):
            raise OptionError(f"ap_mode is {ap_mode!r}; choose 'head' or 'token'")
        text = self._read(raw_text, tokenizer, text_to_input_fn, max_seq_len)
        with evaluating(self.model):
            view = self._view(text, label, gradient_of)
            layer, source = self._embedding(embedding_name)[:1], attn_v_name if ap_mode == "token" else None
            found = attention_map(
                at_layer(self.of_predicted(view), layer), "bidirectional_attention", None, start_layer, steps, ap_mode,
                pattern=attn_map_name, source=source, feedback=at_layer(view, layer)
            )  # fmt: skip
            values = found.values[0][0][..., 0]
            self._shown(values, view, text, visual, save_path, "bidirectional_attention")
        return numpy(values)


class LIMENLPInterpreter(_OfText):
    """LIME of tokens, those taken away shown as unknown. Source: Ribeiro, Singh, Guestrin 2016."""

    def __init__(self, model: Any, device: str = "gpu:0", random_seed: int | None = None, **options: Any) -> None:
        super().__init__(model, device, **options)
        self.random_seed = random_seed
        self.lime_results: dict[str, Any] = {}

    def interpret(
        self,
        raw_text: Any,
        tokenizer: Any = None,
        text_to_input_fn: Callable[..., Any] | None = None,
        preprocess_fn: Callable[..., Any] | None = None,
        unk_id: int = 0,
        pad_id: int = 0,
        classes_to_interpret: Any = None,
        num_samples: int = 1000,
        batch_size: int | None = 50,
        max_seq_len: int = 128,
        visual: bool = False,
        save_path: Any = None,
    ) -> dict[int, list[tuple[int, float]]]:
        """`{class: [(position, weight), ...]}` in the order of positions, special tokens among them; padding is left alone."""
        if num_samples < 2:
            raise OptionError(f"num_samples is {num_samples}; at least two are needed")
        text = self._read(raw_text, tokenizer, text_to_input_fn or preprocess_fn, max_seq_len)
        ids = text.tensors[0][0].tolist()
        count = ids.index(pad_id) if pad_id in ids else len(ids)
        if not count:
            raise InputError(f"the text starts with the padding token {pad_id}; give its number as pad_id")
        with evaluating(self.model):
            view = self._view(text, None, "probability")
            wanted = wanted_classes(self.numbered(classes_to_interpret), 1, view)
            kept = torch.rand(num_samples, len(ids), generator=generator(resolve_seed(self.random_seed), 0)) < 0.5
            kept[0], kept[:, count:] = True, True
            scorer = Scorer(of_every_class(view), (torch.full_like(text.tensors[0], unk_id),), Run(batch_size), "lime")
            _, scores = coalitions(scorer, groups_of(view.features), Design.of(kept))
            chances = scores[:, :, 0].T.cpu()
            weights = {label: list(enumerate(fitted(kept[:, :count], chances[:, label]).tolist())) for label in wanted}
            self.lime_results = {"probability": numpy(chances[0]), "ids": ids, "lime_weights": weights}
            values = torch.tensor([[w for _, w in weights[wanted[0]]] + [0.0] * (len(ids) - count)])
            self.labels = [wanted[0]]
            self._shown(values, view, text, visual, save_path, "lime")
        return weights


class NormLIMENLPInterpreter(LIMENLPInterpreter):
    """What counts for each class over many texts, by token id. Source: Ahern et al. 2019.

    InterpretDL 0.8 counts by position, which its documentation does not mean; ids are what it counted before.
    """

    def interpret(  # type: ignore[override]
        self,
        list_of_raw_text: Sequence[Any],
        preprocess_fn: Callable[..., Any] | None = None,
        num_samples: int = 1000,
        batch_size: int | None = 50,
        unk_id: int = 0,
        pad_id: int = 0,
        lod_levels: Any = None,
        save_path: str | Path | None = "normlime_weights.npy",
        temp_data_file: str | Path | None = None,
        tokenizer: Any = None,
        max_seq_len: int = 128,
    ) -> dict[int, dict[int, tuple[float, int]]]:
        """`{class: {token id: (importance, how often)}}`, of what speaks for the class; written as JSON in a .npy if a path is given.

        `lod_levels` and `temp_data_file` have no use here.
        """
        if not len(list_of_raw_text):
            raise InputError("list_of_raw_text is empty; give at least one text")
        by_class: dict[int, list[list[tuple[int, float]]]] = {}
        for raw in list_of_raw_text:
            weights = super().interpret(
                raw, tokenizer, None if tokenizer else preprocess_fn, None, unk_id, pad_id, None, num_samples, batch_size, max_seq_len
            )
            ids = self.lime_results["ids"]
            for label, own in weights.items():
                by_class.setdefault(label, []).append([(ids[position], weight) for position, weight in own])
        found = {label: averaged(each, "normlime", positive=True) for label, each in sorted(by_class.items())}
        if save_path is not None:
            saved_weights(found, save_path)
        return found
