"""InterpretDL's names over Pellucid's methods: `import pellucid.interpretdl as it`.

A model, an interpreter, `interpret("photo.jpg", visual=True, save_path=None)`: pictures, sentences and arrays in, numbers and a picture
out. Models are torch modules, functions, or Paddle layers.
"""

from .attention import BTCVInterpreter, GACVInterpreter, GAInterpreter, RolloutInterpreter, TAMInterpreter
from .base import (
    InputGradientInterpreter,
    InputOutputInterpreter,
    IntermediateLayerInterpreter,
    Interpreter,
    InterpreterEvaluator,
    TransformerInterpreter,
)
from .cam import ConsensusInterpreter, GradCAMInterpreter, ScoreCAMInterpreter
from .evaluators import DeletionInsertion, Infidelity, Perturbation
from .gradient import (
    GradShapCVInterpreter,
    IntGradCVInterpreter,
    SmoothGradCVInterpreter,
    SmoothGradInterpreter,
    SmoothGradInterpreterV2,
)
from .lime import LIMECVInterpreter
from .lrp import LRPCVInterpreter
from .normlime import FastNormLIMECVInterpreter, GLIMECVInterpreter, LIMEPriorInterpreter, NormLIMECVInterpreter
from .occlusion import OcclusionInterpreter
from .point_game import PointGame, PointGameSegmentation
from .records import VisualizationTextRecord, visualize_text
from .text import (
    BTNLPInterpreter,
    GANLPInterpreter,
    GradShapNLPInterpreter,
    IntGradNLPInterpreter,
    LIMENLPInterpreter,
    NormLIMENLPInterpreter,
    SmoothGradNLPInterpreter,
)
from .text_evaluators import InfidelityNLP, PerturbationNLP
from .training import BHDFInterpreter, ForgettingEventsInterpreter, TrainingDynamics

__all__ = [
    "BHDFInterpreter",
    "BTCVInterpreter",
    "BTNLPInterpreter",
    "ConsensusInterpreter",
    "DeletionInsertion",
    "FastNormLIMECVInterpreter",
    "ForgettingEventsInterpreter",
    "GACVInterpreter",
    "GAInterpreter",
    "GANLPInterpreter",
    "GLIMECVInterpreter",
    "GradCAMInterpreter",
    "GradShapCVInterpreter",
    "GradShapNLPInterpreter",
    "Infidelity",
    "InfidelityNLP",
    "InputGradientInterpreter",
    "InputOutputInterpreter",
    "IntGradCVInterpreter",
    "IntGradNLPInterpreter",
    "IntermediateLayerInterpreter",
    "Interpreter",
    "InterpreterEvaluator",
    "LIMECVInterpreter",
    "LIMENLPInterpreter",
    "LIMEPriorInterpreter",
    "LRPCVInterpreter",
    "NormLIMECVInterpreter",
    "NormLIMENLPInterpreter",
    "OcclusionInterpreter",
    "Perturbation",
    "PerturbationNLP",
    "PointGame",
    "PointGameSegmentation",
    "RolloutInterpreter",
    "ScoreCAMInterpreter",
    "SmoothGradCVInterpreter",
    "SmoothGradInterpreter",
    "SmoothGradInterpreterV2",
    "SmoothGradNLPInterpreter",
    "TAMInterpreter",
    "TrainingDynamics",
    "TransformerInterpreter",
    "VisualizationTextRecord",
    "visualize_text",
]
