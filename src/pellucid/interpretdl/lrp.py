"""InterpretDL's LRP: on any network, not only those whose layers implement it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rules import lrp
from ..rules.lrp import COMPOSITES
from ..rules.relevance import z_box
from .base import Interpreter, evaluating, numpy

__all__ = ["LRPCVInterpreter"]


class LRPCVInterpreter(Interpreter):
    """Relevance of the logit: the box rule at the first layer, positive contributions only (alpha 1, beta 0) behind it.

    Source: Bach et al. 2015; Montavon et al. 2017. Summed over colours.
    """

    def interpret(
        self,
        inputs: Any,
        label: Any = None,
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: Any = None,
    ) -> NDArray[np.float32]:
        """`(B, 1, H, W)`."""
        shown = self.pictures(inputs, resize_to, crop_to)
        low, high = float(shown.tensor.min()), float(shown.tensor.max())
        with evaluating(self.model):
            view = self.view((shown.tensor,), label, "logit")
            composite = (("first", z_box(low, high)), *COMPOSITES["z_plus"])
            values = lrp(view, composite).values[0][0].sum(1, keepdim=True)
            self.draw(values, view, shown, visual, save_path, "lrp")
        return numpy(values)
