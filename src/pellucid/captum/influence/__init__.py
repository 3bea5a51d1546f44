"""Captum's influence classes: TracIn by checkpoints, influence functions, similarity of activations."""

from .base import DataInfluence, KMostInfluentialResults
from .functions import ArnoldiInfluenceFunction, InfluenceFunctionBase, IntermediateQuantitiesInfluenceFunction, NaiveInfluenceFunction
from .neighbours import AnnoyNearestNeighbors, FaissNearestNeighbors, NearestNeighbors
from .similarity import SimilarityInfluence, cosine_similarity
from .tracincp import TracInCP, TracInCPBase, TracInCPFast, TracInCPFastRandProj

__all__ = [
    "AnnoyNearestNeighbors",
    "ArnoldiInfluenceFunction",
    "DataInfluence",
    "FaissNearestNeighbors",
    "InfluenceFunctionBase",
    "IntermediateQuantitiesInfluenceFunction",
    "KMostInfluentialResults",
    "NaiveInfluenceFunction",
    "NearestNeighbors",
    "SimilarityInfluence",
    "TracInCP",
    "TracInCPBase",
    "TracInCPFast",
    "TracInCPFastRandProj",
    "cosine_similarity",
]
