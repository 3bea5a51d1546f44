"""Randomisation: whether an explanation changes where what it explains does, the parameters of the model or the class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError, OptionError, TargetError, need, warn
from ..inputs import Tensors, as_tensors
from ..model import Foreign
from ..seeds import generator, resolve_seed
from .agreement import AGREEMENTS, agreement
from .renewal import Block, blocks_of, devices, kept, running, spare

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ORDERS", "SIMILARITIES", "Cascade", "cascade", "random_logit"]

# (from the output to the input, all layers so far or each by itself)
ORDERS: Mapping[str, tuple[bool, bool]] = {"top_down": (True, True), "bottom_up": (False, True), "independent": (True, False)}


@dataclass(frozen=True, eq=False)
class Cascade:
    """How like the explanations of a model with random parameters are to its own.

    Attributes:
        layers: in the order in which their parameters were drawn anew.
        similarities: `(layers + 1, B)` float64: of the model as it is with itself first, then after each layer; NaN where one of
            the two explanations is the same everywhere and has no order.
        order, by, magnitude, seed: what was asked for.
    """

    layers: tuple[str, ...]
    similarities: Tensor
    order: str
    by: str
    magnitude: bool
    seed: int

    @property
    def by_layer(self) -> Tensor:
        """`(layers + 1,)`: the mean over the examples, of what is not NaN."""
        return self.similarities.nanmean(1)

    @property
    def by_example(self) -> Tensor:
        """`(B,)`: the mean over the layers, of what is not NaN; the model as it is does not count."""
        return self.similarities[1:].nanmean(0)

    def draw(self, name: str = "explanation") -> Figure:
        """The similarity from layer to layer; `pellucid.metrics.cascades.draw_cascades` sets several methods beside each other."""
        from .cascades import draw_cascades

        return draw_cascades({name: self})


def cascade(
    model: nn.Module,
    explained: Callable[[nn.Module], Any],
    order: str = "top_down",
    by: str = "rank_correlation",
    magnitude: bool = False,
    seed: int | None = None,
    layers: Sequence[str] | None = None,
) -> Cascade:
    """The model parameter randomisation test: how like an explanation stays while the layers' parameters are drawn anew.

    An explanation that stays as it was does not depend on what the model has learned. The reverse does not hold: that it
    changes does not make it right, and random numbers change most (Binder et al. 2022).

    Layers are taken in the order in which they ran. A layer is drawn by its own `reset_parameters`, as torch initialises it
    (with it batch normalisation forgets its statistics); parameters without one come from a normal distribution with their own
    mean and standard deviation. Those that layers share are drawn once. All of this happens in a copy of the model; one
    that cannot be copied is changed itself and put back, whatever happens.

    Source: Adebayo et al. 2018, sections 3.1 (cascading) and 3.2 (independent).

    Args:
        model: the model, with parameters.
        explained: the model it must explain (not the one it knows from elsewhere) -> attributions, `(B, ...)` or several
            such, of the same examples and targets each time. Each call begins with the same random state.
        order: "top_down": one layer after another, from the output to the input; "bottom_up": from the input; "independent":
            each by itself, the others as they are.
        by: "rank_correlation", "correlation", "cosine", "top_overlap" (of the ten largest magnitudes), or "ssim" of maps, the
            structural similarity, with scikit-image.
        magnitude: compare magnitudes, without signs.
        seed: of the parameters; those of a layer are the same in every order.
        layers: names of these layers only, each with all layers in it (a stage of a deep model); None: every layer that has
            parameters of its own.

    Raises:
        InputError: a model without parameters, or attributions of changing shapes, or not finite.
        OptionError: an unknown order, measure or layer. MissingExtra: "ssim" without scikit-image.

    >>> import pellucid
    >>> net, x = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1)), torch.ones(1, 4)
    >>> found = cascade(net, lambda net: pellucid.explain(net, x, method="saliency").attribution, seed=0)
    >>> found.layers, found.by_layer.shape, found.by_layer[0].round().item()
    (('2', '0'), torch.Size([3]), 1.0)
    """
    backwards, cascading = _known(order, ORDERS, "order")
    _known(by, SIMILARITIES, "by")
    if not isinstance(model, nn.Module) or isinstance(model, Foreign):
        raise InputError(f"the model is {type(model).__name__}; parameters can be drawn anew in a torch module only")
    number = resolve_seed(seed)
    with spare(model) as net:
        with running(net) as ran:
            own = _said(explained, net)
        blocks = blocks_of(net, ran, layers, backwards)
        rows, moved = [_similar(own, own, by, magnitude)], False
        for block, found in _renewed(net, blocks, cascading, number, explained):
            rows.append(_similar(own, found, by, magnitude, f"with {block.name!r} drawn anew"))
            moved = moved or any(not torch.equal(a, b) for a, b in zip(own, found, strict=True))
    if not moved and not any(module in ran for block in blocks for module in block.modules):
        warn("another-model", "explained() never ran the layers that were drawn anew, and its answers never changed; explain its argument")
    return Cascade(tuple(block.name for block in blocks), torch.stack(rows), order, by, magnitude, number)


def _renewed(
    net: nn.Module, blocks: Sequence[Block], cascading: bool, seed: int, explained: Callable[[nn.Module], Any]
) -> Iterator[tuple[Block, Tensors]]:
    for block in blocks:
        with kept([] if cascading else block.modules):
            block.renew(seed)
            found = _said(explained, net)
        yield block, found


def random_logit(
    explained: Callable[[Tensor], Any],
    targets: Tensor | Sequence[int],
    others: int | Tensor | Sequence[int],
    by: str = "rank_correlation",
    magnitude: bool = False,
    seed: int | None = None,
) -> Tensor:
    """`(B,)` float64: how like the explanation of the target is to that of another class, drawn at random.

    An explanation that is the same for every class does not explain the class: low is good. NaN where one of the two is the
    same everywhere. Source: Sixt, Granz, Landgraf 2020 (When explanations lie), the random logit test; there with SSIM.

    Args:
        explained: classes `(B,)` -> attributions, `(B, ...)` or several such. Each call begins with the same random state.
        targets: `(B,)`, the classes that are explained.
        others: the number of classes, of which another is drawn, as many places after the target for all examples; or
            `(B,)` other classes.
        by, magnitude: as of `cascade`.
        seed: of the choice.

    Raises:
        TargetError: no classes, fewer than two, or another class that is the target.
        InputError: attributions of other shapes, or not finite. OptionError: an unknown measure.

    >>> weights = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    >>> random_logit(lambda classes: weights[classes], [0, 1], others=2).round().tolist()
    [-1.0, -1.0]
    """
    _known(by, SIMILARITIES, "by")
    own = _classes(targets, "targets")
    other = _another(own, others, seed) if isinstance(others, int) else _classes(others, "others").to(own.device)
    if other.shape != own.shape or bool((other == own).any()):
        raise TargetError(f"others are {other.tolist()} for the targets {own.tolist()}; give another class for each example")
    return _similar(_said(explained, own), _said(explained, other), by, magnitude)


def _classes(given: Any, what: str) -> Tensor:
    found = torch.as_tensor(given)
    if found.dim() != 1 or not len(found) or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TargetError(f"{what} are {found.dtype} of shape {tuple(found.shape)}; give the class of each example: integers (B,)")
    return found.long()


def _another(own: Tensor, classes: int, seed: int | None) -> Tensor:
    if classes < 2 or not 0 <= int(own.min()) <= int(own.max()) < classes:
        raise TargetError(f"targets are {int(own.min())} to {int(own.max())} of {classes} classes; there must be another for each")
    # The same step for all, so that a batch is its examples.
    step = torch.randint(1, classes, (1,), generator=generator(resolve_seed(seed), 0)).to(own.device)
    return (own + step) % classes


def _known(name: str, table: Mapping[str, Any], what: str) -> Any:
    if name not in table:
        raise OptionError(f"{what} is {name!r}; choose one of {', '.join(map(repr, table))}")
    return table[name]


def _said(explained: Callable[[Any], Any], about: Any) -> Tensors:
    """What is said, with torch's random state as it was before and after."""
    with torch.random.fork_rng(devices()):
        return tuple(t.clone() for t in as_tensors(explained(about), "what explained() returned"))


def _similar(one: Tensors, other: Tensors, by: str, magnitude: bool, when: str = "") -> Tensor:
    """`(B,)` float64."""
    if magnitude:
        one, other = (tuple(t.abs() for t in each) for each in (one, other))
    try:
        return SIMILARITIES[by](one, other)
    except InputError as error:
        error.add_note(f"explained() {when}")
        raise


def _agreement(name: str, one: Tensors, other: Tensors) -> Tensor:
    return agreement([one, other], name)[:, 0, 1]


def _ssim(one: Tensors, other: Tensors) -> Tensor:
    """Structural similarity (Wang et al. 2004) of maps, the channels summed, each map in units of its largest magnitude."""
    compare = need("skimage.metrics", "vision").structural_similarity
    pairs = zip(_maps(one), _maps(other), strict=True)
    return torch.tensor([float(compare(a.numpy(), b.numpy(), win_size=_window(a), data_range=2.0)) for a, b in pairs], dtype=torch.float64)


def _maps(attribution: Tensors) -> Tensor:
    if len(attribution) != 1 or attribution[0].dim() not in (3, 4) or not bool(attribution[0].isfinite().all()):
        raise InputError(f"ssim is of finite maps (B, H, W) or (B, C, H, W), not of shapes {[tuple(t.shape) for t in attribution]}")
    maps = attribution[0].double().cpu()
    maps = maps.sum(1) if maps.dim() == 4 else maps
    highest = maps.abs().amax((1, 2), keepdim=True)
    return maps / torch.where(highest > 0, highest, 1.0)


def _window(of: Tensor) -> int:
    """The usual seven pixels, or the largest odd number that fits."""
    side = int(min(7, *of.shape))
    if side < 3:
        raise InputError(f"ssim compares windows of at least 3 x 3 pixels, and the maps are {tuple(of.shape)}; choose another measure")
    return side - 1 + side % 2


# By what explanations are compared: attributions twice -> `(B,)`.
SIMILARITIES: Mapping[str, Callable[[Tensors, Tensors], Tensor]] = {
    **{name: partial(_agreement, name) for name in AGREEMENTS},
    "ssim": _ssim,
}
