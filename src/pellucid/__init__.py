"""Pellucid: explanations you can check.

`explain(model, inputs, target, method=...)` says which inputs moved a prediction of a PyTorch model, and with every
answer how far it can be trusted. `pellucid.captum` holds the same methods under Captum's names.
"""

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
from .evaluation import Evaluation, evaluate
from .explain import explain, explain_each
from .explanation import Check, Cost, Display, Explanation, Found, Provenance
from .inside import at_layer, of_neuron
from .insights import Insights, insights
from .methods import ATTENTIONS, MAPS, METHODS
from .tables import Importance, explain_table, importance
from .target import target
from .task import Sample, Task
from .view import View, at_input
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
    "evaluate",
    "explain",
    "explain_each",
    "explain_table",
    "importance",
    "insights",
    "of_neuron",
    "target",
    "why_wrong",
]
