"""Concept activation vectors: the direction in a layer from other examples to those of a concept, fitted, saved, loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FileError, InputError, OptionError
from ..files import written
from ..inputs import accurate
from ..model import modules_of
from ..seeds import generator, resolve_seed
from ..trust.identity import identity
from ..trust.provenance import hash_of
from .activations import batches, joined_rows

__all__ = ["Fitted", "Vectors", "fit", "load", "save", "vectors", "whose"]


class Fitted(NamedTuple):
    """A linear classifier: weights `(C, F)`, the label of each row, and the share of held-out examples that it gets right."""

    weights: Tensor
    classes: list[int]
    accuracy: float


@dataclass(frozen=True, eq=False)
class Vectors:
    """Concept activation vectors of one layer.

    Attributes:
        concepts: their names.
        weights: `(C, F)`, of length one: each points from the other concepts to this one, at right angles to the boundary.
        accuracy: the share of held-out examples that the classifier gets right; NaN where none were held out. Vectors of
            a classifier that guesses mean nothing.
    """

    concepts: tuple[str, ...]
    weights: Tensor
    accuracy: float

    def save(self, path: str | Path, marks: Mapping[str, str]) -> None:
        """Write them, with what tells whose they are (`whose`)."""
        names = {f"concept {i}": name for i, name in enumerate(self.concepts)}
        save(path, {"weights": self.weights, "accuracy": torch.tensor(self.accuracy)}, {**marks, **names})

    @classmethod
    def load(cls, path: str | Path, marks: Mapping[str, str]) -> Vectors:
        """Read them; FileError where they are those of another model or of other concepts."""
        tensors, told = load(path, marks)
        names = tuple(told[f"concept {i}"] for i in range(len(tensors["weights"])))
        return cls(names, tensors["weights"], float(tensors["accuracy"]))


def vectors(activations: Mapping[str, Tensor], held_out: float = 0.33, seed: int | None = None) -> Vectors:
    """A linear classifier between concepts at a layer; its weights, scaled to length one, are their vectors.

    Source: Kim et al. 2018 (Interpretability beyond feature attribution), section 3.2: "the vector orthogonal to the
    decision boundary", of a classifier between the concept's activations and those of random examples.

    Args:
        activations: `(n, F)` of each concept, by its name; random examples count as a concept.
        held_out: the share of every concept's examples that only the accuracy is measured with.
        seed: of the split and the fit; None: follows from torch's random state, which is not moved.

    Raises:
        InputError: fewer than two concepts, concepts of other shapes or without examples, values that are not finite.
        OptionError: a share that leaves nothing to fit to.

    >>> dots, stripes = torch.randn(40, 3) + torch.tensor([5.0, 0, 0]), torch.randn(40, 3)
    >>> found = vectors({"dots": dots, "stripes": stripes}, seed=0)
    >>> bool(found.weights[0, 0] > 0.9), bool(found.accuracy > 0.9)
    (True, True)
    """
    if len(activations) < 2:
        raise InputError(f"there is one concept ({', '.join(activations)}) or none; give another, such as random examples, to tell it from")
    rows = joined_rows([_rows(name, part) for name, part in activations.items()], "some concepts")
    labels = torch.arange(len(activations)).repeat_interleave(torch.tensor([len(part) for part in activations.values()]))
    found = fit(rows, labels, held_out, seed)
    return Vectors(tuple(activations), torch.nn.functional.normalize(found.weights, dim=1), found.accuracy)


def _rows(name: str, rows: Tensor) -> Tensor:
    if rows.dim() != 2 or not len(rows):
        raise InputError(f"the activations of {name!r} have shape {tuple(rows.shape)}; give (examples, numbers), at least one example")
    return rows


def fit(rows: Tensor, labels: Tensor, held_out: float = 0.33, seed: int | None = None) -> Fitted:
    """A support vector machine by stochastic gradient descent; one row of weights for each label, one against the rest.

    Args:
        rows: `(n, F)`; labels: `(n,)`, whole numbers.
        held_out, seed: see `vectors`.

    Raises:
        InputError, OptionError: see `vectors`.
    """
    from sklearn.linear_model import SGDClassifier

    if not bool(rows.isfinite().all()):
        raise InputError(
            f"{int((~rows.isfinite()).any(1).sum())} of {len(rows)} activations have NaN or infinity; leave those examples out"
        )
    if len(labels.unique()) < 2:
        raise InputError(f"all {len(labels)} examples have the same label; a classifier needs two concepts at least")
    seed = resolve_seed(seed)
    train, test = _parts(labels.cpu(), held_out, seed)
    x, y = rows.detach().cpu().to(accurate(rows.dtype)).numpy(), labels.cpu().numpy()
    machine = SGDClassifier(alpha=0.01, max_iter=1000, tol=1e-3, random_state=seed % 2**32).fit(x[train], y[train])
    right = float((machine.predict(x[test]) == y[test]).mean()) if len(test) else float("nan")
    weights = torch.as_tensor(machine.coef_).to(accurate(rows.dtype))
    return Fitted(torch.cat([-weights, weights]) if len(weights) == 1 else weights, machine.classes_.tolist(), right)


def _parts(labels: Tensor, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Which examples are fitted to and which held out, the same share of every label."""
    if not 0 <= held_out < 1:
        raise OptionError(f"held_out is {held_out}; it is a share, from 0 to less than 1")
    groups = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    mixed = [group[torch.randperm(len(group), generator=generator(seed, i))] for i, group in enumerate(groups)]
    cuts = [int(held_out * len(group)) for group in mixed]
    both = list(zip(mixed, cuts, strict=True))
    return torch.cat([group[cut:] for group, cut in both]), torch.cat([group[:cut] for group, cut in both])


def whose(model: Callable[..., Any], concepts: Mapping[str, Any]) -> dict[str, str]:
    """What tells a model and concepts from others: hashes of its structure and weights, and of their names and examples.

    The order of the examples and their batches does not matter.

    Raises:
        OptionError: a callable that no module is found in.
    """
    roots = modules_of(model)
    if not roots:
        raise OptionError(f"no module is found in {model!r}, so what is saved for it could not be told from others'; give a module")
    told = " ".join(f"{name!r} {_hash_of_examples(examples, name)}" for name, examples in concepts.items())
    return {"model": _digest(" ".join(map(identity, roots))), "concepts": _digest(told)}


def _hash_of_examples(examples: Any, what: str) -> str:
    """Of a set of examples, whatever their order."""
    rows = [hash_of(("", part) for part in row) for batch in batches(examples, what) for row in zip(*batch, strict=True)]
    return _digest(" ".join(sorted(rows)))


def _digest(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()


def save(path: str | Path, tensors: Mapping[str, Tensor], marks: Mapping[str, str]) -> None:
    """Tensors as a safetensors file, and whose they are.

    Raises:
        FileError: it cannot be written.
    """
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    written(Path(path), lambda to: save_file(whole, to, dict(marks)))


def load(path: str | Path, marks: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `save` wrote, tensors and marks.

    Raises:
        FileError: it cannot be read, or one of these marks is another there.
    """
    try:
        with safe_open(Path(path), "pt") as file:
            told, tensors = dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise FileError(f"{str(path)!r} cannot be read: {error}; delete it, and it is made again") from error
    for name, value in marks.items():
        if told.get(name) != value:
            there, here = _brief(told.get(name)), _brief(value)
            raise FileError(f"{str(path)!r} holds vectors of other {name}: {there} there, {here} here; name another place, or delete it")
    return tensors, told


def _brief(value: str | None) -> str:
    return repr(value) if value is None or len(value) < 64 else f"{value[:12]}..."
