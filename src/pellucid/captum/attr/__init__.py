"""Captum's `captum.attr`: its classes with their signatures, over Pellucid's methods."""

from . import visualization
from .base import Attribution, GradientAttribution, PerturbationAttribution
from .gradient import GradientShap, InputXGradient, IntegratedGradients, Saliency
from .noise import NoiseTunnel
from .perturbation import FeatureAblation

__all__ = [
    "Attribution",
    "FeatureAblation",
    "GradientAttribution",
    "GradientShap",
    "InputXGradient",
    "IntegratedGradients",
    "NoiseTunnel",
    "PerturbationAttribution",
    "Saliency",
    "visualization",
]
