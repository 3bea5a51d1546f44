"""Methods that need only scores: coalitions of feature groups, kept or replaced, and what follows from their scores."""

from .groups import Groups, groups_of, superpixels
from .methods import feature_ablation, feature_permutation, occlusion, shuffled
from .rise import rise
from .shapley import banzhaf, shapley, shapley_interactions
from .surrogate import lime
from .windows import Window, windows_of

__all__ = [
    "Groups",
    "Window",
    "banzhaf",
    "feature_ablation",
    "feature_permutation",
    "groups_of",
    "lime",
    "occlusion",
    "rise",
    "shapley",
    "shapley_interactions",
    "shuffled",
    "superpixels",
    "windows_of",
]
