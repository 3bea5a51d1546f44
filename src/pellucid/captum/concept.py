"""Captum's concepts: TCAV, concept activation vectors, the classifiers that they are taken from, and data for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..concept import blocks, derivatives, fit, load, save, scores, whose
from ..errors import InputError, OptionError
from ..inputs import Tensors
from ..inside import layer_named
from ..model import undisturbed
from ..view import at_input
from .attr.base import TargetType, as_tuple
from .attr.layer import LayerGradientXActivation

__all__ = [
    "CAV",
    "TCAV",
    "Classifier",
    "Concept",
    "ConceptInterpreter",
    "CustomIterableDataset",
    "DefaultClassifier",
    "concepts_to_str",
    "dataset_to_dataloader",
]


class _Nowhere(str):
    """Captum's default place, where nothing is written unless it is named: one model would get another's vectors there."""


NOWHERE = _Nowhere("./cav/")


class Concept:
    """A concept: a number, a name, and batches of its examples."""

    def __init__(self, id: int, name: str, data_iter: DataLoader[Any] | None) -> None:
        self.id, self.name, self.data_iter = id, name, data_iter

    @property
    def identifier(self) -> str:
        """Name and number, `"stripes-0"`."""
        return f"{self.name}-{self.id}"

    def __repr__(self) -> str:
        return f"Concept({self.id!r}, {self.name!r})"


def concepts_to_str(concepts: list[Concept]) -> str:
    """The numbers of concepts, `"0-1"`."""
    return "-".join(str(concept.id) for concept in concepts)


class CustomIterableDataset(IterableDataset[Any]):
    """The files of a folder, in the order of their names, each made a tensor; or what is made of the path of a file."""

    def __init__(self, transform_filename_to_tensor: Callable[..., Any], path: str) -> None:
        self.transform_filename_to_tensor, self.path, self.file_itr = transform_filename_to_tensor, path, None
        if Path(path).is_dir():
            self.file_itr = sorted(str(file) for file in Path(path).iterdir() if not file.name.startswith("."))

    def __iter__(self) -> Iterator[Any]:
        if self.file_itr is None:
            return iter(self.transform_filename_to_tensor(self.path))
        return map(self.transform_filename_to_tensor, self.file_itr)


def dataset_to_dataloader(dataset: Dataset[Any], batch_size: int = 64) -> DataLoader[Any]:
    """A loader of batches in the order of the data set."""
    return DataLoader(dataset, batch_size=batch_size)


class Classifier(ABC):
    """A linear classifier between concepts: `train_and_eval`, and then its weights and classes."""

    @abstractmethod
    def __init__(self) -> None: ...

    @abstractmethod
    def train_and_eval(self, dataloader: DataLoader[Any], **kwargs: Any) -> dict[str, Any] | None:
        """Fit to batches of (activations `(b, F)`, numbers of concepts `(b,)`); returns statistics, such as accuracies."""

    @abstractmethod
    def weights(self) -> Tensor:
        """`(C, F)`, one row for each class."""

    @abstractmethod
    def classes(self) -> list[int]:
        """The numbers of the concepts, in the order of the weights."""


class DefaultClassifier(Classifier):
    """`pellucid.concept.fit`, a linear support vector machine; split and fit follow from the seed, or from torch's random state."""

    def __init__(self) -> None:
        self._fitted: Any = None

    def train_and_eval(  # type: ignore[override]
        self, dataloader: DataLoader[Any], test_split_ratio: float = 0.33, *, seed: int | None = None
    ) -> dict[str, Any] | None:
        """`{"accs": accuracy}` on the held-out share of every concept's examples."""
        rows, labels = (torch.cat(parts) for parts in zip(*dataloader, strict=True))
        self._fitted = fit(rows, labels, test_split_ratio, seed)
        return {"accs": torch.tensor(self._fitted.accuracy)}

    def weights(self) -> Tensor:
        """`(C, F)`; of two classes the second row is the first one's opposite."""
        return self._known.weights  # type: ignore[no-any-return]

    def classes(self) -> list[int]:
        """The numbers of the concepts."""
        return np.asarray(self._known.classes)  # type: ignore[return-value]

    @property
    def _known(self) -> Any:
        if self._fitted is None:
            raise OptionError("no classifier has been fitted; call train_and_eval first")
        return self._fitted


class CAV:
    """Concept activation vectors of a layer: `stats` has weights `(C, F)`, classes, and what the classifier told."""

    def __init__(
        self,
        concepts: list[Concept],
        layer: str,
        stats: dict[str, Any] | None = None,
        save_path: str = "./cav/",
        model_id: str = "default_model_id",
    ) -> None:
        self.concepts, self.layer, self.stats, self.save_path, self.model_id = concepts, layer, stats, save_path, model_id
        self.marks: Mapping[str, str] = {}

    @staticmethod
    def assemble_save_path(path: str, model_id: str, concepts: list[Concept], layer: str) -> str:
        """`path/model_id/0-1-layer.safetensors`."""
        return str(Path(path) / model_id / f"{concepts_to_str(concepts)}-{layer}.safetensors")

    @staticmethod
    def create_cav_dir_if_missing(save_path: str, model_id: str) -> None:
        """Make the folder of a model."""
        (Path(save_path) / model_id).mkdir(parents=True, exist_ok=True)

    def save(self) -> None:
        """Write the numbers of `stats`, without pickle, and what tells whose they are."""
        self.create_cav_dir_if_missing(self.save_path, self.model_id)
        path = self.assemble_save_path(self.save_path, self.model_id, self.concepts, self.layer)
        save(path, {name: _numbers(name, value) for name, value in (self.stats or {}).items()}, {**_named(self.concepts), **self.marks})

    @staticmethod
    def load(cavs_path: str, model_id: str, concepts: list[Concept], layer: str) -> CAV | None:
        """What is stored for concepts of these numbers and names; None where there is nothing."""
        return _loaded(cavs_path, model_id, concepts, layer, {})


def _loaded(save_path: str, model_id: str, concepts: list[Concept], layer: str, marks: Mapping[str, str]) -> CAV | None:
    path = CAV.assemble_save_path(save_path, model_id, concepts, layer)
    if not Path(path).exists():
        return None
    stats, told = load(path, {**_named(concepts), **marks})
    cav = CAV(concepts, layer, {**stats, "classes": stats["classes"].numpy()} if "classes" in stats else dict(stats), save_path, model_id)
    cav.marks = told
    return cav


def _named(concepts: list[Concept]) -> dict[str, str]:
    return {"names": repr([concept.identifier for concept in concepts])}


def _numbers(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(f"stats[{name!r}] is {type(value).__name__}, which cannot be saved as numbers ({error}); leave it out") from error


class ConceptInterpreter:
    """A model that is explained by concepts: `interpret(inputs, ...)`."""

    interpret: Callable[..., Any]

    def __init__(self, model: nn.Module) -> None:
        self.model = model


class TCAV(ConceptInterpreter):
    """Testing with concept activation vectors: `pellucid.concept`. Files are written only where a `save_path` is given."""

    def __init__(
        self,
        model: nn.Module,
        layers: str | list[str],
        model_id: str = "default_model_id",
        classifier: Classifier | None = None,
        layer_attr_method: Any = None,
        attribute_to_layer_input: bool = False,
        save_path: str = NOWHERE,
        **classifier_kwargs: Any,
    ) -> None:
        super().__init__(model)
        if not model_id:
            raise OptionError(f"model_id is {model_id!r}; give it a name, or leave it out")
        self.layers = [layers] if isinstance(layers, str) else list(layers)
        for name in self.layers:
            layer_named((model,), name)
        self.model_id, self.save_path, self.attribute_to_layer_input = model_id, save_path, attribute_to_layer_input
        self.classifier, self.classifier_kwargs = classifier or DefaultClassifier(), classifier_kwargs
        self._own_attr_method = LayerGradientXActivation(model, None, multiply_by_inputs=False)
        self.layer_attr_method = layer_attr_method or self._own_attr_method
        self.concepts: set[Concept] = set()
        self.cavs: dict[str, dict[str, CAV]] = {}
        self._held: dict[tuple[Concept, str, str], list[Tensor]] = {}

    def interpret(
        self,
        inputs: Any,
        experimental_sets: list[list[Concept]],
        target: TargetType = None,
        additional_forward_args: Any = None,
        processes: int | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, dict[str, Tensor]]]:
        """`{"0-1": {layer: {"sign_count": (C,), "magnitude": (C,)}}}`, concepts in the order of their set."""
        if "attribute_to_layer_input" in kwargs:
            raise OptionError("attribute_to_layer_input belongs to TCAV(...), where it holds for the concepts' activations too")
        self.compute_cavs(experimental_sets, processes=processes)
        found = self._sensitivities(inputs, target, additional_forward_args, kwargs)
        return {
            concepts_to_str(concepts): {layer: self._scores(found[layer], concepts, layer) for layer in self.layers}
            for concepts in experimental_sets
        }

    def _scores(self, sensitivities: Tensor, concepts: list[Concept], layer: str) -> dict[str, Tensor]:
        stats = self.cavs[concepts_to_str(concepts)][layer].stats or {}
        order = [list(stats["classes"]).index(concept.id) for concept in concepts]
        return scores(sensitivities, stats["weights"][order])._asdict()

    def _sensitivities(self, inputs: Any, target: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """`(B, F)` of each layer."""
        if self.layer_attr_method is self._own_attr_method and not kwargs:
            return derivatives(at_input(self.model, inputs, target, args), self.layers, self.attribute_to_layer_input)
        kwargs = {**kwargs, "target": target, "additional_forward_args": args, "attribute_to_layer_input": self.attribute_to_layer_input}
        return {layer: self._attributed(layer, inputs, kwargs) for layer in self.layers}

    def _attributed(self, layer: str, inputs: Any, kwargs: dict[str, Any]) -> Tensor:
        method, before = self.layer_attr_method, self.layer_attr_method.layer
        try:
            method.layer = layer_named((self.model,), layer)
            with undisturbed((self.model,)):
                found: Tensors = as_tuple(method.attribute(inputs, **kwargs))
        finally:
            method.layer = before
        size = len(as_tuple(inputs)[0])
        if any(len(part) != size for part in found):
            raise InputError(
                f"layer_attr_method gives {len(found[0])} rows at {layer!r} for {size} examples; choose one that gives a row each"
            )
        return torch.cat([part.detach().reshape(size, -1) for part in found], 1)

    def compute_cavs(
        self, experimental_sets: list[list[Concept]], force_train: bool = False, processes: int | None = None
    ) -> dict[str, dict[str, CAV]]:
        """Vectors of all sets and layers, `{"0-1": {layer: CAV}}`; one process makes them, whatever `processes` says."""
        self._checked(experimental_sets)
        for concepts in experimental_sets:
            missing, to_do = (self.layers, dict.fromkeys(concepts, self.layers)) if force_train else self.load_cavs(concepts)
            self.generate_activations(to_do)
            self.cavs.setdefault(concepts_to_str(concepts), {}).update({layer: self._trained(concepts, layer) for layer in missing})
        self._held.clear()
        return self.cavs

    def _checked(self, experimental_sets: list[list[Concept]]) -> None:
        """That concepts are told apart by their numbers, which label them."""
        if not experimental_sets or min(map(len, experimental_sets)) < 2:
            raise InputError(
                f"experimental_sets is {experimental_sets}; every set needs two concepts at least, such as one and random examples"
            )
        for concepts in experimental_sets:
            if len({concept.id for concept in concepts}) < len(concepts):
                raise InputError(f"the set {concepts} has a number twice; give every concept its own, and each once")
        known = {concept.id: concept for concept in self.concepts}
        for concept in (concept for concepts in experimental_sets for concept in concepts):
            if known.setdefault(concept.id, concept) is not concept:
                raise InputError(
                    f"{concept} and another concept have the same number; give every concept its own, and use it again as it is"
                )
        self.concepts.update(known.values())

    def load_cavs(self, concepts: list[Concept]) -> tuple[list[str], dict[Concept, list[str]]]:
        """The layers that vectors are still missing for, and those that activations are, after using what is known already.

        Raises:
            FileError: what is stored belongs to another model or classifier, or to other concepts.
        """
        known = self.cavs.setdefault(concepts_to_str(concepts), {})
        for layer in self.layers:
            marks = self._marks(concepts, layer)
            if layer in known and (known[layer].concepts != concepts or known[layer].marks != marks):
                del known[layer]
            if layer not in known and self._stores and (cav := _loaded(self.save_path, self.model_id, concepts, layer, marks)):
                known[layer] = cav
        missing = [layer for layer in self.layers if layer not in known]
        return missing, {c: rest for c in concepts if (rest := [layer for layer in missing if self._key(c, layer) not in self._held])}

    def _trained(self, concepts: list[Concept], layer: str) -> CAV:
        stats = _trained(
            self.classifier, {concept.id: self._held[self._key(concept, layer)] for concept in concepts}, self.classifier_kwargs
        )
        cav = CAV(concepts, layer, stats, self.save_path, self.model_id)
        cav.marks = self._marks(concepts, layer)
        if self._stores:
            cav.save()
        return cav

    @property
    def _stores(self) -> bool:
        return not isinstance(self.save_path, _Nowhere)

    def _marks(self, concepts: list[Concept], layer: str) -> dict[str, str]:
        """What vectors depend on; examples are read for it only where they may be found in a file."""
        examples = {concept.identifier: _examples(concept) if self._stores else () for concept in concepts}
        of = "input" if self.attribute_to_layer_input else "output"
        how = f"{type(self.classifier).__qualname__} {sorted(self.classifier_kwargs.items())}"
        return {**_named(concepts), **whose(self.model, examples), "layers": f"{of} of {layer}", "classifiers": how}

    def generate_all_activations(self) -> None:
        """Keep what all layers hold for all concepts, until vectors are computed."""
        self.generate_activations(dict.fromkeys(self.concepts, self.layers))

    def generate_activations(self, concept_layers: dict[Concept, list[str]]) -> None:
        """Keep what layers hold for concepts."""
        for concept, layers in concept_layers.items():
            self.generate_activation(layers, concept)

    def generate_activation(self, layers: str | list[str], concept: Concept) -> None:
        """Keep what layers hold for a concept, in one pass."""
        layers = [layers] if isinstance(layers, str) else layers
        found = blocks(self.model, _examples(concept), layers, self.attribute_to_layer_input, repr(concept))
        self._held.update({self._key(concept, layer): list(rows) for layer, rows in zip(layers, zip(*found, strict=True), strict=True)})

    def _key(self, concept: Concept, layer: str) -> tuple[Concept, str, str]:
        """Under which activations are kept: those of a model that has learnt since are others."""
        return concept, layer, whose(self.model, {})["model"]


def _examples(concept: Concept) -> Any:
    if concept.data_iter is None:
        raise InputError(f"{concept} has no data_iter; give it a loader of its examples")
    return concept.data_iter


def _trained(classifier: Classifier, held: Mapping[int, list[Tensor]], options: dict[str, Any]) -> dict[str, Any]:
    """Weights and classes of a classifier, and what it tells."""
    if len({part.shape[1] for parts in held.values() for part in parts}) > 1:
        raise InputError(f"a layer holds numbers of other shapes for the concepts {list(held)}; give all examples the same shape")
    data = [(part, torch.full((len(part),), id)) for id, parts in held.items() for part in parts]
    # A loader draws a number for every pass: not from torch's own generator.
    told = classifier.train_and_eval(DataLoader(data, batch_size=None, generator=torch.Generator()), **options)  # type: ignore[arg-type]
    weights, classes = torch.as_tensor(classifier.weights()).detach().clone(), classifier.classes()
    classes = classes.detach().cpu().numpy() if isinstance(classes, Tensor) else classes
    if weights.dim() != 2 or len(weights) != len(classes) or set(map(int, classes)) != set(held):
        raise OptionError(
            f"the classifier has weights {tuple(weights.shape)} and classes {list(classes)}; the concepts are {list(held)}: it must have "
            "one row and one class for each"
        )
    return {"weights": weights, "classes": classes, **(told or {})}
