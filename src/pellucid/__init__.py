"""Pellucid: explanations you can check.

`explain(model, inputs, target, method=...)` says which inputs moved a prediction of a PyTorch model, and with every
answer how far it can be trusted. `pellucid.captum` holds the same methods under Captum's names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    FileError,
    IncompleteAttribution,
    InputError,
    MissingExtra,
    OptionError,
    OutputError,
    PellucidError,
    PellucidWarning,
    RemoteError,
    TargetError,
    UntrustedResult,
)
from .explain import explain, explain_each
from .explanation import Check, Cost, Display, Explanation, Found, Provenance
from .inside import at_layer, of_neuron
from .insights import Insights, insights
from .methods import ATTENTIONS, MAPS, METHODS
from .tables import Importance, explain_table, importance
from .target import target
from .task import Sample, Task
from .view import View, at_input

if TYPE_CHECKING:
    from .evaluation import Evaluation
    from .evaluation.evaluate import evaluate
    from .language import cite, explain_generation, explain_hierarchy
    from .scale import Explainer
    from .scale.run import run
    from .wrong import WhyWrong, why_wrong

__version__ = "0.1.0"

__all__ = [
    "ATTENTIONS",
    "MAPS",
    "METHODS",
    "Check",
    "Cost",
    "Display",
    "Evaluation",
    "Explainer",
    "Explanation",
    "FileError",
    "Found",
    "Importance",
    "IncompleteAttribution",
    "InputError",
    "Insights",
    "MissingExtra",
    "OptionError",
    "OutputError",
    "PellucidError",
    "PellucidWarning",
    "Provenance",
    "RemoteError",
    "Sample",
    "TargetError",
    "Task",
    "UntrustedResult",
    "View",
    "WhyWrong",
    "at_input",
    "at_layer",
    "cite",
    "evaluate",
    "explain",
    "explain_each",
    "explain_generation",
    "explain_hierarchy",
    "explain_table",
    "importance",
    "insights",
    "of_neuron",
    "run",
    "target",
    "why_wrong",
]

# What loads with its first use: the package costs little more than torch.
LATER = {
    "Explainer": "scale",
    "run": "scale",
    "Evaluation": "evaluation",
    "WhyWrong": "wrong",
    "cite": "language",
    "evaluate": "evaluation",
    "explain_generation": "language",
    "explain_hierarchy": "language",
    "why_wrong": "wrong",
}


def __getattr__(name: str) -> Any:
    if name == "scale":
        return import_module(".scale", __name__)
    if name in LATER:
        return getattr(import_module(f".{LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
