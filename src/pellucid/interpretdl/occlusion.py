"""InterpretDL's occlusion: falls added up over windows, not averaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..batch import Run
from ..inputs import expanded
from ..perturb import occlusion, windows_of
from .base import Interpreter, evaluating, numpy

__all__ = ["OcclusionInterpreter"]


class OcclusionInterpreter(Interpreter):
    """How much the probability falls when a window is hidden, summed over the windows that cover a place (`occlusion` averages).

    Source: Zeiler and Fergus 2014.
    """

    def interpret(
        self,
        inputs: Any,
        sliding_window_shapes: tuple[int, ...],
        labels: Any = None,
        strides: int | tuple[int, ...] = 1,
        baselines: Any = None,
        perturbations_per_eval: int = 1,
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: Any = None,
    ) -> NDArray[np.float32]:
        """`(B, C, H, W)`. `perturbations_per_eval=1`, the default, leaves it to the program how much is evaluated at once."""
        shown = self.pictures(inputs, resize_to, crop_to)
        start = expanded((shown.tensor,), None if baselines is None else torch.as_tensor(baselines))
        windows = windows_of((shown.tensor,), tuple(sliding_window_shapes), strides)
        with evaluating(self.model):
            view = self.view((shown.tensor,), labels, "probability")
            run = Run(None if perturbations_per_eval == 1 else perturbations_per_eval * len(shown))
            covered = torch.zeros(shown.tensor.shape[1:], device=shown.tensor.device)
            for window in windows:
                covered[window.box] += 1
            values = occlusion(view, start, windows, run).values[0][0] * covered
            self.draw(values, view, shown, visual, save_path, "occlusion")
        return numpy(values)
