"""What a run says as a whole: means of classes, features that matter most, groups of explanations; one block in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, OptionError
from ..explanation import Explanation
from ..inputs import accurate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .results import Results

__all__ = ["Clusters", "Means", "clusters", "means", "top_features"]

BY = ("prediction", "label")


@dataclass(frozen=True, eq=False)
class Means:
    """Means over all explanations of a class.

    Attributes:
        names: the classes, in order.
        counts: how many explanations each has.
        signed, size: `(classes, ...)`: the mean attribution, and the mean of its magnitude.
        features: the mean of what was explained; None without the inputs.
        columns: names of the features of a table.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    signed: Tensor
    size: Tensor
    features: Tensor | None = None
    columns: tuple[str, ...] = ()

    def draw(self) -> Figure:
        """One map for each class, or of a table its bars, on one scale."""
        from .pictures import maps_of

        return maps_of(self)


def means(results: Results, by: str | None = "prediction") -> Means:
    """The mean attribution of each class, of what could be explained; examples with NaN or infinite attributions are left out.

    Args:
        by: "prediction" or "label"; None: all together.

    Raises:
        OptionError: another word. InputError: no explanation is stored, or examples have different shapes.
    """
    sums: dict[Any, list[Any]] = {}
    first: Explanation | None = None
    for groups, explanation in _grouped(results, by):
        first = first or explanation
        values = explanation.attribution.to(accurate(explanation.attribution.dtype)).double()
        features = explanation.features[0].double() if explanation.features and explanation.features[0].shape == values.shape else None
        if first.attribution.shape[1:] != values.shape[1:]:
            raise InputError(f"examples have the shapes {tuple(first.attribution.shape[1:])} and {tuple(values.shape[1:])}; means need one")
        for name in dict.fromkeys(groups):
            chosen = torch.tensor([group == name for group in groups]) & _finite(values)
            if not chosen.any():
                continue
            own = sums.setdefault(name, [0, 0.0, 0.0, 0.0])
            own[0] += int(chosen.sum())
            own[1] = own[1] + values[chosen].sum(0)
            own[2] = own[2] + values[chosen].abs().sum(0)
            own[3] = own[3] + features[chosen].sum(0) if features is not None and own[3] is not None else None
    if first is None or not sums:
        raise InputError("no explanation is stored yet" if first is None else "no stored explanation has numbers that are all finite")
    order = sorted(sums, key=lambda name: (str(type(name)), name))
    counts = tuple(sums[name][0] for name in order)

    def mean(which: int) -> Tensor:
        return torch.stack([sums[name][which] / sums[name][0] for name in order]).float()

    known = all(sums[name][3] is not None for name in order)
    called = results.facts["labels"] if by == "label" else results.facts["classes"] or first.display.classes
    names = tuple(_word(name, called or first.display.classes) for name in order)
    return Means(names, counts, mean(1), mean(2), mean(3) if known else None, first.display.names)


def _grouped(results: Results, by: str | None) -> Iterator[tuple[list[Any], Explanation]]:
    if by is not None and by not in BY:
        raise OptionError(f"by is {by!r}; give one of {', '.join(BY)}, or None")
    for number, (examples, explanation) in zip(results.blocks_with_answers(), results.explanations(inputs=False), strict=True):
        if by is None:
            yield ["all"] * len(examples), explanation
            continue
        rows = results.rows_of(number, ["example", by]).to_pydict()
        known = dict(zip(rows["example"], rows[by], strict=True))
        yield [_group(known[example]) for example in examples], explanation


def _group(value: Any) -> Any:
    """A label as it is compared over blocks: a whole number is one, whatever its type."""
    if value is None or value != value:
        return "unknown"
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _finite(values: Tensor) -> Tensor:
    """`(B,)`: which examples have numbers only."""
    return torch.isfinite(values).flatten(1).all(1)


def _word(group: Any, classes: Sequence[str]) -> str:
    return classes[group] if isinstance(group, int) and 0 <= group < len(classes) else str(group)


def top_features(results: Results, count: int = 10, by: str | None = None) -> dict[str, list[tuple[str, float, float]]]:
    """For each class its largest features: name, mean magnitude, mean attribution; channels of a picture are one place."""
    found = means(results, by)
    told = {}
    for name, signed, size in zip(found.names, found.signed, found.size, strict=True):
        if size.dim() == 3:
            signed, size = signed.sum(0), size.sum(0)
        flat = size.flatten()
        best = flat.argsort(descending=True)[:count]
        told[name] = [(_place(int(i), size, found.columns), float(flat[i]), float(signed.flatten()[i])) for i in best]
    return told


def _place(index: int, values: Tensor, columns: Sequence[str]) -> str:
    if values.dim() == 1:
        return columns[index] if index < len(columns) else f"feature {index}"
    return str(tuple(int(i) for i in np.unravel_index(index, tuple(values.shape))))


@dataclass(frozen=True, eq=False)
class Clusters:
    """Groups of examples that are explained alike.

    Attributes:
        examples, groups: `(N,)`: the numbers of the examples, and the group of each.
        counts: how many each group has.
        centres: `(k, ...)`: the mean of its attributions, each scaled to length one.
        typical: of each group, the example that is nearest to the centre.
    """

    examples: tuple[int, ...]
    groups: tuple[int, ...]
    counts: tuple[int, ...]
    centres: Tensor
    typical: tuple[int, ...]


def clusters(results: Results, count: int = 8, seed: int = 0, passes: int = 3) -> Clusters:
    """Groups by k-means over attributions of length one (scikit-learn's, in mini-batches), so that their shape counts and not their size.

    Large groups first. What stays in memory are the centres, and a number for each example. Examples with NaN or infinite attributions are
    left out.

    Source: D. Sculley, Web-scale k-means clustering, 2010.

    Raises:
        InputError: fewer explanations than groups, or of different shapes.
    """
    from sklearn.cluster import MiniBatchKMeans

    stored = results.total.examples - results.total.failed
    if not 1 <= count <= stored:
        raise InputError(f"count is {count}, and {stored} explanations are stored; give a number from 1 to that")
    least = max(count * 8, results.store.facts["block"])
    model = MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=max(results.store.facts["block"], 256))
    held: list[Any] = []
    fitted = False
    for _ in range(passes):
        for _, rows, _ in _directions(results):
            held.append(rows)
            if sum(map(len, held)) >= least:
                model.partial_fit(np.concatenate(held))
                held, fitted = [], True
        if sum(map(len, held)) >= count:
            model.partial_fit(np.concatenate(held))
            held, fitted = [], True
    if not fitted:
        raise InputError(f"count is {count}, and fewer explanations have numbers that are finite; give a smaller one")
    return _assigned(results, model, count)


def _directions(results: Results) -> Iterator[tuple[list[int], Any, Any]]:
    """Block by block: the numbers of the examples, their attributions of length one, and their shape.

    Raises:
        InputError: examples of different shapes.
    """
    shape = None
    for numbers, explanation in results.explanations(inputs=False):
        values = explanation.attribution
        shape = shape or values.shape[1:]
        if values.shape[1:] != shape:
            raise InputError(f"examples have the shapes {tuple(shape)} and {tuple(values.shape[1:])}; clusters need one")
        finite = _finite(values)
        flat = values.flatten(1)[finite].double().numpy()
        lengths = np.linalg.norm(flat, axis=1, keepdims=True)
        if len(flat):
            kept = [number for number, good in zip(numbers, finite.tolist(), strict=True) if good]
            yield kept, np.divide(flat, lengths, out=np.zeros_like(flat), where=lengths > 0).astype(np.float32), shape


def _assigned(results: Results, model: Any, count: int) -> Clusters:
    examples: list[int] = []
    groups: list[int] = []
    nearest: list[tuple[float, int]] = [(float("inf"), -1)] * count
    sums = np.zeros((count, model.cluster_centers_.shape[1]))
    shape: Any = ()
    for numbers, rows, shape in _directions(results):  # noqa: B007
        distances = model.transform(rows)
        own = distances.argmin(1)
        for number, group, distance in zip(numbers, own.tolist(), distances.min(1).tolist(), strict=True):
            nearest[group] = min(nearest[group], (distance, number))
        np.add.at(sums, own, rows)
        examples += numbers
        groups += own.tolist()
    sizes = np.bincount(groups, minlength=count)
    order = [int(g) for g in np.argsort(-sizes, kind="stable") if sizes[g]]
    places = {group: place for place, group in enumerate(order)}
    centres = torch.from_numpy(sums[order] / sizes[order, None]).float().reshape(len(order), *shape)
    return Clusters(
        tuple(examples), tuple(places[g] for g in groups), tuple(int(sizes[g]) for g in order), centres, tuple(nearest[g][1] for g in order)
    )
