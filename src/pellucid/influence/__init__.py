"""Which training examples made a model say this: gradients of examples, compared."""

from .answer import influence
from .checkpoints import Checkpoints
from .curvature import Curvature
from .ek_fac import EkFac, ek_fac
from .examples import Examples
from .gradients import sample_gradients
from .inverse import ConjugateGradient, Lissa, LowRank, arnoldi, dense
from .methods import INFLUENCES
from .neighbours import Faiss, nearest, top
from .parts import Dense, Lookup, Outer, SampleGradients
from .representer import Representer, representer
from .tracin import projected, self_influence, tracin

__all__ = [
    "INFLUENCES",
    "Checkpoints",
    "ConjugateGradient",
    "Curvature",
    "Dense",
    "EkFac",
    "Examples",
    "Faiss",
    "Lissa",
    "Lookup",
    "LowRank",
    "Outer",
    "Representer",
    "SampleGradients",
    "arnoldi",
    "dense",
    "ek_fac",
    "influence",
    "nearest",
    "projected",
    "representer",
    "sample_gradients",
    "self_influence",
    "top",
    "tracin",
]
