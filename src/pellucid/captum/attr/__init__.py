"""Captum's `captum.attr`: its classes with their signatures, over Pellucid's methods."""

from . import visualization
from .base import Attribution, GradientAttribution, PerturbationAttribution
from .gradient import GradientShap, InputXGradient, IntegratedGradients, Saliency
from .layer import (
    InternalInfluence,
    LayerActivation,
    LayerAttribution,
    LayerConductance,
    LayerFeatureAblation,
    LayerGradCam,
    LayerGradientShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)
from .models import (
    InterpretableEmbeddingBase,
    ModelInputWrapper,
    TokenReferenceBase,
    configure_interpretable_embedding_layer,
    remove_interpretable_embedding_layer,
)
from .neuron import (
    NeuronAttribution,
    NeuronConductance,
    NeuronFeatureAblation,
    NeuronGradient,
    NeuronGradientShap,
    NeuronIntegratedGradients,
)
from .noise import NoiseTunnel
from .perturbation import FeatureAblation

__all__ = [
    "Attribution",
    "FeatureAblation",
    "GradientAttribution",
    "GradientShap",
    "InputXGradient",
    "IntegratedGradients",
    "InternalInfluence",
    "InterpretableEmbeddingBase",
    "LayerActivation",
    "LayerAttribution",
    "LayerConductance",
    "LayerFeatureAblation",
    "LayerGradCam",
    "LayerGradientShap",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "ModelInputWrapper",
    "NeuronAttribution",
    "NeuronConductance",
    "NeuronFeatureAblation",
    "NeuronGradient",
    "NeuronGradientShap",
    "NeuronIntegratedGradients",
    "NoiseTunnel",
    "PerturbationAttribution",
    "Saliency",
    "TokenReferenceBase",
    "configure_interpretable_embedding_layer",
    "remove_interpretable_embedding_layer",
    "visualization",
]
