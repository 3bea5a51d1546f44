"""Captum's `captum.attr`: its classes with their signatures, over Pellucid's methods."""

from . import visualization
from .base import Attribution, GradientAttribution, PerturbationAttribution
from .baselines import ProductBaselines
from .dataloader import DataLoaderAttribution
from .deep_lift import DeepLift, DeepLiftShap, LayerDeepLift, LayerDeepLiftShap, NeuronDeepLift, NeuronDeepLiftShap
from .gradient import GradientShap, InputXGradient, IntegratedGradients, Saliency
from .guided import Deconvolution, GuidedBackprop, GuidedGradCam, NeuronDeconvolution, NeuronGuidedBackprop
from .interpretable import ImageMaskInput, InterpretableInput, TextTemplateInput, TextTokenInput
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
from .llm import LLMAttribution
from .llm_gradient import LLMGradientAttribution
from .llm_result import LLMAttributionResult
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
from .remote import RemoteLLMAttribution, RemoteLLMProvider, VLLMProvider
from .shapley import KernelShap, ShapleyValues, ShapleyValueSampling
from .stat import (
    MSE,
    CommonStats,
    Count,
    Max,
    Mean,
    Min,
    StatValue,
    StdDev,
    Sum,
    Var,
)
from .summarizer import ClassSummarizer, Summarizer, SummarizerSingleTensor

__all__ = [
    "LRP",
    "MSE",
    "Attribution",
    "ClassSummarizer",
    "CommonStats",
    "Count",
    "DataLoaderAttribution",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "FeatureAblation",
    "FeaturePermutation",
    "GradientAttribution",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "ImageMaskInput",
    "InputXGradient",
    "IntegratedGradients",
    "InternalInfluence",
    "InterpretableEmbeddingBase",
    "InterpretableInput",
    "KernelShap",
    "LLMAttribution",
    "LLMAttributionResult",
    "LLMGradientAttribution",
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
    "Max",
    "Mean",
    "Min",
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
    "ProductBaselines",
    "RemoteLLMAttribution",
    "RemoteLLMProvider",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
    "StatValue",
    "StdDev",
    "Sum",
    "Summarizer",
    "SummarizerSingleTensor",
    "TextTemplateInput",
    "TextTokenInput",
    "TokenReferenceBase",
    "VLLMProvider",
    "Var",
    "configure_interpretable_embedding_layer",
    "remove_interpretable_embedding_layer",
    "visualization",
]
