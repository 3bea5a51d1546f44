"""Methods that need only scores: coalitions of feature groups, kept or replaced, and what follows from their scores."""

from .fills import Fill, blur, marginal, mean, others, token
from .groups import Groups, groups_of, superpixels
from .methods import feature_ablation, feature_permutation, occlusion, shuffled
from .names import columns_of, sentences_of, words_of
from .rise import rise
from .rounds import Until
from .shapley import banzhaf, owen, shapley, shapley_interactions
from .surrogate import lime
from .windows import Window, windows_of

__all__ = [
    "Fill",
    "Groups",
    "Until",
    "Window",
    "banzhaf",
    "blur",
    "columns_of",
    "feature_ablation",
    "feature_permutation",
    "groups_of",
    "lime",
    "marginal",
    "mean",
    "occlusion",
    "others",
    "owen",
    "rise",
    "sentences_of",
    "shapley",
    "shapley_interactions",
    "shuffled",
    "superpixels",
    "token",
    "windows_of",
    "words_of",
]
