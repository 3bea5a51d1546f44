"""InterpretDL's gradient interpreters of pictures: SmoothGrad, integrated gradients, GradientSHAP."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Run
from ..errors import InputError, OptionError
from ..gradient import expected_gradients, gradient, integrated_gradients, noise_tunnel
from ..inputs import Tensors
from ..view import View
from .base import Interpreter, evaluating, numpy

__all__ = [
    "GradShapCVInterpreter",
    "IntGradCVInterpreter",
    "SmoothGradCVInterpreter",
    "SmoothGradInterpreter",
    "SmoothGradInterpreterV2",
]

SavePath = Any


class SmoothGradInterpreter(Interpreter):
    """The mean gradient of noisy copies: `pellucid.gradient.noise_tunnel`.

    Source: Smilkov et al. 2017. The noise's deviation is `noise_amount` of each picture's range.
    """

    def interpret(
        self,
        inputs: Any,
        labels: Any = None,
        noise_amount: float = 0.1,
        n_samples: int = 50,
        gradient_of: str = "probability",
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: SavePath = None,
    ) -> NDArray[np.float32]:
        """`(B, C, H, W)`; drawn as the magnitude over colours."""
        return self._interpreted(inputs, labels, noise_amount, n_samples, gradient_of, resize_to, crop_to, visual, save_path, Run())

    def _interpreted(
        self, inputs: Any, labels: Any, noise: float, samples: int, of: str, resize_to: int | None, crop_to: int | None,
        visual: bool, save_path: SavePath, run: Run
    ) -> NDArray[np.float32]:  # fmt: skip
        shown = self.pictures(inputs, resize_to, crop_to)
        with evaluating(self.model):
            view = self.view((shown.tensor,), labels, of)
            found = noise_tunnel(view, gradient, samples, noise, "smoothgrad", True, run=run)
            self.draw(found.values[0][0], view, shown, visual, save_path, "smoothgrad", "norm")
        return numpy(found.values[0][0])


SmoothGradCVInterpreter = SmoothGradInterpreter


class SmoothGradInterpreterV2(SmoothGradInterpreter):
    """The same for one picture, in `split` calls of the model."""

    def interpret(  # type: ignore[override]
        self,
        inputs: Any,
        labels: Any = None,
        noise_amount: float = 0.1,
        n_samples: int = 50,
        split: int = 2,
        gradient_of: str = "probability",
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: SavePath = None,
    ) -> NDArray[np.float32]:
        """`(1, C, H, W)`."""
        if not 1 <= split <= n_samples:
            raise OptionError(f"split is {split}; give 1 to n_samples={n_samples}")
        run = Run(-(-n_samples // split))
        return self._interpreted(inputs, labels, noise_amount, n_samples, gradient_of, resize_to, crop_to, visual, save_path, run)


class IntGradCVInterpreter(Interpreter):
    """Integrated gradients: `pellucid.gradient.integrated_gradients`.

    Source: Sundararajan, Taly, Yan 2017. InterpretDL's quadrature is kept: `steps` points with both ends among them, all of one
    weight, so attributions add up only as steps grow; `pellucid.explain` has better ones.
    """

    def interpret(
        self,
        inputs: Any,
        labels: Any = None,
        baselines: Any = None,
        steps: int = 50,
        num_random_trials: int = 10,
        gradient_of: str = "probability",
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: SavePath = None,
    ) -> NDArray[np.float32]:
        """`(B, C, H, W)`; the mean over trials of `baselines="random"`, standard normal, or the one baseline given (zeros)."""
        shown = self.pictures(inputs, resize_to, crop_to)
        starts = _baselines(shown.tensor, baselines, num_random_trials)
        with evaluating(self.model):
            view = self.view((shown.tensor,), labels, gradient_of)
            each = [integrated_gradients(view, (start,), steps, "inclusive").values[0][0] for start in starts]
            values = torch.stack(each).mean(0)
            self.draw(values, view, shown, visual, save_path, "integrated_gradients")
        return numpy(values)


def _baselines(tensor: Tensor, baselines: Any, trials: int) -> Tensor:
    """`(trials, B, C, H, W)`."""
    if baselines is None:
        return torch.zeros_like(tensor)[None]
    if isinstance(baselines, str):
        if baselines != "random" or trials < 1:
            raise OptionError(
                f"baselines is {baselines!r} and num_random_trials {trials}; give None, 'random' and at least one trial, or an array"
            )
        with torch.random.fork_rng(devices=[]):
            return torch.randn(trials, *tensor.shape).to(tensor)
    given = torch.as_tensor(baselines).to(tensor)
    if given.shape[-4:] != tensor.shape[-given.dim() :][-4:] and given.shape != tensor.shape[1:]:
        raise InputError(f"baselines have shape {tuple(given.shape)}; give that of the pictures {tuple(tensor.shape)}, or trials before it")
    return given if given.dim() == 5 else given.expand(tensor.shape)[None]


class GradShapCVInterpreter(Interpreter):
    """GradientSHAP of each picture with one baseline: `pellucid.gradient.expected_gradients`.

    Source: Lundberg and Lee 2017; Erion et al. 2021.
    """

    def interpret(
        self,
        inputs: Any,
        labels: Any = None,
        baselines: Any = None,
        n_samples: int = 5,
        noise_amount: float = 0.1,
        gradient_of: str = "probability",
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: SavePath = None,
    ) -> NDArray[np.float32]:
        """`(B, C, H, W)`."""
        shown = self.pictures(inputs, resize_to, crop_to)
        start = _baselines(shown.tensor, baselines, 1)[0]
        with evaluating(self.model):
            view = self.view((shown.tensor,), labels, gradient_of)
            values = torch.cat(each_by_itself(view, start, n_samples, noise_amount))
            self.draw(values, view, shown, visual, save_path, "gradient_shap")
        return numpy(values)


def each_by_itself(view: View, start: Tensor, samples: int, noise: float) -> list[Tensor]:
    """Expected gradients of every example from its own baseline, with noise in parts of its own range."""
    found = []
    for i in range(view.size):
        one = view.examples(slice(i, i + 1))
        spread = float(one.features[0].max() - one.features[0].min())
        references: Tensors = (start[i : i + 1],)
        found.append(expected_gradients(one, references, samples, noise * spread, check=False).values[0][0])
    return found
