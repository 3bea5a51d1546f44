"""Views inside a model: layers as features, neurons as scores. Both are views of inputs of another function.

    at_layer(view, layer)            features = the layer's activations      score = the view's
    of_neuron(view, layer, neuron)   features = the view's                   score = the chosen activation

At a layer, the function takes activations, and after them the model's inputs as arguments that go along; it runs the
model with the layer's own activations replaced. For a neuron, it runs the model as far as the layer.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError, OptionError
from .hooks import Reached, put, watch
from .inputs import Tensors
from .model import Foreign, layers_of, undisturbed
from .picks import Custom, Pick
from .target import resolve, tensor_of
from .view import InputView, back

__all__ = ["ANYTHING", "Layer", "Look", "Place", "at_layer", "layer_named", "lifted", "look", "neuron_of", "of_neuron", "placed", "shifted"]

# A module, its name, or either with the number of one of its calls: ("relu", 2).
Layer = nn.Module | str | tuple[nn.Module | str, int]


@dataclass(frozen=True, eq=False)
class Place:
    """Where in a model: layers, each at one of its calls, their outputs or their inputs.

    Attributes:
        calls: the number of the call of each layer, from 0.
        counts: how many tensors each layer returns (or receives).
        axes: for each tensor, where its examples lie; None where all examples share it.
        names: of the layers.
    """

    layers: tuple[nn.Module, ...]
    of_input: bool
    calls: tuple[int, ...]
    counts: tuple[int, ...]
    axes: tuple[int | None, ...]
    names: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """As a person would say it: "layer conv2", "the input of layers a and b"."""
        several = [f"{name} (call {call})" if call else name for name, call in zip(self.names, self.calls, strict=True)]
        return f"{'the input of ' if self.of_input else ''}layer{'s' if len(several) > 1 else ''} {' and '.join(several)}"

    def held(self, calls: list[list[Tensors]]) -> Tensors:
        """What was watched here, as the layers hold it."""
        return tuple(t for layer, call in zip(calls, self.calls, strict=True) for t in layer[call])

    def features(self, held: Tensors, rows: int, lead: int = 0) -> Tensors:
        """What the layers hold, behind `lead` dimensions, as features: examples first; what they share, once for each."""
        return tuple(
            t.unsqueeze(lead).expand(*t.shape[:lead], rows, *t.shape[lead:]) if axis is None else t.movedim(lead + axis, lead)
            for t, axis in zip(held, self.axes, strict=True)
        )

    @property
    def shared(self) -> bool:
        """Whether all examples share some of it."""
        return None in self.axes

    def back(self, features: Tensors) -> Tensors:
        """Features as the layers would return them."""
        return tuple(f if axis is None else f.movedim(0, axis) for f, axis in zip(features, self.axes, strict=True))


@dataclass(frozen=True, eq=False)
class Look:
    """One pass that was watched.

    Attributes:
        held: what the place held, as its layers hold it, in the graph of the scores if that was asked for.
        rows: how many examples.
        scores: `(T, B)`.
    """

    place: Place
    held: Tensors
    rows: int
    scores: Tensor

    @property
    def features(self) -> Tensors:
        """What the place held, `(B, ...)`, without graph."""
        return tuple(t.detach() for t in self.place.features(self.held, self.rows))

    def gradients(self) -> Tensors:
        """`(T, B, ...)`, of the scores with respect to what the place held; not of what all examples share."""
        return self.place.features(back(self.scores, self.held), self.rows, 1)


def look(
    view: InputView, layers: Layer | Sequence[Layer] | Place, of_input: bool = False, graph: bool = False, points: Tensors | None = None
) -> Look:
    """Run the features, or other points, through the model and watch.

    One pass; one more with another example where it is not clear along which dimension the examples lie.

    Args:
        graph: keep the graph from the tensors to the scores.

    Raises:
        OptionError: no such layer; one that does not run, or several times without saying which call.
        InputError: a layer without tensors.
    """
    if isinstance(layers, Place):
        at = view.features if points is None else points
        calls, scores = _watched(view, layers.layers, layers.of_input, graph, at)
        return Look(layers, layers.held(calls), len(at[0]), scores)
    if isinstance(layers, list) and not layers:
        raise OptionError("the list of layers is empty; give at least one")
    asked = [_named(view, layer) for layer in (layers if isinstance(layers, list) else [layers])]
    modules = tuple(module for module, _ in asked)
    names = [_name(view, module) for module in modules]
    calls, scores = _watched(view, modules, of_input, graph)
    chosen = tuple(_call(name, number, seen) for name, (_, number), seen in zip(names, asked, calls, strict=True))
    tensors = [seen[number] for seen, number in zip(calls, chosen, strict=True)]
    for name, found in zip(names, tensors, strict=True):
        if not found:
            raise InputError(f"layer {name!r} {'receives' if of_input else 'returns'} no tensor; choose another layer")
    axes = _axes(view, modules, of_input, chosen, [t for found in tensors for t in found])
    place = Place(modules, of_input, chosen, tuple(map(len, tensors)), axes, tuple(names))
    return Look(place, place.held(calls), view.size, scores)


def _watched(
    view: InputView, modules: tuple[nn.Module, ...], of_input: bool, graph: bool = False, points: Tensors | None = None
) -> tuple[list[list[Tensors]], Tensor]:
    with torch.inference_mode(False), torch.set_grad_enabled(graph), watch(modules, of_input, graph) as calls:
        scores = view.score(view.features if points is None else points)
    return calls, scores


def _named(view: InputView, layer: Any) -> tuple[nn.Module, int | None]:
    module, number = layer if isinstance(layer, tuple) else (layer, None)
    if isinstance(module, nn.Module):
        return module, number
    return layer_named(view.roots, module), number


def layer_named(roots: tuple[nn.Module, ...], name: str) -> nn.Module:
    """The layer of that name in the modules that a model runs.

    Raises:
        OptionError: there is none.
    """
    known: dict[str, nn.Module] = {own: found for root in roots for own, found in root.named_modules() if own}
    if name not in known:
        foreign = next((found for found in layers_of(roots) if isinstance(found, Foreign)), None)
        if foreign is not None:
            raise OptionError(
                f"there is no layer {name!r} in torch: the model runs in {foreign.framework}, whose layers cannot be watched; explain "
                "the inputs instead"
            )
        near = difflib.get_close_matches(str(name), known, 4, 0.3) or list(known)[:8]
        such = f"a name such as {', '.join(map(repr, near))}" if near else "the model itself: none of its layers can be seen"
        raise OptionError(f"there is no layer {name!r}; give a module of the model or {such}")
    return known[name]


def _name(view: InputView, module: nn.Module) -> str:
    names = (name for root in view.roots for name, found in root.named_modules() if found is module)
    return next(names, "") or type(module).__name__


def _call(name: str, number: int | None, calls: list[Tensors]) -> int:
    if not calls:
        raise OptionError(
            f"layer {name!r} does not run for these inputs (or runs inside a compiled or scripted part, which cannot be watched)"
        )
    if number is None and len(calls) > 1:
        raise OptionError(f"layer {name!r} runs {len(calls)} times; say which call, from 0 to {len(calls) - 1}: layer=({name!r}, 0)")
    if number is not None and not -len(calls) <= number < len(calls):
        raise OptionError(f"layer {name!r} runs {len(calls)} times; call {number} is not among 0 to {len(calls) - 1}")
    return (number or 0) % len(calls)


def _axes(
    view: InputView, modules: tuple[nn.Module, ...], of_input: bool, chosen: tuple[int, ...], tensors: list[Tensor]
) -> tuple[int | None, ...]:
    """Where the examples lie: the dimension that grows with their number."""
    size = view.size
    if all(t.dim() and len(t) == size and size not in t.shape[1:] for t in tensors):
        return (0,) * len(tensors)
    other = view.some([0] if size > 1 else [0, 0])
    try:
        calls = _reached(other, modules, of_input, chosen)
    except Exception:  # a model for this number of examples only
        return tuple(0 if t.dim() and len(t) == size else None for t in tensors)
    grown = [t for seen, number in zip(calls, chosen, strict=True) for t in seen[number]]
    return tuple(_grown(one, two, size) for one, two in zip(tensors, grown, strict=True))


def _reached(view: InputView, modules: tuple[nn.Module, ...], of_input: bool, chosen: tuple[int, ...]) -> list[list[Tensors]]:
    """What is watched in a pass that goes no further than it must."""
    try:
        with torch.no_grad(), watch(modules, of_input, stop=chosen[0] if len(modules) == 1 else None) as calls:
            view.call(tuple(f.clone() for f in view.features))
    except Reached:
        pass
    return calls


def _grown(one: Tensor, two: Tensor, size: int) -> int | None:
    if one.dim() != two.dim():
        return 0
    axes = [axis for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b]
    if len(axes) > 1 or (axes and one.shape[axes[0]] != size):
        raise InputError(
            f"a layer's tensor has shape {tuple(one.shape)} for {size} examples, and {tuple(two.shape)} for another number; a layer "
            "can be attributed where one dimension is the examples"
        )
    return axes[0] if axes else None


@dataclass(frozen=True, eq=False)
class _Replaced:
    """The model as a function of a place's activations; its inputs come after them."""

    model: Callable[..., Any]
    place: Place

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        count = len(self.place.axes)
        with put(self.place.layers, self.place.back(args[:count]), self.place.of_input, self.place.calls):
            return self.model(*args[count:], **kwargs)


@dataclass(frozen=True, eq=False)
class _UpTo:
    """The model as far as a place's first tensor, which is returned, examples first."""

    model: Callable[..., Any]
    place: Place

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        rows = len(args[0])
        try:
            with watch(self.place.layers, self.place.of_input, stop=self.place.calls[0]) as calls:
                self.model(*args, **kwargs)
        except Reached:
            pass
        return self.place.features(self.place.held(calls), rows)[0]


def at_layer(view: InputView, layers: Layer | Sequence[Layer] | Place, of_input: bool = False) -> InputView:
    """The view of the same score as a function of what layers return (or receive).

    Args:
        view: of the model's inputs.
        layers: a module or its name, or a list of these; `(layer, number)` for a layer that runs more than once.
        of_input: what the layers receive instead of what they return.

    Raises:
        OptionError, InputError: see `look`.

    >>> import torch; from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    >>> at_layer(at_input(net, torch.randn(4, 3), target=1), net[0]).features[0].shape
    torch.Size([4, 5])
    """
    with undisturbed(view.roots):
        seen = look(view, layers, of_input)
    return placed(view, seen.place, seen.features)


def placed(view: InputView, place: Place, features: Tensors) -> InputView:
    """The view of a place that holds these features."""
    call = replace(
        view.call,
        model=_Replaced(view.call.model, place),
        arguments=(*view.features, *view.call.arguments),
        per_example=shifted(view),
    )
    return replace(view, features=features, call=call, at_once=None)


def shifted(view: InputView) -> frozenset[int] | None:
    """Which arguments grow with the batch, where the inputs stand before them."""
    own, count = view.call.per_example, len(view.features)
    return None if own is None else frozenset(range(count)) | frozenset(i + count for i in own)


def of_neuron(view: InputView, layer: Layer | Place, neuron: Any, of_input: bool = False) -> InputView:
    """The view of a neuron's activation as a function of the inputs.

    Args:
        view: of the model's inputs; its target does not matter.
        layer: a module or its name; `(layer, number)` for a layer that runs more than once.
        neuron: an index into one example's activation (int, tuple of ints and slices: what they pick is summed), or a
            function of the activation `(B, ...)` that returns `(B,)`.
        of_input: what the layer receives instead of what it returns.

    >>> import torch; from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    >>> of_neuron(at_input(net, torch.randn(4, 3)), net[1], 2).score((torch.zeros(1, 3),)).shape
    torch.Size([1, 1])
    """
    with undisturbed(view.roots):
        place = layer if isinstance(layer, Place) else look(replace(view, pick=ANYTHING), layer, of_input).place
    pick = _Neuron(neuron_of(neuron, view.size), f"neuron {_words(neuron)} of {place.words}")
    return replace(view, call=replace(view.call, model=_UpTo(view.call.model, place)), pick=pick, at_once=None)


@dataclass(frozen=True)
class _Neuron(Pick):
    """A pick with words of its own."""

    inner: Pick
    words: str

    def scores(self, output: Any, rows: int) -> Tensor:
        return self.inner.scores(output, rows)

    def at(self, rows: Sequence[int]) -> Pick:
        return _Neuron(self.inner.at(rows), self.words)

    def __str__(self) -> str:
        return self.words


def _words(neuron: Any) -> str:
    return getattr(neuron, "__name__", "by a function") if callable(neuron) else str(neuron)


def lifted(view: InputView, place: Place, points: Tensors) -> Tensors:
    """What the place holds at other inputs, any number of them, each with the arguments of the example that it stands for."""
    rows = [i % view.size for i in range(len(points[0]))]
    with undisturbed(view.roots):
        return look(replace(view, features=points, pick=ANYTHING, call=view.call.at(rows)), place).features


# The output does not matter where only a layer is looked at.
ANYTHING = Custom(lambda output: torch.zeros(1))


def neuron_of(neuron: Any, size: int) -> Pick:
    """How a neuron's activation is taken from what its layer holds."""
    if callable(neuron):
        return Custom(neuron)
    index = neuron if isinstance(neuron, tuple) else (neuron,)
    if any(isinstance(i, slice) for i in index):
        return Custom(_Summed(index))
    return resolve(neuron, size)


@dataclass(frozen=True)
class _Summed:
    """The sum of what indices and slices pick of one example's activation."""

    index: tuple[int | slice, ...]

    def __call__(self, output: Any) -> Tensor:
        found = tensor_of(output)
        try:
            return found[(slice(None), *self.index)].reshape(len(found), -1).sum(1)
        except IndexError as error:
            raise OptionError(f"neuron {self.index} does not fit one example's activation {tuple(found.shape[1:])}: {error}") from error

    @property
    def __name__(self) -> str:
        return f"neurons {self.index}"
