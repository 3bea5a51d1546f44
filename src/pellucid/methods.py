"""The methods by name, each with its own options, as `explain` and the command line ask for them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from numbers import Integral, Real
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from .attention import ATTENTION_MAPS, ON_A_PATH, attention_map
from .batch import Run
from .errors import OptionError
from .explanation import Found
from .gradient import (
    CAMS,
    class_activation_map,
    expected_gradients,
    gradient,
    guided_grad_cam,
    input_x_gradient,
    integrated_gradients,
    noise_tunnel,
    saliency,
)
from .inputs import Tensors, draws, expanded, references
from .perturb import (
    Groups,
    Until,
    banzhaf,
    feature_ablation,
    groups_of,
    lime,
    occlusion,
    owen,
    rise,
    shapley,
    windows_of,
)
from .rules import attn_lrp, deconvolution, deeplift, deeplift_shap, guided_backprop, lrp
from .rules.compared import differences, multipliers
from .view import View

__all__ = [
    "ATTENTIONS",
    "DISTRIBUTIONS",
    "EVERY",
    "MAPS",
    "METHODS",
    "WITHOUT_BASELINES",
    "WITHOUT_GRADIENT",
    "Asked",
    "Method",
    "find",
    "kinds_of",
]


@dataclass(frozen=True, eq=False)
class Asked:
    """What every method is asked with."""

    view: View
    baselines: Any = None
    seed: int | None = None
    run: Run = field(default_factory=Run)
    layer: Any = None
    of_input: bool = False


Method = Callable[..., Found]


def _integrated_gradients(
    asked: Asked, *, steps: int | None = None, rule: str = "gausslegendre", tolerance: float | None = None, multiply: bool = True
) -> Found:
    references = expanded(asked.view.features, asked.baselines)
    return integrated_gradients(asked.view, references, steps, rule, tolerance, multiply, asked.run)


def _expected_gradients(asked: Asked, *, samples: int = 50, stdev: float | Sequence[float] = 0.0, multiply: bool = True) -> Found:
    references = draws(asked.view.features, asked.baselines)
    return expected_gradients(asked.view, references, samples, stdev, multiply, asked.seed, run=asked.run)


def _noise(kind: str) -> Method:
    def method(
        asked: Asked, *, samples: int = 25, stdev: float | Sequence[float] = 0.15, relative: bool = True, of: str = "gradient"
    ) -> Found:
        name, inner = find(of, {})
        if name in RANDOM:
            raise OptionError(
                f"of={of!r} is random itself; average over one source of noise at a time: use one of {sorted(set(METHODS) - RANDOM)}"
            )
        ask = Asked(asked.view, asked.baselines, asked.seed, asked.run)
        return noise_tunnel(
            asked.view, lambda view, run: inner(replace(ask, view=view, run=run)), samples, stdev, kind, relative, asked.seed, asked.run
        )

    return method


def _feature_ablation(asked: Asked, *, feature_mask: Tensor | Sequence[Tensor | None] | None = None) -> Found:
    return feature_ablation(asked.view, *_replacing(asked, feature_mask), asked.run)


def _replacing(asked: Asked, feature_mask: Tensor | Sequence[Tensor | None] | None) -> tuple[Tensors, Groups]:
    """What stands in for features, and which of them go together."""
    features = asked.view.features
    return references(features, asked.baselines), groups_of(features, feature_mask)


def _deeplift(asked: Asked, *, rule: str = "rescale", multiply: bool = True) -> Found:
    view: Any = asked.view
    baselines = expanded(view.features, asked.baselines)
    return deeplift(view, baselines, differences if multiply else multipliers, rule=rule, run=asked.run)


def _deeplift_shap(asked: Asked, *, rule: str = "rescale", multiply: bool = True) -> Found:
    view: Any = asked.view
    references = draws(view.features, asked.baselines)
    return deeplift_shap(view, references, differences if multiply else multipliers, rule=rule, run=asked.run)


def _lrp(asked: Asked, *, composite: str | Sequence[Any] = "epsilon", eps: float = 1e-9) -> Found:
    view: Any = asked.view
    return lrp(view, composite, eps, run=asked.run)


def _attn_lrp(asked: Asked, *, eps: float = 1e-6) -> Found:
    view: Any = asked.view
    return attn_lrp(view, eps, run=asked.run)


def _guided(backwards: Callable[..., Found]) -> Method:
    def method(asked: Asked) -> Found:
        return backwards(asked.view, run=asked.run)

    return method


def _occlusion(asked: Asked, *, window: int | Sequence[Any] | None = None, stride: int | Sequence[Any] | None = None) -> Found:
    features = asked.view.features
    sizes = window if window is not None and not isinstance(window, int) else tuple(_window(f, window) for f in features)
    moves = stride if stride is not None or window is not None else tuple(tuple(max(1, w // 2) for w in size) for size in sizes)
    return occlusion(asked.view, references(features, asked.baselines), windows_of(features, sizes, moves), asked.run)


def _lime(
    asked: Asked,
    *,
    samples: int | str = 1000,
    width: float = 0.25,
    surrogate: str = "ridge",
    alpha: float | None = None,
    feature_mask: Tensor | Sequence[Tensor | None] | None = None,
    tolerance: float | None = None,
    top: int | None = None,
    seconds: float | None = None,
) -> Found:
    number, until = _until("samples", samples, tolerance, top, seconds)
    return lime(
        asked.view, *_replacing(asked, feature_mask), number or 1000, width, surrogate, alpha, asked.seed, asked.run, until
    )  # fmt: skip


def _shapley(
    asked: Asked,
    *,
    evaluations: int | str | None = None,
    estimator: str = "auto",
    feature_mask: Tensor | Sequence[Tensor | None] | None = None,
    tolerance: float | None = None,
    top: int | None = None,
    seconds: float | None = None,
) -> Found:
    number, until = _until("evaluations", evaluations, tolerance, top, seconds)
    replacing = _replacing(asked, feature_mask)
    return shapley(asked.view, *replacing, number, estimator, asked.seed, run=asked.run, until=until)


def _banzhaf(
    asked: Asked,
    *,
    evaluations: int | str | None = None,
    feature_mask: Tensor | Sequence[Tensor | None] | None = None,
    tolerance: float | None = None,
    top: int | None = None,
    seconds: float | None = None,
) -> Found:
    number, until = _until("evaluations", evaluations, tolerance, top, seconds)
    return banzhaf(asked.view, *_replacing(asked, feature_mask), number, asked.seed, asked.run, until)


def _owen(
    asked: Asked,
    *,
    unions: Tensor | Sequence[Tensor | None] | None = None,
    evaluations: int | str | None = None,
    feature_mask: Tensor | Sequence[Tensor | None] | None = None,
    tolerance: float | None = None,
    top: int | None = None,
    seconds: float | None = None,
) -> Found:
    features = asked.view.features
    # Without unions each input is one.
    ids = tuple(torch.tensor(i) for i in range(len(features))) if unions is None else unions
    number, until = _until("evaluations", evaluations, tolerance, top, seconds)
    replacing, groups = _replacing(asked, feature_mask)
    return owen(asked.view, replacing, groups_of(features, ids), groups, number, asked.seed, asked.run, until)


def _until(
    option: str, number: int | str | None, tolerance: float | None, top: int | None, seconds: float | None
) -> tuple[int | None, Until | None]:
    """How many samples, or in rounds until when: "auto", or any end that is given, means rounds."""
    ends = tolerance, top, seconds
    if isinstance(number, str) and number != "auto":
        raise OptionError(f"{option} is {number!r}; give a whole number, or 'auto' for rounds until the answer is good enough")
    if isinstance(number, str) or any(end is not None for end in ends):
        return None, Until.of(*ends)
    return number, None


def _rise(asked: Asked, *, samples: int = 1000, cells: int = 7, seen: float = 0.5) -> Found:
    return rise(asked.view, references(asked.view.features, asked.baselines), samples, cells, seen, asked.seed, asked.run)


def _window(feature: Tensor, size: int | None) -> tuple[int, ...]:
    """A window over all channels, as wide as asked for or an eighth of each dimension; one by one where there are no places."""
    shape = feature.shape[1:]
    if len(shape) == 1:
        return (min(size or 1, shape[0]),)
    return (shape[0], *(min(size or -(-n // 8), n) for n in shape[1:]))


METHODS: dict[str, Method] = {
    "gradient": lambda asked: gradient(asked.view, asked.run),
    "saliency": lambda asked: saliency(asked.view, asked.run),
    "input_x_gradient": lambda asked: input_x_gradient(asked.view, asked.run),
    "integrated_gradients": _integrated_gradients,
    "gradient_shap": _expected_gradients,
    "smoothgrad": _noise("smoothgrad"),
    "smoothgrad_sq": _noise("smoothgrad_sq"),
    "vargrad": _noise("vargrad"),
    "deeplift": _deeplift,
    "deeplift_shap": _deeplift_shap,
    "guided_backprop": _guided(guided_backprop),
    "deconvolution": _guided(deconvolution),
    "lrp": _lrp,
    "attn_lrp": _attn_lrp,
    "feature_ablation": _feature_ablation,
    "occlusion": _occlusion,
    "shapley": _shapley,
    "owen": _owen,
    "banzhaf": _banzhaf,
    "lime": _lime,
    "rise": _rise,
}
WITHOUT_GRADIENT = {"feature_ablation", "occlusion", "shapley", "owen", "banzhaf", "lime", "rise"}
WITHOUT_BASELINES = {
    "feature_permutation",
    "gradient",
    "saliency",
    "input_x_gradient",
    "guided_backprop",
    "deconvolution",
    "lrp",
    "attn_lrp",
}
# Baselines are a distribution of references.
DISTRIBUTIONS = {"gradient_shap", "deeplift_shap"}


def _map(kind: str) -> Method:
    def method(asked: Asked, *, layout: str | None = None, special: int | None = None, resize: bool = True) -> Found:
        view: Any = asked.view
        return class_activation_map(view, asked.layer, kind, asked.of_input, layout, special, resize, asked.run)

    return method


def _guided_map(asked: Asked, *, layout: str | None = None, special: int | None = None) -> Found:
    view: Any = asked.view
    return guided_grad_cam(view, asked.layer, asked.of_input, layout, special, asked.run)


# Maps of a picture, from what a layer holds: they need a layer, and no baselines.
MAPS: dict[str, Method] = {kind: _map(kind) for kind in CAMS} | {"guided_grad_cam": _guided_map}


def _attention(kind: str) -> Method:
    def method(
        asked: Asked,
        *,
        start: int = 0,
        rows: int | str = "auto",
        pattern: str | Sequence[str | None] | None = None,
        special: int | None = None,
        resize: bool = True,
    ) -> Found:
        return attention_map(
            asked.view, kind, start=start, rows=rows, pattern=pattern, special=special, resize=resize, run=asked.run
        )  # fmt: skip

    return method


def _attention_on_a_path(kind: str) -> Method:
    def method(
        asked: Asked,
        *,
        start: int = 0,
        steps: int = 20,
        path: str = "head",
        rows: int | str = "auto",
        pattern: str | Sequence[str | None] | None = None,
        special: int | None = None,
        resize: bool = True,
    ) -> Found:
        baselines = expanded(asked.view.features, asked.baselines)
        return attention_map(asked.view, kind, baselines, start, steps, path, rows, pattern, special, resize, asked.run)

    return method


# Maps of what a transformer attends to: one number for each token, or place of a picture.
ATTENTIONS: dict[str, Method] = {kind: (_attention_on_a_path if kind in ON_A_PATH else _attention)(kind) for kind in ATTENTION_MAPS}
EVERY = METHODS | MAPS | ATTENTIONS
RANDOM = {"gradient_shap", "smoothgrad", "smoothgrad_sq", "vargrad", "lime", "rise", "shapley", "owen", "banzhaf"}
OTHER_NAMES = {
    "expectedgradients": "gradient_shap",
    "ablation": "feature_ablation",
    "kernelshap": "shapley",
    "shapleyvalues": "shapley",
    "shapleyvaluesampling": "shapley",
    "layergradcam": "grad_cam",
    "gradcamplusplus": "grad_cam_plus_plus",
    "noisetunnel": "smoothgrad",
    "ig": "integrated_gradients",
}


def find(name: str, options: Mapping[str, Any]) -> tuple[str, Method]:
    """The method's own name and the method; Captum's class names are understood.

    Raises:
        OptionError: no such method, or an option that it does not have.
    """
    plain = re.sub(r"[^a-z]", "", str(name).lower())
    known = {re.sub(r"[^a-z]", "", own): own for own in EVERY} | OTHER_NAMES
    if plain not in known:
        raise OptionError(f"unknown method {name!r}; the methods are {', '.join(EVERY)}")
    method = EVERY[known[plain]]
    takes = [p for p in inspect.signature(method).parameters if p != "asked"]
    for option in options:
        if option not in takes:
            has = f"its options are {', '.join(takes)}" if takes else "it has no options of its own"
            raise OptionError(f"{known[plain]} has no option {option!r}; {has}")
        _check(known[plain], option, options[option])
    return known[plain], method


SCALARS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", NoneType: "none"}


@cache
def kinds_of(name: str, option: str) -> tuple[Any, ...]:
    """The types that a method's option may have, as its signature says."""
    hint = get_type_hints(EVERY[name])[option]
    return get_args(hint) or (hint,)


def _check(name: str, option: str, value: Any) -> None:
    kinds = kinds_of(name, option)
    scalars = [kind for kind in SCALARS if kind in kinds]
    own = next((kind for kind, types in _NUMBERS if isinstance(value, types)), type(value))
    if own in kinds or (own is int and float in kinds) or (own not in SCALARS and len(scalars) < len(kinds)):
        return
    others = ["a tensor or a sequence"] if len(scalars) < len(kinds) else []
    words = " or ".join([SCALARS[kind] for kind in scalars] + others)
    raise OptionError(f"{name}'s option {option} is {value!r}; give {words}")


# numpy's numbers are as good as Python's, and true is not 1.
_NUMBERS: tuple[tuple[type, tuple[type, ...]], ...] = ((bool, (bool, np.bool_)), (int, (Integral,)), (float, (Real,)))
