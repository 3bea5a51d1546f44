"""Concepts that nobody named: non-negative factors of a layer's activations, and how much a class depends on each (CRAFT)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..batch import Run
from ..errors import InputError, OptionError, warn
from ..gradient.cam import resized
from ..inside import Layer, of_neuron
from ..model import in_train_mode
from ..seeds import generator, resolve_seed
from ..view import InputView
from .bank import Concepts, mark_of, one_score
from .factors import coefficients_of, factorised, followed, norm_of, stability
from .importance import head_of, importances, interval, reconstruction
from .rows import Held, Rows, at_crops, at_places, held_by, of_crops, pixels

__all__ = ["Concepts", "discover", "of_concept", "within"]


def discover(
    view: InputView,
    layer: Layer,
    concepts: int = 10,
    crop: float | int | None = 0.3,
    per_image: int | None = None,
    samples: int = 32,
    tested: int = 64,
    refits: int = 5,
    best: int = 8,
    of_input: bool = False,
    layout: str | None = None,
    seed: int | None = None,
    run: Run | None = None,
) -> Concepts:
    """The concepts that a layer holds for the images of a class, and how much the class's score depends on each: CRAFT.

    Activations `A` of crops, averaged over places, are factorised, `A ~ U W` with nothing negative; rows of `W` are the concepts. Their
    importance is the total Sobol index of the score when the coefficients of the (whole) examples are multiplied by random masks.
    Inputs that are no pictures `(B, C, H, W)`, and pictures with `crop=None`, are not cut: `A` then are the vectors of every token or
    place, or those of the examples where a layer holds one for each.
    Source: Fel et al. 2023, CRAFT: Concept Recursive Activation FacTorization for Explainability.

    Args:
        view: of images of one class and its score, `at_input(model, images, target)`.
        layer: one that holds nothing negative, such as a ReLU; `(layer, number)` for one that runs more than once.
        concepts: how many, K.
        crop: the side of the crops: a share (float) of the picture's sides, or pixels (int).
        per_image: how many crops of each image, at random; None: side by side, neighbours overlapping by a fifth.
        samples: N, points for an index: `N (K + 1)` passes for each example tested. A power of two covers the masks evenly.
        tested: how many of the examples, chosen at random, importance and reconstruction are measured with.
        refits: how many other banks `stability` is measured with.
        best: how many examples are kept to show each concept.
        of_input: what the layer receives instead of what it returns.
        layout: one of `pellucid.gradient.cam.LAYOUTS`: how the layer's tensor lies; found from its shape if not said.
        seed: of crops, factors, masks and bootstrap; None: follows from torch's random state, which is not moved.

    Raises:
        InputError: a single image, negative activations, more concepts than the activations' rank, no single tensor.
        OptionError: no such layer, crops that do not fit, counts too low. TargetError: several scores for an example.

    >>> from pellucid.view import at_input
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2)).eval()
    >>> found = discover(at_input(net, torch.rand(20, 1, 8, 8), 1), "1", concepts=3, crop=4, seed=0)
    >>> found.vectors.shape, found.maps(at_input(net, torch.rand(5, 1, 8, 8))).shape
    (torch.Size([3, 6]), torch.Size([5, 3, 8, 8]))
    """
    _check_counts(view, samples=(samples, 2), tested=(tested, 2), refits=(refits, 0), best=(best, 1))
    run, seed = run or Run(), resolve_seed(seed)
    if modes := in_train_mode(view.roots):
        warn("mode", f"the model is in train mode ({', '.join(modes[:4])}): concepts may lie elsewhere later; call model.eval()")
    one_score(view, "choose one target")
    held = held_by(view, layer, of_input, layout)
    sides = of_crops(held.picture, crop) if held.picture and crop is not None else None
    rows = _rows(view, held, sides, per_image, seed, run)
    vectors = factorised(rows.values.flatten(0, 1), concepts, seed).to(held.dtype)
    few = view.some(torch.randperm(view.size, generator=generator(seed + 1, 0))[:tested].sort().values.tolist())
    head = head_of(few, held, vectors, run)
    indices = importances(head, samples, seed + 2, run)
    known = indices[~indices.isnan().any(1)]
    _say_unknown(len(indices) - len(known), len(indices))
    order = known.mean(0).nan_to_num(-1).argsort(descending=True, stable=True)
    vectors, known = vectors[order], known[:, order]
    amounts = coefficients_of(rows.values, vectors)
    error, explained = norm_of(rows.values.flatten(0, 1), amounts.flatten(0, 1), vectors)
    return Concepts(
        vectors, known.mean(0), interval(known, seed + 3), stability(rows.values, vectors, refits, seed + 4, run.progress),
        *_best(view, rows, amounts.to(vectors.dtype), best, sides is not None), error, explained, reconstruction(head, run),
        held.place.names[0], held.place.calls[0], of_input, held.layout, held.places, sides, str(view.pick), seed, mark_of(view.roots),
    )  # fmt: skip


def _check_counts(view: InputView, **counts: tuple[int, int]) -> None:
    if view.size < 2:
        raise InputError("there is one image; concepts are what several share: give images of a class, best some hundred")
    for name, (count, least) in counts.items():
        if count < least:
            raise OptionError(f"{name}={count}; give {least} at least")


def _rows(view: InputView, held: Held, crop: tuple[int, int] | None, each: int | None, seed: int, run: Run) -> Rows:
    return at_places(view, held, seed, run) if crop is None else at_crops(view, held, crop, each, seed, run)


def _say_unknown(lost: int, size: int) -> None:
    if lost:
        so = "importance is not known" if lost == size else "they are left out of importance"
        warn("zero", f"the score of {lost} of {size} examples does not change with the concepts of the layer: {so}")


def _best(view: InputView, rows: Rows, amounts: Tensor, best: int, cut: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each concept the examples that hold most of it, where, how much, and what is there to see."""
    most, place = amounts.max(1)
    strengths, examples = most.T.topk(min(best, view.size), 1)
    places = place.T.gather(1, examples)
    where, seen = rows.where[examples, places], view.features[0].detach()
    shown = [
        pixels(seen[i], box) if cut else seen[i]
        for i, box in zip(examples.flatten().tolist(), where.flatten(0, 1).tolist(), strict=True)
    ]  # fmt: skip
    return examples, where, strengths, torch.stack(shown).unflatten(0, examples.shape).cpu()


def of_concept(view: InputView, bank: Concepts, concept: int) -> InputView:
    """The view of how much of a concept a layer holds, the mean over its places, as a function of the inputs.

    Methods on it attribute the concept to the inputs: gradients go through the factorisation by implicit differentiation.
    Source: Fel et al. 2023, section 3.4.

    >>> from pellucid.gradient import saliency
    >>> from pellucid.view import at_input
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2)).eval()
    >>> view = at_input(net, torch.rand(20, 1, 8, 8), 1)
    >>> found = discover(view, "1", concepts=3, crop=4, seed=0)
    >>> saliency(of_concept(view, found, 0)).values[0].shape
    torch.Size([1, 20, 1, 8, 8])
    """
    number, held = bank.one(concept), bank.held(view)

    def amount(values: Tensor) -> Tensor:
        rows = held.vectors(values).reshape(-1, held.channels)
        return followed(rows, bank.vectors)[:, number].view(len(values), -1).mean(1)

    amount.__name__ = f"concept {concept}"
    return of_neuron(view, held.place, amount, bank.of_input)


def within(
    view: InputView, bank: Concepts, concept: int, layer: Layer, share: float = 0.1, of_input: bool = False, **options: Any
) -> Concepts:
    """What a concept is made of in an earlier layer: the crops that show it most, factorised there.

    The importance of those parts is for the concept's own coefficient.
    Source: Fel et al. 2023, section 3.2.

    Args:
        view: of the inputs that crops are taken from.
        bank, concept: which concept, of those that `discover` found.
        layer, of_input: the earlier one.
        share: of the crops (or examples), those with the largest coefficients.
        options: of `discover`. `crop` is the share of a crop to take, by default 1.0: all of it, its vectors averaged.

    Raises:
        OptionError: no such concept or share. InputError: fewer than two crops show it.

    >>> from pellucid.view import at_input
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)).eval()
    >>> view = at_input(net, torch.rand(20, 1, 8, 8), 1)
    >>> found = discover(view, "3", concepts=3, crop=4, seed=0)
    >>> within(view, found, 0, "1", concepts=2, seed=0).vectors.shape
    torch.Size([2, 5])
    """
    if not 0 < share <= 1:
        raise OptionError(f"share={share}; it is a share of the crops, more than 0, at most 1")
    chosen = _strongest(view, bank, bank.one(concept), share, options.get("run") or Run())
    found = discover(of_concept(chosen, bank, concept), layer, of_input=of_input, **{"crop": 1.0} | options)
    return replace(found, target=f"concept {concept} of {bank.layer}")


def _strongest(view: InputView, bank: Concepts, concept: int, share: float, run: Run) -> InputView:
    """The view of the crops that hold most of a concept, each as large as a picture."""
    rows = _rows(view, bank.held(view), bank.crop, None, bank.seed, run)
    strengths = coefficients_of(rows.values, bank.vectors)[..., concept]
    if bank.crop is None:
        strengths = strengths.amax(1, keepdim=True)
    order = strengths.flatten().argsort(descending=True, stable=True)[: max(2, math.ceil(share * strengths.numel()))]
    found = order[strengths.flatten()[order] > 0]
    if len(found) < 2:
        raise InputError(f"of {strengths.numel()} crops {len(found)} hold concept {concept}; give other images, or a larger share")
    some = view.some((found // strengths.shape[1]).tolist())
    if bank.crop is None:
        return replace(some, at_once=None)
    boxes = rows.where.flatten(0, 1)[found]
    cut = torch.stack([pixels(image, box) for image, box in zip(some.features[0], boxes, strict=True)])
    return replace(some, features=(resized(cut, view.features[0].shape[2:]), *some.features[1:]), at_once=None)
