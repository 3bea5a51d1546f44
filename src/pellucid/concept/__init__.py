"""Concepts that people have words for, as directions in a layer: how a class depends on them (TCAV)."""

from .activations import Named, activations, blocks, word
from .scores import Compared, Scores, Verdict, against_chance, derivatives, scores, significance
from .vectors import Fitted, Vectors, fit, load, save, vectors, whose

__all__ = [
    "Compared",
    "Fitted",
    "Named",
    "Scores",
    "Vectors",
    "Verdict",
    "activations",
    "against_chance",
    "blocks",
    "derivatives",
    "fit",
    "load",
    "save",
    "scores",
    "significance",
    "vectors",
    "whose",
    "word",
]
