"""Captum's concepts: TCAV, concept activation vectors, the classifiers that they are taken from, and data for them."""

from .cav import CAV
from .classifier import Classifier, DefaultClassifier
from .concepts import Concept, CustomIterableDataset, concepts_to_str, dataset_to_dataloader
from .tcav import TCAV, ConceptInterpreter

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
