"""Metrics: numbers that say how good attributions are, one for each example. They know views and attributions, and no method."""

from .agreement import AGREEMENTS, agreement, consensus, ranks
from .completeness import completeness, completeness_of
from .complexity import effective_number, entropy, sparseness
from .curves import Curve, area_between, curve, deletion, insertion, road
from .drawn import infidelity_to, sensitivity
from .erasure import SHARES, comprehensiveness, faithfulness_correlation, random_subsets, sensitivity_n, sufficiency
from .imputation import NoisyLinear
from .infidelity import Responses, infidelity, masks, ngrams, random_masks, responses, windows
from .localisation import Overlap, auc, box_mask, iou, overlap, pointing_game, relevance_mass, relevance_rank
from .order import monotonicity, monotonicity_correlation
from .randomisation import ORDERS, SIMILARITIES, Cascade, cascade, random_logit
from .relative_stability import relative_input_stability, relative_output_stability, relative_representation_stability
from .removal import Fill, Imputation, Removal, Shared, removal_of
from .stability import around, average_sensitivity, local_lipschitz, max_sensitivity
from .steps import Steps, in_order, percentiles, places_of, ranked, sorted_values, spaced, thresholded

__all__ = [
    "AGREEMENTS",
    "ORDERS",
    "SHARES",
    "SIMILARITIES",
    "Cascade",
    "Curve",
    "Fill",
    "Imputation",
    "NoisyLinear",
    "Overlap",
    "Removal",
    "Responses",
    "Shared",
    "Steps",
    "agreement",
    "area_between",
    "around",
    "auc",
    "average_sensitivity",
    "box_mask",
    "cascade",
    "completeness",
    "completeness_of",
    "comprehensiveness",
    "consensus",
    "curve",
    "deletion",
    "effective_number",
    "entropy",
    "faithfulness_correlation",
    "in_order",
    "infidelity",
    "infidelity_to",
    "insertion",
    "iou",
    "local_lipschitz",
    "masks",
    "max_sensitivity",
    "monotonicity",
    "monotonicity_correlation",
    "ngrams",
    "overlap",
    "percentiles",
    "places_of",
    "pointing_game",
    "random_logit",
    "random_masks",
    "random_subsets",
    "ranked",
    "ranks",
    "relative_input_stability",
    "relative_output_stability",
    "relative_representation_stability",
    "relevance_mass",
    "relevance_rank",
    "removal_of",
    "responses",
    "road",
    "sensitivity",
    "sensitivity_n",
    "sorted_values",
    "spaced",
    "sparseness",
    "sufficiency",
    "thresholded",
    "windows",
]
