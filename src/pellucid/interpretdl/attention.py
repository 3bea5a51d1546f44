"""InterpretDL's attention interpreters of pictures, on any transformer: attention is read at the operation, not from named layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..attention import attention_map, relevance_matrices
from ..errors import OptionError
from ..inputs import as_tensors
from ..view import InputView, at_input
from .base import Interpreter, evaluating, numpy

__all__ = ["BTCVInterpreter", "GACVInterpreter", "GAInterpreter", "RolloutInterpreter", "TAMInterpreter"]

ANY = None


class _OfAttention(Interpreter):
    """Maps `(B, h, w)` of the tokens' grid: the attention of the tokens that the score reads, the class token or the mean of all."""

    def _mapped(
        self, inputs: Any, label: Any, of: str, kind: str, resize_to: int | None, crop_to: int | None, visual: bool, save_path: Any,
        **options: Any
    ) -> NDArray[np.float32]:  # fmt: skip
        shown = self.pictures(inputs, resize_to, crop_to)
        with evaluating(self.model):
            view = self.view((shown.tensor,), label, of)
            values = self._values(view, kind, {"resize": False, **options})
            self.draw(values, view, shown, visual, save_path, kind)
        return numpy(values[:, 0])

    def _values(self, view: InputView, kind: str, options: dict[str, Any]) -> Tensor:
        return attention_map(view, kind, **options).values[0][0]


class RolloutInterpreter(_OfAttention):
    """Attention rollout. Source: Abnar and Zuidema 2020."""

    def interpret(
        self,
        inputs: Any,
        start_layer: int = 0,
        attention_layer_pattern: str | None = ANY,
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: Any = None,
    ) -> NDArray[np.float32]:
        """`(B, h, w)`. `attention_layer_pattern` picks attentions by the names of their modules; None: all."""
        options = {"start": start_layer, "pattern": attention_layer_pattern}
        return self._mapped(inputs, None, "probability", "rollout", resize_to, crop_to, visual, save_path, **options)


class TAMInterpreter(_OfAttention):
    """Transition attention maps. Source: Yuan et al. 2021."""

    def interpret(
        self,
        inputs: Any,
        start_layer: int = 4,
        steps: int = 20,
        label: Any = None,
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: Any = None,
    ) -> NDArray[np.float32]:
        """`(B, h, w)`."""
        options = {"start": start_layer, "steps": steps}
        return self._mapped(inputs, label, "probability", "transition_attention", resize_to, crop_to, visual, save_path, **options)


class GACVInterpreter(_OfAttention):
    """Generic attention with heads averaged before the product (`generic_attention` is the paper's). Source: Chefer et al. 2021."""

    def interpret(
        self,
        inputs: Any,
        start_layer: int = 3,
        attn_map_name: str | None = ANY,
        label: Any = None,
        gradient_of: str = "probability",
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: Any = None,
    ) -> NDArray[np.float32]:
        """`(B, h, w)`."""
        options = {"start": start_layer, "pattern": attn_map_name}
        return self._mapped(inputs, label, gradient_of, "generic_attention_interpretdl", resize_to, crop_to, visual, save_path, **options)


class BTCVInterpreter(_OfAttention):
    """Bidirectional transformer interpreter: attentional perception by heads or tokens, times reasoning feedback. Source: Chen et al. 2023.

    Feedback is of the label, perception of the predicted class, as in InterpretDL; `pellucid.explain` takes both of one target.
    """

    def _values(self, view: InputView, kind: str, options: dict[str, Any]) -> Tensor:
        return attention_map(self.of_predicted(view), kind, feedback=view, **options).values[0][0]

    def interpret(
        self,
        inputs: Any,
        ap_mode: str = "head",
        start_layer: int = 3,
        steps: int = 20,
        attn_map_name: str | None = ANY,
        attn_v_name: str | None = ANY,
        attn_proj_name: str | None = ANY,
        gradient_of: str = "probability",
        label: Any = None,
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: Any = None,
    ) -> NDArray[np.float32]:
        """`(B, h, w)`.

        In token mode values are compared with what the layers named `attn_v_name` receive (InterpretDL's form: the layer that makes
        queries, keys and values); None: with what they are added to. `attn_proj_name` is not needed.
        """
        if ap_mode not in ("head", "token"):
            raise OptionError(f"ap_mode is {ap_mode!r}; choose 'head' or 'token'")
        options = {"start": start_layer, "steps": steps, "path": ap_mode, "pattern": attn_map_name}
        options |= {"source": attn_v_name} if ap_mode == "token" else {}
        return self._mapped(inputs, label, gradient_of, "bidirectional_attention", resize_to, crop_to, visual, save_path, **options)


class GAInterpreter(Interpreter):
    """Generic attention of a picture and a text together (CLIP-like models). Source: Chefer, Gur, Wolf 2021.

    The model takes (pictures, token ids) and returns similarities `(pictures, texts)`, perhaps first of several.
    """

    def interpret(
        self,
        image_input: Any,
        text: Any,
        text_tokenized: Any,
        vis_attn_layer_pattern: str | None = None,
        txt_attn_layer_pattern: str | None = None,
        start_layer: int = 11,
        start_layer_text: int = 11,
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: Any = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The relevance of every text token for every other `(B, T, T)`, and the map of the picture `(h, w)` (of several `(B, h, w)`)."""
        shown = self.pictures(image_input, resize_to, crop_to)
        ids = as_tensors(torch.as_tensor(np.asarray(text_tokenized)).to(self.place), "text_tokenized")[0]
        patterns = (vis_attn_layer_pattern, txt_attn_layer_pattern)
        with evaluating(self.model):
            view = at_input(self.model, (shown.tensor, ids), _matching)
            self.labels, self.predicted_label, self.predicted_proba = [0] * len(shown), None, None
            image, words = relevance_matrices(view, "generic_attention", (start_layer, start_layer_text), patterns)
            side = int((image.shape[-1] - 1) ** 0.5)
            on_grid = image[0][:, 0, image.shape[-1] - side * side :].unflatten(-1, (side, side))
            self.draw(on_grid[:, None], view, shown, visual, save_path, "generic_attention")
        found = numpy(on_grid)
        own = torch.eye(words.shape[-1], dtype=words.dtype, device=words.device)  # InterpretDL's matrix starts with it
        return numpy(words[0] + own), found[0] if len(found) == 1 else found


def _matching(output: Any) -> Tensor:
    """Of every pair of a picture and its text."""
    similar = output[0] if isinstance(output, tuple | list) else getattr(output, "logits_per_image", output)
    return torch.diagonal(similar)
