"""Testing a model with concept activation vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...concept import blocks, derivatives, scores, whose
from ...errors import InputError, OptionError
from ...inputs import Tensors
from ...inside import layer_named
from ...model import undisturbed
from ...view import at_input
from ..attr.base import TargetType, as_tuple
from ..attr.layer import LayerGradientXActivation
from .cav import CAV, loaded, named
from .classifier import Classifier, DefaultClassifier, trained
from .concepts import Concept, concepts_to_str, examples_of

__all__ = ["TCAV", "ConceptInterpreter"]


class _Nowhere(str):
    """Captum's default place, where nothing is written unless it is named: one model would get another's vectors there."""


NOWHERE = _Nowhere("./cav/")


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
            if layer not in known and self._stores and (cav := loaded(self.save_path, self.model_id, concepts, layer, marks)):
                known[layer] = cav
        missing = [layer for layer in self.layers if layer not in known]
        return missing, {c: rest for c in concepts if (rest := [layer for layer in missing if self._key(c, layer) not in self._held])}

    def _trained(self, concepts: list[Concept], layer: str) -> CAV:
        stats = trained(
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
        examples = {concept.identifier: examples_of(concept) if self._stores else () for concept in concepts}
        of = "input" if self.attribute_to_layer_input else "output"
        how = f"{type(self.classifier).__qualname__} {sorted(self.classifier_kwargs.items())}"
        return {**named(concepts), **whose(self.model, examples), "layers": f"{of} of {layer}", "classifiers": how}

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
        found = blocks(self.model, examples_of(concept), layers, self.attribute_to_layer_input, repr(concept))
        self._held.update({self._key(concept, layer): list(rows) for layer, rows in zip(layers, zip(*found, strict=True), strict=True)})

    def _key(self, concept: Concept, layer: str) -> tuple[Concept, str, str]:
        """Under which activations are kept: those of a model that has learnt since are others."""
        return concept, layer, whose(self.model, {})["model"]
