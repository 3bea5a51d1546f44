"""Ways to attribute: methods by name, functions of a caller's own, and the controls that know nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Run
from ..errors import InputError, OptionError
from ..explanation import Found
from ..inputs import as_tensors
from ..methods import ATTENTIONS, DISTRIBUTIONS, MAPS, Asked, find
from ..model import undisturbed
from ..picks import PerExample, Pick, Same
from ..seeds import generator
from ..view import InputView

__all__ = ["CONTROLS", "Way", "named", "targets_of", "ways_of"]


# Options with an entry for each example, or one for all.
MASKS = ("feature_mask", "unions")

Attributing = Callable[[InputView, Run], Found]


@dataclass(frozen=True, eq=False)
class Way:
    """A method as it is evaluated: `of(view, run)` gives what it finds, for any points, targets and models of the view."""

    name: str
    of: Attributing
    options: Mapping[str, Any] = field(default_factory=dict)
    control: bool = False


def ways_of(methods: Any, controls: Any, baselines: Any, seed: int, view: InputView) -> list[Way]:
    """The methods asked for, and the controls beside them.

    Args:
        methods: names; or a mapping of names of your own to a method's name, to `(name, options)`, to options of the method that
            is called so, or to a function `(model, inputs, target) -> attributions`.

    Raises:
        OptionError: no methods, unknown names or options, or two of one name.
    """
    given = _given(methods)
    if not given:
        raise OptionError("methods is empty; give at least one name")
    controls = [controls] if isinstance(controls, str) else controls
    found = [_way(name, asked, baselines, seed, view) for name, asked in given]
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
    if not isinstance(methods, Mapping | Iterable):
        raise OptionError(f"methods is {methods!r}; give a list of names, or a mapping")
    if isinstance(methods, Mapping):
        return [(str(name), asked) for name, asked in methods.items()]
    return [(str(getattr(each, "__name__", "own method")) if callable(each) else str(each), each) for each in methods]


def _way(name: str, asked: Any, baselines: Any, seed: int, view: InputView) -> Way:
    if callable(asked):
        return Way(name, _own(name, asked))
    if not isinstance(asked, str | Mapping) and not (isinstance(asked, tuple) and len(asked) == 2 and isinstance(asked[1], Mapping)):
        raise OptionError(f"the method {name!r} is given as {asked!r}; give a name, (name, options), options, or a function")
    if isinstance(asked, str):
        return Way(name, *named(asked, {}, baselines, seed, view))
    method, options = (name, asked) if isinstance(asked, Mapping) else asked
    return Way(name, *named(method, options, baselines, seed, view))


def named(method: str, options: Mapping[str, Any], baselines: Any, seed: int, view: InputView) -> tuple[Attributing, Mapping[str, Any]]:
    """A method of the library, and its options.

    Raises:
        OptionError: an unknown method or option; a class activation map without its layer; an attention map.
    """
    own = dict(options)
    layer, baselines = _by_name(own.pop("layer", None), view.roots), own.pop("baselines", baselines)
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

    size = view.size

    def of(view: InputView, run: Run) -> Found:
        given = baselines if key in DISTRIBUTIONS else _grown(baselines, view, size)
        masks = {name: _grown(own[name], view, size) for name in MASKS if name in own}
        return function(Asked(view, given, seed, run, layer), **(own | masks))

    return of, dict(options)


def _by_name(layer: Any, roots: tuple[nn.Module, ...]) -> Any:
    """A layer by its name, which it has in copies of the model too."""
    return next((name for root in roots for name, found in root.named_modules() if found is layer and name), layer)


def _grown(value: Any, view: InputView, size: int) -> Any:
    """Baselines or masks of each example, as often as the view has copies of the batch; `(R, B, ...)` where there are several."""
    given = value if isinstance(value, tuple | list) else (value,)
    if view.size == size or len(given) != len(view.features):
        return value
    found = tuple(_tiled(v, f.dim(), view.size // size, size) for v, f in zip(given, view.features, strict=True))
    return found if isinstance(value, tuple | list) else found[0]


def _tiled(value: Any, dims: int, copies: int, size: int) -> Any:
    if not isinstance(value, Tensor) or not dims <= value.dim() <= dims + 1:
        return value
    lead = value.dim() - dims
    return value.repeat(*(1,) * lead, copies, *(1,) * (dims - 1)) if value.shape[lead] == size > 1 else value


def _own(name: str, function: Callable[..., Any]) -> Attributing:
    _check_takes_three(name, function)

    def of(view: InputView, run: Run) -> Found:
        copies = tuple(f.clone() for f in view.features)  # a function of others may work in place
        target = targets_of(view.pick, name, copies[0].device)
        run.count(copies)
        with undisturbed(view.roots), _gradients_kept(view.roots):
            said = function(_model_of(view), copies if len(copies) > 1 else copies[0], target)
        found = as_tensors(said, f"what {name!r} returns")
        if len(found) != len(view.features) or any(len(v) != view.size for v in found):
            shapes, needed = ([tuple(v.shape) for v in tensors] for tensors in (found, view.features))
            raise InputError(f"{name!r} returned the shapes {shapes} for inputs of {needed}; one each is needed")
        return Found(tuple(v.detach().clone()[None] for v in found), torch.zeros(1, view.size, dtype=torch.float64))

    return of


def _model_of(view: InputView) -> Callable[..., Any]:
    """The model, with the arguments that go along."""
    return (lambda *points: view.call(points)) if view.call.arguments or view.call.keywords else view.call.model


@contextmanager
def _gradients_kept(roots: tuple[nn.Module, ...]) -> Iterator[None]:
    """What a function of others leaves in `.grad` of the parameters goes again."""
    before = [(p, p.grad) for root in roots for p in root.parameters()]
    try:
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


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
