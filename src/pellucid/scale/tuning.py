"""Ways to make a model cheaper for a long run: tried on the first examples, kept where they are faster and change nothing.

A way is a copy of the model; the user's own stays as it was. What a run uses is written in its store, so that a run that goes on uses
the same.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..lean import Recorder, can_be_lean
from ..methods import WITHOUT_GRADIENT
from ..model import undisturbed
from .explainer import Explainer
from .rows import Rows

__all__ = ["WAYS", "chosen", "tuned"]

LONG = 60.0  # seconds that a run must take for anything to be tried
COMPILING = 600.0  # and for compilation, which takes about a minute itself
WORTH = 0.95  # of the time that it takes without
CLOSE = 1e-3  # of the largest attribution, and a tenth of it in half precision
# Rules see operations one by one, and would be others for folded ones.
PLAIN = {"gradient", "saliency", "input_x_gradient", "integrated_gradients", "gradient_shap", "smoothgrad", "smoothgrad_sq", "vargrad"}


def tuned(explainer: Explainer, ways: Sequence[str]) -> Explainer:
    """The same question of a cheaper copy of the model."""
    model = explainer.model
    for way in ways:
        if isinstance(model, nn.Module):
            model = WAYS[way](model)
    return explainer.with_model(model)


def suits(explainer: Explainer) -> bool:
    """Whether the question asks for outputs and gradients only, which another copy of the model gives as well."""
    inner = explainer.options.get("of", "gradient")
    plain = explainer.method in PLAIN | WITHOUT_GRADIENT and inner in PLAIN
    return isinstance(explainer.model, nn.Module) and plain and not {"layer", "neuron"} & set(explainer.options)


def chosen(explainer: Explainer, rows: Rows, count: int | None, seed: int, seconds: float = float("inf")) -> tuple[str, ...]:
    """The ways that pay, found in the order of what they cost; none for short runs, other callables and methods that look inside.

    `seconds` is about what an example takes: a run that is short by that is not looked at more closely.
    """
    model, inputs = explainer.model, rows.inputs
    if not isinstance(model, nn.Module) or not suits(explainer) or not count or not isinstance(inputs, tuple) or not len(rows):
        return ()
    if seconds * count < LONG:
        return ()
    try:
        before, usual = _timed(explainer, rows, seed)
    except Exception:  # one of these examples cannot be explained, which the run will tell
        return ()
    if usual * count < LONG:
        return ()
    found: tuple[str, ...] = ()
    best = usual
    for way, needed in (("channels_last", LONG), ("folded", LONG), ("compiled", COMPILING)):
        if usual * count < needed or not _fits(way, model, inputs):
            continue
        try:
            after, taken = _timed(tuned(explainer, (*found, way)), rows, seed)
        except Exception:  # whatever a compiler says: the model runs without it
            continue
        if taken < WORTH * best and _same(before, after):
            found, best = (*found, way), taken
    return found


def _fits(way: str, model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    pictures = all(isinstance(x, Tensor) and x.dim() == 4 for x in inputs)
    if way == "channels_last":
        return pictures and any(isinstance(m, nn.Conv2d) for m in model.modules())
    return way != "folded" or (
        can_be_lean((model,), inputs) and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    )


def _timed(explainer: Explainer, rows: Rows, seed: int) -> tuple[Tensor, float]:
    """The attributions, and seconds for an example; the first time, which may compile, does not count."""
    explainer.explain(rows, seed)
    start = time.perf_counter()
    found = explainer.explain(rows, seed)
    return found.attribution, (time.perf_counter() - start) / len(rows)


def _same(before: Tensor, after: Tensor) -> bool:
    close = CLOSE * (100 if before.dtype in (torch.float16, torch.bfloat16) else 1)
    return bool((before.float() - after.float()).abs().max() <= close * before.float().abs().max())


def _channels_last(model: nn.Module) -> nn.Module:
    copied: Any = copy.deepcopy(model)
    made: nn.Module = copied.to(memory_format=torch.channels_last)
    return made


def _compiled(model: nn.Module) -> nn.Module:
    made: Any = torch.compile(model)
    compiled: nn.Module = made
    return compiled


class Folded(nn.Module):
    """A model whose batch norms are folded into the convolutions before them, as was seen in its first forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.waits = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's."""
        if self.waits:
            self.waits = False
            fold(self.model, args, kwargs)
        return self.model(*args, **kwargs)


def fold(model: nn.Module, args: Any, kwargs: Any) -> int:
    """Fold where a convolution's result goes into a batch norm and nowhere else; how many were folded."""
    first = tuple(a[:1] if isinstance(a, Tensor) and a.dim() else a for a in args)
    with undisturbed((model,)), torch.no_grad(), Recorder((model,)) as recorder:
        model(*first, **kwargs)
    layers = {id(m.weight): m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)}
    norms = {id(m.running_mean): (name, m) for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    folded = 0
    for weight, norm in recorder.pairs.items():
        layer, (name, batch_norm) = layers.get(weight), norms.get(id(norm.mean), ("", None))
        if layer is None or batch_norm is None or not name or batch_norm.running_mean is None:
            continue
        statistics: Any = (batch_norm.running_mean, batch_norm.running_var, batch_norm.eps, batch_norm.weight, batch_norm.bias)
        layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, nn.Identity())
        folded += 1
    return folded


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {"channels_last": _channels_last, "folded": Folded, "compiled": _compiled}
