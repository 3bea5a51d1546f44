"""Metrics: numbers that say how good attributions are, one for each example. They know views and attributions, and no method."""

from .agreement import AGREEMENTS, agreement, consensus, ranks
from .complexity import effective_number, entropy, sparseness
from .curves import Curve, Steps, curve, deletion, in_order, insertion, percentiles, sorted_values, spaced, thresholded
from .drawn import infidelity_to, sensitivity
from .erasure import SHARES, comprehensiveness, random_subsets, subset_correlation, sufficiency
from .infidelity import Responses, infidelity, masks, ngrams, random_masks, responses, windows
from .localisation import Overlap, box_mask, overlap

__all__ = [
    "AGREEMENTS",
    "SHARES",
    "Curve",
    "Overlap",
    "Responses",
    "Steps",
    "agreement",
    "box_mask",
    "comprehensiveness",
    "consensus",
    "curve",
    "deletion",
    "effective_number",
    "entropy",
    "in_order",
    "infidelity",
    "infidelity_to",
    "insertion",
    "masks",
    "ngrams",
    "overlap",
    "percentiles",
    "random_masks",
    "random_subsets",
    "ranks",
    "responses",
    "sensitivity",
    "sorted_values",
    "spaced",
    "sparseness",
    "subset_correlation",
    "sufficiency",
    "thresholded",
    "windows",
]
