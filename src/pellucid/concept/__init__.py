"""Concepts, those that people have words for (TCAV) and those that a layer has by itself (CRAFT): how a class depends on them."""

from .activations import Named, activations, blocks, word
from .bank import Concepts
from .discovery import discover, of_concept, within
from .factors import matched
from .importance import Reconstruction, total_indices
from .scores import Compared, Scores, Verdict, against_chance, derivatives, scores, significance
from .vectors import Fitted, Vectors, fit, load, save, vectors, whose

__all__ = [
    "Compared",
    "Concepts",
    "Fitted",
    "Named",
    "Reconstruction",
    "Scores",
    "Vectors",
    "Verdict",
    "activations",
    "against_chance",
    "blocks",
    "derivatives",
    "discover",
    "fit",
    "load",
    "matched",
    "of_concept",
    "save",
    "scores",
    "significance",
    "total_indices",
    "vectors",
    "whose",
    "within",
    "word",
]
