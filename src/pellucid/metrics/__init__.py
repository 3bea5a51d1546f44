"""Metrics: numbers that say how good attributions are, one for each example. They know views and attributions, and no method."""

from .agreement import AGREEMENTS, agreement, consensus, ranks
from .complexity import effective_number, entropy, sparseness
from .curves import Curve, area_between, curve, deletion, insertion, road
from .drawn import infidelity_to, sensitivity
from .erasure import SHARES, comprehensiveness, faithfulness_correlation, random_subsets, sensitivity_n, sufficiency
from .imputation import NoisyLinear
from .infidelity import Responses, infidelity, masks, ngrams, random_masks, responses, windows
from .localisation import Overlap, box_mask, overlap
from .order import monotonicity, monotonicity_correlation
from .removal import Fill, Imputation, Removal, Shared, removal_of
from .steps import Steps, in_order, percentiles, places_of, ranked, sorted_values, spaced, thresholded

__all__ = [
    "AGREEMENTS",
    "SHARES",
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
    "box_mask",
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
    "masks",
    "monotonicity",
    "monotonicity_correlation",
    "ngrams",
    "overlap",
    "percentiles",
    "places_of",
    "random_masks",
    "random_subsets",
    "ranked",
    "ranks",
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
