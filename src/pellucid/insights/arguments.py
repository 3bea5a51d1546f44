"""The methods a page offers, and the arguments of each, as their signatures and type hints say."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

from torch import nn

from ..attention.maps import PERCEIVED
from ..errors import OptionError
from ..gradient.quadrature import RULES
from ..methods import ATTENTIONS, EVERY, MAPS, METHODS, RANDOM, WITHOUT_BASELINES, WITHOUT_GRADIENT, find, kinds_of
from ..perturb.shapley import ESTIMATORS
from ..perturb.surrogate import SURROGATES
from ..rules.compared import RULES as COMPARED
from ..rules.lrp import COMPOSITES
from .subject import Subject

__all__ = ["STORED", "argument", "checked", "layer_of", "layers_of", "offered"]

STORED = "stored"  # in the place of a method: as a run did it
CONTROLS = {bool: "switch", int: "integer", float: "number", str: "word"}
# The words that an option knows, where it knows a few; the first key is the method's, or "" for every method.
WORDS: Mapping[tuple[str, str], Sequence[str]] = {
    ("integrated_gradients", "rule"): tuple(RULES),
    ("deeplift", "rule"): tuple(COMPARED),
    ("deeplift_shap", "rule"): tuple(COMPARED),
    ("lrp", "composite"): tuple(COMPOSITES),
    ("shapley", "estimator"): ("auto", *(name for name in ESTIMATORS if name != "auto")),
    ("lime", "surrogate"): tuple(SURROGATES),
    ("", "of"): tuple(name for name in METHODS if name not in RANDOM),
    ("", "path"): tuple(PERCEIVED),
}


def offered(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """The methods that these models can be explained with: maps where there are layers of pictures, attention where there is any."""
    pictures = any(layers_of(subject) for subject in subjects)
    attends = any("attention" in type(module).__name__.lower() for s in subjects for root in s.roots for module in root.modules())
    live = [i for i, subject in enumerate(subjects) if not subject.methods]
    names = [*METHODS, *(MAPS if pictures else ()), *(ATTENTIONS if attends else ())] if live else []
    runs = [i for i, subject in enumerate(subjects) if subject.methods]
    return [*([_STORED | {"models": runs}] if runs else []), *(_method(name) | {"models": live} for name in names)]


_STORED = {"name": STORED, "group": "the run", "layer": False, "random": False, "baselines": False, "arguments": []}


def _method(name: str) -> dict[str, Any]:
    arguments = [argument(name, p) for p in inspect.signature(EVERY[name]).parameters.values() if p.name != "asked"]
    group = (
        "maps of a layer"
        if name in MAPS
        else "attention"
        if name in ATTENTIONS
        else "outputs only"
        if name in WITHOUT_GRADIENT
        else "gradients"
    )
    return {
        "name": name,
        "group": group,
        "layer": name in MAPS,
        "random": name in RANDOM,
        "baselines": name in METHODS and name not in WITHOUT_BASELINES,
        "arguments": [a for a in arguments if a is not None],
    }


def argument(method: str, parameter: inspect.Parameter) -> dict[str, Any] | None:
    """How an option is asked for; None where no word or number can be its value."""
    kinds = kinds_of(method, parameter.name)
    scalars = [kind for kind in CONTROLS if kind in kinds]
    if not scalars:
        return None
    words = WORDS.get((method, parameter.name), WORDS.get(("", parameter.name), ()))
    # The widest kind: what takes a word or a number is typed as it comes.
    control = "choice" if words else CONTROLS[scalars[-1]] if str not in scalars or len(scalars) == 1 else "any"
    return {
        "name": parameter.name,
        "control": control,
        "choices": list(words),
        "optional": NoneType in kinds or control == "any",
        "default": parameter.default if isinstance(parameter.default, bool | int | float | str) else None,
    }


def checked(method: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The method's own name, and the options, if it has them and their values are of their kinds.

    Raises:
        OptionError: no such method or option, or a value of another kind.
    """
    if method == STORED:
        if options:
            raise OptionError(f"{next(iter(options))!r} was settled when the run was made; ask a model, not the run")
        return STORED, {}
    name, _ = find(method, {})
    plain = {option: value for option, value in options.items() if value is not None}
    find(name, plain)
    return name, plain


def layers_of(subject: Subject) -> list[str]:
    """The layers that hold pictures: convolutions, and what they are inside of."""
    names = []
    for root in subject.roots:
        for name, module in root.named_modules():
            if name and any(isinstance(inner, nn.Conv2d) for inner in module.modules()):
                names.append(name)
    return names[:200]


def layer_of(subject: Subject) -> str:
    """The layer that maps are usually of: the last of the outermost that follow each other; empty where none holds pictures."""
    names = layers_of(subject)
    depths = [
        [name for name in names if name.count(".") == depth] for depth in range(max((name.count(".") for name in names), default=-1) + 1)
    ]
    several = next((level for level in depths if len(level) > 1), names)
    return several[-1] if several else ""
