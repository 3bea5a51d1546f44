"""Which training examples made a model say this: gradients of examples, compared."""

from .gradients import Dense, Lookup, Outer, SampleGradients, sample_gradients
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
