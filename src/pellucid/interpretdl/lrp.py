"""InterpretDL's LRP: on any network, not only those whose layers implement it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..rules import lrp
from ..rules.lrp import Composite, everywhere
from ..rules.relevance import z_box, z_plus
from .base import Interpreter, evaluating, numpy

__all__ = ["LRPCVInterpreter"]


def rules(picture: Tensor) -> Composite:
    """Of one picture, whose own range is the box; biases get nothing."""
    return (("first", z_box(float(picture.min()), float(picture.max()))), *everywhere(z_plus(bias=False)))


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
        with evaluating(self.model):
            view = self.view((shown.tensor,), label, "logit")
            each = [lrp(view.some([i]), rules(x)).values[0][0].sum(1, keepdim=True) for i, x in enumerate(shown.tensor)]
            values = torch.cat(each)
            self.draw(values, view, shown, visual, save_path, "lrp")
        return numpy(values)
