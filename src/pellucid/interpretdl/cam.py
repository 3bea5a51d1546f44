"""InterpretDL's class activation maps, and its consensus over models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError, OptionError
from ..gradient.cam import class_activation_map
from ..inside import layer_named
from ..model import modules_of
from .base import Interpreter, evaluating, numpy

__all__ = ["ConsensusInterpreter", "GradCAMInterpreter", "ScoreCAMInterpreter"]


class GradCAMInterpreter(Interpreter):
    """Grad-CAM of the probability, at the layer's resolution, the mean over channels (the paper's is the sum).

    Source: Selvaraju et al. 2017. Tokens are read as places, too.
    """

    def interpret(
        self,
        inputs: Any,
        target_layer_name: str,
        label: Any = None,
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: Any = None,
    ) -> NDArray[np.float32]:
        """`(B, h, w)`."""
        shown, layer = self.pictures(inputs, resize_to, crop_to), layer_named(modules_of(self.model), target_layer_name)
        with evaluating(self.model):
            view = self.view((shown.tensor,), label, "probability")
            channels = _channels(view, layer)
            values = class_activation_map(view, layer, "grad_cam", resize=False).values[0][0] / channels
            self.draw(values, view, shown, visual, save_path, "grad_cam")
        return numpy(values[:, 0])


def _channels(view: Any, layer: torch.nn.Module) -> int:
    """How many channels the layer has."""
    from ..batch import Run
    from ..gradient.cam import grid_of

    held = Run().place(view, layer).features[0]
    return int(grid_of(held.shape, view.features[0].shape[2:]).map(held).shape[1])


class ScoreCAMInterpreter(Interpreter):
    """The sum of resized activations, each times the probability of the picture seen through it (the paper's weights are a softmax).

    Source: Wang et al. 2020.
    """

    def interpret(
        self,
        inputs: Any,
        target_layer_name: str,
        labels: Any = None,
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: Any = None,
    ) -> NDArray[np.float32]:
        """`(B, H, W)`."""
        shown, layer = self.pictures(inputs, resize_to, crop_to), layer_named(modules_of(self.model), target_layer_name)
        with evaluating(self.model):
            view = self.view((shown.tensor,), labels, "probability")
            values = class_activation_map(view, layer, "score_cam_interpretdl").values[0][0]
            self.draw(values, view, shown, visual, save_path, "score_cam")
        return numpy(values[:, 0])


class ConsensusInterpreter:
    """One interpreter over several models: their explanations one after another.

    Source: Li et al. 2021. `agreement` says how near each model's map is to the committee's.

    Args:
        InterpreterClass: of this package, whose `interpret` returns an array.
        list_of_models: at least one.
        options: of the interpreter's constructor.
    """

    def __init__(self, InterpreterClass: type[Any], list_of_models: Sequence[Any], device: str = "gpu:0", **options: Any) -> None:
        if not list_of_models:
            raise OptionError("list_of_models is empty; give at least one model")
        self.interpreters = [InterpreterClass(model, device, **options) for model in list_of_models]

    def interpret(self, inputs: Any, **options: Any) -> NDArray[Any]:
        """`(models * B, ...)`, the models one after another."""
        options = {"visual": False, **options}
        found = [interpreter.interpret(inputs, **options) for interpreter in self.interpreters]
        if not all(isinstance(f, np.ndarray) for f in found):
            raise InputError(f"{type(self.interpreters[0]).__name__} returns {type(found[0]).__name__}; a consensus needs arrays")
        shapes = {f.shape for f in found}
        if len(shapes) > 1:
            raise InputError(f"the models' explanations have shapes {sorted(shapes)}; a consensus needs one shape")
        return np.concatenate(found)

    def agreement(self, explanations: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The committee's map `(B, ...)`, and each model's cosine similarity with it `(models, B)`.

        Signed gradients are squared and averaged over channels first; maps count as they are, scaled to length one.
        """
        count = len(self.interpreters)
        maps = explanations.reshape(count, -1, *explanations.shape[1:]).astype(float)
        maps = (maps**2).mean(2) if maps.ndim == 5 else maps
        flat = maps.reshape(*maps.shape[:2], -1)
        flat = flat / np.maximum(np.linalg.norm(flat, axis=2, keepdims=True), np.finfo(float).tiny)
        committee = flat.mean(0)
        length = np.maximum(np.linalg.norm(committee, axis=1), np.finfo(float).tiny)
        return committee.reshape(maps.shape[1:]), (flat * committee).sum(2) / length
