"""InterpretDL's interpreters of texts: a sentence in, a number for every token out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..attention import attention_map
from ..batch import Run
from ..errors import InputError, OptionError
from ..gradient import expected_gradients, gradient, integrated_gradients, noise_tunnel
from ..inside import at_layer
from ..perturb import groups_of
from ..perturb.evaluate import Design, Scorer, coalitions
from ..perturb.normlime import averaged
from ..seeds import generator, resolve_seed
from .base import evaluating, numpy
from .lime import fitted, of_every_class, wanted_classes
from .normlime import saved_weights
from .tokens import WORDS, Text, TextInterpreter

__all__ = [
    "BTNLPInterpreter",
    "GANLPInterpreter",
    "GradShapNLPInterpreter",
    "IntGradNLPInterpreter",
    "LIMENLPInterpreter",
    "NormLIMENLPInterpreter",
    "SmoothGradNLPInterpreter",
]


class IntGradNLPInterpreter(TextInterpreter):
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


class SmoothGradNLPInterpreter(TextInterpreter):
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


class GradShapNLPInterpreter(TextInterpreter):
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


class GANLPInterpreter(TextInterpreter):
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


class BTNLPInterpreter(TextInterpreter):
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


class LIMENLPInterpreter(TextInterpreter):
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
