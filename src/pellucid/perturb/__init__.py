"""Methods that need only scores: coalitions of feature groups, kept or replaced, and what follows from their scores."""

from .groups import Groups, groups_of
from .methods import feature_ablation

__all__ = ["Groups", "feature_ablation", "groups_of"]
