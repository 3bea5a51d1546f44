"""Captum's `captum.attr`: its classes with their signatures, over Pellucid's methods."""

from . import visualization
from .base import Attribution, GradientAttribution, PerturbationAttribution
from .deep_lift import DeepLift, DeepLiftShap, LayerDeepLift, LayerDeepLiftShap, NeuronDeepLift, NeuronDeepLiftShap
from .gradient import GradientShap, InputXGradient, IntegratedGradients, Saliency
from .guided import Deconvolution, GuidedBackprop, GuidedGradCam, NeuronDeconvolution, NeuronGuidedBackprop
from .layer import (
    InternalInfluence,
    LayerActivation,
    LayerAttribution,
    LayerConductance,
    LayerFeatureAblation,
    LayerFeaturePermutation,
    LayerGradCam,
    LayerGradientShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)
from .lime import Lime, LimeBase
from .lrp import LRP, LayerLRP
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
from .perturbation import FeatureAblation, FeaturePermutation, Occlusion
from .shapley import KernelShap, ShapleyValues, ShapleyValueSampling

__all__ = [
    "LRP",
    "Attribution",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "FeatureAblation",
    "FeaturePermutation",
    "GradientAttribution",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "InputXGradient",
    "IntegratedGradients",
    "InternalInfluence",
    "InterpretableEmbeddingBase",
    "KernelShap",
    "LayerActivation",
    "LayerAttribution",
    "LayerConductance",
    "LayerDeepLift",
    "LayerDeepLiftShap",
    "LayerFeatureAblation",
    "LayerFeaturePermutation",
    "LayerGradCam",
    "LayerGradientShap",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "LayerLRP",
    "Lime",
    "LimeBase",
    "ModelInputWrapper",
    "NeuronAttribution",
    "NeuronConductance",
    "NeuronDeconvolution",
    "NeuronDeepLift",
    "NeuronDeepLiftShap",
    "NeuronFeatureAblation",
    "NeuronGradient",
    "NeuronGradientShap",
    "NeuronGuidedBackprop",
    "NeuronIntegratedGradients",
    "NoiseTunnel",
    "Occlusion",
    "PerturbationAttribution",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
    "TokenReferenceBase",
    "configure_interpretable_embedding_layer",
    "remove_interpretable_embedding_layer",
    "visualization",
]
