"""Which training examples made a model say this: gradients of examples, compared."""

from .gradients import sample_gradients
from .parts import Dense, Lookup, Outer, SampleGradients
from .tracin import Checkpoints, projected, self_influence, tracin

__all__ = [
    "Checkpoints",
    "Dense",
    "Lookup",
    "Outer",
    "SampleGradients",
    "projected",
    "sample_gradients",
    "self_influence",
    "tracin",
]
