"""Ways to attribute: methods by name, functions of a caller's own, and the controls that know nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Run
from ..errors import InputError, OptionError
from ..explanation import Found
from ..inputs import as_tensors
from ..methods import ATTENTIONS, MAPS, Asked, find
from ..seeds import generator
from ..target import PerExample, Pick, Same
from ..view import InputView

__all__ = ["CONTROLS", "Way", "named", "targets_of", "ways_of"]


Attributing = Callable[[InputView, Run], Found]


@dataclass(frozen=True, eq=False)
class Way:
    """A method as it is evaluated: `of(view, run)` gives what it finds, for any points, targets and models of the view."""

    name: str
    of: Attributing
    options: Mapping[str, Any] = field(default_factory=dict)
    control: bool = False


def ways_of(methods: Any, controls: Sequence[str], baselines: Any, seed: int, roots: tuple[nn.Module, ...] = ()) -> list[Way]:
    """The methods asked for, and the controls beside them.

    Args:
        methods: names; or a mapping of names of your own to a method's name, to `(name, options)`, to options of the method that
            is called so, or to a function `(model, inputs, target) -> attributions`.

    Raises:
        OptionError: no methods, unknown names or options, or two of one name.
    """
    given = _given(methods)
    if not given and not controls:
        raise OptionError("methods is empty; give at least one name")
    found = [_way(name, asked, baselines, seed, roots) for name, asked in given]
    for name in controls:
        if name not in CONTROLS:
            raise OptionError(f"there is no control {name!r}; choose among {', '.join(CONTROLS)}")
        found.append(Way(name, CONTROLS[name](seed), control=True))
    names = [way.name for way in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OptionError(f"{twice[0]!r} comes twice; give a mapping with a name for each: {{'a': (method, options), ...}}")
    return found


def _given(methods: Any) -> list[tuple[str, Any]]:
    if isinstance(methods, str) or callable(methods):
        methods = [methods]
    if isinstance(methods, Mapping):
        return [(str(name), asked) for name, asked in methods.items()]
    return [(str(getattr(each, "__name__", "own method")) if callable(each) else str(each), each) for each in methods]


def _way(name: str, asked: Any, baselines: Any, seed: int, roots: tuple[nn.Module, ...]) -> Way:
    if callable(asked):
        return Way(name, _own(name, asked))
    if isinstance(asked, str):
        return Way(name, *named(asked, {}, baselines, seed, roots))
    method, options = (name, asked) if isinstance(asked, Mapping) else asked
    return Way(name, *named(method, options, baselines, seed, roots))


def named(
    method: str, options: Mapping[str, Any], baselines: Any, seed: int, roots: tuple[nn.Module, ...] = ()
) -> tuple[Attributing, Mapping[str, Any]]:
    """A method of the library, and its options.

    Raises:
        OptionError: an unknown method or option; a class activation map without its layer; an attention map.
    """
    own = dict(options)
    layer, baselines = _by_name(own.pop("layer", None), roots), own.pop("baselines", baselines)
    key, function = find(method, own)
    if key in ATTENTIONS:
        raise OptionError(f"{key} is of tokens inside the model, not of the inputs that metrics remove; evaluate a method of the inputs")
    if (key in MAPS) != (layer is not None):
        words = (
            f"{key} is of a layer: give {{{key!r}: {{'layer': ...}}}}"
            if key in MAPS
            else f"{key} is of the inputs here, and takes no layer"
        )
        raise OptionError(words)

    def of(view: InputView, run: Run) -> Found:
        return function(Asked(view, _grown(baselines, view), seed, run, layer), **own)

    return of, dict(options)


def _by_name(layer: Any, roots: tuple[nn.Module, ...]) -> Any:
    """A layer by its name, which it has in copies of the model too."""
    return next((name for root in roots for name, found in root.named_modules() if found is layer and name), layer)


def _grown(baselines: Any, view: InputView) -> Any:
    """Baselines of each example, as often as the view has copies of the batch."""
    if isinstance(baselines, tuple | list):
        return tuple(_grown(each, view) for each in baselines)
    if isinstance(baselines, Tensor) and baselines.dim() == view.features[0].dim() and len(baselines) not in (1, view.size):
        copies, rest = divmod(view.size, len(baselines))
        return baselines.repeat(copies, *(1,) * (baselines.dim() - 1)) if not rest else baselines
    return baselines


def _own(name: str, function: Callable[..., Any]) -> Attributing:
    _check_takes_three(name, function)

    def of(view: InputView, run: Run) -> Found:
        inputs = view.features if len(view.features) > 1 else view.features[0]
        found = as_tensors(
            function(view.call.model, inputs, targets_of(view.pick, name, view.features[0].device)), f"what {name!r} returns"
        )
        if len(found) != len(view.features) or any(len(v) != view.size for v in found):
            shapes = [tuple(v.shape) for v in found]
            raise InputError(
                f"{name!r} returned the shapes {shapes} for inputs of {[tuple(f.shape) for f in view.features]}; one each is needed"
            )
        return Found(tuple(v.detach()[None] for v in found), torch.zeros(1, view.size, dtype=torch.float64))

    return of


def _check_takes_three(name: str, function: Callable[..., Any]) -> None:
    try:
        inspect.signature(function).bind("model", "inputs", "target")
    except TypeError:
        takes = ", ".join(inspect.signature(function).parameters)
        raise OptionError(f"the method {name!r} takes ({takes}); a method of your own takes (model, inputs, target)") from None


def targets_of(pick: Pick, name: str, device: torch.device) -> Any:
    """What stands behind `target=` of a method of a caller's own."""
    if isinstance(pick, Same):
        return pick.index[0] if len(pick.index) == 1 else pick.index
    if isinstance(pick, PerExample):
        single = all(len(index) == 1 for index in pick.indices)
        return torch.tensor([index[0] for index in pick.indices], device=device) if single else list(pick.indices)
    if str(pick) == "output":
        return None
    raise OptionError(f"the target {pick} is no index of the output, and {name!r} can be given nothing else; choose another target")


def _random(seed: int) -> Attributing:
    """Normal noise, another for every row."""

    def of(view: InputView, run: Run) -> Found:
        sources = [generator(seed, row) for row in range(view.size)]
        return _known_nothing(view, lambda f: torch.stack([torch.randn(f.shape[1:], generator=source) for source in sources]))

    return of


def _constant(seed: int) -> Attributing:
    """One everywhere."""
    return lambda view, run: _known_nothing(view, lambda f: torch.ones(f.shape))


def _known_nothing(view: InputView, make: Callable[[Tensor], Tensor]) -> Found:
    usual = torch.get_default_dtype()
    values = tuple(make(f).to(f.device, f.dtype if f.is_floating_point() else usual)[None] for f in view.features)
    # The mean over channels is normal noise again, and a constant the same constant.
    return Found(values, torch.zeros(1, view.size, dtype=torch.float64), pooling="mean")


# What attributions that know nothing of the model score: by name, seed -> attributions of a view.
CONTROLS: Mapping[str, Callable[[int], Attributing]] = {"random": _random, "constant": _constant}
